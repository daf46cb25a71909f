//! What the server says about itself: the OpenAPI document and the page that shows it without other servers.

use std::collections::BTreeSet;

use axum::http::StatusCode;
use serde_json::Value;

use super::door::{Door, JSON};

/// Every operation of the document, with numbers and names in the places of its parameters.
pub fn operations() -> Vec<(&'static str, String)> {
    let document = serde_json::to_value(orderly::http::openapi::document()).unwrap();
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
async fn the_document_is_openapi_3_1_and_the_one_of_the_command_line() {
    let door = Door::open().await;
    let answer = door.get("/openapi.json").await;
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
    assert_eq!(
        document,
        serde_json::to_value(orderly::http::openapi::document()).unwrap()
    );
    door.close_empty().await;
}

#[tokio::test]
async fn every_documented_operation_is_served() {
    let door = Door::open().await;
    door.harness.accept_one().await;
    for (method, path) in operations() {
        let answer = door.ask(method, &path, &[], "").await;
        let missing = [StatusCode::NOT_FOUND, StatusCode::METHOD_NOT_ALLOWED];
        assert!(
            !missing.contains(&answer.status),
            "{method} {path}: {}",
            answer.text()
        );
    }
    door.close().await;
}

/// The document says what an answer has: no field more, no field less.
#[tokio::test]
async fn answers_have_the_fields_of_the_document() {
    let door = Door::open().await;
    door.harness.accept_one().await;
    door.harness.join(crate::support::make::NODE_A).await;
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
        let answer = door.get(path).await.json();
        let schema = schema_named(schema);
        let given = keys(answer.pointer(pointer).unwrap());
        let described = keys(&schema["properties"]);
        assert!(given.is_subset(&described), "{path}: {given:?} of {described:?}");
        let required = schema["required"].as_array().unwrap().iter();
        let required: BTreeSet<String> = required.map(|name| name.as_str().unwrap().to_owned()).collect();
        assert!(required.is_subset(&given), "{path}: {required:?} in {given:?}");
    }
    door.close().await;
}

fn schema_named(name: &str) -> Value {
    let document = serde_json::to_value(orderly::http::openapi::document()).unwrap();
    document["components"]["schemas"][name].clone()
}

fn keys(object: &Value) -> BTreeSet<String> {
    object.as_object().unwrap().keys().cloned().collect()
}

#[tokio::test]
async fn the_page_needs_no_other_server() {
    let door = Door::open().await;
    let page = door.get("/docs").await;
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
            assert_eq!(door.get(&path).await.status, StatusCode::OK, "{path}");
        }
    }
    let initializer = door.get("/docs/swagger-initializer.js").await;
    assert!(
        initializer.text().contains("/openapi.json"),
        "{}",
        initializer.text()
    );
    assert!(!initializer.text().contains("http"), "{}", initializer.text());
    door.close_empty().await;
}

#[tokio::test]
async fn a_page_that_shows_orders_as_they_change_is_served_and_named() {
    let door = Door::open().await;
    let page = door.get("/docs/live.html").await;
    assert_eq!(
        (page.status, page.header("content-type")),
        (StatusCode::OK, "text/html; charset=utf-8")
    );
    // What is not there cannot be loaded from elsewhere, and what others wrote does not become HTML.
    assert_eq!(references(page.text()), Vec::<String>::new());
    assert!(!page.text().contains("innerHTML"));
    let document = door.get("/openapi.json").await;
    assert!(document.text().contains("/docs/live.html"));
    door.close_empty().await;
}

/// What a page loads: the values of its `src` and `href`.
fn references(html: &str) -> Vec<String> {
    ["src=\"", "href=\""]
        .iter()
        .flat_map(|attribute| html.split(attribute).skip(1))
        .filter_map(|rest| rest.split('"').next())
        .map(str::to_owned)
        .collect()
}
