//! Clients that send orders to a server that may die at any moment.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::support::client::{Answer, Log, Request, http, post};

/// Repeats a crash run with the seed it printed.
pub const SEED_VARIABLE: &str = "ORDERLY_TEST_SEED";

pub fn seed() -> u64 {
    let given = std::env::var(SEED_VARIABLE)
        .ok()
        .and_then(|text| text.parse().ok());
    let seed = given.unwrap_or_else(rand::random);
    println!("seed: {SEED_VARIABLE}={seed}");
    seed
}

/// Clients with their unanswered requests and the answers they got.
pub struct Load {
    pub log: Arc<Log>,
    clients: Vec<Client>,
    keys: Arc<AtomicUsize>,
}

struct Client {
    rng: StdRng,
    unanswered: Option<Request>,
}

impl Load {
    pub fn new(clients: usize, seed: u64) -> Load {
        Load {
            log: Arc::default(),
            clients: (0..clients)
                .map(|number| Client {
                    rng: StdRng::seed_from_u64(seed.wrapping_add(number as u64)),
                    unanswered: None,
                })
                .collect(),
            keys: Arc::default(),
        }
    }

    /// Sends until `orders` more are acknowledged or the server is gone. Reports progress through `reached`.
    pub async fn run(&mut self, url: &str, orders: usize, reached: watch::Sender<usize>) {
        let answered = Arc::new(AtomicUsize::new(0));
        let reached = Arc::new(reached);
        let mut running = JoinSet::new();
        for mut client in self.clients.drain(..) {
            let (log, keys, url) = (self.log.clone(), self.keys.clone(), url.to_owned());
            let (answered, reached) = (answered.clone(), reached.clone());
            running.spawn(async move {
                let http = http();
                while answered.load(Ordering::SeqCst) < orders {
                    let request = client.next_request(&keys);
                    match post(&http, &url, &request).await {
                        Answer::Created(order) => {
                            log.acknowledge(&request, &order);
                            reached.send_replace(answered.fetch_add(1, Ordering::SeqCst) + 1);
                        }
                        Answer::Refused(status) => panic!("a good order was refused: {status}"),
                        Answer::Unknown => {
                            client.unanswered = Some(request);
                            break;
                        }
                    }
                }
                client
            });
        }
        self.clients = running.join_all().await;
    }
}

impl Client {
    /// Repeats unanswered requests first, under their old keys.
    fn next_request(&mut self, keys: &AtomicUsize) -> Request {
        self.unanswered.take().unwrap_or_else(|| Request {
            key: format!("key-{}", keys.fetch_add(1, Ordering::SeqCst)),
            user_id: self.rng.random_range(1..50),
            cents: self.rng.random_range(0..1_000_000),
        })
    }
}
