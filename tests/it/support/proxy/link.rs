//! One connection through the proxy: forwards both directions until either side or a cut ends it. `proxy.rs` decides
//! the action for each flight, and this file applies it.

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::Ordering;
use std::sync::{Arc, OnceLock};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::watch;

use super::flight::{Flight, Gathered, Gathering};
use super::frame::{Frames, Malformed, Startup};
use super::{Action, Rules};

/// Bytes read at once from one side, so the most complete messages that a frozen link holds.
const CHUNK_BYTES: usize = 16 * 1024;
/// Ends the answer to every flight: the server is ready for the next one.
const READY_FOR_QUERY: u8 = b'Z';
const TLS_ACCEPTED: u8 = b'S';
const TLS_REFUSED: u8 = b'N';

pub async fn carry(client: TcpStream, server: SocketAddr, rules: Arc<Rules>, mut cuts: watch::Receiver<u64>) {
    let link = Link {
        rules,
        unanswered: OnceLock::new(),
    };
    let ended = tokio::select! {
        ended = link.run(client, server) => ended,
        // The sender is in the rules, which the link holds.
        _ = cuts.changed() => Ok(()),
    };
    match ended {
        Err(error) if error.kind() == io::ErrorKind::InvalidData => eprintln!("a link of the proxy: {error}"),
        // A link ends when either side is gone.
        Ok(()) | Err(_) => {}
    }
}

struct Link {
    rules: Arc<Rules>,
    /// Set by the client's direction before the server gets the flight, read by the server's direction.
    unanswered: OnceLock<Unanswered>,
}

/// The first flight whose answer is withheld; later ones are not answered either.
struct Unanswered {
    /// Counted from 1.
    flight: u64,
    /// True when the connection ends once the server has answered.
    cut: bool,
}

impl Link {
    async fn run(&self, client: TcpStream, server: SocketAddr) -> io::Result<()> {
        let server = TcpStream::connect(server).await?;
        client.set_nodelay(true)?;
        server.set_nodelay(true)?;
        let (mut from_client, mut to_client) = client.into_split();
        let (mut from_server, mut to_server) = server.into_split();
        let mut frames = Frames::default();
        loop {
            let Some(startup) = next_startup(&mut from_client, &mut frames).await? else {
                return Ok(());
            };
            match startup.code {
                Startup::TLS | Startup::GSS if self.rules.refuses_tls => {
                    self.send(&mut to_client, &[TLS_REFUSED]).await?;
                }
                Startup::TLS | Startup::GSS => {
                    self.send(&mut to_server, &startup.bytes).await?;
                    let answer = from_server.read_u8().await?;
                    self.send(&mut to_client, &[answer]).await?;
                    if answer == TLS_ACCEPTED {
                        break;
                    }
                }
                Startup::CANCEL => {
                    self.send(&mut to_server, &startup.bytes).await?;
                    break;
                }
                _ => {
                    self.send(&mut to_server, &startup.bytes).await?;
                    return tokio::select! {
                        ended = self.requests(from_client, to_server, frames) => ended,
                        ended = self.answers(from_server, to_client) => ended,
                    };
                }
            }
        }
        self.send(&mut to_server, &frames.into_rest()).await?;
        tokio::select! {
            ended = self.bytes(from_client, to_server) => ended,
            ended = self.bytes(from_server, to_client) => ended,
        }
    }

    async fn requests(
        &self,
        mut from_client: OwnedReadHalf,
        mut to_server: OwnedWriteHalf,
        mut frames: Frames,
    ) -> io::Result<()> {
        let mut gathering = Gathering::default();
        let mut number = 0;
        loop {
            while let Some(frame) = frames.next().map_err(invalid)? {
                match gathering.take(frame) {
                    Gathered::More => {}
                    Gathered::Alone(frame) => {
                        let mut bytes = Vec::new();
                        frame.encode(&mut bytes);
                        self.send(&mut to_server, &bytes).await?;
                    }
                    Gathered::Flight(flight) => {
                        number += 1;
                        self.request(flight, number, &mut to_server).await?;
                    }
                }
            }
            if !read_more(&mut from_client, &mut frames).await? {
                return Ok(());
            }
        }
    }

    async fn request(
        &self,
        mut flight: Flight,
        number: u64,
        to_server: &mut OwnedWriteHalf,
    ) -> io::Result<()> {
        let mut action = self.rules.action(&flight);
        while let Action::KeepBack { gate, then } = action {
            gate.pass().await;
            action = *then;
        }
        match action {
            Action::Forward | Action::KeepBack { .. } => {}
            Action::Hold(gate) => {
                let (first, last) = flight.split();
                self.send(to_server, &first).await?;
                gate.pass().await;
                return self.send(to_server, &last).await;
            }
            Action::Rewrite { from, to } => flight.rewrite(&from, &to),
            Action::LoseAnswer => self.leave_unanswered(number, true),
            Action::Silence => self.leave_unanswered(number, false),
            Action::Cut => return Err(io::ErrorKind::ConnectionAborted.into()),
        }
        self.send(to_server, &flight.encode()).await
    }

    /// Only the first call counts: no later flight is answered.
    fn leave_unanswered(&self, flight: u64, cut: bool) {
        self.unanswered.get_or_init(|| Unanswered { flight, cut });
    }

    async fn answers(&self, mut from_server: OwnedReadHalf, mut to_client: OwnedWriteHalf) -> io::Result<()> {
        let mut frames = Frames::default();
        // The first ReadyForQuery ends the startup, so this is the number of the answered flight.
        let mut ready = 0;
        loop {
            let mut bytes = Vec::new();
            let mut answered = 0;
            while let Some(frame) = frames.next().map_err(invalid)? {
                let is_ready = frame.tag == READY_FOR_QUERY;
                match self.unanswered.get() {
                    Some(unanswered) if unanswered.flight <= ready => {
                        if is_ready && unanswered.cut {
                            self.rules.lost_answer_count.fetch_add(1, Ordering::SeqCst);
                            return self.send(&mut to_client, &bytes).await;
                        }
                    }
                    Some(_) | None => {
                        frame.encode(&mut bytes);
                        answered += u64::from(is_ready && ready > 0);
                    }
                }
                ready += u64::from(is_ready);
            }
            self.send(&mut to_client, &bytes).await?;
            self.rules.answered_count.fetch_add(answered, Ordering::SeqCst);
            if !read_more(&mut from_server, &mut frames).await? {
                return Ok(());
            }
        }
    }

    /// Forwards data that the proxy cannot read.
    async fn bytes(&self, mut from: OwnedReadHalf, mut to: OwnedWriteHalf) -> io::Result<()> {
        let mut chunk = vec![0; CHUNK_BYTES];
        loop {
            match from.read(&mut chunk).await? {
                0 => return Ok(()),
                read => self.send(&mut to, &chunk[..read]).await?,
            }
        }
    }

    async fn send(&self, to: &mut OwnedWriteHalf, bytes: &[u8]) -> io::Result<()> {
        let mut frozen = self.rules.frozen.subscribe();
        let thawed = frozen.wait_for(|frozen| !frozen).await;
        thawed.expect("the sender is in the rules");
        if !self.rules.sliced.load(Ordering::SeqCst) {
            return to.write_all(bytes).await;
        }
        for byte in bytes {
            to.write_u8(*byte).await?;
            // Gives the other side a chance to read the byte separately.
            tokio::task::yield_now().await;
        }
        Ok(())
    }
}

async fn next_startup(from: &mut OwnedReadHalf, frames: &mut Frames) -> io::Result<Option<Startup>> {
    loop {
        if let Some(startup) = frames.next_startup().map_err(invalid)? {
            return Ok(Some(startup));
        }
        if !read_more(from, frames).await? {
            return Ok(None);
        }
    }
}

/// Reports whether more was read.
async fn read_more(from: &mut OwnedReadHalf, frames: &mut Frames) -> io::Result<bool> {
    let mut chunk = vec![0; CHUNK_BYTES];
    let read = from.read(&mut chunk).await?;
    frames.push(&chunk[..read]);
    Ok(read > 0)
}

fn invalid(malformed: Malformed) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, malformed)
}
