//! nginx in front of the server, configured as documented: refusals of large bodies arrive, and clients that half-close
//! early get their answers.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use axum::http::StatusCode;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tokio::process::{Child, Command};

use super::in_process::{Api, ORDER};
use super::socket::{ApiServer, CONNECTIONS_MAX};
use crate::support::{required, until};

const PROGRAM: &str = "/usr/sbin/nginx";
const KEY: &str = "correct-horse-battery-staple";
/// The longest `Prefer: wait`.
const LONGEST_WAIT_SECONDS: u64 = 60;
/// The longest legal batch body.
const BODY_BYTES_MAX: usize = 8 * 1024 * 1024;

/// Ends with the handle.
struct Nginx {
    socket: PathBuf,
    _process: Child,
    _folder: TempDir,
}

impl Nginx {
    /// Starts nginx with the settings of docs/OPERATIONS.md in front of `address`.
    async fn before(address: &str) -> Nginx {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("socket");
        let settings = folder.path().join("nginx.conf");
        fs::write(&settings, configuration(folder.path(), address)).unwrap();
        let process = Command::new(PROGRAM)
            .args(["-e", "stderr", "-p"])
            .arg(folder.path())
            .arg("-c")
            .arg(&settings)
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .expect("nginx can be started");
        until("nginx accepts connections", async || {
            UnixStream::connect(&socket).await.is_ok()
        })
        .await;
        Nginx {
            socket,
            _process: process,
            _folder: folder,
        }
    }

    /// Status and text of the answer.
    async fn ask_with(&self, request: &str, headers: &str, body: &[u8]) -> (u16, String) {
        let length = body.len();
        let head = format!(
            "{request} HTTP/1.1\r\nhost: shop.example\r\nconnection: close\r\n{headers}content-length: {length}\r\n"
        );
        let mut stream = UnixStream::connect(&self.socket).await.unwrap();
        let (mut reader, mut writer) = stream.split();
        let send = async {
            // nginx may answer and close before it has read everything.
            let _ = writer.write_all(format!("{head}\r\n").as_bytes()).await;
            let _ = writer.write_all(body).await;
        };
        let mut answer = String::new();
        let (read, ()) = tokio::join!(reader.read_to_string(&mut answer), send);
        read.expect("nginx answers");
        let status = answer.split(' ').nth(1).and_then(|status| status.parse().ok());
        (
            status.unwrap_or_else(|| panic!("incomplete answer: {answer}")),
            answer,
        )
    }
}

/// The documented block in its own `server`, with all files in the folder.
fn configuration(folder: &Path, address: &str) -> String {
    let papers = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/OPERATIONS.md");
    let papers = fs::read_to_string(papers).unwrap();
    let block = papers
        .split("```nginx\n")
        .nth(1)
        .expect("the page has a block for nginx");
    let block = block.split("```").next().unwrap_or_default();
    let block = block.replace("127.0.0.1:5000", address);
    let folder = folder.display();
    format!(
        "daemon off; master_process off; pid {folder}/pid;\n\
         events {{ worker_connections 256; }}\n\
         http {{\n\
           access_log off;\n\
           client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy;\n\
           fastcgi_temp_path {folder}/fastcgi; uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;\n\
           server {{ listen unix:{folder}/socket;\n{block}\n}}\n\
         }}\n"
    )
}

/// Issue 13, point 24: by default nginx gives up after a minute, the longest wait of a request.
#[test]
fn the_nginx_timeout_exceeds_the_longest_held_request() {
    let settings = configuration(Path::new("/nowhere"), "127.0.0.1:5000");
    let patience = settings.split("proxy_read_timeout ").nth(1).unwrap();
    let seconds: u64 = patience.split("s;").next().unwrap().parse().unwrap();
    assert!(seconds > LONGEST_WAIT_SECONDS, "{seconds}");
}

/// Issue 13, point 8.
#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_of_a_large_body_arrives_through_nginx() {
    if !required("nginx", Path::new(PROGRAM).is_file()) {
        return;
    }
    let server = ApiServer::before(Api::with_key(KEY).await, CONNECTIONS_MAX);
    server
        .api
        .harness
        .order_in(orderly::order::OrderStatus::Completed)
        .await;
    let nginx = Nginx::before(&server.address).await;
    let keyed = format!("authorization: Bearer {KEY}\r\n");
    let json = "content-type: application/json\r\n";
    for megabytes in [1, 2, 4, 8] {
        let body = vec![b' '; BODY_BYTES_MAX * megabytes / 8];
        for (request, headers, expected) in [
            ("POST /orders", json, 401),
            ("POST /orders/batch", json, 401),
            ("POST /orders", &format!("{keyed}{json}"), 413),
            ("POST /orders/batch", &keyed, 415),
            ("POST /orders/batch", &format!("{keyed}{json}"), 400),
            ("POST /orders/1/cancel", &format!("{keyed}{json}"), 413),
            ("POST /nothing", &keyed, 404),
            ("DELETE /orders", &keyed, 405),
        ] {
            let (status, answer) = nginx.ask_with(request, headers, &body).await;
            assert_eq!(status, expected, "{request} with {megabytes} MiB: {answer}");
            assert!(answer.contains("application/problem+json"), "{answer}");
        }
    }
    let (status, answer) = nginx
        .ask_with("POST /orders", &format!("{keyed}{json}"), ORDER.as_bytes())
        .await;
    assert_eq!(status, StatusCode::CREATED, "{answer}");
    drop(nginx);
    server.close().await;
}

/// Issue 13, point 8: `nc -N` and some libraries half-close. A held read ends without an answer.
#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_half_closed_still_gets_its_answer() {
    let server = ApiServer::open().await;
    let length = ORDER.len();
    let json = "content-type: application/json\r\n";
    for (request, expected) in [
        (
            format!("POST /orders HTTP/1.1\r\nhost: a\r\n{json}content-length: {length}\r\n\r\n{ORDER}"),
            "HTTP/1.1 201",
        ),
        (
            format!(
                "POST /orders HTTP/1.1\r\nhost: a\r\n{json}transfer-encoding: chunked\r\n\r\n{length:x}\r\n{ORDER}\r\n0\r\n\r\n"
            ),
            "HTTP/1.1 201",
        ),
        (
            "GET /orders HTTP/1.1\r\nhost: a\r\n\r\n".to_owned(),
            "HTTP/1.1 200",
        ),
        (
            "GET /orders/1 HTTP/1.1\r\nhost: a\r\n\r\n".to_owned(),
            "HTTP/1.1 200",
        ),
        (
            "POST /queue/pause HTTP/1.1\r\nhost: a\r\n\r\n".to_owned(),
            "HTTP/1.1 200",
        ),
    ] {
        let mut stream = TcpStream::connect(&server.address).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        stream.shutdown().await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with(expected), "{request}: {answer}");
    }
    assert_eq!(server.api.stored().await, 2);
    server.close().await;
}
