//! Arbitrary bodies never cause a failure, and orders are stored exactly when the answer says so.

use std::cell::Cell;

use axum::http::StatusCode;
use proptest::prelude::*;
use proptest::sample::Index;
use proptest::test_runner::TestRunner;

use super::in_process::{Api, JSON, NDJSON, ORDER};

const BODIES: u32 = 768;
const ARBITRARY_BYTES_MAX: usize = 300;
const EDITS_MAX: usize = 6;

const FULL: &str = r#"{"user_id":104,"item_ids":"101, 102","total_amount":"250.75","reference":"PO \u00e9","metadata":{"a":[1.50,{"b":null}],"c":"\ud83d\ude00"}}"#;

/// Fragments that an edit inserts into a valid body.
const SNIPPETS: [&str; 26] = [
    "\"",
    "{",
    "}",
    "[",
    "]",
    ",",
    ":",
    "\\",
    "-",
    ".",
    "0",
    "1e400",
    "NaN",
    "null",
    "true",
    " ",
    "\n",
    "\\u0000",
    "\\ud800",
    "\0",
    "é",
    "9007199254740993",
    "[[[[[[",
    "\"user_id\":1,",
    "\"x\":{},",
    "{}",
];

#[derive(Clone, Copy, Debug)]
enum Route {
    One,
    Batch,
    Lines,
}

impl Route {
    fn path(self) -> &'static str {
        match self {
            Route::One => "/orders",
            Route::Batch | Route::Lines => "/orders/batch",
        }
    }

    fn content_type(self) -> &'static str {
        match self {
            Route::One | Route::Batch => JSON,
            Route::Lines => NDJSON,
        }
    }

    fn good_body(self) -> String {
        match self {
            Route::One => FULL.to_owned(),
            Route::Batch => format!(r#"{{"orders":[{FULL},{ORDER}]}}"#),
            Route::Lines => format!("{ORDER}\n{FULL}\n"),
        }
    }
}

#[derive(Clone, Debug)]
enum Edit {
    Insert(Index, &'static str),
    Remove(Index, usize),
    Overwrite(Index, u8),
    /// Copies a part to another place.
    Repeat(Index, Index, usize),
    Truncate(Index),
}

impl Edit {
    fn apply(&self, body: &mut Vec<u8>) {
        let within = |at: &Index, body: &[u8]| at.index(body.len() + 1);
        match self {
            Edit::Insert(at, snippet) => {
                let at = within(at, body);
                body.splice(at..at, snippet.bytes());
            }
            Edit::Remove(at, length) => {
                let at = within(at, body);
                body.drain(at..(at + length).min(body.len()));
            }
            Edit::Overwrite(at, byte) => {
                let at = within(at, body);
                body.splice(at..(at + 1).min(body.len()), [*byte]);
            }
            Edit::Repeat(from, to, length) => {
                let from = within(from, body);
                let part = body[from..(from + length).min(body.len())].to_vec();
                let to = within(to, body);
                body.splice(to..to, part);
            }
            Edit::Truncate(at) => body.truncate(within(at, body)),
        }
    }
}

fn route() -> impl Strategy<Value = Route> {
    prop_oneof![Just(Route::One), Just(Route::Batch), Just(Route::Lines)]
}

fn edit() -> impl Strategy<Value = Edit> {
    let snippet = prop::sample::select(&SNIPPETS[..]);
    prop_oneof![
        4 => (any::<Index>(), snippet).prop_map(|(at, snippet)| Edit::Insert(at, snippet)),
        2 => (any::<Index>(), 1_usize..20).prop_map(|(at, length)| Edit::Remove(at, length)),
        2 => (any::<Index>(), any::<u8>()).prop_map(|(at, byte)| Edit::Overwrite(at, byte)),
        2 => (any::<Index>(), any::<Index>(), 1_usize..40)
            .prop_map(|(from, to, length)| Edit::Repeat(from, to, length)),
        1 => any::<Index>().prop_map(Edit::Truncate),
    ]
}

fn mutated() -> impl Strategy<Value = (Route, Vec<u8>)> {
    (route(), prop::collection::vec(edit(), 0..EDITS_MAX)).prop_map(|(route, edits)| {
        let mut body = route.good_body().into_bytes();
        for edit in &edits {
            edit.apply(&mut body);
        }
        (route, body)
    })
}

fn arbitrary() -> impl Strategy<Value = (Route, Vec<u8>)> {
    (
        route(),
        prop::collection::vec(any::<u8>(), 0..ARBITRARY_BYTES_MAX),
    )
}

#[test]
fn arbitrary_bodies_never_cause_a_500_and_only_201s_store_orders() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let api = runtime.block_on(Api::open());
    let (stored, created) = (Cell::new(0), Cell::new(0));
    let config = ProptestConfig {
        failure_persistence: None,
        ..ProptestConfig::with_cases(BODIES)
    };
    let sent =
        TestRunner::new(config).run(&prop_oneof![4 => mutated(), 1 => arbitrary()], |(route, body)| {
            let headers = [("content-type", route.content_type())];
            let answer = runtime.block_on(api.ask("POST", route.path(), &headers, body));
            prop_assert!(!answer.status.is_server_error(), "{}", answer.text());
            if answer.status == StatusCode::CREATED {
                let orders = answer.json()["orders"].as_array().map_or(1, Vec::len);
                stored.set(stored.get() + orders as u64);
                created.set(created.get() + 1);
            }
            prop_assert_eq!(runtime.block_on(api.stored()), stored.get());
            Ok(())
        });
    sent.unwrap_or_else(|failure| panic!("{failure}"));
    let refused = u64::from(BODIES) - created.get();
    assert!(
        created.get() > 20 && refused > 100,
        "{} created, {refused} refused",
        created.get()
    );
    runtime.block_on(api.close());
}
