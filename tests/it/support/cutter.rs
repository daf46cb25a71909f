//! An unreliable connection between client and server: forwards bytes both ways, and cuts connections that follow the
//! feed at a random byte, a set number of times. Other connections are untouched.

use std::io;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

/// Bytes from a request for the feed to the cut: from within the answer's head to some events later.
pub const ANYWHERE: Range<usize> = 1..3_000;
/// Cuts after the head, for browsers. Over plain HTTP, Chromium accepts half a head, and an `EventSource` without its
/// content type does not reconnect. The server cannot prevent that.
pub const AFTER_THE_HEAD: Range<usize> = 512..3_000;

/// Stopped when dropped.
pub struct Cutter {
    pub url: String,
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

struct Shared {
    /// The server's address, which changes on a restart.
    set_server: watch::Sender<String>,
    /// Remaining cuts per [`Feed`].
    cuts: [AtomicUsize; 2],
    bytes: Range<usize>,
    rng: Mutex<StdRng>,
    /// See [`Cutter::shorten_retry`].
    shortens_retry: AtomicBool,
}

/// The transport of a subscriber.
#[derive(Clone, Copy, Debug)]
pub enum Feed {
    Events,
    Socket,
}

impl Feed {
    fn of_request(bytes: &[u8]) -> Option<Feed> {
        if bytes.starts_with(b"GET /events") {
            Some(Feed::Events)
        } else if bytes.starts_with(b"GET /ws") {
            Some(Feed::Socket)
        } else {
            None
        }
    }
}

impl Cutter {
    /// Starts a cutter before the server, with this many cuts per transport.
    pub async fn before(server: &str, cuts: usize, bytes: Range<usize>, seed: u64) -> Cutter {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let shared = Arc::new(Shared {
            set_server: watch::Sender::new(address(server)),
            cuts: [AtomicUsize::new(cuts), AtomicUsize::new(cuts)],
            bytes,
            rng: Mutex::new(StdRng::seed_from_u64(seed)),
            shortens_retry: AtomicBool::new(false),
        });
        let task = tokio::spawn(accept_all(listener, shared.clone()));
        Cutter { url, shared, task }
    }

    /// The `host:port`, for clients that take no URL.
    pub fn address(&self) -> String {
        address(&self.url)
    }

    pub fn set_server(&self, server: &str) {
        self.shared.set_server.send_replace(address(server));
    }

    /// Replaces the `retry:` seconds of event streams with some milliseconds from now on.
    pub fn shorten_retry(&self) {
        self.shared.shortens_retry.store(true, Ordering::SeqCst);
    }

    pub fn cuts_left(&self, feed: Feed) -> usize {
        self.shared.cuts[feed as usize].load(Ordering::SeqCst)
    }
}

impl Drop for Cutter {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn address(url: &str) -> String {
    url.strip_prefix("http://")
        .expect("a URL of the tests")
        .to_owned()
}

async fn accept_all(listener: TcpListener, shared: Arc<Shared>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let (client, _) = accepted.expect("a loopback listener accepts");
                let shared = shared.clone();
                connections.spawn(async move {
                    // However the connection ends, both sides notice.
                    let _ = forward(client, &shared).await;
                });
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

impl Shared {
    /// Waits for a server that is being restarted.
    async fn connect(&self) -> io::Result<TcpStream> {
        let mut set_server = self.set_server.subscribe();
        loop {
            let address = set_server.borrow_and_update().clone();
            match TcpStream::connect(&address).await {
                Ok(server) => return Ok(server),
                Err(_) => set_server.changed().await.map_err(io::Error::other)?,
            }
        }
    }

    fn take_cut(&self, feed: Feed) -> bool {
        let cuts = &self.cuts[feed as usize];
        let taken = cuts.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |cuts| cuts.checked_sub(1));
        taken.is_ok()
    }
}

/// Shortens `retry:` fields at the start of a stream without changing the number of bytes.
fn shorten_retry_in(bytes: &mut [u8]) {
    const FIELD: &[u8] = b"\nretry: ";
    let Some(field) = bytes.windows(FIELD.len()).position(|window| window == FIELD) else {
        return;
    };
    let wait = bytes[field + FIELD.len()..].iter_mut();
    let digits: Vec<&mut u8> = wait.take_while(|byte| byte.is_ascii_digit()).collect();
    // The field holds seconds in milliseconds. Only the last two digits stay: less than a tenth of a second.
    let count = digits.len();
    for digit in digits.into_iter().take(count.saturating_sub(2)) {
        *digit = b'0';
    }
}

async fn forward(mut client: TcpStream, shared: &Shared) -> io::Result<()> {
    let mut server = shared.connect().await?;
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    let (mut up, mut down) = ([0; 4096], [0; 4096]);
    // Set once the client follows the feed: the transport and the bytes that may still reach the client.
    let mut follows: Option<(Feed, usize)> = None;
    loop {
        tokio::select! {
            read = client.read(&mut up) => {
                let bytes = &up[..read?];
                if bytes.is_empty() {
                    return Ok(());
                }
                // Clients send a request head at once. The connection may have served other requests before.
                if let Some(feed) = Feed::of_request(bytes) {
                    let until_cut = shared.rng.lock().unwrap().random_range(shared.bytes.clone());
                    follows = Some((feed, until_cut));
                }
                server.write_all(bytes).await?;
            }
            read = server.read(&mut down) => {
                let bytes = &mut down[..read?];
                if shared.shortens_retry.load(Ordering::SeqCst) {
                    shorten_retry_in(bytes);
                }
                if bytes.is_empty() {
                    return Ok(());
                }
                match &mut follows {
                    Some((feed, left)) if *left <= bytes.len() && shared.take_cut(*feed) => {
                        return client.write_all(&bytes[..*left]).await;
                    }
                    Some((_, left)) => *left = left.saturating_sub(bytes.len()).max(1),
                    None => {}
                }
                client.write_all(bytes).await?;
            }
        }
    }
}
