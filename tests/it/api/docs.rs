//! The server's documentation: the OpenAPI document, and a page that shows it without other servers.

use std::collections::BTreeSet;

use axum::http::StatusCode;
use serde_json::Value;

use super::in_process::{Api, JSON};

/// All operations of the document, with sample values for their parameters.
pub fn operations() -> Vec<(&'static str, String)> {
    let document = serde_json::to_value(orderly::http::document()).unwrap();
    let mut operations = Vec::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        let path = path
            .replace("{id}", "1")
            .replace("{file}", "index.css")
            .replace("{type}", "busy");
        for method in ["GET", "POST"] {
            if item.get(method.to_lowercase()).is_some() {
                operations.push((method, path.clone()));
            }
        }
    }
    assert!(operations.len() > 20);
    operations
}

#[tokio::test]
async fn the_served_document_is_openapi_3_1_and_matches_the_cli() {
    let api = Api::open().await;
    let answer = api.get("/openapi.json").await;
    let document = answer.ok();
    assert_eq!(answer.header("content-type"), JSON);
    assert_eq!(
        document["openapi"]
            .as_str()
            .unwrap()
            .split('.')
            .take(2)
            .collect::<Vec<_>>(),
        ["3", "1"]
    );
    // Except for the key, which the command line does not know.
    let mut printed = serde_json::to_value(orderly::http::document()).unwrap();
    printed.as_object_mut().unwrap().remove("security");
    let components = printed["components"].as_object_mut().unwrap();
    components.remove("securitySchemes");
    assert_eq!(document, printed);
    api.close_empty().await;
}

#[tokio::test]
async fn every_documented_operation_is_served() {
    let api = Api::open().await;
    api.harness.accept_one().await;
    for (method, path) in operations() {
        let answer = api.ask(method, &path, &[], "").await;
        let missing = [StatusCode::NOT_FOUND, StatusCode::METHOD_NOT_ALLOWED];
        assert!(
            !missing.contains(&answer.status),
            "{method} {path}: {}",
            answer.text()
        );
    }
    api.close().await;
}

/// Answers have exactly the documented fields.
#[tokio::test]
async fn responses_have_exactly_the_documented_fields() {
    let api = Api::open().await;
    api.harness.accept_one().await;
    api.harness.join(crate::support::make::NODE_A).await;
    for (path, schema, pointer) in [
        ("/orders/1", "Order", ""),
        ("/orders", "OrderPage", ""),
        ("/orders", "Order", "/orders/0"),
        ("/orders/1/events", "History", ""),
        ("/orders/1/events", "Event", "/events/0"),
        ("/queue", "Queue", ""),
        ("/queue", "Node", "/nodes/0"),
        ("/metrics", "Metrics", ""),
        ("/readyz?verbose", "Health", ""),
        ("/readyz?verbose", "Check", "/checks/0"),
        ("/nothing", "Problem", ""),
        ("/orders?limit=0", "FieldError", "/errors/0"),
    ] {
        let answer = api.get(path).await.json();
        let schema = schema_named(schema);
        let given = keys(answer.pointer(pointer).unwrap());
        let described = keys(&schema["properties"]);
        assert!(given.is_subset(&described), "{path}: {given:?} of {described:?}");
        let required = schema["required"].as_array().unwrap().iter();
        let required: BTreeSet<String> = required.map(|name| name.as_str().unwrap().to_owned()).collect();
        assert!(required.is_subset(&given), "{path}: {required:?} in {given:?}");
    }
    api.close().await;
}

fn schema_named(name: &str) -> Value {
    let document = serde_json::to_value(orderly::http::document()).unwrap();
    document["components"]["schemas"][name].clone()
}

fn keys(object: &Value) -> BTreeSet<String> {
    object.as_object().unwrap().keys().cloned().collect()
}

#[tokio::test]
async fn the_docs_page_loads_nothing_from_other_servers() {
    let api = Api::open().await;
    let page = api.get("/docs").await;
    assert_eq!(
        (page.status, page.header("content-type")),
        (StatusCode::OK, "text/html; charset=utf-8")
    );
    let files = references(page.text());
    assert!(files.len() >= 3, "{files:?}");
    for file in files {
        assert!(!file.contains("//"), "{file} is on another server");
        let path = match file.strip_prefix("./") {
            Some(rest) => format!("/docs/{rest}"),
            None if file.starts_with('/') => file.clone(),
            None => format!("/docs/{file}"),
        };
        if path != "/docs/" {
            assert_eq!(api.get(&path).await.status, StatusCode::OK, "{path}");
        }
    }
    let initializer = api.get("/docs/swagger-initializer.js").await;
    assert!(
        initializer.text().contains("/openapi.json"),
        "{}",
        initializer.text()
    );
    assert!(!initializer.text().contains("http"), "{}", initializer.text());
    api.close_empty().await;
}

#[tokio::test]
async fn the_live_page_is_served_and_linked() {
    let api = Api::open().await;
    let page = api.get("/docs/live.html").await;
    assert_eq!(
        (page.status, page.header("content-type")),
        (StatusCode::OK, "text/html; charset=utf-8")
    );
    // The page loads nothing from elsewhere, and foreign text does not become HTML.
    assert_eq!(references(page.text()), Vec::<String>::new());
    assert!(!page.text().contains("innerHTML"));
    let document = api.get("/openapi.json").await;
    assert!(document.text().contains("/docs/live.html"));
    api.close_empty().await;
}

/// Most readers come to place an order.
#[tokio::test]
async fn the_document_and_docs_page_list_orders_first() {
    let api = Api::open().await;
    let text = api.get("/openapi.json").await.text().to_owned();
    let paths = &text[text.find("\"paths\"").unwrap()..];
    let first = paths.split('"').find(|part| part.starts_with('/'));
    assert_eq!(first, Some("/orders"));
    let document: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(document["tags"][0]["name"], "orders");
    let page = api.get("/docs").await;
    for expected in ["<title>orderly API</title>", "name=\"viewport\"", "lang=\"en\""] {
        assert!(page.text().contains(expected), "{expected}");
    }
    let initializer = api.get("/docs/swagger-initializer.js").await;
    assert!(initializer.text().contains("operationsSorter"));
    api.close_empty().await;
}

/// Issue 13, point 25: the page shows a lock on operations that need a key or may need one.
#[tokio::test]
async fn the_document_marks_only_protected_routes_as_needing_the_key() {
    const KEY: &str = "correct-horse-battery-staple";
    for (api, has_key) in [(Api::open().await, false), (Api::with_key(KEY).await, true)] {
        let document = api.get("/openapi.json").await.ok();
        let schemes = document["components"]["securitySchemes"].as_object();
        assert_eq!(schemes.is_some_and(|schemes| !schemes.is_empty()), has_key);
        let mut locked = 0;
        for (path, item) in document["paths"].as_object().unwrap() {
            for (method, operation) in item.as_object().unwrap() {
                let security = operation.get("security").unwrap_or(&document["security"]);
                let needs_key = *security == serde_json::json!([{"api_key": []}]);
                let needs_none = security.is_null() || *security == serde_json::json!([{}]);
                assert!(needs_key != needs_none, "{method} {path}: {security}");
                let is_open = operation["tags"][0] == "documentation"
                    || ["/livez", "/readyz", "/healthz"].contains(&path.as_str());
                assert_eq!(needs_key, has_key && !is_open, "{method} {path}");
                locked += usize::from(needs_key);
            }
        }
        assert_eq!(locked > 0, has_key);
        api.close_empty().await;
    }
}

#[tokio::test]
async fn the_root_and_docs_folder_redirect_to_the_docs_page() {
    let api = Api::with_key("correct-horse-battery-staple").await;
    for path in ["/", "/docs/"] {
        let answer = api.get(path).await;
        assert_eq!(
            (answer.status, answer.header("location")),
            (StatusCode::FOUND, "/docs"),
            "{path}"
        );
    }
    api.close_empty().await;
}

#[tokio::test]
async fn only_immutable_files_are_cacheable() {
    let api = Api::open().await;
    api.harness.accept_one().await;
    for (path, expected) in [
        ("/orders/1", "no-store"),
        ("/orders", "no-store"),
        ("/orders/1/events", "no-store"),
        ("/events", "no-store"),
        ("/queue", "no-store"),
        ("/metrics", "no-store"),
        ("/readyz", "no-store"),
        ("/orders/2", "no-store"),
        ("/nothing", "no-store"),
        ("/docs", "no-cache"),
        ("/docs/index.css", "no-cache"),
        ("/docs/live.html", "no-cache"),
        ("/openapi.json", "no-cache"),
        ("/problems/busy", "no-cache"),
    ] {
        assert_eq!(api.get(path).await.header("cache-control"), expected, "{path}");
    }
    let answer = api.post("/orders", super::in_process::ORDER).await;
    assert_eq!(answer.header("cache-control"), "no-store");
    api.close().await;
}

/// The `src` and `href` values of a page.
fn references(html: &str) -> Vec<String> {
    ["src=\"", "href=\""]
        .iter()
        .flat_map(|attribute| html.split(attribute).skip(1))
        .filter_map(|rest| rest.split('"').next())
        .map(str::to_owned)
        .collect()
}
