//! Checks JSON answers against the OpenAPI document: every described member is present, and no other.

use std::sync::LazyLock;

use serde_json::Value;

use super::{Answer, JSON};

static DOCUMENT: LazyLock<Value> = LazyLock::new(|| serde_json::to_value(orderly::http::document()).unwrap());

pub fn assert_described(method: &str, path: &str, answer: &Answer) {
    let is_json = answer.header("content-type") == JSON && !answer.bytes().is_empty();
    let path = path.split('?').next().unwrap_or(path);
    if !is_json || path == "/openapi.json" {
        return;
    }
    let paths = DOCUMENT["paths"].as_object().unwrap();
    let item = paths.iter().find(|(pattern, _)| matches(pattern, path));
    let (_, item) = item.unwrap_or_else(|| panic!("{path} is not described"));
    let responses = &item[method.to_lowercase()]["responses"];
    let content = &responses[answer.status.as_str()]["content"];
    let mut breaches = Vec::new();
    compare("", &content[JSON]["schema"], &answer.json(), &mut breaches);
    assert!(breaches.is_empty(), "{method} {path}: {breaches:#?}");
}

fn matches(pattern: &str, path: &str) -> bool {
    let (parts, given) = (pattern.split('/'), path.split('/'));
    parts.clone().count() == given.clone().count()
        && parts
            .zip(given)
            .all(|(part, given)| part.starts_with('{') || part == given)
}

fn compare(at: &str, schema: &Value, value: &Value, breaches: &mut Vec<String>) {
    if let Some(reference) = schema["$ref"].as_str() {
        let named = DOCUMENT.pointer(reference.trim_start_matches('#')).unwrap();
        return compare(at, named, value, breaches);
    }
    if let Some(forms) = schema["oneOf"].as_array() {
        let fits = |form| {
            let mut found = Vec::new();
            compare(at, form, value, &mut found);
            found.is_empty()
        };
        if !forms.iter().any(fits) {
            breaches.push(format!("{at} is {value}"));
        }
        return;
    }
    let types: Vec<&str> = match &schema["type"] {
        Value::Array(types) => types.iter().filter_map(Value::as_str).collect(),
        one => one.as_str().into_iter().collect(),
    };
    let is_listed = schema["enum"]
        .as_array()
        .is_none_or(|known| known.contains(value));
    if !is_listed || !types.is_empty() && !types.iter().any(|name| is_of(name, value)) {
        breaches.push(format!("{at} is {value}, not of {types:?}"));
    }
    if let (Some(described), Some(given)) = (schema["properties"].as_object(), value.as_object()) {
        for name in schema["required"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(Value::as_str)
        {
            if !given.contains_key(name) {
                breaches.push(format!("{at}/{name} is missing"));
            }
        }
        for (name, member) in given {
            match described.get(name) {
                Some(schema) => compare(&format!("{at}/{name}"), schema, member, breaches),
                None => breaches.push(format!("{at}/{name} is not described")),
            }
        }
    }
    for element in value.as_array().into_iter().flatten() {
        if let Some(items) = schema.get("items") {
            compare(&format!("{at}/-"), items, element, breaches);
        }
    }
}

fn is_of(name: &str, value: &Value) -> bool {
    match name {
        "null" => value.is_null(),
        "string" => value.is_string(),
        "boolean" => value.is_boolean(),
        "integer" => value.is_i64() || value.is_u64(),
        "number" => value.is_number(),
        "array" => value.is_array(),
        "object" => value.is_object(),
        other => panic!("{other} is not a JSON Schema type"),
    }
}
