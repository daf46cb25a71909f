//! The connection limit: who is disconnected there, and which requests are still answered.

use std::io::ErrorKind;
use std::time::Duration;

use rustix::process::{Resource, getrlimit};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::process::Command;
use tokio::time::timeout;

use super::in_process::Api;
use super::socket::{ApiServer, SYSTEM_BUFFER_BYTES};
use crate::support::client::http;
use crate::support::process::{Process, configure};
use crate::support::{PATIENCE, until};

const KEY: &str = "correct-horse-battery-staple";
const LIMIT: u8 = 3;
/// A client that reads nothing or withholds its body is evictable after 2 seconds and cut after 30.
const BEFORE_SLOW_CLIENTS_ARE_CUT: Duration = Duration::from_secs(20);
/// Longer than the buffers of the system and the server together.
const LONG_FILE: &str = "/docs/swagger-ui-bundle.js";
/// More than the waiting connections, the reserve for probes and the refused ones together.
const CROWD: usize = 200;
/// Open files for a server that may raise its limit, if the machine allows this process as many.
const FILES_MAX: u64 = 8_192;

struct Client(TcpStream);

impl Client {
    async fn connect(server: &ApiServer) -> Client {
        Client(TcpStream::connect(&server.address).await.unwrap())
    }

    /// Connects with a small receive buffer and reads only the head of the answer.
    async fn begin_to_read(server: &ApiServer, path: &str) -> Client {
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(SYSTEM_BUFFER_BYTES).unwrap();
        let connected = socket.connect(server.address.parse().unwrap()).await;
        let mut client = Client(connected.unwrap());
        let request = format!("GET {path} HTTP/1.1\r\nhost: a\r\n\r\n");
        client.0.write_all(request.as_bytes()).await.unwrap();
        let mut status = [0; "HTTP/1.1 200".len()];
        client.0.read_exact(&mut status).await.unwrap();
        assert_eq!(&status, b"HTTP/1.1 200");
        client
    }

    /// Connects until it is answered. Connections to be evicted may not count as stuck yet.
    async fn connect_and_ask(server: &ApiServer, headers: &str) -> Client {
        let entered = async {
            loop {
                let mut probe = Client::connect(server).await;
                assert_eq!(probe.ask("/livez", "").await, 200);
                let mut client = Client::connect(server).await;
                if client.ask("/orders", headers).await == 200 {
                    return client;
                }
            }
        };
        timeout(BEFORE_SLOW_CLIENTS_ARE_CUT, entered)
            .await
            .expect("a free connection")
    }

    /// Reports whether the server has closed the connection without an answer.
    fn is_closed_now(&self) -> bool {
        match self.0.try_read(&mut [0]) {
            Ok(count) => {
                assert_eq!(count, 0, "it was answered");
                true
            }
            Err(error) => error.kind() != ErrorKind::WouldBlock,
        }
    }

    /// Returns the status, or 0 when the connection closes instead.
    async fn ask(&mut self, path: &str, headers: &str) -> u16 {
        let request = format!("GET {path} HTTP/1.1\r\nhost: a\r\n{headers}\r\n");
        if self.0.write_all(request.as_bytes()).await.is_err() {
            return 0;
        }
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            match timeout(PATIENCE, self.0.read_u8()).await.expect("an answer") {
                Ok(byte) => head.push(byte),
                Err(_) => return 0,
            }
        }
        let head = String::from_utf8(head).unwrap();
        let length = head.split("content-length: ").nth(1);
        let length = length.and_then(|rest| rest.split('\r').next()?.parse().ok());
        let mut body = vec![0; length.unwrap_or(0)];
        self.0.read_exact(&mut body).await.unwrap();
        head.split(' ').nth(1).unwrap().parse().unwrap()
    }

    /// Waits until the server closes the connection.
    async fn is_closed(&mut self) {
        let mut rest = Vec::new();
        let closed = timeout(PATIENCE, self.0.read_to_end(&mut rest)).await;
        // Closed or reset: both end the connection.
        drop(closed.expect("the server closes the connection"));
    }
}

fn keyed() -> String {
    format!("authorization: Bearer {KEY}\r\n")
}

/// Issue 13, point 29: eight idle connections with one tiny request each locked out all clients with the key.
#[tokio::test(flavor = "multi_thread")]
async fn at_the_limit_the_longest_idle_unauthenticated_connection_is_closed() {
    let server = ApiServer::before(Api::with_key(KEY).await, LIMIT.into());
    let mut keyed_client = Client::connect(&server).await;
    assert_eq!(keyed_client.ask("/orders", &keyed()).await, 200);
    let mut others = Vec::new();
    for _ in 1..LIMIT {
        let mut other = Client::connect(&server).await;
        assert_eq!(other.ask("/livez", "").await, 200);
        others.push(other);
    }
    // The first client has sent a request since, so the second is the longest idle.
    assert_eq!(others[0].ask("/orders", "").await, 401);
    let mut newcomer = Client::connect(&server).await;
    assert_eq!(newcomer.ask("/orders", &keyed()).await, 200);
    others.remove(1).is_closed().await;
    let mut newest = Client::connect(&server).await;
    assert_eq!(newest.ask("/orders", &keyed()).await, 200);
    others.remove(0).is_closed().await;
    // Clients with the key stay, however many others come.
    let mut other = Client::connect(&server).await;
    assert_eq!(other.ask("/orders", "").await, 503);
    for client in [&mut keyed_client, &mut newcomer, &mut newest] {
        assert_eq!(client.ask("/orders", &keyed()).await, 200);
    }
    drop((keyed_client, newcomer, newest, other));
    server.close().await;
}

/// No client has priority without a key, but requests in progress and streams keep their connections.
#[tokio::test(flavor = "multi_thread")]
async fn a_request_in_progress_keeps_its_connection() {
    let server = ApiServer::before(Api::open().await, LIMIT.into());
    server.api.harness.accept_one().await;
    let mut streams = Vec::new();
    for _ in 0..LIMIT {
        let mut stream = Client::connect(&server).await;
        assert_eq!(stream.ask("/events", "accept: text/event-stream\r\n").await, 200);
        streams.push(stream);
    }
    let mut newcomer = Client::connect(&server).await;
    assert_eq!(newcomer.ask("/orders", "").await, 503);
    newcomer.is_closed().await;
    // A closed connection makes room, and an idle one is evicted for the next client.
    drop(streams.pop());
    let waits = server.api.harness.metrics().connections.clone();
    until("a connection is free", async || waits.get() < LIMIT.into()).await;
    let mut idle = Client::connect(&server).await;
    assert_eq!(idle.ask("/orders", "").await, 200);
    let mut next = Client::connect(&server).await;
    assert_eq!(next.ask("/orders", "").await, 200);
    idle.is_closed().await;
    for stream in &mut streams {
        server.api.harness.accept_one().await;
        let byte = timeout(PATIENCE, stream.0.read_u8()).await;
        byte.expect("the stream continues").unwrap();
    }
    drop((streams, next));
    server.close().await;
}

/// Issue 13, point 29: a platform restarts a node whose health checks fail, and a scrape shows which limit is reached.
#[tokio::test(flavor = "multi_thread")]
async fn health_and_metrics_are_served_at_the_connection_limit() {
    let server = ApiServer::before(Api::open().await, LIMIT.into());
    let mut streams = Vec::new();
    for _ in 0..LIMIT {
        let mut stream = Client::connect(&server).await;
        assert_eq!(stream.ask("/events", "accept: text/event-stream\r\n").await, 200);
        streams.push(stream);
    }
    let mut silent = Vec::new();
    for _ in 0..CROWD {
        silent.push(Client::connect(&server).await);
        if silent.len() % 20 == 0 {
            for path in ["/livez", "/readyz", "/healthz", "/metrics", "/metrics/prometheus"] {
                let mut probe = Client::connect(&server).await;
                assert_eq!(probe.ask(path, "").await, 200, "{path} after {}", silent.len());
                probe.is_closed().await;
            }
        }
    }
    drop((streams, silent));
    server.close().await;
}

/// Starts the program under this limit of open files.
async fn server_below(folder: &std::path::Path, limit: &str) -> Process {
    let mut wrapped = Command::new("sh");
    wrapped
        .args(["-c", &format!("ulimit {limit}; exec \"$0\"")])
        .arg(env!("CARGO_BIN_EXE_orderly"));
    configure(&mut wrapped, folder);
    wrapped.env("ORDERLY_MAX_CONNECTIONS", "500");
    Process::start(wrapped).await
}

async fn files_max(server: &Process) -> u64 {
    let answer = http().get(format!("{}/metrics/prometheus", server.url)).send();
    let text = answer.await.unwrap().text().await.unwrap();
    let mut lines = text.lines();
    let found = lines.find_map(|line| line.strip_prefix("process_max_fds "));
    found.unwrap().parse().unwrap()
}

/// Issue 13, point 29: many systems limit a process to 1,024 open files but let it raise that.
#[tokio::test(flavor = "multi_thread")]
async fn a_soft_open_file_limit_is_raised_and_a_hard_one_logged() {
    let folder = tempfile::tempdir().unwrap();
    let warning = "the system allows this process too few open files";
    let hard = getrlimit(Resource::Nofile)
        .maximum
        .map_or(FILES_MAX, |hard| hard.min(FILES_MAX));
    let server = server_below(folder.path(), &format!("-Sn 64; ulimit -Hn {hard}")).await;
    assert_eq!(files_max(&server).await, hard);
    assert!(!server.has_logged(warning));
    assert_eq!(server.terminate().await, Some(0));
    let server = server_below(folder.path(), "-n 64").await;
    assert_eq!(files_max(&server).await, 64);
    assert!(server.has_logged(warning) && server.has_logged("32 connections are accepted"));
    assert_eq!(server.terminate().await, Some(0));
}

/// Issue 13, point 29: slow readers were never idle and locked out all clients with the key.
#[tokio::test(flavor = "multi_thread")]
async fn slow_readers_of_public_files_are_closed_at_the_limit() {
    let server = ApiServer::before(Api::with_key(KEY).await, LIMIT.into());
    let mut readers = Vec::new();
    for _ in 0..LIMIT {
        readers.push(Client::begin_to_read(&server, LONG_FILE).await);
    }
    let mut customers = Vec::new();
    for _ in 0..LIMIT {
        customers.push(Client::connect_and_ask(&server, &keyed()).await);
    }
    for reader in &mut readers {
        reader.is_closed().await;
    }
    for keyed_client in &mut customers {
        assert_eq!(keyed_client.ask("/orders", &keyed()).await, 200);
    }
    drop((customers, readers));
    server.close().await;
}

/// A request without its body used to hold its connection for half a minute where no key is set, and then the next one did.
#[tokio::test(flavor = "multi_thread")]
async fn clients_that_withhold_request_bodies_are_closed_at_the_limit() {
    let server = ApiServer::before(Api::open().await, LIMIT.into());
    let mut silent = Vec::new();
    for _ in 0..LIMIT {
        let mut client = Client::connect(&server).await;
        let head = "POST /orders HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\ncontent-length: 9\r\n\r\n{";
        client.0.write_all(head.as_bytes()).await.unwrap();
        silent.push(client);
    }
    let gone = async {
        let mut customers = Vec::new();
        while !silent.iter().all(Client::is_closed_now) {
            customers.push(Client::connect_and_ask(&server, "").await);
        }
    };
    timeout(BEFORE_SLOW_CLIENTS_ARE_CUT, gone)
        .await
        .expect("all connections are in use");
    drop(silent);
    server.close().await;
}
