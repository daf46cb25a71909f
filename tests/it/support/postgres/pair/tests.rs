//! Tests of the pair: which commits wait, which are lost, and the data of a promoted standby.

use tokio_postgres::Client;

use crate::support::postgres::{Pair, Server, Stop, TestDatabase, connect, is_installed_with_standby};
use crate::support::required;

fn has_standby() -> bool {
    required("a private PostgreSQL with a standby", is_installed_with_standby())
}

async fn store(client: &Client, value: i32) {
    client
        .execute("insert into kept values ($1)", &[&value])
        .await
        .unwrap();
}

async fn made(pair: &Pair) -> (TestDatabase, Client) {
    let database = pair.primary.create_database().await;
    let client = database.admin().await;
    client
        .batch_execute("create table kept (value int)")
        .await
        .unwrap();
    (database, client)
}

async fn kept_on(database: &TestDatabase, server: &Server) -> Vec<i32> {
    let client = database.on(server).admin().await;
    let rows = client.query("select value from kept order by value", &[]).await;
    rows.unwrap().iter().map(|row| row.get(0)).collect()
}

#[tokio::test]
async fn a_standby_lacks_writes_made_while_it_was_stopped() {
    if !has_standby() {
        return;
    }
    let pair = Pair::start().await;
    let (database, client) = made(&pair).await;
    store(&client, 1).await;
    pair.caught_up().await;
    pair.standby.stop(Stop::Fast).await;
    store(&client, 2).await;
    pair.primary.stop(Stop::Killed).await;
    pair.standby.start_again().await;
    assert_eq!(kept_on(&database, &pair.standby).await, [1]);
    pair.promote().await;
    store(&connect(&pair.url(&database)).await.unwrap(), 3).await;
    assert_eq!(kept_on(&database, &pair.standby).await, [1, 3]);
}

#[tokio::test]
async fn a_commit_waits_for_a_frozen_synchronous_standby() {
    if !has_standby() {
        return;
    }
    let pair = Pair::start_synchronous().await;
    let (database, client) = made(&pair).await;
    pair.standby.freeze().await;
    let stored = tokio::spawn(async move {
        store(&client, 1).await;
        client
    });
    pair.until_waiting(1).await;
    assert!(kept_on(&database, &pair.primary).await.is_empty());
    pair.standby.thaw().await;
    let client = stored.await.unwrap();
    pair.caught_up().await;
    assert_eq!(kept_on(&database, &pair.standby).await, [1]);
    pair.standby.freeze().await;
    let stored = tokio::spawn(async move { store(&client, 2).await });
    pair.until_waiting(1).await;
    pair.require_no_standby().await;
    stored.await.unwrap();
    // The frozen standby ends with the pair.
}
