//! The connections of a node, all alike, each lent for one statement: no idle caller holds one. The most urgent
//! class that waits gets the next one that is free or newly opened. How many there may be is learned from the database;
//! who may use how many is left to `classes.rs`.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use tokio::sync::{Notify, oneshot};
use tokio::time::{Instant, sleep, timeout};
use tokio_util::task::TaskTracker;

use super::classes::{CONNECTIONS_MAX, Class};
use super::connect::{Connection, Connector};
use super::failure::Failure;
use super::room::is_refusal_for_want_of_room;

mod lent;
mod stock;

pub(super) use lent::{Lent, Place};
use stock::Stock;

/// The longest wait for a free connection, when all are in use and none is being opened.
const WAIT_MAX: Duration = Duration::from_secs(5);
/// A connection unused for longer is closed: other nodes may want it.
const IDLE_MAX: Duration = Duration::from_secs(20);
/// The idle limit while the database allows fewer connections than wanted.
const IDLE_MAX_AMONG_FEW: Duration = Duration::from_secs(2);
/// The idle connections kept all the same, and among few: a quiet node would open them again every minute.
const IDLE_KEPT: usize = 2;
const IDLE_KEPT_AMONG_FEW: usize = 1;
/// A connection is opened only when none comes back within this time: most statements take less.
const GRACE: Duration = Duration::from_millis(5);
/// The interval between two looks at unused connections.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
pub(super) struct Pool {
    connector: Arc<Connector>,
    stock: Mutex<Stock>,
    /// Connections lie idle, or the store closes.
    returned: Notify,
    /// The session that listens is to check whether it may go on.
    fewer: Notify,
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
            fewer: Notify::new(),
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
            let look = self.next_look(patience_ends);
            if let Ok(answered) = timeout(look, &mut answer).await {
                return answered.unwrap_or(Err(Failure::Closed));
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

    /// Sets the most connections that the database's settings allow this node.
    pub fn expect(&self, allowed: usize) {
        self.stock().expect(allowed);
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
        let limit = stock.limit();
        // With those for whom a connection is opened.
        let mut planned = stock.in_use;
        let mut missing = 0;
        for class in Class::all() {
            let rank = class.rank();
            stock.waiting[rank].retain(|waiter| !waiter.is_closed());
            let mut passed_over = 0;
            while stock.waiting[rank].len() > passed_over && class.may_use_one_more(&planned, limit) {
                planned[rank] += 1;
                let free = stock.take_idle(class);
                let Some(connection) = free else {
                    missing += 1;
                    passed_over += 1;
                    continue;
                };
                let Some(waiter) = stock.waiting[rank].pop_front() else {
                    break;
                };
                stock.in_use[rank] += 1;
                let lent = Lent::new(self.clone(), class, connection);
                if let Err(Ok(lent)) = waiter.send(Ok(lent)) {
                    // Gone at this moment.
                    stock.idle.extend(lent.take_back());
                    stock.in_use[rank] -= 1;
                    planned[rank] -= 1;
                }
            }
        }
        if missing > 0 && stock.open() >= limit {
            stock.make_room();
        }
        while stock.opening < missing && stock.open() < limit {
            if stock.open() == stock.allowed {
                stock.refusals.probing = true;
            }
            stock.opening += 1;
            let pool = self.clone();
            let may_come_back = stock.used() > 0;
            self.tasks.spawn(async move {
                if may_come_back {
                    sleep(GRACE).await;
                }
                pool.open().await;
            });
        }
    }

    async fn open(self: Arc<Pool>) {
        {
            let mut stock = self.stock();
            if stock.closed || !stock.is_waited_for() {
                stock.opening -= 1;
                stock.refusals.probing = false;
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
        let probed = std::mem::take(&mut stock.refusals.probing);
        match connected {
            Ok(connection) if stock.closed => connection.close(),
            Ok(connection) => {
                // Those lead to where nothing can be written, or did.
                stock.idle.retain(|idle| !idle.only_reads);
                stock.idle.push(connection);
                if probed {
                    stock.learn_of_room();
                }
            }
            Err(_) if stock.closed => {}
            Err(failure) if refused => {
                stock.learn_of_refusal(&failure);
                self.fewer.notify_waiters();
            }
            // A caller that waits has other connections to wait for.
            Err(_) if probed => stock.probe_later(),
            Err(failure) => {
                let (in_use, limit) = (stock.in_use, stock.limit());
                let for_whom = Class::all().find(|class| {
                    !stock.waiting[class.rank()].is_empty() && class.may_use_one_more(&in_use, limit)
                });
                let waiter = for_whom.and_then(|class| stock.waiting[class.rank()].pop_front());
                if let Some(waiter) = waiter {
                    // A caller that is gone wants no answer.
                    let _ = waiter.send(Err(failure));
                }
            }
        }
        self.serve(&mut stock);
        self.came_back.notify_waiters();
    }

    /// A statement ended: with the connection, unless it is not to be used on.
    fn take_back(self: &Arc<Pool>, class: Class, connection: Option<Connection>) {
        let mut stock = self.stock();
        stock.in_use[class.rank()] -= 1;
        let connection = connection.filter(|connection| !connection.client.is_closed());
        if let Some(connection) = connection {
            stock.worked_at = Some(connection.used);
            if stock.closed || stock.open() >= stock.allowed {
                connection.close();
            } else {
                stock.idle.push(connection);
            }
        }
        self.serve(&mut stock);
        if stock.idle.len() > 1 {
            self.returned.notify_one();
        }
        drop(stock);
        self.came_back.notify_waiters();
    }

    /// A connection is to be closed which the database counts for a while yet.
    fn begin_leaving(&self) {
        self.stock().leaving += 1;
    }

    fn left(self: &Arc<Pool>) {
        let mut stock = self.stock();
        stock.leaving -= 1;
        self.serve(&mut stock);
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
                let few = stock.allowed < CONNECTIONS_MAX;
                let (idle_max, kept) = if few {
                    (IDLE_MAX_AMONG_FEW, IDLE_KEPT_AMONG_FEW)
                } else {
                    (IDLE_MAX, IDLE_KEPT)
                };
                while stock.idle.len() > kept && stock.idle[0].used.elapsed() > idle_max {
                    stock.idle.remove(0).close();
                }
                if stock.idle.len() <= kept {
                    break;
                }
            }
        }
    }

    /// Lends nothing any more and waits for what is in use.
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
            if self.stock().in_use.iter().sum::<usize>() == 0 {
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
