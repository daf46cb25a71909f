//! Raw requests with heads that no HTTP library would write.

use std::net::SocketAddr;

use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::in_process::ORDER;
use super::socket::ApiServer;
use crate::support::process::{Process, orderly};

/// Everything the server sends until it closes.
async fn answers(address: &str, request: &str) -> String {
    let address: SocketAddr = address.parse().unwrap();
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

/// Status and problem type of the only answer.
fn refusal(answer: &str) -> (u16, String) {
    assert_eq!(
        answer.matches("x-request-id: ").count(),
        1,
        "more than one answer: {answer}"
    );
    let (head, body) = answer.split_once("\r\n\r\n").expect(answer);
    let problem: Value = serde_json::from_str(body).expect(body);
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    assert_eq!(problem["status"], status, "{answer}");
    let kind = problem["type"].as_str().unwrap();
    (status, kind.trim_start_matches("/problems/").to_owned())
}

fn post(head: &str) -> String {
    let length = ORDER.len();
    format!(
        "POST /orders HTTP/1.1\r\n{head}connection: close\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n{ORDER}"
    )
}

/// Issue 13, point 10 (RFC 9112 section 3.2).
#[tokio::test]
async fn a_request_without_one_well_formed_host_is_refused() {
    let server = ApiServer::open().await;
    for hosts in [
        "",
        "host: a\r\nhost: a\r\n",
        "host: a b\r\n",
        "host: a@b\r\n",
        "host:\r\n",
    ] {
        let mut requests = vec![post(hosts)];
        for path in ["/orders/1", "/queue", "/livez", "/docs", "/nothing"] {
            requests.push(format!("GET {path} HTTP/1.1\r\n{hosts}connection: close\r\n\r\n"));
        }
        for request in requests {
            let answer = answers(&server.address, &request).await;
            assert_eq!(refusal(&answer), (400, "bad-request".to_owned()), "{request}");
        }
    }
    let answer = answers(&server.address, "GET /livez HTTP/1.0\r\n\r\n").await;
    assert!(
        answer.starts_with("HTTP/1.0 200") || answer.starts_with("HTTP/1.1 200"),
        "{answer}"
    );
    assert_eq!(server.api.stored().await, 0);
    let answer = answers(&server.address, &post("host: a\r\n")).await;
    assert!(answer.starts_with("HTTP/1.1 201"), "{answer}");
    server.close().await;
}

/// Issue 13, point 10 (RFC 9112 section 6.1): the end of such a body cannot be determined.
#[tokio::test]
async fn any_transfer_coding_but_chunked_is_refused() {
    let server = ApiServer::open().await;
    let length = format!("{:x}", ORDER.len());
    let request = |coding: &str, connection: &str| {
        format!(
            "POST /orders HTTP/1.1\r\nhost: a\r\n{connection}content-type: application/json\r\n\
             transfer-encoding: {coding}\r\n\r\n{length}\r\n{ORDER}\r\n0\r\n\r\n"
        )
    };
    for coding in ["gzip, chunked", "identity, chunked", "chunked, chunked"] {
        let then = "GET /livez HTTP/1.1\r\nhost: a\r\n\r\n";
        let answer = answers(&server.address, &(request(coding, "") + then)).await;
        assert_eq!(refusal(&answer), (501, "transfer-coding".to_owned()), "{coding}");
    }
    assert_eq!(server.api.stored().await, 0);
    let answer = answers(&server.address, &request("Chunked", "connection: close\r\n")).await;
    assert!(answer.starts_with("HTTP/1.1 201"), "{answer}");
    server.close().await;
}

/// Issue 13, point 18: such an address counts as local, so Host names are checked there too.
#[tokio::test(flavor = "multi_thread")]
async fn an_ipv4_mapped_loopback_address_counts_as_local() {
    let folder = tempfile::tempdir().unwrap();
    let mut command = orderly(folder.path());
    command.env("HOST", "::ffff:127.0.0.1");
    let server = Process::start(command).await;
    let port = server.url.rsplit(':').next().unwrap().to_owned();
    let address = format!("127.0.0.1:{port}");
    let ask = |host: &str, target: &str| {
        format!("GET {target} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n")
    };
    let answer = answers(&address, &ask("shop.example", "/orders")).await;
    assert_eq!(refusal(&answer), (403, "cross-site".to_owned()));
    // The host of an absolute URL in the request target counts.
    let answer = answers(&address, &ask("localhost", "http://shop.example/orders")).await;
    assert_eq!(refusal(&answer), (403, "cross-site".to_owned()));
    for host in ["localhost", "127.0.0.1:1", "[::ffff:127.0.0.1]:5000"] {
        let answer = answers(&address, &ask(host, "/orders")).await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    }
    assert_eq!(server.terminate().await, Some(0));
}
