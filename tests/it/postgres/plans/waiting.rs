//! No claim and no result costs more for the orders that wait, in a session whose plans are from when there were none.

use super::plan::Plan;
use super::story::{ALL_STATISTICS, FINISHED, story};

/// Pages of the database that a claim of ten orders touches at most, and a result: each order has new entries in several
/// indexes, and is found and locked in either line before.
const CLAIM_PAGES_MAX: u64 = 600;
const SETTLE_PAGES_MAX: u64 = 150;

/// In the first line, behind all others.
const WAITING: &str = "
insert into orderly.orders (order_id, status, version, attempts, generation, crashes, token, created_at, changed_at,
    user_id, total_amount, item_ids)
select nextval('orderly.order_ids'), 0, 1, 0, 0, 0, 0, now(), now(), 9, 100, '1,2' from generate_series(1, 20000);
update orderly.counters set pending = pending + 20000 where slot = 0;";

/// Joined the other way round, every order that waits would be compared with every one that was chosen.
#[tokio::test(flavor = "multi_thread")]
async fn a_claim_and_its_results_cost_the_same_with_twenty_thousand_waiting_orders() {
    for statistics in ALL_STATISTICS {
        let Some(scene) = story(statistics, FINISHED).await else {
            return;
        };
        scene.admin.batch_execute(WAITING).await.unwrap();
        let claim = Plan::of(
            &scene,
            &[],
            "select from orderly.claim(places => 10, claiming_node => 10, lease_micros => 1000, takes_suspects => 1,
                is_outside => 0, is_handed_out => 0, known_processor => -1, known_ordering => 0, second_first => 0, above => 0, spare => 4, counter_slot => 1, claim_lock => 1)",
        );
        let claim = claim.await.pages();
        assert!(claim <= CLAIM_PAGES_MAX, "{statistics:?}: {claim} pages");
        let processing = "update orderly.orders set status = 1, token = 1, node = 7, processing_at = now()
            where user_id = 9";
        scene.admin.batch_execute(processing).await.unwrap();
        let settle = Plan::of(
            &scene,
            &[],
            "select from orderly.settle('{20200}', '{1}', '{7}', '{2}', '{2}', '{f}', '{null}', '{null}', '{null}', 3::int2)",
        );
        let settle = settle.await.pages();
        assert!(settle <= SETTLE_PAGES_MAX, "{statistics:?}: {settle} pages");
    }
}
