//! Errors around a body: its size, type, method, and the order id in the path. Each is refused with its own status, and
//! nothing is stored.

use axum::body::{Body, Bytes};
use futures_util::{StreamExt, stream};

use super::in_process::{Api, JSON, NDJSON, ORDER};

const KIB: usize = 1024;
const MIB: usize = 1024 * KIB;

#[tokio::test]
async fn an_oversized_body_is_refused_with_or_without_a_content_length() {
    let api = Api::open().await;
    let spaces = |count: usize| format!("{ORDER}{}", " ".repeat(count - ORDER.len()));
    api.post("/orders", spaces(256 * KIB)).await.created();
    for (path, limit) in [("/orders", 256 * KIB), ("/orders/retry", 64 * KIB)] {
        let answer = api.post(path, spaces(limit + 1)).await;
        answer.assert_refused(413, "body-too-large");
    }
    let answer = api.post("/orders/batch", spaces(8 * MIB + 1)).await;
    answer.assert_refused(413, "body-too-large");
    for path in ["/orders", "/orders/batch"] {
        let chunks = stream::repeat(Bytes::from(vec![b' '; 64 * KIB])).take(10 * MIB / (64 * KIB));
        let unannounced = Body::from_stream(chunks.map(Ok::<_, std::io::Error>));
        let answer = api.post(path, unannounced).await;
        answer.assert_refused(413, "body-too-large");
    }
    assert_eq!(api.stored().await, 1);
    api.close().await;
}

#[tokio::test]
async fn a_truncated_body_stores_nothing() {
    let api = Api::open().await;
    let chunks = [
        Ok(Bytes::from_static(ORDER.as_bytes())),
        Err(std::io::Error::other("reset")),
    ];
    let answer = api.post("/orders", Body::from_stream(stream::iter(chunks))).await;
    answer.assert_refused(400, "bad-request");
    api.close_empty().await;
}

#[tokio::test]
async fn a_body_without_a_json_content_type_is_refused() {
    let api = Api::open().await;
    let text = [("content-type", "text/plain")];
    let form = [("content-type", "application/x-www-form-urlencoded")];
    let jsonp = [("content-type", "application/jsonp")];
    let zipped = [("content-type", JSON), ("content-encoding", "gzip")];
    let both = [("content-type", JSON), ("content-type", "text/plain")];
    for path in ["/orders", "/orders/batch", "/orders/retry"] {
        for headers in [&[][..], &text, &form, &jsonp, &zipped, &both] {
            let answer = api.ask("POST", path, headers, ORDER).await;
            answer.assert_refused(415, "unsupported-media-type");
        }
    }
    for path in ["/orders", "/orders/retry"] {
        let answer = api.ask("POST", path, &[("content-type", NDJSON)], ORDER).await;
        answer.assert_refused(415, "unsupported-media-type");
    }
    api.close_empty().await;
}

#[tokio::test]
async fn a_wrong_method_is_refused_with_the_allowed_methods() {
    let api = Api::open().await;
    for (method, path, allowed) in [
        ("DELETE", "/orders", "GET,HEAD,POST"),
        ("PUT", "/orders/1", "GET,HEAD,PATCH"),
        ("POST", "/orders/1", "GET,HEAD,PATCH"),
        ("PUT", "/orders/batch", "POST"),
        ("GET", "/orders/1/cancel", "POST"),
        ("GET", "/queue/pause", "POST"),
        ("POST", "/metrics", "GET,HEAD"),
        ("PATCH", "/readyz", "GET,HEAD"),
        ("BREW", "/queue", "GET,HEAD"),
    ] {
        let answer = api.ask(method, path, &[("content-type", JSON)], ORDER).await;
        answer.assert_refused(405, "method-not-allowed");
        assert_eq!(answer.header("allow"), allowed, "{method} {path}");
    }
    api.close_empty().await;
}

#[tokio::test]
async fn an_invalid_order_id_is_not_found() {
    let api = Api::open().await;
    api.post("/orders", ORDER).await.created();
    for id in [
        "0",
        "-1",
        "2",
        "01",
        "+1",
        "1.0",
        "1e0",
        "one",
        "%31x",
        "%00",
        "%ff",
        "9007199254740993",
        "9223372036854775807",
        "9223372036854775808",
        "99999999999999999999999999",
    ] {
        for path in [format!("/orders/{id}"), format!("/orders/{id}/events")] {
            api.get(&path).await.assert_refused(404, "order-not-found");
        }
        for path in [format!("/orders/{id}/cancel"), format!("/orders/{id}/retry")] {
            api.act(&path).await.assert_refused(404, "order-not-found");
        }
    }
    api.close().await;
}
