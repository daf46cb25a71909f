//! Query plans: the expected indexes serve each statement with any statistics, and no cost grows with the number of finished
//! orders. The tests capture the store's own statements, and PostgreSQL reports the plans that it executed.

use orderly::order::OrderId;
use orderly::store::{FEED_EVENTS_MAX, PRUNE_ORDERS_MAX, Prune};

use crate::support::make::{NODE_A, claim_by, new_order};

mod dataset;
mod listings;
mod open_orders;
mod other_statements;
mod plan;

use dataset::{
    ALL_STATISTICS, BACKING_OFF, BATCH_EVENTS, COMPLETED_LATER, DUE, Dataset, FINISHED, LAST_PLACE, dataset,
    number_late,
};
use plan::{CapturedStatement, of_message};

/// Orders per page.
const PAGE_ORDERS: usize = 10;
/// Database pages that such a statement touches at most: some per order returned, none for finished orders.
const PAGES_MAX: u64 = 160;
/// Database pages per row that a statement examines besides: the row, and its lease if it runs.
const PAGES_PER_ROW: u64 = 5;
/// Rows that one node of a plan reads at most. Every kind of order that accumulates has more.
const ROWS_MAX: u64 = 1_100;

/// Part of the message of a claim.
const CLAIM: &str = "places => ";
/// Parts of the statement in it that chooses orders, and of the one that reads when the next order is due.
const CHOOSE: &str = "first_line as materialized";
const OUTLOOK: &str = "pg_current_xact_id_if_assigned";

#[tokio::test(flavor = "multi_thread")]
async fn a_claim_reads_only_heads_of_its_lines_with_any_statistics() {
    for statistics in ALL_STATISTICS {
        let Some(Dataset { setup, session }) = dataset(statistics, FINISHED).await else {
            return;
        };
        let claim = of_message(&setup, &session, CLAIM).await;
        let choice = claim.statement(CHOOSE);
        let (first, second) = (choice.part("CTE first_line"), choice.part("CTE second_line"));
        assert_eq!(first.indexes(), ["first_line_pkey"], "{statistics:?}");
        let heads = ["second_line_due", "second_line_suspect"];
        assert_eq!(second.indexes(), heads, "{statistics:?}");
        assert!(!first.sorts() && !second.sorts(), "{statistics:?}: {choice}");
        let outlook = claim.statement(OUTLOOK);
        assert_eq!(
            outlook.indexes(),
            ["queue_pkey", heads[0], heads[1]],
            "{statistics:?}"
        );
        let rows = claim.rows();
        assert!(rows <= ROWS_MAX, "{statistics:?}: {rows} rows, {claim}");
        assert!(!claim.is_compiled(), "{statistics:?}: {claim}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_of_given_orders_reads_their_lines_by_key() {
    for statistics in ALL_STATISTICS {
        let Some(Dataset { setup, session }) = dataset(statistics, FINISHED).await else {
            return;
        };
        // Orders of both lines, orders that are not due, and finished ones.
        let given = [1, DUE, DUE - 1, BACKING_OFF, COMPLETED_LATER].map(OrderId);
        let started = setup
            .store
            .start(given.into(), claim_by(NODE_A, PAGE_ORDERS))
            .await;
        assert_eq!(started.unwrap().leases.len(), 3);
        let start = of_message(&setup, &session, CLAIM).await;
        let choice = start.statement("asked as materialized");
        let found = (choice.part("CTE first_line"), choice.part("CTE second_line"));
        assert_eq!(found.0.indexes(), ["first_line_pkey"], "{statistics:?}");
        assert_eq!(found.1.indexes(), ["second_line_pkey"], "{statistics:?}");
        let rows = choice.rows();
        assert!(
            rows <= PAGE_ORDERS as u64,
            "{statistics:?}: {rows} rows, {choice}"
        );
        assert!(start.pages() <= PAGES_MAX, "{statistics:?}: {start}");
        assert!(
            choice.sequential_scans().is_empty() && !start.is_compiled(),
            "{statistics:?}: {choice}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_claim_costs_the_same_with_ten_thousand_finished_orders() {
    for statistics in ALL_STATISTICS {
        let Some(young) = dataset(statistics, 0).await else {
            return;
        };
        let Some(old) = dataset(statistics, FINISHED).await else {
            return;
        };
        let pages =
            async |dataset: &Dataset| of_message(&dataset.setup, &dataset.session, CLAIM).await.pages();
        let (young, old) = (pages(&young).await, pages(&old).await);
        // The indexes have one more level.
        assert!(
            old <= 2 * young,
            "{statistics:?}: {young} pages, {old} with finished orders"
        );
    }
}

/// Database pages for each order that is started and rolled back.
const PAGES_PER_START: u64 = 60;

#[tokio::test(flavor = "multi_thread")]
async fn a_search_for_refused_starts_reads_the_heads_of_the_lines() {
    const REFUSE: &str = "
        create function refuse() returns trigger language plpgsql as $$ begin raise exception 'no'; end $$;
        create trigger no_lease before insert on orderly.leases for each row when (new.order_id = 1)
        execute function refuse()";
    for statistics in ALL_STATISTICS {
        let Some(Dataset { setup, session }) = dataset(statistics, FINISHED).await else {
            return;
        };
        setup.admin.batch_execute(REFUSE).await.unwrap();
        let leases = setup.store.claim(claim_by(NODE_A, 1)).await.unwrap().leases;
        assert_eq!(leases.len(), 1);
        let search = of_message(&setup, &session, "refused_order_id, code").await;
        let heads = search.statement(CHOOSE);
        let (first, second) = (heads.part("CTE first_line"), heads.part("CTE second_line"));
        assert_eq!(first.indexes(), ["first_line_pkey"], "{statistics:?}");
        assert_eq!(
            second.indexes(),
            ["second_line_due", "second_line_suspect"],
            "{statistics:?}"
        );
        // One order and four spare ones of each line.
        let (pages, rows) = (search.pages(), search.rows());
        assert!(pages <= 15 * PAGES_PER_START, "{statistics:?}: {pages} pages");
        assert!(rows <= ROWS_MAX, "{statistics:?}: {rows} rows, {search}");
    }
}

/// Blocked orders of one user, and as many users with one order that has its turn and one that ended.
const BLOCKED: &str = "
insert into orderly.orders (order_id, user_id, total_amount, created_at, accepted_in, item_ids)
select -n, 9, 100, now(), 1, '1,2' from generate_series(1, 20000) as n;
insert into orderly.blocked (order_id, user_id, since, due_at, suspect)
select -n, 9, now(), null, false from generate_series(1, 20000) as n;
insert into orderly.turns (user_id, order_id) select n, n from generate_series(1000001, 1020000) as n;
insert into orderly.unseen (user_id) values (1), (7), (9), (1000001);
update orderly.counters set pending = pending + 20000 where slot = 0;";

#[tokio::test(flavor = "multi_thread")]
async fn a_claim_reads_only_orders_that_have_their_turn() {
    for (statistics, ordering) in ALL_STATISTICS
        .into_iter()
        .flat_map(|statistics| [(statistics, 1), (statistics, 2)])
    {
        let Some(Dataset { setup, session }) = dataset(statistics, FINISHED).await else {
            return;
        };
        setup.admin.batch_execute(BLOCKED).await.unwrap();
        let set = format!("update orderly.queue set ordering = {ordering}");
        setup.admin.batch_execute(&set).await.unwrap();
        // This claim passes the turns and reads the stored ordering.
        setup.store.claim(claim_by(NODE_A, PAGE_ORDERS)).await.unwrap();
        // A new order and an ended one, for both of which the next claim checks the turn.
        setup.store.accept([new_order()].into(), None).await.unwrap();
        setup.store.cancel(OrderId(-20_000), None).await.unwrap();
        let what = format!("{statistics:?}, ordering {ordering}");
        let claim = of_message(&setup, &session, CLAIM).await;
        let choice = claim.statement(CHOOSE);
        let (first, second) = (choice.part("CTE first_line"), choice.part("CTE second_line"));
        assert_eq!(first.indexes(), ["first_line_pkey"], "{what}");
        assert!(!first.sorts() && !second.sorts(), "{what}: {choice}");
        let turns = claim.statement("unseen as materialized");
        assert!(turns.rows() <= ROWS_MAX, "{what}: {} rows, {turns}", turns.rows());
        let most = 4 * PAGES_MAX;
        assert!(claim.pages() <= most, "{what}: {} pages, {claim}", claim.pages());
    }
}

/// Database pages per event of the feed: the levels of two indexes, and the rows themselves.
const PAGES_PER_EVENT: u64 = 12;

#[tokio::test(flavor = "multi_thread")]
async fn a_feed_page_reads_only_its_own_rows_with_any_statistics() {
    let mut faults = Vec::new();
    for statistics in ALL_STATISTICS {
        let Some(dataset) = dataset(statistics, FINISHED).await else {
            return;
        };
        faults.extend(costly_feed_pages(&dataset, &format!("{statistics:?}"), 0).await);
    }
    let Some(dataset) = dataset(ALL_STATISTICS[0], FINISHED).await else {
        return;
    };
    let dead = number_late(&dataset.setup).await;
    faults.extend(costly_feed_pages(&dataset, "from before anything had a place", dead).await);
    // The table's autovacuum settings do the same in time.
    let vacuum = "vacuum orderly.batches";
    dataset.setup.admin.batch_execute(vacuum).await.unwrap();
    faults.extend(costly_feed_pages(&dataset, "from then, cleaned up", 0).await);
    assert!(faults.is_empty(), "{faults:#?}");
}

/// Feed pages that cost more than their own rows plus `dead` pages not cleaned up yet.
async fn costly_feed_pages(dataset: &Dataset, statistics: &str, dead: u64) -> Vec<String> {
    let Dataset { setup, session } = dataset;
    let mut faults = Vec::new();
    setup.store.events_after(None, PAGE_ORDERS).await.unwrap();
    // Positions among batches of one event, where batches of many events begin, among those, and at the end.
    for after in [
        0,
        FINISHED / 2,
        FINISHED - 10,
        2 * FINISHED,
        LAST_PLACE - 10,
        LAST_PLACE,
    ] {
        for limit in [0, PAGE_ORDERS, FEED_EVENTS_MAX] {
            let values = format!("{after}, {limit}");
            let page = CapturedStatement::of(setup, "page", "A page of the feed", "int8, int8", &values);
            let plan = page.plan(session).await;
            let events = u64::try_from(limit)
                .unwrap()
                .min((LAST_PLACE - after).unsigned_abs());
            // The first and the last batch of a page are read completely.
            let beside = if after + i64::try_from(limit).unwrap() > FINISHED {
                2 * BATCH_EVENTS.unsigned_abs()
            } else {
                0
            };
            let is_costly = plan.pages() > PAGES_MAX + PAGES_PER_EVENT * (events + beside) + dead;
            let scanned = plan.sequential_scans();
            if is_costly || !scanned.is_empty() || plan.is_compiled() || plan.rows() > ROWS_MAX + events {
                let (pages, rows, compiled) = (plan.pages(), plan.rows(), plan.is_compiled());
                faults.push(format!(
                    "{statistics}, {limit} after {after}: {pages} pages, {rows} rows, scanned {scanned:?}, \
                     compiled: {compiled}"
                ));
            }
        }
    }
    faults
}

/// Database pages per removed order, with its three events and the batch of the first.
const PAGES_PER_ORDER_MAX: u64 = 60;
/// Rows that one node of the plan reads per removed order.
const ROWS_PER_ORDER_MAX: u64 = 10;

#[tokio::test(flavor = "multi_thread")]
async fn a_retention_step_uses_indexes_with_any_statistics() {
    for statistics in ALL_STATISTICS {
        let Some(Dataset { setup, session }) = dataset(statistics, FINISHED).await else {
            return;
        };
        // First for completed orders, then for others.
        for after in [COMPLETED_LATER - FINISHED / 4, COMPLETED_LATER] {
            // The step runs twice: once for the store, and once for its plan, which is rolled back.
            let step = Prune {
                older_than: std::time::Duration::ZERO,
                after: Some(OrderId(after)),
            };
            assert_eq!(setup.store.prune(step).await.unwrap().orders, PRUNE_ORDERS_MAX);
            let plan = of_message(&setup, &session, "batches_gone as").await;
            let taken_out = plan.statement("batches_gone as").part("CTE gone").rows();
            assert!(taken_out >= PRUNE_ORDERS_MAX as u64, "{statistics:?}: {plan}");
            let most = PAGES_PER_ORDER_MAX * PRUNE_ORDERS_MAX as u64;
            assert!(
                plan.pages() <= most,
                "{statistics:?}: {} pages, {plan}",
                plan.pages()
            );
            let most = ROWS_PER_ORDER_MAX * PRUNE_ORDERS_MAX as u64;
            assert!(
                plan.rows() <= most,
                "{statistics:?}: {} rows, {plan}",
                plan.rows()
            );
            let page = plan.part("CTE page");
            assert_eq!(page.indexes(), ["orders_pkey"], "{statistics:?}");
            assert!(!page.sorts(), "{statistics:?}");
            assert!(
                plan.sequential_scans().is_empty(),
                "{statistics:?}: {:?}, {plan}",
                plan.sequential_scans()
            );
        }
    }
}
