//! Logs of whole processes, since what is tested here belongs to the process: this very test program is run again for each.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::task::Wake;

use super::*;
use crate::config::{LogConfig, LogFormat};

/// Says to a run of [`logs`] where to, and with what filter.
const DIR: &str = "ORDERLY_TEST_LOG_DIR";
const FILTER: &str = "ORDERLY_TEST_LOG_FILTER";
const LOGS: &str = "telemetry::requests::tests::logs";

/// What the others read.
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
    let waker = Arc::new(Nobody).into();
    while following
        .as_mut()
        .poll(&mut Waking::from_waker(&waker))
        .is_pending()
    {
        tracing::error!("between steps");
    }
    drop(telemetry);
}

struct Nobody;

impl Wake for Nobody {
    fn wake(self: Arc<Self>) {}
}

/// Message and request of each line.
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
        let requests: Vec<&str> = line["spans"]
            .as_array()
            .map(|spans| {
                spans
                    .iter()
                    .filter_map(|span| span["request.id"].as_str())
                    .collect()
            })
            .unwrap_or_default();
        let message = if message.starts_with("panicked") {
            "panicked"
        } else {
            message
        };
        (message.to_owned(), requests.join(" in "))
    };
    text.lines().map(line).collect()
}

#[test]
fn each_line_within_a_request_names_it_and_no_other_does() {
    let expected = [
        ("before", ""),
        ("within", "first"),
        ("within again", "first"),
        ("between", ""),
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
fn a_filter_that_asks_only_for_what_answers_requests_gets_their_names() {
    let answered = ("answered".to_owned(), "first".to_owned());
    assert_eq!(logged("orderly::http::request=debug"), [answered]);
}

#[test]
fn a_request_has_its_span_from_the_beginning_where_the_filter_asks_for_spans() {
    let nested = ("nested".to_owned(), "second".to_owned());
    let lines = logged("error,[request]=debug");
    assert!(lines.contains(&nested), "{lines:?}");
    assert!(!logged("error").contains(&nested));
}
