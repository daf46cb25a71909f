//! Access: with a key configured, only clients that present it reach data. Requests from other sites' pages are
//! refused.

use axum::http::StatusCode;

use super::docs::operations;
use super::in_process::{Api, JSON, ORDER};

const KEY: &str = "correct-horse-battery-staple";
const RIGHT: (&str, &str) = ("authorization", "Bearer correct-horse-battery-staple");
/// Public routes: health checks, and the server's own documentation.
const OPEN: [&str; 10] = [
    "/livez",
    "/readyz",
    "/healthz",
    "/",
    "/docs",
    "/docs/",
    "/docs/index.css",
    "/openapi.json",
    "/problems",
    "/problems/busy",
];

fn is_served(status: StatusCode) -> bool {
    status == StatusCode::OK || status == StatusCode::FOUND
}

#[tokio::test]
async fn every_route_with_data_requires_the_key() {
    let api = Api::with_key(KEY).await;
    let wrong = [
        &[][..],
        &[("authorization", "Bearer wrong")],
        &[("authorization", "Bearer correct-horse-battery-stapl")],
        &[("authorization", "Bearer correct-horse-battery-staple2")],
        &[("authorization", "Bearer")],
        &[("authorization", "Basic correct-horse-battery-staple")],
        &[("authorization", "correct-horse-battery-staple")],
        &[("x-api-key", KEY)],
        &[RIGHT, RIGHT],
    ];
    for (method, path) in operations() {
        for headers in wrong {
            let headers = [headers, &[("content-type", JSON)]].concat();
            let answer = api.ask(method, &path, &headers, ORDER).await;
            if OPEN.contains(&&*path) {
                assert!(is_served(answer.status), "{method} {path}");
            } else {
                answer.assert_refused(401, "unauthorized");
                assert_eq!(answer.header("www-authenticate"), "Bearer");
            }
        }
    }
    api.close_empty().await;
}

#[tokio::test]
async fn the_right_key_opens_every_route() {
    let api = Api::with_key(KEY).await;
    let headers = [RIGHT, ("content-type", JSON)];
    for (method, path) in operations() {
        let answer = api.ask(method, &path, &headers, ORDER).await;
        assert_ne!(answer.status, StatusCode::UNAUTHORIZED, "{method} {path}");
    }
    assert_eq!(api.stored().await, 1);
    api.close().await;
}

#[tokio::test]
async fn a_client_without_the_key_cannot_discover_routes() {
    let api = Api::with_key(KEY).await;
    api.get("/nothing").await.assert_refused(401, "unauthorized");
    api.ask("DELETE", "/orders", &[], "")
        .await
        .assert_refused(401, "unauthorized");
    api.get_with("/nothing", RIGHT)
        .await
        .assert_refused(404, "not-found");
    api.close_empty().await;
}

#[tokio::test]
async fn without_a_configured_key_every_client_is_admitted() {
    let api = Api::open().await;
    for header in [("authorization", "Bearer anything"), ("x-other", "")] {
        let answer = api.get_with("/orders", header).await;
        assert_eq!(answer.status, StatusCode::OK);
    }
    api.close_empty().await;
}

#[tokio::test]
async fn cross_site_browser_requests_are_refused() {
    let api = Api::open().await;
    let cross_site = [
        &[("sec-fetch-site", "cross-site")][..],
        &[("sec-fetch-site", "same-site")],
        &[("origin", "https://shop.example"), ("host", "127.0.0.1:5000")],
        &[("origin", "null"), ("host", "127.0.0.1:5000")],
        &[
            ("sec-fetch-site", "cross-site"),
            ("origin", "http://127.0.0.1:5000"),
            ("host", "127.0.0.1:5000"),
        ],
    ];
    for path in [
        "/orders",
        "/orders/batch",
        "/orders/retry",
        "/orders/1/cancel",
        "/queue/pause",
    ] {
        for headers in cross_site {
            let headers = [headers, &[("content-type", JSON)]].concat();
            let answer = api.ask("POST", path, &headers, ORDER).await;
            answer.assert_refused(403, "cross-site");
        }
    }
    assert!(!api.harness.paused().await);
    api.close_empty().await;
}

/// DNS rebinding: a page resolves its own name to this machine, so its requests look like same-origin ones.
#[tokio::test]
async fn a_loopback_server_without_a_key_accepts_only_local_host_names() {
    let api = Api::local().await;
    let rebound = [
        ("host", "shop.example:5000"),
        ("sec-fetch-site", "same-origin"),
        ("content-type", JSON),
    ];
    for (method, path) in operations() {
        let answer = api.ask(method, &path, &rebound, ORDER).await;
        if OPEN.contains(&&*path) {
            assert!(is_served(answer.status), "{method} {path}");
        } else {
            answer.assert_refused(403, "cross-site");
            assert!(
                answer.text().contains("proxy_set_header Host"),
                "{}",
                answer.text()
            );
        }
    }
    assert_eq!(api.stored().await, 0);
    for host in ["localhost:5000", "127.0.0.1:8080", "[::1]"] {
        let local = [("host", host), ("content-type", JSON)];
        api.ask("POST", "/orders", &local, ORDER).await.created();
    }
    api.close().await;
}

#[tokio::test]
async fn a_reachable_or_keyed_server_accepts_any_host_name() {
    let api = Api::open().await;
    api.get_with("/orders", ("host", "shop.example")).await.ok();
    api.close_empty().await;
    let api = Api::with_key(KEY).await;
    let headers = [RIGHT, ("host", "shop.example")];
    api.ask("GET", "/orders", &headers, "").await.ok();
    api.close_empty().await;
}

#[tokio::test]
async fn same_origin_pages_and_programs_may_post() {
    let api = Api::open().await;
    for headers in [
        &[][..],
        &[("sec-fetch-site", "same-origin")],
        &[("sec-fetch-site", "none")],
        &[("origin", "http://127.0.0.1:5000"), ("host", "127.0.0.1:5000")],
    ] {
        let headers = [headers, &[("content-type", JSON)]].concat();
        api.ask("POST", "/orders", &headers, ORDER).await.created();
    }
    // A link from another site may be followed.
    let answer = api.get_with("/orders", ("sec-fetch-site", "cross-site")).await;
    assert_eq!(answer.status, StatusCode::OK);
    api.close().await;
}
