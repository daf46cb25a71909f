//! Commands that reach a foreign program instead of the server, which may answer anything, endlessly.

use std::net::SocketAddr;

use futures_util::FutureExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::{command, run};

/// More than any command reads.
const ANSWER_BYTES: usize = 33 * 1024 * 1024;

/// Starts a server that answers every request endlessly.
async fn endless() -> SocketAddr {
    endless_of("application/json").await
}

async fn endless_of(content_type: &'static str) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(answer(stream, content_type));
        }
    });
    address
}

async fn answer(mut stream: TcpStream, content_type: &str) {
    let head = format!("HTTP/1.1 200 OK\r\nContent-Type: {content_type}\r\n\r\n");
    let mut buffer = [0; 4096];
    // The client closes once it has read enough, which is the point of these tests.
    let _ = stream.read(&mut buffer).await;
    let body = vec![b'x'; ANSWER_BYTES];
    let _ = stream.write_all(&[head.as_bytes(), &body].concat()).await;
    // Ends when the client closes.
    let _ = stream.read(&mut buffer).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endless_listing_is_not_read_to_the_end() {
    let folder = tempfile::tempdir().unwrap();
    let mut command = command(folder.path(), "orders list");
    command.env("ORDERLY_URL", format!("http://{}", endless().await));
    run(command).await.assert_failed(1, "the answer is longer than");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_is_not_a_feed_is_not_followed() {
    let folder = tempfile::tempdir().unwrap();
    for (content_type, because) in [
        ("text/event-stream", "lines without end"),
        ("text/html", "the answer is longer than"),
    ] {
        let mut command = command(folder.path(), "tail");
        command.env(
            "ORDERLY_URL",
            format!("http://{}", endless_of(content_type).await),
        );
        run(command).await.assert_failed(1, because);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn doctor_reads_only_the_beginning_of_an_endless_answer() {
    let folder = tempfile::tempdir().unwrap();
    let port = endless().await.port();
    let output = run(command(folder.path(), &format!("doctor --port {port}"))).await;
    assert!(
        output.stdout.contains(&format!(
            "another program answers at http://127.0.0.1:{port}: xxx"
        )),
        "{}",
        output.stdout
    );
    assert!(output.stdout.len() < 10_000, "{} bytes", output.stdout.len());
}

/// Issue 13: in a folder written by someone else, a command sent the operator's key to a foreign server.
#[tokio::test(flavor = "multi_thread")]
async fn a_dot_env_file_cannot_send_the_key_to_another_machine() {
    let folder = tempfile::tempdir().unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    // The address reaches this machine but is no loopback name.
    let url = format!("ORDERLY_URL=http://0.0.0.0:{port}\n");
    std::fs::write(folder.path().join(".env"), url).unwrap();
    for line in ["orders list", "queue", "status", "tail"] {
        let mut command = command(folder.path(), line);
        command.env("ORDERLY_API_KEY", "correct-horse-battery-staple");
        let output = run(command).await;
        output.assert_failed(78, "ORDERLY_URL (from .env): names another machine");
    }
    assert!(
        listener.accept().now_or_never().is_none(),
        "the command connected"
    );
}
