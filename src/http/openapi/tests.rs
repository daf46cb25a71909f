//! The document is complete, gives the bounds of requests, and describes arbitrary JSON as such.

use super::*;
use crate::http::document;
use crate::order::ITEMS_MAX;
use serde_json::Value;
use std::collections::BTreeSet;

fn every<'a>(key: &str, value: &'a Value, found: &mut Vec<&'a str>) {
    match value {
        Value::Object(members) => {
            for (name, member) in members {
                if name == key {
                    found.extend(member.as_str());
                }
                every(key, member, found);
            }
        }
        Value::Array(elements) => elements.iter().for_each(|element| every(key, element, found)),
        _ => {}
    }
}

#[test]
fn every_reference_resolves_and_operation_names_are_unique() {
    let document = serde_json::to_value(document()).unwrap();
    let mut references = Vec::new();
    every("$ref", &document, &mut references);
    assert!(references.len() > 20);
    for reference in references {
        let pointer = reference.strip_prefix('#').unwrap();
        assert!(document.pointer(pointer).is_some(), "{reference}");
    }
    let mut names = Vec::new();
    every("operationId", &document, &mut names);
    assert_eq!(names.iter().collect::<BTreeSet<_>>().len(), names.len());
}

/// Such sentences have to be read twice.
#[test]
fn no_description_opens_with_a_preposition_or_a_question_word() {
    const NOT_FIRST: [&str; 20] = [
        "As", "At", "For", "From", "How", "In", "Of", "On", "Since", "So", "To", "Until", "What", "When",
        "Where", "Whether", "While", "Who", "Why", "Unless",
    ];
    let document = serde_json::to_value(document()).unwrap();
    let mut texts = Vec::new();
    for key in ["summary", "description"] {
        every(key, &document, &mut texts);
    }
    assert!(texts.len() > 200, "{}", texts.len());
    let opens_badly = |text: &str| {
        let first = text.split([' ', ',']).next().unwrap_or_default();
        NOT_FIRST.contains(&first) || text.starts_with("The same")
    };
    let bad: Vec<&str> = texts.into_iter().filter(|text| opens_badly(text)).collect();
    assert_eq!(bad, [""; 0]);
}

/// Collects schemas without bounds: text without a form, numbers without limits, lists without a length.
fn unbounded(at: &str, schema: &Value, found: &mut Vec<String>) {
    let named = |name: &str| match &schema["type"] {
        Value::Array(types) => types.iter().any(|given| given == name),
        given => given == name,
    };
    let has = |members: &[&str]| members.iter().any(|member| !schema[*member].is_null());
    let is_bounded = (!named("string") || has(&["pattern", "enum", "format"]))
        && (!(named("integer") || named("number")) || has(&["minimum"]) && has(&["maximum"]))
        && (!named("array") || has(&["maxItems"]))
        && (!named("object") || has(&["additionalProperties"]));
    if !is_bounded {
        found.push(at.to_owned());
    }
    for (name, property) in schema["properties"].as_object().into_iter().flatten() {
        unbounded(&format!("{at}/{name}"), property, found);
    }
    let members = schema["oneOf"].as_array().into_iter().flatten();
    for member in members.chain(schema.get("items")) {
        unbounded(&format!("{at}/…"), member, found);
    }
}

#[test]
fn requests_are_described_with_their_bounds() {
    let document = serde_json::to_value(document()).unwrap();
    let mut found = Vec::new();
    let bodies = [
        "NewOrder",
        "NewOrders",
        "Redrive",
        "Take",
        "Renew",
        "Complete",
        "Fail",
        "Release",
    ];
    for name in bodies {
        unbounded(name, &document["components"]["schemas"][name], &mut found);
    }
    let items = document["paths"].as_object().unwrap();
    for (path, operation) in items.iter().flat_map(|(path, item)| {
        item.as_object()
            .unwrap()
            .values()
            .map(move |operation| (path, operation))
    }) {
        for parameter in operation["parameters"].as_array().into_iter().flatten() {
            let at = format!("{path} {}", parameter["name"].as_str().unwrap());
            unbounded(&at, &parameter["schema"], &mut found);
        }
    }
    // Unknown files and types get a 404; values of the others that cannot be parsed are ignored.
    let free = [
        "/docs/{file} file",
        "/problems/{type} type",
        "verbose",
        "Prefer",
        "Last-Event-ID",
    ];
    found.retain(|at| !free.iter().any(|free| at.ends_with(free)));
    assert_eq!(found, [""; 0]);
}

#[test]
fn any_json_is_described_as_any_json() {
    let document = serde_json::to_value(document()).unwrap();
    let schemas = &document["components"]["schemas"];
    assert!(
        schemas["Complete"]["properties"]["result"]["type"].is_null() && schemas["Json"]["type"].is_null()
    );
    assert!(schemas["Order"]["properties"]["result"]["type"].is_null());
    for order in ["Order", "NewOrder"] {
        let metadata = &schemas[order]["properties"]["metadata"];
        assert_eq!(metadata["type"], json!(["object", "null"]));
        assert!(!metadata["additionalProperties"].is_null());
    }
}

#[test]
fn schemas_written_by_hand_are_complete() {
    let document = serde_json::to_value(document()).unwrap();
    let order = &document["components"]["schemas"]["NewOrder"];
    assert_eq!(order["additionalProperties"], false);
    assert_eq!(order["required"], json!(["user_id", "total_amount"]));
    assert_eq!(order["properties"]["item_ids"]["oneOf"][0]["maxItems"], ITEMS_MAX);
    assert_eq!(order["properties"]["user_id"]["oneOf"][0]["maximum"], INTEGER_MAX);
    let order = &document["components"]["schemas"]["Order"];
    assert_eq!(
        order["properties"]["status"]["$ref"],
        "#/components/schemas/Status"
    );
    assert_eq!(order["required"].as_array().unwrap().len(), 17);
}
