//! `POST /orders/batch`: many orders in one body, as an array or as lines. All of them are stored or none.

use axum::body::{Body, Bytes};
use futures_util::future::join_all;
use futures_util::{StreamExt, stream};
use insta::assert_snapshot;

use super::in_process::{Answer, Api, ORDER};

const OTHER: &str = r#"{"user_id":7,"item_ids":"9","total_amount":"0.3","reference":"PO-9"}"#;

fn batch_of(orders: &[&str]) -> String {
    format!(r#"{{"orders":[{}]}}"#, orders.join(","))
}

fn lines_of(orders: &[&str]) -> String {
    orders.join("\n")
}

/// Sends the orders in both forms and passes each answer to `judge`.
async fn in_both_forms(api: &Api, orders: &[&str], judge: impl Fn(Answer)) {
    judge(api.post("/orders/batch", batch_of(orders)).await);
    judge(api.post_lines(lines_of(orders)).await);
}

#[tokio::test]
async fn a_batch_is_answered_in_request_order() {
    let api = Api::open().await;
    let created = api.post("/orders/batch", batch_of(&[ORDER, OTHER])).await;
    assert_snapshot!(created.shown(), @r#"
    201 Created
    content-type: application/json

    {
      "orders":[
        {
          "order_id":1,
          "user_id":104,
          "item_ids":"101,102,103",
          "total_amount":250.75,
          "status":"Pending",
          "reference":null,
          "metadata":null,
          "version":1,
          "item_count":3,
          "attempts":0,
          "created_at":"2026-01-01T00:00:00.000000Z",
          "processing_at":null,
          "completed_at":null,
          "next_attempt_at":null,
          "last_error":null,
          "time_taken_seconds":null,
          "result":null
        },
        {
          "order_id":2,
          "user_id":7,
          "item_ids":"9",
          "total_amount":0.30,
          "status":"Pending",
          "reference":"PO-9",
          "metadata":null,
          "version":1,
          "item_count":1,
          "attempts":0,
          "created_at":"2026-01-01T00:00:00.000000Z",
          "processing_at":null,
          "completed_at":null,
          "next_attempt_at":null,
          "last_error":null,
          "time_taken_seconds":null,
          "result":null
        }
      ]
    }
    "#);
    api.close().await;
}

#[tokio::test]
async fn ndjson_and_json_make_the_same_batch() {
    let api = Api::open().await;
    for lines in [
        format!("{ORDER}\n{OTHER}"),
        format!("{ORDER}\r\n{OTHER}\r\n"),
        format!("\n {ORDER} \n\n{OTHER}\n\n"),
    ] {
        let created = api.post_lines(lines).await.created();
        let references = [0, 1].map(|index| created["orders"][index]["reference"].clone());
        assert_eq!(serde_json::json!(references), serde_json::json!([null, "PO-9"]));
        assert_eq!(created["orders"].as_array().unwrap().len(), 2);
    }
    api.close().await;
}

#[tokio::test]
async fn a_batch_holds_at_most_a_thousand_orders() {
    let api = Api::open().await;
    in_both_forms(&api, &vec![ORDER; 1000], |answer| {
        assert_eq!(answer.created()["orders"].as_array().unwrap().len(), 1000);
    })
    .await;
    assert_eq!(api.stored().await, 2000);
    in_both_forms(&api, &vec![ORDER; 1001], |answer| {
        answer.assert_refused_at(422, "invalid-fields", &["#/orders"]);
    })
    .await;
    assert_eq!(api.stored().await, 2000);
    api.close().await;
}

#[tokio::test]
async fn orders_of_a_batch_get_consecutive_ids_and_start_in_that_order() {
    let api = Api::open().await;
    let created = api.post("/orders/batch", batch_of(&[ORDER; 20])).await.created();
    let orders = created["orders"].as_array().unwrap();
    let ids: Vec<i64> = orders
        .iter()
        .map(|order| order["order_id"].as_i64().unwrap())
        .collect();
    assert!(ids.iter().copied().eq(1..=20), "{ids:?}");
    let started: Vec<i64> = api
        .harness
        .claim(20)
        .await
        .iter()
        .map(|lease| lease.order.order_id.0)
        .collect();
    assert_eq!(started, ids);
    api.close().await;
}

#[tokio::test]
async fn one_invalid_order_refuses_the_batch_and_is_named_by_index() {
    let api = Api::open().await;
    let negative = ORDER.replace("250.75", "-1");
    let colour = ORDER.replace("user_id", "colour");
    in_both_forms(&api, &[ORDER, OTHER, ORDER, &negative], |answer| {
        answer.assert_refused_at(422, "invalid-fields", &["#/orders/3/total_amount"]);
    })
    .await;
    in_both_forms(&api, &[&colour, ORDER, &negative, "7"], |answer| {
        let places = [
            "#/orders/0/colour",
            "#/orders/0/user_id",
            "#/orders/2/total_amount",
            "#/orders/3",
        ];
        answer.assert_refused_at(422, "invalid-fields", &places);
    })
    .await;
    api.close_empty().await;
}

#[tokio::test]
async fn at_most_a_hundred_invalid_orders_are_named_and_all_are_counted() {
    let api = Api::open().await;
    in_both_forms(&api, &["{}"; 1000], |answer| {
        let (status, kind, pointers) = answer.refusal();
        assert_eq!(
            (status, kind.as_str(), pointers.len()),
            (422, "invalid-fields", 100)
        );
        assert!(answer.text().contains("3000"), "{}", answer.text());
    })
    .await;
    api.close_empty().await;
}

#[tokio::test]
async fn an_empty_batch_is_refused() {
    let api = Api::open().await;
    for body in [
        r#"{"orders":[]}"#,
        "{}",
        r#"{"orders":null}"#,
        r#"{"orders":{}}"#,
        r#"{"orders":7}"#,
    ] {
        let answer = api.post("/orders/batch", body).await;
        answer.assert_refused_at(422, "invalid-fields", &["#/orders"]);
    }
    for lines in ["", "\n\n", " \r\n "] {
        let answer = api.post_lines(lines).await;
        answer.assert_refused_at(422, "invalid-fields", &["#/orders"]);
    }
    api.close_empty().await;
}

/// The clients announce a batch and send almost nothing.
#[tokio::test]
async fn slow_clients_do_not_block_other_clients() {
    const SLOW_CLIENTS: usize = 1_000;
    let api = Api::open().await;
    let (arrived, mut arrivals) = tokio::sync::mpsc::unbounded_channel();
    let slow = (0..SLOW_CLIENTS).map(|_| {
        let arrived = arrived.clone();
        let first = stream::once(async { Ok::<_, std::io::Error>(Bytes::from_static(b"{")) });
        let rest = stream::once(async move {
            arrived.send(()).expect("the test receives");
            std::future::pending().await
        });
        api.post("/orders/batch", Body::from_stream(first.chain(rest)))
    });
    let others = async {
        for _ in 0..SLOW_CLIENTS {
            arrivals.recv().await.expect("a slow client is being read");
        }
        in_both_forms(&api, &[ORDER, OTHER], |answer| {
            answer.created();
        })
        .await;
    };
    tokio::select! {
        () = others => {}
        _ = join_all(slow) => panic!("a slow client was answered"),
    }
    api.close().await;
}

#[tokio::test]
async fn a_body_that_is_not_a_batch_is_refused_with_a_reason() {
    let api = Api::open().await;
    let unknown = format!(r#"{{"orders":[{ORDER}],"dry_run":true}}"#);
    let answer = api.post("/orders/batch", unknown).await;
    answer.assert_refused_at(422, "invalid-fields", &["#/dry_run"]);
    let twice = format!(r#"{{"orders":[{ORDER}],"orders":[{ORDER}]}}"#);
    let answer = api.post("/orders/batch", twice).await;
    answer.assert_refused_at(422, "invalid-fields", &["#/orders"]);
    let answer = api.post("/orders/batch", format!("[{ORDER}]")).await;
    answer.assert_refused_at(422, "invalid-fields", &["#"]);

    let truncated = batch_of(&[ORDER, ORDER]);
    let answer = api
        .post("/orders/batch", truncated[..truncated.len() - 2].to_owned())
        .await;
    answer.assert_refused(400, "malformed-json");
    let answer = api.post_lines(format!("{ORDER}\n{}", &ORDER[1..])).await;
    answer.assert_refused(400, "malformed-json");
    assert!(answer.text().contains("line 2"), "{}", answer.text());
    // Two objects on one line are an error.
    let answer = api.post_lines(format!("{ORDER}{ORDER}")).await;
    answer.assert_refused(400, "malformed-json");
    api.close_empty().await;
}
