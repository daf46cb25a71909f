//! `GET /events` as server-sent events.

use std::collections::BTreeSet;
use std::time::Duration;

use axum::body::Body;
use axum::http::HeaderMap;
use http_body_util::BodyExt;
use orderly::event::EventKind;
use orderly::lease::Outcome;
use orderly::order::{Member, OrderId, Patch, Reference};
use orderly::store::Amended;
use serde_json::Value;
use tokio::time::timeout;

use super::in_process::Api;
use crate::support::make::{LEASE, LONGER_THAN_A_LEASE, failed, order_of, retry_after};

/// A stream that is silent for longer has lost an event.
const PATIENCE: Duration = Duration::from_mins(1);

/// An open stream.
struct Followed {
    headers: HeaderMap,
    body: Body,
    text: String,
}

/// One block of a stream.
#[derive(Debug, Default, PartialEq)]
struct Block {
    event: String,
    id: String,
    data: String,
    retry: Option<u64>,
    comments: usize,
}

impl Followed {
    async fn open(api: &Api, query: &str, headers: &[(&str, &str)]) -> Followed {
        let accept = [&[("accept", "text/event-stream")], headers].concat();
        let response = api.response("GET", &format!("/events{query}"), &accept, "").await;
        assert_eq!(response.status(), 200);
        let (head, body) = response.into_parts();
        Followed {
            headers: head.headers,
            body,
            text: String::new(),
        }
    }

    /// Returns `None` at the end of the stream.
    async fn block(&mut self) -> Option<Block> {
        let next = async {
            loop {
                if let Some((block, rest)) = self.text.split_once("\n\n") {
                    let block = Block::read(block);
                    let rest = rest.to_owned();
                    self.text = rest;
                    return Some(block);
                }
                let frame = self.body.frame().await?.expect("the stream is complete");
                let data = frame.into_data().expect("a stream has no trailers");
                self.text.push_str(std::str::from_utf8(&data).unwrap());
            }
        };
        timeout(PATIENCE, next).await.expect("a block arrives in time")
    }

    /// Reads the first block, which is no event, and returns its cursor.
    async fn beginning(&mut self) -> String {
        let block = self.block().await.expect("a stream begins");
        assert!(block.retry.is_some_and(|ms| (1_000..=4_000).contains(&ms)));
        assert_eq!((block.event.as_str(), block.data.as_str()), ("", ""));
        block.id
    }

    async fn event(&mut self) -> Value {
        let block = self.block().await.expect("the stream continues");
        assert_eq!(block.event, "order");
        let event: Value = serde_json::from_str(&block.data).unwrap();
        assert_eq!(event["cursor"], block.id.as_str());
        event
    }

    async fn events(&mut self, count: usize) -> Vec<(u64, u64)> {
        let mut events = Vec::new();
        for _ in 0..count {
            let event = self.event().await;
            events.push((
                event["order_id"].as_u64().unwrap(),
                event["version"].as_u64().unwrap(),
            ));
        }
        events
    }
}

impl Block {
    fn read(text: &str) -> Block {
        let mut block = Block::default();
        for line in text.lines() {
            match line.split_once(": ") {
                Some(("event", value)) => value.clone_into(&mut block.event),
                Some(("id", value)) => value.clone_into(&mut block.id),
                Some(("data", value)) => value.clone_into(&mut block.data),
                Some(("retry", value)) => block.retry = Some(value.parse().unwrap()),
                None if line.starts_with(':') => block.comments += 1,
                _ => panic!("unexpected line {line:?}"),
            }
        }
        block
    }
}

#[tokio::test]
async fn a_new_stream_delivers_events_from_now_on() {
    let api = Api::open().await;
    api.harness.accept_one().await;
    let mut stream = Followed::open(&api, "", &[]).await;
    stream.beginning().await;
    api.harness.accept_one().await;
    assert_eq!(stream.events(1).await, [(2, 1)]);
    api.close().await;
}

#[tokio::test]
async fn response_headers_disable_proxy_buffering() {
    let api = Api::open().await;
    let stream = Followed::open(&api, "", &[]).await;
    assert_eq!(stream.headers["content-type"], "text/event-stream");
    assert_eq!(stream.headers["cache-control"], "no-store");
    assert_eq!(stream.headers["x-accel-buffering"], "no");
    api.close_empty().await;
}

#[tokio::test]
async fn stream_events_equal_page_events() {
    let api = Api::open().await;
    let mut stream = Followed::open(&api, "", &[]).await;
    let beginning = stream.beginning().await;
    api.harness.attempt_once(Outcome::COMPLETED).await;
    let page = api.get(&format!("/events?after={beginning}")).await.ok();
    for event in page["events"].as_array().unwrap() {
        assert_eq!(stream.event().await, *event);
    }
    api.close().await;
}

/// Issue 13, point 36: a client cut off after any event resumes with its id.
#[tokio::test]
async fn every_kind_of_event_carries_an_id_to_resume_from() {
    let api = Api::open().await;
    let harness = &api.harness;
    let mut stream = Followed::open(&api, "", &[]).await;
    stream.beginning().await;
    harness.attempt_once(Outcome::COMPLETED).await;
    let id = harness.attempt_once(failed()).await;
    harness.redrive(id).await;
    let lease = harness.claim_only(id).await;
    harness.settle(&lease, Outcome::Released).await;
    let lease = harness.claim_only(id).await;
    harness.settle(&lease, retry_after(0)).await;
    harness.claim_only(id).await;
    harness.advance(LONGER_THAN_A_LEASE).await;
    harness.give_back().await;
    harness.hold(id).await;
    let released = harness.release(id).await;
    let patch = Patch {
        reference: Member::Set(Reference::parse("PO-7").unwrap()),
        deadline: Member::Set(harness.now().await.plus(LEASE)),
        ..Patch::default()
    };
    let amended = harness.store().amend(id, released.version, patch).await;
    assert!(matches!(amended, Ok(Amended::Done(_))), "{amended:?}");
    harness.advance(LEASE).await;
    assert_eq!(harness.fire_timers().await.overdue, 1);
    harness.cancel(id).await;
    api.post(&format!("/orders/{id}/milestones"), r#"{"name":"refunded"}"#)
        .await
        .ok();
    let mut untold: BTreeSet<&str> = EventKind::ALL.iter().map(|kind| kind.name()).collect();
    while !untold.is_empty() {
        // `event` compares the id with the cursor.
        let event = stream.event().await;
        untold.remove(event["kind"].as_str().unwrap());
        let last = event["cursor"].as_str().unwrap();
        let mut again = Followed::open(&api, "", &[("last-event-id", last)]).await;
        assert_eq!(again.beginning().await, last, "{event}");
    }
    api.close().await;
}

#[tokio::test]
async fn a_stream_resumes_where_the_client_left() {
    let api = Api::open().await;
    let mut stream = Followed::open(&api, "", &[]).await;
    let beginning = stream.beginning().await;
    api.harness.attempt_once(Outcome::COMPLETED).await;
    let first = stream.event().await["cursor"].as_str().unwrap().to_owned();
    drop(stream);
    api.harness.accept_one().await;
    let all_but_one = [(1, 2), (1, 3), (2, 1)];
    let mut by_id = Followed::open(&api, "", &[("last-event-id", &first)]).await;
    assert_eq!(by_id.beginning().await, first);
    assert_eq!(by_id.events(3).await, all_but_one);
    let mut by_query = Followed::open(&api, &format!("?after={first}"), &[]).await;
    by_query.beginning().await;
    assert_eq!(by_query.events(3).await, all_but_one);
    // A browser keeps the original address.
    let query = format!("?after={beginning}");
    let mut again = Followed::open(&api, &query, &[("last-event-id", &first)]).await;
    again.beginning().await;
    assert_eq!(again.events(3).await, all_but_one);
    api.close().await;
}

#[tokio::test]
async fn a_read_followed_by_a_stream_leaves_no_gap() {
    let api = Api::open().await;
    let id = api.harness.accept_one().await;
    let snapshot = api.get("/orders/1").await;
    api.harness.claim_only(id).await;
    let cursor = snapshot.header("orderly-cursor");
    let mut stream = Followed::open(&api, &format!("?order_id=1&after={cursor}"), &[]).await;
    stream.beginning().await;
    api.harness.cancel(id).await;
    assert_eq!(snapshot.ok()["version"], 1);
    assert_eq!(stream.events(2).await, [(1, 2), (1, 3)]);
    api.close().await;
}

#[tokio::test]
async fn filters_narrow_a_stream() {
    let api = Api::open().await;
    let mut of_user = Followed::open(&api, "?user_id=7", &[]).await;
    let mut of_order = Followed::open(&api, "?order_id=2", &[]).await;
    let mut completed = Followed::open(&api, "?status=Completed&user_id=8", &[]).await;
    for stream in [&mut of_user, &mut of_order, &mut completed] {
        stream.beginning().await;
    }
    api.harness.accept(vec![order_of(7), order_of(8)]).await;
    for lease in api.harness.claim(2).await {
        api.harness.settle(&lease, Outcome::COMPLETED).await;
    }
    assert_eq!(of_user.events(3).await, [(1, 1), (1, 2), (1, 3)]);
    assert_eq!(of_order.events(3).await, [(2, 1), (2, 2), (2, 3)]);
    assert_eq!(completed.events(1).await, [(2, 3)]);
    api.close().await;
}

#[tokio::test]
async fn an_unknown_cursor_gets_a_resync() {
    let (api, other) = (Api::open().await, Api::open().await);
    api.harness.accept_one().await;
    other.harness.accept_one().await;
    let foreign = other.get("/orders/1").await.header("orderly-cursor").to_owned();
    let now = api.get("/orders/1").await.header("orderly-cursor").to_owned();
    let future = format!("{}Zw", &now[..now.len() - 2]);
    for cursor in [foreign, future] {
        let mut stream = Followed::open(&api, "", &[("last-event-id", &cursor)]).await;
        // Repeated until delivered, so that a lost connection does not hide it from the client.
        assert_eq!(stream.beginning().await, cursor);
        let block = stream.block().await.unwrap();
        assert_eq!((block.event.as_str(), &block.id), ("resync", &now));
        assert_eq!(block.data, format!("{{\"cursor\":\"{now}\"}}"));
    }
    let mut stream = Followed::open(&api, "?after=AgAAAAAAAAAAAAAAAAAAAAA", &[]).await;
    stream.beginning().await;
    assert_eq!(stream.block().await.unwrap().event, "resync");
    // The stream continues from there.
    api.harness.accept_one().await;
    assert_eq!(stream.events(1).await, [(2, 1)]);
    other.close().await;
    api.close().await;
}

#[tokio::test]
async fn a_cursor_before_pruned_orders_gets_resyncs_until_one_is_delivered() {
    let api = Api::open().await;
    api.harness.accept_one().await;
    let too_old = api.get("/orders/1").await.header("orderly-cursor").to_owned();
    api.harness.cancel(OrderId(1)).await;
    api.harness.prune_all().await;
    api.harness.accept_one().await;
    let now = api.get("/orders/2").await.header("orderly-cursor").to_owned();
    // The client is cut off twice after the first block and resumes with its latest cursor.
    let mut last = too_old.clone();
    for _ in 0..2 {
        let mut stream = Followed::open(&api, "", &[("last-event-id", &last)]).await;
        last = stream.beginning().await;
        assert_eq!(last, too_old);
    }
    let mut stream = Followed::open(&api, "", &[("last-event-id", &last)]).await;
    stream.beginning().await;
    let block = stream.block().await.unwrap();
    assert_eq!((block.event.as_str(), &block.id), ("resync", &now));
    api.harness.accept_one().await;
    assert_eq!(stream.events(1).await, [(3, 1)]);

    // The server stops before the resync was delivered.
    let mut stream = Followed::open(&api, "", &[("last-event-id", &last)]).await;
    stream.beginning().await;
    api.draining.cancel();
    let block = stream.block().await.unwrap();
    assert_eq!((block.event.as_str(), &block.id), ("", &too_old));
    assert_eq!(stream.block().await, None);
    api.close().await;
}

#[tokio::test]
async fn an_invalid_cursor_is_refused() {
    let api = Api::open().await;
    let accept = ("accept", "text/event-stream");
    for id in ["x", "45", "AAAA"] {
        let answer = api
            .ask("GET", "/events", &[accept, ("last-event-id", id)], "")
            .await;
        answer.assert_refused(400, "bad-request");
    }
    let answer = api.get_with("/events?after=x&limit=5", accept).await;
    answer.assert_refused_at(400, "invalid-parameters", &["#/limit", "#/after"]);
    // A client without a cursor sends an empty one.
    Followed::open(&api, "", &[("last-event-id", "")]).await;
    api.close_empty().await;
}

#[tokio::test]
async fn an_idle_stream_sends_heartbeats_and_newer_cursors() {
    let api = Api::with_heartbeat(Duration::from_millis(20)).await;
    let mut stream = Followed::open(&api, "?user_id=99", &[]).await;
    let beginning = stream.beginning().await;
    let sign = stream.block().await.unwrap();
    assert_eq!(
        (sign.comments, sign.event.as_str(), sign.data.as_str()),
        (1, "", "")
    );
    assert_eq!(sign.id, beginning);
    api.harness.accept_one().await;
    let end = api.get("/orders/1").await.header("orderly-cursor").to_owned();
    // The event does not match, so a later heartbeat carries its cursor.
    while stream.block().await.unwrap().id != end {}
    api.close().await;
}

#[tokio::test]
async fn a_stream_ends_with_a_cursor_when_the_server_stops() {
    let api = Api::open().await;
    let mut stream = Followed::open(&api, "", &[]).await;
    let beginning = stream.beginning().await;
    api.harness.accept_one().await;
    let cursor = stream.event().await["cursor"].as_str().unwrap().to_owned();
    assert_ne!(cursor, beginning);
    api.draining.cancel();
    let last = stream.block().await.unwrap();
    assert_eq!((last.id, last.event.as_str()), (cursor, ""));
    assert_eq!(stream.block().await, None);
    api.close().await;
}

/// Like a client of a server that was stopped and restarted.
#[tokio::test]
async fn a_late_subscriber_gets_more_events_than_memory_holds() {
    const ORDERS: usize = 12_000;
    let api = Api::open().await;
    let mut early = Followed::open(&api, "", &[]).await;
    let beginning = early.beginning().await;
    // Left unread meanwhile, so its queue overflows and memory moves on.
    api.harness.accept_some(ORDERS).await;
    let mut late = Followed::open(&api, &format!("?after={beginning}"), &[]).await;
    late.beginning().await;
    let all: Vec<(u64, u64)> = (1..=ORDERS as u64).map(|id| (id, 1)).collect();
    assert_eq!(late.events(ORDERS).await, all);
    assert_eq!(early.events(ORDERS).await, all);
    api.harness.accept_one().await;
    let next = [(ORDERS as u64 + 1, 1)];
    assert_eq!(late.events(1).await, next);
    assert_eq!(early.events(1).await, next);
    assert!(api.harness.metrics().feed_subscribers_lagged.get() > 0);
    assert_eq!(api.harness.metrics().feed_subscribers.get(), 2);
    drop((early, late));
    assert_eq!(api.harness.metrics().feed_subscribers.get(), 0);
    api.close().await;
}
