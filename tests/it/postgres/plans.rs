//! Which index serves what, whatever the statistics say, and that no cost grows with the orders that are finished: the
//! statements are the store's own, and PostgreSQL tells how it carried them out.

use orderly::lease::{LeaseKey, Outcome};
use orderly::order::{OrderId, OrderStatus};
use orderly::store::{FEED_EVENTS_MAX, OrderQuery, PRUNE_ORDERS_MAX, Prune, RedriveQuery};

use super::scene::Scene;
use crate::support::make::{NODE_A, claim_by, give_back_by, heartbeat, key, new_order};

mod plan;
mod story;
mod waiting;
mod walked;

use plan::{Caught, of_claim, of_claim_in_turn, of_step, of_turns};
use story::{ALL_STATISTICS, BIG_USER, FINISHED, SMALL_USER, numbered_late, story};

/// Orders that are asked for.
const PAGE_ORDERS: usize = 10;
/// Pages of the database that such a statement touches at most: some for each order, none for the finished ones.
const PAGES_MAX: u64 = 150;

#[tokio::test(flavor = "multi_thread")]
async fn a_claim_reads_the_heads_of_its_lines_whatever_the_statistics_say() {
    for statistics in ALL_STATISTICS {
        let Some(scene) = story(statistics, FINISHED).await else {
            return;
        };
        let (claim, _) = of_claim(&scene, PAGE_ORDERS).await;
        let (first, second) = (claim.part("CTE first_line"), claim.part("CTE second_line"));
        assert_eq!(first.indexes(), ["orders_first"], "{statistics:?}");
        assert_eq!(
            second.indexes(),
            ["orders_due", "orders_suspect"],
            "{statistics:?}"
        );
        assert!(!first.sorts() && !second.sorts(), "{statistics:?}: {claim}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_claim_costs_the_same_with_twenty_thousand_finished_orders() {
    for statistics in ALL_STATISTICS {
        let Some(young) = story(statistics, 0).await else {
            return;
        };
        let Some(old) = story(statistics, FINISHED).await else {
            return;
        };
        let pages = async |scene: &Scene| {
            let (claim, outlook) = of_claim(scene, PAGE_ORDERS).await;
            claim.pages() + outlook.pages()
        };
        let (young, old) = (pages(&young).await, pages(&old).await);
        // The indexes are a level higher, and each order that is claimed has an entry in several of them.
        assert!(
            old <= 2 * young,
            "{statistics:?}: {young} pages, {old} with finished orders"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_of_orders_costs_what_it_holds_whatever_the_statistics_say() {
    let mut wrong = Vec::new();
    for statistics in ALL_STATISTICS {
        let Some(scene) = story(statistics, FINISHED).await else {
            return;
        };
        for (page, index) in pages_of_orders(&scene).await {
            let plan = page.plan(&scene).await;
            let (indexes, pages) = (plan.indexes(), plan.pages());
            // A page of one user's orders is made of one of each status.
            let sorts = plan.sorts() && !page.what.ends_with("of a user");
            if indexes != [index] || pages > PAGES_MAX || sorts {
                wrong.push(format!(
                    "{statistics:?}: {}: {indexes:?}, {pages} pages, sorts: {sorts}",
                    page.what
                ));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// Each with the index that has it in its order.
async fn pages_of_orders(scene: &Scene) -> Vec<(Caught, &'static str)> {
    let query = |status, user_id, reference: Option<&str>| OrderQuery {
        status,
        user_id,
        reference: reference.map(str::to_owned),
        limit: PAGE_ORDERS,
        ..OrderQuery::default()
    };
    let mut queries = vec![
        ("all".to_owned(), query(None, None, None), "orders_pkey"),
        (
            "reference".to_owned(),
            query(None, None, Some("order 500")),
            "orders_reference",
        ),
    ];
    for user_id in [BIG_USER, SMALL_USER] {
        let of_user = query(None, Some(user_id), None);
        queries.push((format!("{user_id}, of a user"), of_user, "orders_user"));
    }
    for status in OrderStatus::ALL {
        let name = status.name();
        queries.push((name.to_owned(), query(Some(status), None, None), "orders_status"));
        for user_id in [BIG_USER, SMALL_USER] {
            let of_both = query(Some(status), Some(user_id), None);
            queries.push((format!("{name} of user {user_id}"), of_both, "orders_user"));
        }
    }
    let mut pages = Vec::new();
    for (what, query, index) in queries {
        let mut types = vec!["int8"; 3];
        let mut values = vec![
            "0".to_owned(),
            i64::MAX.to_string(),
            (PAGE_ORDERS + 1).to_string(),
        ];
        if let Some(user_id) = query.user_id {
            types.push("int8");
            values.push(user_id.to_string());
        }
        if let Some(reference) = &query.reference {
            types.push("text");
            values.push(format!("'{reference}'"));
        }
        let (types, values) = (types.join(", "), values.join(", "));
        scene.store.orders(query).await.unwrap();
        let page = Caught::of(scene, &what, "order_id desc limit $3", &types, &values);
        pages.push((page, index));
    }
    pages
}

/// Of one user, before all others in the first line: none of them has its turn.
const BLOCKED: &str = "
insert into orderly.orders (order_id, status, version, attempts, generation, crashes, token, created_at, changed_at,
    user_id, total_amount, item_ids, turn)
select -n, 0, 1, 0, 0, 0, 0, now(), now(), 9, 100, '1,2', 1 from generate_series(1, 20000) as n;
update orderly.counters set pending = pending + 20000 where slot = 0;
update orderly.orders set turn = 0 where status = 0 and turn is null;
update orderly.queue set ordering = 1;";

#[tokio::test(flavor = "multi_thread")]
async fn where_orders_wait_for_others_of_their_user_a_claim_reads_only_those_whose_turn_it_is() {
    for statistics in ALL_STATISTICS {
        let Some(scene) = story(statistics, FINISHED).await else {
            return;
        };
        scene.admin.batch_execute(BLOCKED).await.unwrap();
        scene.store.claim(claim_by(NODE_A, PAGE_ORDERS)).await.unwrap();
        let claim = of_claim_in_turn(&scene).await;
        let (first, second) = (claim.part("CTE first_line"), claim.part("CTE second_line"));
        assert_eq!(first.indexes(), ["orders_turn_first"], "{statistics:?}");
        assert_eq!(
            second.indexes(),
            ["orders_turn_due", "orders_turn_suspect"],
            "{statistics:?}"
        );
        assert!(!first.sorts() && !second.sorts(), "{statistics:?}: {claim}");
        assert!(first.pages() <= PAGES_MAX, "{statistics:?}: {first}");
        // One more order, and one that ends: both are seen to.
        scene.store.accept([new_order()].into(), None).await.unwrap();
        scene.store.cancel(OrderId(-1)).await.unwrap();
        let turns = of_turns(&scene).await;
        assert!(
            turns.pages() <= PAGES_MAX,
            "{statistics:?}: {} pages, {turns}",
            turns.pages()
        );
    }
}

/// Pages of the database for an event of the feed: the ways down three indexes, and the rows themselves.
const PAGES_PER_EVENT: u64 = 12;

#[tokio::test(flavor = "multi_thread")]
async fn a_page_of_the_feed_costs_what_it_holds_whatever_the_statistics_say() {
    let mut wrong = Vec::new();
    for statistics in ALL_STATISTICS {
        let Some(scene) = story(statistics, FINISHED).await else {
            return;
        };
        wrong.extend(dear_pages_of_the_feed(&scene, &format!("{statistics:?}"), 0).await);
    }
    let Some(scene) = story(ALL_STATISTICS[0], FINISHED).await else {
        return;
    };
    let dead = numbered_late(&scene).await;
    wrong.extend(dear_pages_of_the_feed(&scene, "from before anything had a place", dead).await);
    // As the table's settings have it done in time.
    scene.admin.batch_execute("vacuum orderly.batches").await.unwrap();
    wrong.extend(dear_pages_of_the_feed(&scene, "from then, cleaned up", 0).await);
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// Those that cost more than what they hold, and than `dead` pages of what is not cleaned up yet.
async fn dear_pages_of_the_feed(scene: &Scene, statistics: &str, dead: u64) -> Vec<String> {
    let mut wrong = Vec::new();
    scene.store.events_after(None, PAGE_ORDERS).await.unwrap();
    for after in [0, FINISHED / 2, FINISHED - 10, FINISHED] {
        for limit in [0, PAGE_ORDERS, FEED_EVENTS_MAX] {
            let values = format!("{after}, {limit}");
            let page = Caught::of(scene, "page", "The events behind place", "int8, int8", &values);
            let plan = page.plan(scene).await;
            let events = u64::try_from(limit)
                .unwrap()
                .min((FINISHED - after).unsigned_abs());
            let is_dear = plan.pages() > PAGES_MAX + PAGES_PER_EVENT * events + dead;
            let walked: Vec<&str> = plan
                .walked()
                .into_iter()
                .filter(|table| *table != "queue")
                .collect();
            if is_dear || !walked.is_empty() || plan.is_compiled() {
                let (pages, compiled) = (plan.pages(), plan.is_compiled());
                wrong.push(format!(
                    "{statistics}, {limit} behind {after}: {pages} pages, walked {walked:?}, compiled: {compiled}"
                ));
            }
        }
    }
    wrong
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_else_is_asked_costs_the_same_with_twenty_thousand_finished_orders() {
    let mut wrong = Vec::new();
    for statistics in ALL_STATISTICS {
        let Some(scene) = story(statistics, FINISHED).await else {
            return;
        };
        for caught in everything_else(&scene).await {
            let plan = caught.plan(&scene).await;
            if plan.pages() > PAGES_MAX {
                let (pages, indexes) = (plan.pages(), plan.indexes());
                wrong.push(format!(
                    "{statistics:?}: {}: {pages} pages, {indexes:?}",
                    caught.what
                ));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// Pages of tables and indexes for each order that goes, with its one event and the batch of that.
const PAGES_PER_ORDER_MAX: u64 = 60;

#[tokio::test(flavor = "multi_thread")]
async fn a_step_of_retention_finds_what_it_takes_out_by_index_whatever_the_statistics_say() {
    for statistics in ALL_STATISTICS {
        let Some(scene) = story(statistics, FINISHED).await else {
            return;
        };
        // Among the finished orders, whose step is carried out twice: once for the store, once for its plan.
        let step = Prune {
            older_than: std::time::Duration::ZERO,
            after: Some(OrderId(FINISHED / 2)),
        };
        assert_eq!(scene.store.prune(step).await.unwrap().orders, PRUNE_ORDERS_MAX);
        let plan = of_step(&scene).await;
        let most = PAGES_PER_ORDER_MAX * PRUNE_ORDERS_MAX as u64;
        assert!(
            plan.pages() <= most,
            "{statistics:?}: {} pages, {plan}",
            plan.pages()
        );
        let page = plan.part("CTE page");
        assert_eq!(page.indexes(), ["orders_pkey"], "{statistics:?}");
        assert!(!page.sorts(), "{statistics:?}");
    }
}

/// Asks it, and answers what was sent.
async fn everything_else(scene: &Scene) -> Vec<Caught> {
    let store = &scene.store;
    let unknown = LeaseKey {
        order_id: OrderId(1),
        token: 9,
        node: NODE_A,
    };
    store.give_back_expired(give_back_by(NODE_A)).await.unwrap();
    store.renew(heartbeat(NODE_A, &[unknown])).await.unwrap();
    store.settle(unknown, Outcome::COMPLETED).await.unwrap();
    store.queue().await.unwrap();
    store.history(OrderId(1), 0).await.unwrap();
    store.events_after(None, PAGE_ORDERS).await.unwrap();
    store.cancel(OrderId(1)).await.unwrap();
    store.redrive(OrderId(1)).await.unwrap();
    for _ in 0..2 {
        let accepted = store.accept([new_order()].into(), Some(key("again", 1))).await;
        accepted.unwrap();
    }
    store.accept([new_order()].into(), None).await.unwrap();
    // Nothing is due, so that whoever looks for the first that is must not look through those that wait.
    let put_off = "update orderly.orders set due_at = now() + interval '1 hour' where due_at <= now()";
    scene.admin.batch_execute(put_off).await.unwrap();
    // After the cancel, whose statement has the same part.
    store.order_view(OrderId(1)).await.unwrap();
    let mut asked = Vec::new();
    for (user_id, types, values) in [(None, "", ""), (Some(SMALL_USER), ", int8", ", 7")] {
        let dead = RedriveQuery {
            status: OrderStatus::Failed,
            user_id,
            created_before: None,
            dry_run: true,
        };
        store.redrive_matching(dead).await.unwrap();
        let what = format!("dead letters of {user_id:?}");
        let types = format!("int2, int8, timestamptz, int8{types}");
        let values = format!("3, {}, null, 1001{values}", i64::MAX);
        asked.push(Caught::of(scene, &what, "limit $4", &types, &values));
    }
    for (what, part, types, values) in [
        (
            "sweep",
            "Takes back orders whose",
            "int8, int4, int8, int2, int8[]",
            "10, 5, 1000, 3, null, 0",
        ),
        (
            "heartbeat",
            "A heartbeat",
            "int8[], int8[], int8, int8, int4, int4, int2, int2, int2",
            "'{500}', '{1}', 1, 7, 1, 1, 0, 0, null",
        ),
        (
            "result",
            "Ends attempts",
            "int8[], int8[], int8[], int2[], int2[], bool[], int8[], text[], text[], int2",
            "'{500}', '{1}', '{7}', '{2}', '{2}', '{f}', '{null}', '{null}', '{null}', 3",
        ),
        (
            "order to be stored",
            "from orderly.accept(",
            "int8[], int8[], text[], text[], text[], int2",
            "'{1}', '{1}', '{1}', '{null}', '{null}', 3",
        ),
        (
            "order to be stored under a key",
            "from orderly.accept_keyed(",
            "int4[], int8[], int8[], text[], text[], text[], int4[], text[], text[], bytea[], int2",
            "'{0}', '{1}', '{1}', '{1}', '{null}', '{null}', '{0}', '{orders}', '{a new one}', '{a}', 3",
        ),
        ("queue", "The heads of the lines", "", ""),
        (
            "order",
            "with ordinality as asked (id, place)",
            "int8[]",
            "'{500, 20200, 500}'",
        ),
        (
            "history",
            "version > $2 order by version",
            "int8, int4, int8",
            "500, 0, 100",
        ),
        ("feed", "The events behind place", "int8, int8", "9000, 10"),
        (
            "end of the feed",
            "The events behind place",
            "int8, int8",
            "20000, 10",
        ),
        ("cancel", "Cancels order $1", "int8, int2", "2, 3"),
        (
            "redrive",
            "Redrives the orders",
            "int8[], int2, bool",
            "'{20100, 20110}', 3, true",
        ),
        (
            "known key",
            "What was answered for",
            "text[], text[]",
            "'{orders}', '{key 500}'",
        ),
        ("old keys", "Forgets up to $1 keys", "int8", "2"),
    ] {
        asked.push(Caught::of(scene, what, part, types, values));
    }
    asked
}
