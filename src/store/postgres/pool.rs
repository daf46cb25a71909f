//! The connections of a node, all alike, each lent for one statement: no idle caller holds one. The most urgent
//! class that waits gets the next one that is free or newly opened. How many there may be is learned from the database;
//! who may use how many is left to `classes.rs`.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use tokio::sync::{Notify, oneshot};
use tokio::time::{Instant, sleep};
use tokio_util::task::TaskTracker;

use super::classes::{CONNECTIONS_MAX, Class};
use super::connect::{Connection, Connector};
use super::failure::Failure;
use super::no_room::is_refusal_for_want_of_room;

mod lent;
mod stock;

pub(super) use lent::{Lent, Place};
use stock::Stock;

/// The reason why a node whose results find no connection takes nothing on.
pub(super) const STARVED: &str = "no connection to the database is free for results";

/// The longest wait for a free connection, when all are in use and none is being opened.
const WAIT_MAX: Duration = Duration::from_secs(5);
/// A connection is opened only when none comes back within this time: most statements take less.
const GRACE: Duration = Duration::from_millis(5);
/// The interval between two looks at unused connections.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
pub(super) struct Pool {
    connector: Arc<Connector>,
    stock: Mutex<Stock>,
    /// Connections lie idle, or the store closes.
    returned: Notify,
    /// The number of connections allowed may have changed, or the time of the next look for room.
    allowance: Notify,
    /// Perhaps no connection is in use any more.
    came_back: Notify,
    /// Results found no connection, the last time they wanted one.
    starves: AtomicBool,
    tasks: TaskTracker,
}

impl Pool {
    pub fn new(connector: &Arc<Connector>) -> Arc<Pool> {
        let pool = Arc::new(Pool {
            connector: connector.clone(),
            stock: Mutex::new(Stock::new()),
            returned: Notify::new(),
            allowance: Notify::new(),
            came_back: Notify::new(),
            starves: AtomicBool::new(false),
            tasks: TaskTracker::new(),
        });
        pool.tasks.spawn(pool.clone().close_unused());
        pool
    }

    pub fn connector(&self) -> &Arc<Connector> {
        &self.connector
    }

    /// A connection for the class, opened where there is none; waits behind more urgent ones.
    pub async fn lend(self: &Arc<Pool>, class: Class) -> Result<Lent, Failure> {
        let lent = self.wait(class).await;
        if class.is_urgent() {
            let starves = matches!(lent, Err(Failure::Unavailable(_)));
            if self.starves.swap(starves, Ordering::SeqCst) != starves && starves {
                tracing::warn!(
                    "results find no connection to the database: no order is started until one is free"
                );
            }
        }
        lent
    }

    async fn wait(self: &Arc<Pool>, class: Class) -> Result<Lent, Failure> {
        let (waiter, mut answer) = oneshot::channel();
        {
            let mut stock = self.stock();
            if stock.closed {
                return Err(Failure::Closed);
            }
            stock.waiting[class.rank()].push_back(waiter);
            self.serve(&mut stock);
        }
        let mut patience_ends = Instant::now() + WAIT_MAX;
        loop {
            let allowance = self.allowance.notified();
            tokio::pin!(allowance);
            allowance.as_mut().enable();
            tokio::select! {
                answered = &mut answer => return answered.unwrap_or(Err(Failure::Closed)),
                () = sleep(self.next_look(patience_ends)) => {}
                () = allowance => {}
            }
            let mut stock = self.stock();
            self.serve(&mut stock);
            if Instant::now() < patience_ends {
                continue;
            }
            // Connecting has a limit of its own: a database may take longer to wake up.
            if stock.is_connecting() {
                patience_ends = Instant::now() + LOOK_INTERVAL;
                continue;
            }
            let in_use = stock.open();
            drop(stock);
            // Perhaps just now.
            if let Ok(answered) = answer.try_recv() {
                return answered;
            }
            let text = format!("all {in_use} connections were in use for {WAIT_MAX:?}");
            return Err(Failure::Unavailable(text.into()));
        }
    }

    /// Returns the time until patience ends, or until one more connection may be tried.
    fn next_look(&self, patience_ends: Instant) -> Duration {
        let probe_at = self.stock().refusals.probe_at;
        let now = Instant::now();
        let next = probe_at
            .filter(|at| *at > now)
            .map_or(patience_ends, |at| at.min(patience_ends));
        next.saturating_duration_since(now)
    }

    /// A place among the node's connections for one opened outside the pool; `None` when there are too few.
    pub fn place(self: &Arc<Pool>, class: Class) -> Option<Place> {
        let mut stock = self.stock();
        let allowed = stock.allowed;
        if stock.closed || !class.may_use_one_more(&stock.in_use, allowed) {
            return None;
        }
        if stock.open() >= allowed {
            stock.idle.pop()?.close();
        }
        stock.in_use[class.rank()] += 1;
        Some(Place::new(self.clone(), class))
    }

    /// Adds a connection that was opened outside the pool.
    pub fn adopt(self: &Arc<Pool>, connection: Connection) {
        let mut stock = self.stock();
        stock.idle.push(connection);
        self.serve(&mut stock);
    }

    /// Sets this node's share of the connections that the database's settings allow.
    pub fn set_share(self: &Arc<Pool>, share: usize) {
        let mut stock = self.stock();
        stock.set_share(share);
        self.serve(&mut stock);
        drop(stock);
        self.allowance.notify_waiters();
    }

    /// Reports whether the node's share is below the most that a node opens, and callers wanted more.
    pub fn wants_more(&self) -> bool {
        let stock = self.stock();
        stock.wants_more && stock.share < CONNECTIONS_MAX
    }

    /// Reports whether results found no connection.
    pub fn starves(&self) -> bool {
        self.starves.load(Ordering::SeqCst)
    }

    /// Every connection that is unused now is looked at before it is trusted: one of them turned out to be lost.
    pub fn distrust(&self) {
        for connection in &mut self.stock().idle {
            connection.trusted_until = None;
        }
    }

    /// Hands out what is free, the most urgent first, and opens what is missing.
    fn serve(self: &Arc<Pool>, stock: &mut Stock) {
        stock.forget_gone();
        let read_only = self.connector.refuses_writes();
        let mut missing = 0;
        let mut refused = true;
        while std::mem::take(&mut refused) {
            missing = 0;
            for class in stock.entitled(stock.allowed) {
                if let Some(connection) = stock.take_idle(class) {
                    self.hand_out(stock, class, connection);
                } else if let Some(failure) = read_only.as_ref().filter(|_| class.must_write()) {
                    stock.refuse(class, failure);
                    // The next of its class has its turn.
                    refused = true;
                } else {
                    missing += 1;
                }
            }
        }
        if missing > 0 && stock.open() >= stock.allowed {
            stock.make_room();
        }
        while stock.opening < missing && stock.open() < stock.allowed {
            self.begin_opening(stock, false);
        }
        let wanted = stock.entitled(stock.allowed + 1).len();
        if stock.open() >= stock.allowed && stock.opening < wanted {
            if stock.may_probe() {
                stock.refusals.probing = true;
                self.begin_opening(stock, true);
            } else {
                stock.wants_more |= stock.allowed == stock.share;
            }
        }
    }

    fn hand_out(self: &Arc<Pool>, stock: &mut Stock, class: Class, connection: Connection) {
        let mut lent = Lent::new(self.clone(), class, connection);
        while let Some(waiter) = stock.waiting[class.rank()].pop_front() {
            let Err(unwanted) = waiter.send(Ok(lent)) else {
                stock.in_use[class.rank()] += 1;
                return;
            };
            // Gone at this moment.
            lent = unwanted.expect("a channel gives back what it was given, which was a loan");
        }
        stock.idle.extend(lent.take_back());
    }

    fn begin_opening(self: &Arc<Pool>, stock: &mut Stock, probes: bool) {
        stock.opening += 1;
        let pool = self.clone();
        let may_come_back = stock.used() > 0;
        self.tasks.spawn(async move {
            if may_come_back {
                sleep(GRACE).await;
            }
            pool.open(probes).await;
        });
    }

    /// Opens one connection. With `probes` it is one more than allowed, which shows whether the database has room for it.
    async fn open(self: Arc<Pool>, probes: bool) {
        {
            let mut stock = self.stock();
            if stock.closed || !stock.is_waited_for() {
                stock.opening -= 1;
                stock.refusals.probing &= !probes;
                return;
            }
        }
        let began = Instant::now();
        let mut refused = false;
        let connected = self
            .connector
            .connect_unless(|failure| {
                let stock = self.stock();
                // Only what this node has tells how many there can be.
                let has_others = stock.open() > stock.opening;
                // A database that hangs lets others wait as well.
                let others_work = stock.worked_at.is_some_and(|worked_at| worked_at > began);
                refused = has_others
                    && match failure {
                        Failure::Hung(_) => others_work,
                        failure => is_refusal_for_want_of_room(failure),
                    };
                // A failure that no caller waited for is found by the next caller.
                refused || !stock.is_waited_for()
            })
            .await;
        let mut stock = self.stock();
        stock.opening -= 1;
        stock.refusals.probing &= !probes;
        match connected {
            Ok(connection) if stock.closed => connection.close(),
            Ok(connection) => {
                if !connection.only_reads {
                    // Those lead to where nothing can be written, or did.
                    stock.idle.retain(|idle| !idle.only_reads);
                }
                stock.idle.push(connection);
                if probes {
                    stock.learn_of_room();
                }
                stock.trim();
            }
            Err(_) if stock.closed => {}
            Err(failure) if refused => {
                stock.learn_of_refusal(&failure);
            }
            // A caller that waits has other connections to wait for.
            Err(_) if probes => stock.probe_later(),
            Err(failure) => {
                if let Some(class) = stock.entitled(stock.allowed).first() {
                    stock.refuse(*class, &failure);
                }
            }
        }
        self.serve(&mut stock);
        self.came_back.notify_waiters();
        if probes || refused {
            self.allowance.notify_waiters();
        }
    }

    /// A statement ended: with the connection, unless it is not to be used on.
    fn take_back(self: &Arc<Pool>, class: Class, connection: Option<Connection>) {
        let mut stock = self.stock();
        stock.in_use[class.rank()] -= 1;
        let connection = connection.filter(|connection| !connection.client.is_closed());
        if let Some(connection) = connection {
            stock.worked_at = Some(connection.used);
            if stock.closed {
                connection.close();
            } else if connection.only_reads && self.connector.must_write() {
                stock.leave_server(connection);
                self.connector.leave_server();
            } else {
                stock.idle.push(connection);
                stock.trim();
            }
        }
        self.serve(&mut stock);
        if stock.idle.len() > 1 {
            self.returned.notify_one();
        }
        drop(stock);
        self.came_back.notify_waiters();
    }

    /// Closes connections that no caller used for a while, until the pool closes.
    async fn close_unused(self: Arc<Pool>) {
        loop {
            self.returned.notified().await;
            loop {
                sleep(LOOK_INTERVAL).await;
                let mut stock = self.stock();
                if stock.closed {
                    return;
                }
                if !stock.close_unused() {
                    break;
                }
            }
        }
    }

    /// Lends nothing any more, and waits for what is in use.
    pub async fn close(self: &Arc<Pool>) {
        {
            let mut stock = self.stock();
            stock.closed = true;
            for waiter in stock.waiting.iter_mut().flat_map(|waiting| waiting.drain(..)) {
                let _ = waiter.send(Err(Failure::Closed));
            }
        }
        loop {
            let came_back = self.came_back.notified();
            tokio::pin!(came_back);
            came_back.as_mut().enable();
            if self.stock().all_came_back() {
                break;
            }
            came_back.await;
        }
        for connection in self.stock().idle.drain(..) {
            connection.close();
        }
        self.returned.notify_one();
    }

    /// Reports whether the holder of a [`Place`] for the class may keep it.
    pub fn may_keep(&self, class: Class) -> bool {
        let stock = self.stock();
        let mut without = stock.in_use;
        without[class.rank()] -= 1;
        class.may_use_one_more(&without, stock.allowed)
    }

    fn stock(&self) -> MutexGuard<'_, Stock> {
        self.stock
            .lock()
            .expect("no code panics while it holds this lock")
    }
}
