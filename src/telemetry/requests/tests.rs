//! Logs of whole processes: the state under test is global, so each test runs this test program again.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::task::Wake;

use super::*;
use crate::config::{LogConfig, LogFormat};

/// Variables that give a run of [`logs`] its folder and its filter.
const DIR: &str = "ORDERLY_TEST_LOG_DIR";
const FILTER: &str = "ORDERLY_TEST_LOG_FILTER";
const LOGS: &str = "telemetry::requests::tests::logs";

/// Writes the log that the other tests read.
#[test]
fn logs() {
    let (Ok(dir), Ok(filter)) = (std::env::var(DIR), std::env::var(FILTER)) else {
        return;
    };
    let log = LogConfig {
        filter,
        format: LogFormat::Json,
        dir: dir.into(),
    };
    let telemetry = crate::telemetry::start(&log).unwrap();
    let mut first = RequestLog::new(Bytes::from_static(b"first"));
    let mut second = RequestLog::new(Bytes::from_static(b"second"));
    tracing::error!("before");
    first.within(|| {
        tracing::error!("within");
        second.within(|| tracing::debug!("nested"));
        tracing::error!("within again");
    });
    assert_eq!((first.id(), second.id()), ("first", "second"));
    tracing::error!("between");
    first.within(|| tracing::debug!(target: TARGET, "answered"));
    let mut third = RequestLog::new(Bytes::from_static(b"third"));
    third.within(|| {
        tracing::debug_span!(target: STORE_CALLS, "store").in_scope(|| tracing::error!("in the store"));
        tracing::error!("after the store");
    });
    let panics = std::panic::AssertUnwindSafe(|| first.within(|| panic!("over")));
    assert!(std::panic::catch_unwind(panics).is_err());
    tracing::error!("after a panic");
    let mut steps = 0;
    let stepping = std::future::poll_fn(|_| {
        steps += 1;
        tracing::error!("step {steps}");
        if steps < 3 { Poll::Pending } else { Poll::Ready(()) }
    });
    let mut following = Box::pin(second.follow(stepping));
    let waker = Arc::new(NoopWaker).into();
    while following
        .as_mut()
        .poll(&mut Waking::from_waker(&waker))
        .is_pending()
    {
        tracing::error!("between steps");
    }
    drop(telemetry);
}

struct NoopWaker;

impl Wake for NoopWaker {
    fn wake(self: Arc<Self>) {}
}

/// Returns message and spans of each line, with requests by their ids.
fn logged(filter: &str) -> Vec<(String, String)> {
    let dir = tempfile::tempdir().unwrap();
    let run = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", LOGS])
        .env(DIR, dir.path())
        .env(FILTER, filter)
        .output()
        .unwrap();
    assert!(run.status.success(), "{run:?}");
    lines(&dir.path().join("app.log"))
}

fn lines(file: &Path) -> Vec<(String, String)> {
    let text = std::fs::read_to_string(file).unwrap();
    let line = |text: &str| {
        let line: serde_json::Value = serde_json::from_str(text).unwrap();
        let message = line["message"].as_str().unwrap();
        let spans = line["spans"].as_array().map_or(&[][..], Vec::as_slice);
        let named = |span: &serde_json::Value| {
            let id = span["request.id"].as_str();
            id.or(span["name"].as_str()).unwrap().to_owned()
        };
        let spans: Vec<String> = spans.iter().map(named).collect();
        let message = if message.starts_with("panicked") {
            "panicked"
        } else {
            message
        };
        (message.to_owned(), spans.join(", "))
    };
    text.lines().map(line).collect()
}

#[test]
fn only_lines_within_a_request_carry_its_id() {
    let expected = [
        ("before", ""),
        ("within", "first"),
        ("within again", "first"),
        ("between", ""),
        ("in the store", "third"),
        ("after the store", "third"),
        ("panicked", "first"),
        ("after a panic", ""),
        ("step 1", "second"),
        ("between steps", ""),
        ("step 2", "second"),
        ("between steps", ""),
        ("step 3", "second"),
    ];
    let expected = expected.map(|(message, request)| (message.to_owned(), request.to_owned()));
    assert_eq!(logged("error"), expected);
}

#[test]
fn a_filter_on_request_lines_still_gets_their_ids() {
    let answered = ("answered".to_owned(), "first".to_owned());
    assert_eq!(logged("orderly::http::request=debug"), [answered]);
}

#[test]
fn a_store_call_is_a_span_within_its_request() {
    let lines = logged("error,orderly::store=debug");
    for (message, spans) in [("in the store", "third, store"), ("after the store", "third")] {
        assert!(
            lines.contains(&(message.to_owned(), spans.to_owned())),
            "{lines:?}"
        );
    }
}

#[test]
fn a_span_filter_gives_each_request_its_span_at_once() {
    let nested = ("nested".to_owned(), "second".to_owned());
    let lines = logged("error,[request]=debug");
    assert!(lines.contains(&nested), "{lines:?}");
    assert!(!logged("error").contains(&nested));
}
