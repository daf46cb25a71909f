//! A proxy before PostgreSQL that understands its messages: it counts and records flights, and injects faults that no
//! server offers on demand. All its tasks end with its handle. Interpreting SQL is left to the tests.

use std::collections::VecDeque;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::task::AbortOnDropHandle;

mod flight;
mod frame;
mod link;
mod tests;

pub use flight::Flight;

use super::gate::Gate;

/// More than the connections of a few nodes.
const CONNECTIONS_MAX: usize = 256;
/// Number of latest flights whose text is kept.
const FLIGHTS_KEPT: usize = 10_000;

/// The treatment of a flight.
#[derive(Clone)]
pub enum Action {
    Forward,
    /// Forwards all but the Sync (all of a simple query) until the gate opens: the statements run and hold their locks,
    /// but nothing is committed.
    Hold(Arc<Gate>),
    /// Forwards nothing until the gate opens, and then applies the next action. Later flights of the client wait too.
    KeepBack {
        gate: Arc<Gate>,
        then: Box<Action>,
    },
    /// Forwards the flight with other text in its statements.
    Rewrite {
        from: String,
        to: String,
    },
    /// Lets the server finish, discards the answer, and cuts the connection.
    LoseAnswer,
    /// Lets the server finish, discards the answer, and sends nothing more on the open connection.
    Silence,
    /// Cuts the connection before the server gets any of the flight.
    Cut,
}

type Hook = Arc<dyn Fn(&Flight) -> Action + Send + Sync>;

/// Counts cover all connections since the start of the proxy.
pub struct Proxy {
    address: SocketAddr,
    rules: Arc<Rules>,
    _accepting: AbortOnDropHandle<()>,
}

impl Proxy {
    /// Forwards requests for TLS; inside TLS the proxy sees no messages.
    pub async fn before(server: SocketAddr) -> Proxy {
        Proxy::start(server, false).await
    }

    /// Answers requests for TLS with a refusal.
    pub async fn refusing_tls(server: SocketAddr) -> Proxy {
        Proxy::start(server, true).await
    }

    async fn start(server: SocketAddr, refuses_tls: bool) -> Proxy {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let rules = Arc::new(Rules::new(refuses_tls));
        let accepting = tokio::spawn(accept(listener, server, rules.clone()));
        Proxy {
            address,
            rules,
            _accepting: AbortOnDropHandle::new(accepting),
        }
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Sets the function that decides about every flight from now on. It must not block.
    pub fn on_flight(&self, hook: impl Fn(&Flight) -> Action + Send + Sync + 'static) {
        *self.rules.hook.lock().unwrap() = Arc::new(hook);
    }

    /// The statements of the latest flights.
    pub fn flights(&self) -> Vec<String> {
        self.rules.flights.lock().unwrap().iter().cloned().collect()
    }

    pub fn flight_count(&self) -> u64 {
        self.rules.flight_count.load(Ordering::SeqCst)
    }

    /// Reports whether every flight was answered completely and the answer forwarded.
    pub fn is_quiet(&self) -> bool {
        self.rules.answered_count.load(Ordering::SeqCst) == self.flight_count()
    }

    /// Number of connection attempts, including refused ones.
    pub fn connection_count(&self) -> u64 {
        self.rules.connection_count.load(Ordering::SeqCst)
    }

    /// Number of complete answers that no client got, by [`Action::LoseAnswer`].
    pub fn lost_answer_count(&self) -> u64 {
        self.rules.lost_answer_count.load(Ordering::SeqCst)
    }

    /// Cuts all connections.
    pub fn cut_all(&self) {
        self.rules.cuts.send_modify(|cuts| *cuts += 1);
    }

    /// Sets whether new connections are closed at once.
    pub fn refuse(&self, refusing: bool) {
        self.rules.refusing.store(refusing, Ordering::SeqCst);
    }

    /// Sets whether nothing passes in either direction, on connections that stay open.
    pub fn freeze(&self, frozen: bool) {
        self.rules.frozen.send_replace(frozen);
    }

    /// Sets whether every byte is sent separately.
    pub fn slice(&self, sliced: bool) {
        self.rules.sliced.store(sliced, Ordering::SeqCst);
    }
}

/// Written by the handle, read by the links.
struct Rules {
    refuses_tls: bool,
    hook: Mutex<Hook>,
    flights: Mutex<VecDeque<String>>,
    flight_count: AtomicU64,
    answered_count: AtomicU64,
    connection_count: AtomicU64,
    lost_answer_count: AtomicU64,
    refusing: AtomicBool,
    sliced: AtomicBool,
    frozen: watch::Sender<bool>,
    /// Number of times all connections were cut.
    cuts: watch::Sender<u64>,
}

impl Rules {
    fn new(refuses_tls: bool) -> Rules {
        Rules {
            refuses_tls,
            hook: Mutex::new(Arc::new(|_| Action::Forward)),
            flights: Mutex::default(),
            flight_count: AtomicU64::new(0),
            answered_count: AtomicU64::new(0),
            connection_count: AtomicU64::new(0),
            lost_answer_count: AtomicU64::new(0),
            refusing: AtomicBool::new(false),
            sliced: AtomicBool::new(false),
            frozen: watch::Sender::new(false),
            cuts: watch::Sender::new(0),
        }
    }

    fn action(&self, flight: &Flight) -> Action {
        self.flight_count.fetch_add(1, Ordering::SeqCst);
        {
            let mut flights = self.flights.lock().unwrap();
            if flights.len() == FLIGHTS_KEPT {
                flights.pop_front();
            }
            flights.push_back(flight.sql());
        }
        // Outside the lock: the hook may set another hook.
        let hook = self.hook.lock().unwrap().clone();
        hook(flight)
    }
}

async fn accept(listener: TcpListener, server: SocketAddr, rules: Arc<Rules>) {
    let mut links = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept(), if links.len() < CONNECTIONS_MAX => {
                let (client, _) = accepted.expect("a listener on loopback accepts");
                rules.connection_count.fetch_add(1, Ordering::SeqCst);
                if !rules.refusing.load(Ordering::SeqCst) {
                    links.spawn(link::carry(client, server, rules.clone(), rules.cuts.subscribe()));
                }
            }
            Some(ended) = links.join_next() => ended.expect("a link does not panic"),
        }
    }
}
