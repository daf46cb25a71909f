//! Which index serves what, whatever the statistics say, and that no cost grows with the orders that are finished: the
//! statements are the store's own, and PostgreSQL tells how it carried them out.

use orderly::order::OrderId;
use orderly::store::{FEED_EVENTS_MAX, PRUNE_ORDERS_MAX, Prune};

use crate::support::make::{NODE_A, claim_by, new_order};

mod listings;
mod plan;
mod story;
mod waiting;
mod whatever_else;

use plan::{Caught, of_message};
use story::{
    ALL_STATISTICS, BACKING_OFF, BATCH_EVENTS, COMPLETED_LATER, DUE, FINISHED, LAST_PLACE, Story,
    numbered_late, story,
};

/// Orders that are asked for.
const PAGE_ORDERS: usize = 10;
/// Pages of the database that such a statement touches at most: some for each order, none for the finished ones.
const PAGES_MAX: u64 = 150;
/// Rows that one part of it looks at at most: there are more of all kinds that grow.
const ROWS_MAX: u64 = 1_100;

/// The message of a claim.
const CLAIM: &str = "places => ";
/// The statement in it that chooses, and the one that looks ahead.
const CHOOSE: &str = "first_line as materialized";
const OUTLOOK: &str = "pg_current_xact_id_if_assigned";

#[tokio::test(flavor = "multi_thread")]
async fn a_claim_reads_the_heads_of_its_lines_whatever_the_statistics_say() {
    for statistics in ALL_STATISTICS {
        let Some(Story { scene, session }) = story(statistics, FINISHED).await else {
            return;
        };
        let claim = of_message(&scene, &session, CLAIM).await;
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
        let Some(Story { scene, session }) = story(statistics, FINISHED).await else {
            return;
        };
        // Of both lines, not due, and finished.
        let given = [1, DUE, DUE - 1, BACKING_OFF, COMPLETED_LATER].map(OrderId);
        let started = scene
            .store
            .start(given.into(), claim_by(NODE_A, PAGE_ORDERS))
            .await;
        assert_eq!(started.unwrap().leases.len(), 3);
        let start = of_message(&scene, &session, CLAIM).await;
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
            choice.walked().is_empty() && !start.is_compiled(),
            "{statistics:?}: {choice}"
        );
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
        let pages = async |story: &Story| of_message(&story.scene, &story.session, CLAIM).await.pages();
        let (young, old) = (pages(&young).await, pages(&old).await);
        // The indexes are a level higher.
        assert!(
            old <= 2 * young,
            "{statistics:?}: {young} pages, {old} with finished orders"
        );
    }
}

/// Pages of the database for each order that is started and taken back.
const PAGES_PER_START: u64 = 60;

#[tokio::test(flavor = "multi_thread")]
async fn a_search_for_refused_starts_reads_the_heads_of_the_lines() {
    const REFUSE: &str = "
        create function refuse() returns trigger language plpgsql as $$ begin raise exception 'no'; end $$;
        create trigger no_lease before insert on orderly.leases for each row when (new.order_id = 1)
        execute function refuse()";
    for statistics in ALL_STATISTICS {
        let Some(Story { scene, session }) = story(statistics, FINISHED).await else {
            return;
        };
        scene.admin.batch_execute(REFUSE).await.unwrap();
        let leases = scene.store.claim(claim_by(NODE_A, 1)).await.unwrap().leases;
        assert_eq!(leases.len(), 1);
        let search = of_message(&scene, &session, "refused_order_id, code").await;
        let heads = search.statement(CHOOSE);
        let (first, second) = (heads.part("CTE first_line"), heads.part("CTE second_line"));
        assert_eq!(first.indexes(), ["first_line_pkey"], "{statistics:?}");
        assert_eq!(
            second.indexes(),
            ["second_line_due", "second_line_suspect"],
            "{statistics:?}"
        );
        // One place and four spare ones in each line.
        let (pages, rows) = (search.pages(), search.rows());
        assert!(pages <= 15 * PAGES_PER_START, "{statistics:?}: {pages} pages");
        assert!(rows <= ROWS_MAX, "{statistics:?}: {rows} rows, {search}");
    }
}

/// Orders of one user, none of which has its turn, and as many users with a turn each, one of whose orders ended.
const BLOCKED: &str = "
insert into orderly.orders (order_id, user_id, total_amount, created_at, accepted_in, item_ids)
select -n, 9, 100, now(), 1, '1,2' from generate_series(1, 20000) as n;
insert into orderly.blocked (order_id, user_id, since, due_at, suspect)
select -n, 9, now(), null, false from generate_series(1, 20000) as n;
insert into orderly.turns (user_id, order_id) select n, n from generate_series(1000001, 1020000) as n;
insert into orderly.unseen (user_id) values (1), (7), (9), (1000001);
update orderly.counters set pending = pending + 20000 where slot = 0;";

#[tokio::test(flavor = "multi_thread")]
async fn where_orders_wait_for_others_of_their_user_a_claim_reads_only_those_whose_turn_it_is() {
    for (statistics, ordering) in ALL_STATISTICS
        .into_iter()
        .flat_map(|statistics| [(statistics, 1), (statistics, 2)])
    {
        let Some(Story { scene, session }) = story(statistics, FINISHED).await else {
            return;
        };
        scene.admin.batch_execute(BLOCKED).await.unwrap();
        let set = format!("update orderly.queue set ordering = {ordering}");
        scene.admin.batch_execute(&set).await.unwrap();
        // It sees to the turns, and goes by the ordering from now on.
        scene.store.claim(claim_by(NODE_A, PAGE_ORDERS)).await.unwrap();
        // One more order, and one that ends: both are to be seen to.
        scene.store.accept([new_order()].into(), None).await.unwrap();
        scene.store.cancel(OrderId(-20_000)).await.unwrap();
        let what = format!("{statistics:?}, ordering {ordering}");
        let claim = of_message(&scene, &session, CLAIM).await;
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

/// Pages of the database for an event of the feed: the ways down two indexes, and the rows themselves.
const PAGES_PER_EVENT: u64 = 12;

#[tokio::test(flavor = "multi_thread")]
async fn a_page_of_the_feed_costs_what_it_holds_whatever_the_statistics_say() {
    let mut wrong = Vec::new();
    for statistics in ALL_STATISTICS {
        let Some(story) = story(statistics, FINISHED).await else {
            return;
        };
        wrong.extend(dear_pages_of_the_feed(&story, &format!("{statistics:?}"), 0).await);
    }
    let Some(story) = story(ALL_STATISTICS[0], FINISHED).await else {
        return;
    };
    let dead = numbered_late(&story.scene).await;
    wrong.extend(dear_pages_of_the_feed(&story, "from before anything had a place", dead).await);
    // As the table's settings have it done in time.
    let vacuum = "vacuum orderly.batches";
    story.scene.admin.batch_execute(vacuum).await.unwrap();
    wrong.extend(dear_pages_of_the_feed(&story, "from then, cleaned up", 0).await);
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// Those that cost more than what they hold, and than `dead` pages of what is not cleaned up yet.
async fn dear_pages_of_the_feed(story: &Story, statistics: &str, dead: u64) -> Vec<String> {
    let Story { scene, session } = story;
    let mut wrong = Vec::new();
    scene.store.events_after(None, PAGE_ORDERS).await.unwrap();
    // Among batches of one event, where those of many begin, among them, and at the end.
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
            let page = Caught::of(scene, "page", "A page of the feed", "int8, int8", &values);
            let plan = page.plan(session).await;
            let events = u64::try_from(limit)
                .unwrap()
                .min((LAST_PLACE - after).unsigned_abs());
            // The batches in which a page begins and ends are read whole.
            let beside = if after + i64::try_from(limit).unwrap() > FINISHED {
                2 * BATCH_EVENTS.unsigned_abs()
            } else {
                0
            };
            let is_dear = plan.pages() > PAGES_MAX + PAGES_PER_EVENT * (events + beside) + dead;
            let walked = plan.walked();
            if is_dear || !walked.is_empty() || plan.is_compiled() || plan.rows() > ROWS_MAX + events {
                let (pages, rows, compiled) = (plan.pages(), plan.rows(), plan.is_compiled());
                wrong.push(format!(
                    "{statistics}, {limit} behind {after}: {pages} pages, {rows} rows, walked {walked:?}, \
                     compiled: {compiled}"
                ));
            }
        }
    }
    wrong
}

/// Pages of tables and indexes for each order that goes, with its three events and the batch of the first.
const PAGES_PER_ORDER_MAX: u64 = 60;
/// Rows that one part of such a step looks at for each order.
const ROWS_PER_ORDER_MAX: u64 = 10;

#[tokio::test(flavor = "multi_thread")]
async fn a_step_of_retention_finds_what_it_takes_out_by_index_whatever_the_statistics_say() {
    for statistics in ALL_STATISTICS {
        let Some(Story { scene, session }) = story(statistics, FINISHED).await else {
            return;
        };
        // Of orders that were completed and of others.
        for after in [COMPLETED_LATER - FINISHED / 4, COMPLETED_LATER] {
            // Whose step is carried out twice: once for the store, once for its plan, which is of one that was taken out.
            let step = Prune {
                older_than: std::time::Duration::ZERO,
                after: Some(OrderId(after)),
            };
            assert_eq!(scene.store.prune(step).await.unwrap().orders, PRUNE_ORDERS_MAX);
            let plan = of_message(&scene, &session, "batches_gone as").await;
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
                plan.walked().is_empty(),
                "{statistics:?}: {:?}, {plan}",
                plan.walked()
            );
        }
    }
}
