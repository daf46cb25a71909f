//! The limit of feed subscribers on a node.

use orderly::lease::Outcome;
use orderly::live::{Filter, SubscribeError};

use super::in_process::Api;

/// More than any plausible limit.
const FAR_TOO_MANY: usize = 100_000;

#[tokio::test]
async fn only_streams_beyond_the_subscriber_limit_are_refused() {
    let api = Api::open().await;
    let mut followers = Vec::new();
    let refused = loop {
        match api.feed().subscribe(Filter::default(), None).await {
            Ok(follower) => followers.push(follower),
            Err(refused) => break refused,
        }
        assert!(followers.len() < FAR_TOO_MANY, "no limit was reached");
    };
    assert!(matches!(refused, SubscribeError::TooMany), "{refused}");
    let stream = || api.get_with("/events", ("accept", "text/event-stream"));
    let answer = stream().await;
    answer.assert_refused(503, "busy");
    assert_ne!(answer.header("retry-after"), "");
    // Orders are still accepted, processed and waited for, and pages need no subscriber slot.
    let id = api.harness.accept_one().await;
    let held = api.get_with("/orders/1", ("prefer", "wait=60"));
    let processing = async {
        let lease = api.harness.claim_only(id).await;
        api.harness.settle(&lease, Outcome::COMPLETED).await;
    };
    let (answer, ()) = tokio::join!(held, processing);
    assert_eq!(answer.ok()["status"], "Completed");
    let page = api.get("/events").await.ok();
    assert_eq!(page["events"].as_array().unwrap().len(), 3);
    // A subscriber that leaves makes room.
    followers.pop();
    let response = api
        .response("GET", "/events", &[("accept", "text/event-stream")], "")
        .await;
    assert_eq!(response.status(), 200);
    drop(response);
    api.close().await;
}
