//! The same with a browser's own `EventSource` and `WebSocket`.

use serde_json::{Value, json};

use super::fifty_cuts::{CUTS, run_through_cuts};
use super::fixture::{Fixture, Seen, differences};
use crate::crash::load::seed;
use crate::support::browser::{self, Browser};
use crate::support::cutter::{AFTER_THE_HEAD, Cutter, Feed};
use crate::support::{required, until};

#[tokio::test(flavor = "multi_thread")]
async fn browsers_get_every_event_exactly_once() {
    if !required("a test with Chromium", browser::is_installed()) {
        return;
    }
    let mut fixture = Fixture::open().await;
    let beginning = fixture.beginning().await;
    let line = Cutter::before(fixture.url(), CUTS, AFTER_THE_HEAD, seed()).await;
    // Fifty times the wait that the server requests would take two minutes.
    line.shorten_retry();
    let browser = Browser::start().await;
    browser.visit(&format!("{}/livez", line.url)).await;
    let script = include_str!("follow.js");
    browser.run(script, json!([beginning])).await;

    let received = async || {
        let feeds = browser
            .run(
                "return feeds.map((feed) => [feed.seen.length, feed.dead])",
                json!([]),
            )
            .await;
        let feeds = feeds.as_array().unwrap().iter();
        let counts = feeds.map(|feed| {
            assert_eq!(feed[1], false, "the browser did not reconnect");
            feed[0].as_u64().unwrap()
        });
        counts.min().unwrap()
    };
    let lines = [(&line, Feed::Events), (&line, Feed::Socket)];
    run_through_cuts(&mut fixture, &lines, async || {
        received().await;
    })
    .await;
    let table = fixture.table().await;
    until("both have every event", async || {
        received().await >= table.len() as u64
    })
    .await;
    let feeds = browser.run("return feeds", json!([])).await;
    let feeds = feeds.as_array().unwrap();
    assert_eq!(feeds.len(), 2, "not an `EventSource` and a `WebSocket`");
    for feed in feeds {
        assert_eq!(feed["resyncs"], 0);
        let seen: Vec<Seen> = feed["seen"].as_array().unwrap().iter().map(seen).collect();
        let wrong = differences(&seen, &table);
        assert!(
            wrong.is_empty(),
            "{} findings, {:#?}",
            wrong.len(),
            &wrong[..wrong.len().min(20)]
        );
    }
    browser.close().await;
    fixture.close().await;
}

fn seen(triple: &Value) -> Seen {
    Seen {
        cursor: triple[0].as_str().unwrap().to_owned(),
        order_id: triple[1].as_u64().unwrap(),
        version: triple[2].as_u64().unwrap(),
    }
}
