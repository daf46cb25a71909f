//! Access to the socket, and invalid handshakes.

use axum::http::StatusCode;
use serde_json::json;
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::Error;

use super::ApiServer;
use crate::api::in_process::Api;
use crate::support::socket::{Socket, request};
use crate::support::until;

#[tokio::test]
async fn a_socket_counts_as_a_connection_until_it_closes() {
    let server = ApiServer::before(Api::open().await, 2);
    let (first, mut second) = (server.connect().await, server.connect().await);
    second.subscribe("a", json!({"all": true})).await;
    let stream = TcpStream::connect(&server.address).await.unwrap();
    match Socket::over(stream, &server.address).await {
        Err(Error::Http(answer)) => assert_eq!(answer.status(), StatusCode::SERVICE_UNAVAILABLE),
        Err(error) => panic!("{error}"),
        Ok(_) => panic!("a third connection was accepted"),
    }
    drop(first);
    until("a connection is free", async || {
        server.api.harness.metrics().connections.get() == 1
    })
    .await;
    server.connect().await.subscribe("a", json!({"all": true})).await;
    server.close().await;
}

#[tokio::test]
async fn only_same_origin_pages_may_open_a_socket() {
    let server = ApiServer::open().await;
    let address = &server.address;
    let port = address.rsplit(':').next().unwrap();
    let own = format!("http://{address}");
    for (origin, status) in [
        (own.as_str(), StatusCode::SWITCHING_PROTOCOLS),
        (&format!("https://{address}"), StatusCode::SWITCHING_PROTOCOLS),
        ("null", StatusCode::FORBIDDEN),
        ("http://127.0.0.1", StatusCode::FORBIDDEN),
        (&format!("{own}.shop.example"), StatusCode::FORBIDDEN),
        (
            &format!("http://127.0.0.1.shop.example:{port}"),
            StatusCode::FORBIDDEN,
        ),
        (&format!("http://shop.example:{port}"), StatusCode::FORBIDDEN),
    ] {
        let mut request = request(address);
        request.headers_mut().insert("origin", origin.parse().unwrap());
        let stream = TcpStream::connect(address).await.unwrap();
        let answered = match tokio_tungstenite::client_async(request, stream).await {
            Ok((_, answer)) => answer.status(),
            Err(Error::Http(answer)) => answer.status(),
            Err(error) => panic!("{origin}: {error}"),
        };
        assert_eq!(answered, status, "{origin}");
    }
    server.close().await;
}

#[tokio::test]
async fn an_invalid_handshake_is_refused_with_what_is_needed() {
    const HANDSHAKE: [(&str, &str); 4] = [
        ("connection", "keep-alive, Upgrade"),
        ("upgrade", "WebSocket"),
        ("sec-websocket-version", "13"),
        ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
    ];
    let api = Api::open().await;
    let with = |name: &str, value: Option<&'static str>| -> Vec<(&str, &str)> {
        let kept = HANDSHAKE.into_iter().filter(|(other, _)| *other != name);
        let exchanged = HANDSHAKE.into_iter().filter(|(other, _)| *other == name);
        let exchanged = exchanged.filter_map(|(name, _)| Some((name, value?)));
        kept.chain(exchanged).collect()
    };
    for (headers, kind) in [
        (vec![], "upgrade-required"),
        (with("connection", Some("close")), "upgrade-required"),
        (with("upgrade", Some("h2c")), "upgrade-required"),
        (with("sec-websocket-version", None), "upgrade-required"),
        (with("sec-websocket-version", Some("8")), "upgrade-required"),
        (with("sec-websocket-key", None), "bad-request"),
        (with("sec-websocket-key", Some("short")), "bad-request"),
    ] {
        let answer = api.ask("GET", "/ws", &headers, "").await;
        let (status, named, _) = answer.refusal();
        assert_eq!(named, kind, "{headers:?}");
        if kind == "upgrade-required" {
            assert_eq!(status, 426);
            assert_eq!(answer.header("upgrade"), "websocket");
            assert_eq!(answer.header("connection"), "upgrade");
            assert_eq!(answer.header("sec-websocket-version"), "13");
        }
    }
    api.close_empty().await;

    let api = Api::with_key("s3cret").await;
    let answer = api.ask("GET", "/ws", &HANDSHAKE, "").await;
    assert_eq!(answer.refusal().0, 401);
    api.close_empty().await;
    let api = Api::local().await;
    let headers = [&HANDSHAKE[..], &[("host", "shop.example:5000")]].concat();
    assert_eq!(api.ask("GET", "/ws", &headers, "").await.refusal().0, 403);
    api.close_empty().await;
}
