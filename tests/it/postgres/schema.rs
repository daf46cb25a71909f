//! The schema is made once, however many nodes start at the same time, and one that this binary does not know is left
//! alone.

use futures_util::future::join_all;
use orderly::store::open::{self, OpenError};

use super::scene::{database_at, has_postgres, store_at};
use crate::support::postgres::Server;

#[tokio::test(flavor = "multi_thread")]
async fn nodes_that_start_together_make_the_schema_once() {
    if !has_postgres() {
        return;
    }
    let database = Server::shared().await.create_database().await;
    let url = database.url();
    let stores = join_all((0..4).map(|_| store_at(&url))).await;
    for store in stores {
        store.counters().await.unwrap();
        store.close().await;
    }
    let steps = "select count(*) from orderly.migrations";
    let applied: i64 = database.admin().await.query_one(steps, &[]).await.unwrap().get(0);
    assert_eq!(applied, 1);
}

#[tokio::test]
async fn a_newer_or_changed_schema_is_refused() {
    if !has_postgres() {
        return;
    }
    let database = Server::shared().await.create_database().await;
    let url = database.url();
    store_at(&url).await.close().await;
    let admin = database.admin().await;

    admin
        .batch_execute("insert into orderly.migrations values (99, 'later', 'x')")
        .await
        .unwrap();
    let newer = open::migrate(&database_at(&url), false).await;
    assert!(
        matches!(newer, Err(OpenError::SchemaNewer { found: 99, .. })),
        "{newer:?}"
    );

    let changed =
        "delete from orderly.migrations where number = 99; update orderly.migrations set checksum = 'x'";
    admin.batch_execute(changed).await.unwrap();
    let changed = open::migrate(&database_at(&url), false).await;
    assert!(
        matches!(changed, Err(OpenError::MigrationChanged { number: 1, .. })),
        "{changed:?}"
    );
}
