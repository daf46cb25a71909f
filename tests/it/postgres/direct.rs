//! A way past the pooler carries what the pooler keeps back.

use orderly::config::{Database, PostgresDatabase, PostgresUrl};
use orderly::metrics::Metrics;
use orderly::store::clock::system_clock;
use orderly::store::open::{OpenOptions, open};

use super::scene::{HEARS_WITHIN, accept_keyed, has_pgbouncer, store_at};
use crate::support::make::{NODE_A, NODE_B, heartbeat};
use crate::support::postgres::Server;

#[tokio::test(flavor = "multi_thread")]
async fn a_node_behind_a_pooler_is_woken_over_the_direct_way() {
    if !has_pgbouncer() {
        return;
    }
    let database = Server::shared().await.create_database().await;
    let speaking = store_at(&database.url()).await;
    let parse = |url: &str| PostgresUrl::parse(url).expect("a URL of the tests' own").0;
    let two_ways = PostgresDatabase {
        url: parse(&database.bouncer_url().await),
        direct: Some(parse(&database.url())),
    };
    let options = OpenOptions {
        migrate: true,
        pending_max: None,
        metrics: Metrics::new(),
        clock: system_clock(),
        ordering: None,
    };
    let hearing = open(&Database::Postgres(Box::new(two_ways)), options)
        .await
        .unwrap();
    hearing.renew(heartbeat(NODE_A, &[])).await.unwrap();
    speaking.renew(heartbeat(NODE_B, &[])).await.unwrap();

    let woken = async {
        let wakeups = hearing.wakeups();
        for number in 0.. {
            let name = number.to_string();
            tokio::select! {
                biased;
                () = wakeups.work() => return,
                accepted = accept_keyed(&*speaking, &name) => drop(accepted.unwrap()),
            }
        }
    };
    tokio::time::timeout(HEARS_WITHIN, woken)
        .await
        .expect("it hears of an order in time");
    hearing.close().await;
    speaking.close().await;
}
