//! Log lines about requests.

use super::Fixture;
use crate::support::client::http;

#[tokio::test(flavor = "multi_thread")]
async fn the_log_line_of_a_request_has_the_id_of_its_answer() {
    let fixture = Fixture::open(&[("RUST_LOG", "orderly::http=debug")]).await;
    let url = format!("{}/orders/7", fixture.server.url);
    let ask = http().get(url).header("X-Request-Id", "caller-7");
    let answer = ask.send().await.unwrap();
    assert_eq!(answer.headers()["x-request-id"], "caller-7");
    fixture.server.until_logged(r#""request.id":"caller-7""#).await;
    let url = format!("{}/orders/8", fixture.server.url);
    let answer = http().get(url).send().await.unwrap();
    let id = answer.headers()["x-request-id"].to_str().unwrap();
    let line = format!(r#""request.id":"{id}""#);
    fixture.server.until_logged(&line).await;
    fixture.close().await;
}
