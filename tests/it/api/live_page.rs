//! The page at `/docs/live.html` in a real browser: existing orders and then changes, over both transports.

use serde_json::{Value, json};
use tokio::process::Command;

use crate::support::browser::{self, Browser};
use crate::support::client::{Answer, Request, http, post};
use crate::support::process::{Process, orderly};
use crate::support::{required, until};

fn server(folder: &std::path::Path) -> Command {
    let mut command = orderly(folder);
    command.env("ORDERLY_SIMULATED_SPEED", "0");
    command
}

async fn order(url: &str, user_id: u64) {
    let request = Request {
        key: format!("user {user_id}"),
        user_id,
        cents: 25_075,
    };
    let answer = post(&http(), url, &request).await;
    assert!(matches!(answer, Answer::Created(_)), "{answer:?}");
}

/// The rows of the page: order, status and version.
async fn rows(browser: &Browser) -> Value {
    let script = "return [...document.getElementById('rows').children].map((row) =>
        [0, 2, 3].map((column) => row.children[column].textContent));";
    browser.run(script, json!([])).await
}

async fn shows(browser: &Browser, expected: &Value) {
    until(&format!("the page shows {expected}"), async || {
        rows(browser).await == *expected
    })
    .await;
}

async fn follows(browser: &Browser) {
    until("the page follows the feed", async || {
        let state = browser.run("return document.getElementById('state').textContent", json!([]));
        state.await == "following"
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_live_page_shows_changes_and_survives_a_server_kill() {
    if !required("a test with Chromium", browser::is_installed()) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let mut served = Process::start(server(folder.path())).await;
    let url = served.url.clone();
    let port = url.rsplit(':').next().unwrap().to_owned();
    order(&url, 1).await;
    let browser = Browser::start().await;
    browser.visit(&format!("{url}/docs/live.html")).await;
    shows(&browser, &json!([["1", "Completed", "3"]])).await;

    let mut expected = vec![json!(["1", "Completed", "3"])];
    for (number, way) in (2_u64..).step_by(2).zip(["sse", "socket"]) {
        let choose = "const way = document.getElementById('way'); way.value = arguments[0]; way.onchange();";
        browser.run(choose, json!([way])).await;
        follows(&browser).await;
        order(&url, number).await;
        expected.insert(0, json!([number.to_string(), "Completed", "3"]));
        shows(&browser, &json!(expected)).await;

        served.kill().await;
        let mut again = server(folder.path());
        again.env("PORT", &port);
        served = Process::start(again).await;
        order(&url, number + 1).await;
        expected.insert(0, json!([(number + 1).to_string(), "Completed", "3"]));
        shows(&browser, &json!(expected)).await;
    }
    browser.close().await;
    assert_eq!(served.terminate().await, Some(0));
}
