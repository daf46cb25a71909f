//! A service that receives deliveries, reacts as the test tells it, and records them.

use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_util::sync::{CancellationToken, DropGuard};

/// For a service that answers at once or never.
pub const RESPONSE_TIMEOUT: Duration = Duration::from_millis(700);

/// Reaction to a request.
#[derive(Clone, Debug)]
pub enum Reaction {
    /// Sends these bytes; the connection may be reused.
    Answer(Vec<u8>),
    /// Sends these bytes and closes the connection.
    AnswerAndClose(Vec<u8>),
    /// Sends these bytes and then nothing until the caller hangs up.
    AnswerAndHang(Vec<u8>),
    /// Sends the first bytes once, and then the others repeatedly until the caller hangs up.
    Endless(Vec<u8>, Vec<u8>),
    /// Resets the connection.
    Reset,
    /// Answers 200 once the test releases it.
    Hold,
}

/// A received request.
#[derive(Clone, Debug)]
pub struct Delivery {
    pub request_line: String,
    /// Headers by lower-case name.
    pub headers: HashMap<String, String>,
    pub body: Vec<u8>,
}

impl Delivery {
    pub fn order(&self) -> Value {
        serde_json::from_slice(&self.body).expect("an order is JSON")
    }

    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", String::as_str)
    }
}

/// Stopped when dropped.
pub struct Receiver {
    pub address: SocketAddr,
    state: Arc<State>,
    end: DropGuard,
    serving: JoinHandle<()>,
}

#[derive(Default)]
struct State {
    /// Reactions to the next requests for orders of a reference. The default is 200.
    reactions: Mutex<HashMap<String, VecDeque<Reaction>>>,
    deliveries: Mutex<Vec<Delivery>>,
    released: CancellationToken,
    connections: AtomicUsize,
    /// Number of requests now held or hanging.
    open: AtomicUsize,
}

pub fn answer(status: u16, headers: &str, body: &str) -> Reaction {
    let length = body.len();
    Reaction::Answer(
        format!("HTTP/1.1 {status} Said\r\nContent-Length: {length}\r\n{headers}\r\n{body}").into_bytes(),
    )
}

impl Receiver {
    pub async fn start() -> Receiver {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::new(State::default());
        let end = CancellationToken::new();
        let serving = serve(listener, state.clone());
        let ended = end.clone();
        let serving = tokio::spawn(async move {
            ended.run_until_cancelled(serving).await;
        });
        Receiver {
            address,
            state,
            end: end.drop_guard(),
            serving,
        }
    }

    /// Refuses new connections from now on.
    pub async fn stop(self) {
        drop(self.end);
        self.serving.await.unwrap();
    }

    pub fn url(&self) -> String {
        format!("http://{}/orders", self.address)
    }

    /// Sets the reactions to the next requests for orders of this reference.
    pub fn set_reactions(&self, reference: &str, reactions: impl IntoIterator<Item = Reaction>) {
        let mut scripted = self.state.reactions.lock().unwrap();
        scripted
            .entry(reference.to_owned())
            .or_default()
            .extend(reactions);
    }

    /// Answers held requests, now and later.
    pub fn release(&self) {
        self.state.released.cancel();
    }

    /// Number of requests now held or hanging.
    pub fn open(&self) -> usize {
        self.state.open.load(Ordering::SeqCst)
    }

    /// Number of connections accepted so far.
    pub fn connections(&self) -> usize {
        self.state.connections.load(Ordering::SeqCst)
    }

    pub fn deliveries(&self) -> Vec<Delivery> {
        self.state.deliveries.lock().unwrap().clone()
    }

    pub fn deliveries_of(&self, reference: &str) -> Vec<Delivery> {
        let mut deliveries = self.deliveries();
        deliveries.retain(|delivery| delivery.order()["reference"] == reference);
        deliveries
    }
}

async fn serve(listener: TcpListener, state: Arc<State>) {
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        let state = state.clone();
        state.connections.fetch_add(1, Ordering::SeqCst);
        tokio::spawn(async move {
            // A caller may hang up at any time.
            let _ = converse(stream, &state).await;
        });
    }
}

async fn converse(mut stream: TcpStream, state: &State) -> std::io::Result<()> {
    while let Some(delivery) = read(&mut stream).await? {
        let reference = delivery.order()["reference"]
            .as_str()
            .unwrap_or_default()
            .to_owned();
        let reaction = {
            let mut reactions = state.reactions.lock().unwrap();
            reactions.get_mut(&reference).and_then(VecDeque::pop_front)
        };
        // Counted before the delivery is visible, so a test that sees it finds it open.
        let open = reaction
            .as_ref()
            .is_some_and(stays_open)
            .then(|| Open::new(state));
        state.deliveries.lock().unwrap().push(delivery);
        match reaction.unwrap_or_else(|| answer(200, "", "")) {
            Reaction::Answer(bytes) => stream.write_all(&bytes).await?,
            Reaction::AnswerAndClose(bytes) => {
                stream.write_all(&bytes).await?;
                return stream.shutdown().await;
            }
            Reaction::AnswerAndHang(bytes) => {
                stream.write_all(&bytes).await?;
                return hung_up(&mut stream).await;
            }
            Reaction::Endless(first, piece) => {
                stream.write_all(&first).await?;
                loop {
                    stream.write_all(&piece).await?;
                    tokio::task::yield_now().await;
                }
            }
            Reaction::Reset => {
                stream.set_zero_linger()?;
                return Ok(());
            }
            Reaction::Hold => {
                tokio::select! {
                    ended = hung_up(&mut stream) => return ended,
                    () = state.released.cancelled() => {}
                }
                stream
                    .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
                    .await?;
            }
        }
        drop(open);
    }
    Ok(())
}

fn stays_open(reaction: &Reaction) -> bool {
    match reaction {
        Reaction::AnswerAndHang(_) | Reaction::Hold => true,
        Reaction::Answer(_) | Reaction::AnswerAndClose(_) | Reaction::Endless(..) | Reaction::Reset => false,
    }
}

struct Open<'d>(&'d State);

impl Open<'_> {
    fn new(state: &State) -> Open<'_> {
        state.open.fetch_add(1, Ordering::SeqCst);
        Open(state)
    }
}

impl Drop for Open<'_> {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Returns when the caller hangs up.
async fn hung_up(stream: &mut TcpStream) -> std::io::Result<()> {
    let mut more = [0; 64];
    while stream.read(&mut more).await? > 0 {}
    Ok(())
}

/// Returns `None` at the end of the connection.
pub async fn read(stream: &mut (impl AsyncRead + Unpin)) -> std::io::Result<Option<Delivery>> {
    let mut bytes = Vec::new();
    let head_end = loop {
        if let Some(at) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
            break at;
        }
        if stream.read_buf(&mut bytes).await? == 0 {
            return Ok(None);
        }
    };
    let head = String::from_utf8(bytes[..head_end].to_vec()).expect("a head is ASCII");
    let mut lines = head.split("\r\n");
    let request_line = lines.next().unwrap_or_default().to_owned();
    let headers: HashMap<String, String> = lines
        .filter_map(|line| line.split_once(": "))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()))
        .collect();
    let length: usize = headers["content-length"].parse().expect("a length");
    let mut body = bytes.split_off(head_end + 4);
    while body.len() < length {
        if stream.read_buf(&mut body).await? == 0 {
            return Ok(None);
        }
    }
    Ok(Some(Delivery {
        request_line,
        headers,
        body,
    }))
}
