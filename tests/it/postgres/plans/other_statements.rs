//! Plans of all other statements, on a store with many finished orders.

use orderly::lease::{LeaseKey, Outcome};
use orderly::order::{OrderId, OrderStatus};
use orderly::store::{HISTORY_EVENTS_MAX, RedriveOptions, RedriveQuery};

use super::super::setup::Setup;
use super::dataset::{
    ALL_STATISTICS, BACKING_OFF, BIG_USER, CANCELLED, CANCELLED_LATER, COMPLETED_LATER, DUE, DUE_SUSPECTS,
    EXPIRED, FAILED, FAILED_LATER, FINISHED, FIRST_LINE, RUNNING, SMALL_USER, Statistics, dataset,
};
use super::plan::{CapturedStatement, Plan};
use super::{PAGE_ORDERS, PAGES_MAX, PAGES_PER_ROW, ROWS_MAX};
use crate::support::make::{NODE_A, give_back_by, heartbeat, key, new_order};

/// Database pages for each attempt that ends, however it ends.
const PAGES_PER_END: u64 = 60;

#[tokio::test(flavor = "multi_thread")]
async fn other_statements_cost_the_same_with_ten_thousand_finished_orders() {
    let mut faults = Vec::new();
    for statistics in ALL_STATISTICS {
        let Some(dataset) = dataset(statistics, FINISHED).await else {
            return;
        };
        for (caught, pages_max) in all_other_statements(&dataset.setup).await {
            let plan = caught.plan(&dataset.session).await;
            let fault = match statistics {
                // A table that looks empty to the planner may be scanned if that touches few pages.
                Statistics::OfEmptiedTables if plan.pages() <= pages_max => None,
                _ => fault(&plan, pages_max),
            };
            faults.extend(fault.map(|fault| format!("{statistics:?}: {}: {fault}", caught.what)));
        }
    }
    assert!(faults.is_empty(), "{faults:#?}");
}

/// Describes excessive or useless work of a statement; `None` if there is none.
pub fn fault(plan: &Plan, pages_max: u64) -> Option<String> {
    let (pages, rows, scanned) = (plan.pages(), plan.rows(), plan.sequential_scans());
    let is_faulty = pages > pages_max || rows > ROWS_MAX || !scanned.is_empty() || plan.is_compiled();
    is_faulty.then(|| {
        format!(
            "{pages} pages, {rows} rows, {:?}, scanned {scanned:?}, compiled: {}",
            plan.indexes(),
            plan.is_compiled()
        )
    })
}

/// Makes all other calls; returns the captured statements with the pages that each may touch.
async fn all_other_statements(setup: &Setup) -> Vec<(CapturedStatement, u64)> {
    let store = &setup.store;
    let unknown = LeaseKey {
        order_id: OrderId(1),
        fence: 9,
        node: NODE_A,
    };
    store.give_back_expired(give_back_by(NODE_A)).await.unwrap();
    // Restores the rows, so that the plan is executed on the same data.
    let expired = format!(
        "delete from orderly.second_line where order_id > {RUNNING};
        insert into orderly.leases (order_id, fence, node, version, attempt, started_at, started_in, expires_at, outside,
            handed_out)
        select order_id, fence + 1, 7, version + 1, attempts + 1, now(), 1, now(), false, false
        from orderly.orders where order_id > {RUNNING} and order_id <= {EXPIRED}"
    );
    setup.admin.batch_execute(&expired).await.unwrap();
    store.renew(heartbeat(NODE_A, &[unknown])).await.unwrap();
    store.settle(unknown, Outcome::COMPLETED).await.unwrap();
    store.queue().await.unwrap();
    store.explain(OrderId(1)).await.unwrap();
    store.history(OrderId(1), 0).await.unwrap();
    store.events_after(None, PAGE_ORDERS).await.unwrap();
    store.cancel(OrderId(1), None).await.unwrap();
    store
        .redrive(OrderId(1), RedriveOptions::default())
        .await
        .unwrap();
    for _ in 0..2 {
        let accepted = store.accept([new_order()].into(), Some(key("again", 1))).await;
        accepted.unwrap();
    }
    store.accept([new_order()].into(), None).await.unwrap();
    // Captured after the cancel, whose statement contains the same part.
    store.order_view(OrderId(1)).await.unwrap();
    let mut asked = Vec::new();
    for (status, code) in [(OrderStatus::Failed, 3), (OrderStatus::Cancelled, 4)] {
        for user_id in [None, Some(SMALL_USER), Some(BIG_USER)] {
            let ended = RedriveQuery {
                status,
                user_id,
                user_name: None,
                created_before: None,
                options: RedriveOptions::default(),
                dry_run: true,
            };
            store.redrive_matching(ended).await.unwrap();
            let what = format!("those of {user_id:?} with status {code}");
            let (types, values) = match user_id {
                None => ("", String::new()),
                Some(user_id) => (", int8, text", format!(", {user_id}, null")),
            };
            let types = format!("int8, timestamptz, int8{types}");
            let values = format!("{}, null, 101{values}", i64::MAX);
            let matching = CapturedStatement::of(setup, &what, "as ended", &types, &values);
            // Among those of a user, each order's name is compared.
            let pages_max = PAGES_MAX + user_id.map_or(0, |_| 101 * PAGES_PER_ROW);
            asked.push((matching, pages_max));
        }
    }
    let server = "select extract(epoch from pg_postmaster_start_time())::text || ' ' || oid from pg_database
        where datname = current_database()";
    let server: String = setup.admin.query_one(server, &[]).await.unwrap().get(0);
    let mut push = |what: &str, part: &str, types: &str, values: &str, pages_max: u64| {
        asked.push((CapturedStatement::of(setup, what, part, types, values), pages_max));
    };
    let functions = setup
        .database
        .named(":accept( :accept_keyed( :settle( :view_orders(")
        .await;
    let functions: Vec<&str> = functions.split_inclusive('(').map(str::trim).collect();
    let of_each_kind = u64::try_from(EXPIRED - RUNNING).unwrap();
    push(
        "look for expired leases",
        "The leases that ran out",
        "int8, int8, int8",
        "1001, 0, 10",
        PAGES_MAX,
    );
    let array = |of: &dyn Fn(i64) -> String| {
        let parts: Vec<String> = (RUNNING + 1..=EXPIRED).map(of).collect();
        format!("'{{{}}}'", parts.join(","))
    };
    let all = |text: &str| array(&|_| text.to_owned());
    push(
        "sweep",
        "Takes back orders whose",
        "int8[], int8[], int8[], int2[], int2[], bool[], int8[], text[], text[], text[], bool[], int2, text",
        &format!(
            "{}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, 3, '{server}'",
            array(&|id| id.to_string()),
            all("2"),
            all("7"),
            all("5"),
            all("0"),
            all("t"),
            all("0"),
            all("dead"),
            all("null"),
            all("null"),
            all("t"),
        ),
        PAGES_MAX + PAGES_PER_END * of_each_kind,
    );
    push(
        "heartbeat",
        "A heartbeat",
        "int8[], int8[], int8, int8, int4, int4, int2, int2, int2, text, text, timestamptz, int8",
        &format!("'{{{RUNNING}}}', '{{2}}', 1, 7, 1, 1, 0, 0, null, 'a', '1', now(), null"),
        PAGES_MAX,
    );
    for (what, kind, status, due, error) in [
        ("completed", 2, 2, "null", "null"),
        ("to be retried", 3, 0, "1000", "no"),
        ("failed", 4, 3, "null", "no"),
    ] {
        push(
            what,
            functions[2],
            "int8[], int8[], int8[], int2[], int2[], bool[], int8[], text[], text[], int2",
            &format!(
                "'{{{RUNNING}}}', '{{2}}', '{{7}}', '{{{kind}}}', '{{{status}}}', '{{f}}', '{{{due}}}', '{{{error}}}', \
                 '{{null}}', 3"
            ),
            PAGES_MAX,
        );
    }
    push(
        "order to be stored",
        functions[0],
        "int8[], int8[], text[], text[], text[], text[], text[], text[], timestamptz[], bool[], text[], timestamptz[], int2",
        "'{1}', '{1}', '{1}', '{null}', '{null}', null, null, null, null, null, null, null, 3",
        PAGES_MAX,
    );
    push(
        "order to be stored under a key",
        functions[1],
        "int4[], int8[], int8[], text[], text[], text[], text[], text[], text[], timestamptz[], bool[], text[], timestamptz[], int4[], text[], text[], bytea[], int2",
        "'{0}', '{1}', '{1}', '{1}', '{null}', '{null}', null, null, null, null, null, null, null, '{0}', '{orders}', '{a new one}', '{a}', 3",
        PAGES_MAX,
    );
    push("queue", "Reads the numbers", "int8, text", "0, ''", PAGES_MAX);
    for id in [
        FIRST_LINE,
        DUE,
        BACKING_OFF,
        DUE_SUSPECTS,
        RUNNING,
        FAILED,
        COMPLETED_LATER,
    ] {
        push(
            &format!("explain {id}"),
            "Where order $1 stands",
            "int8, int8",
            &format!("{id}, 100"),
            PAGES_MAX,
        );
        push(
            &format!("history of {id}"),
            "version > $2 order by version",
            "int8, int4, int8",
            &format!("{id}, 0, {HISTORY_EVENTS_MAX}"),
            PAGES_MAX,
        );
        push(
            &format!("order {id}"),
            functions[3],
            "int8[]",
            &format!("'{{{id}, 999999, {id}}}'"),
            PAGES_MAX,
        );
    }
    for id in [
        FIRST_LINE,
        DUE,
        BACKING_OFF,
        DUE_SUSPECTS,
        RUNNING,
        FAILED,
        COMPLETED_LATER,
        FAILED_LATER,
    ] {
        let what = format!("cancel of {id}");
        push(
            &what,
            "Cancels the order that",
            "int8[], int2, int2[], int2, text, bool, text, int4",
            &format!("'{{{id}}}', 3, '{{0,0,3}}', 1, null, false, null, null"),
            PAGES_MAX,
        );
    }
    for ids in [
        [BACKING_OFF, FAILED],
        [CANCELLED, COMPLETED_LATER],
        [CANCELLED_LATER, FAILED_LATER],
    ] {
        push(
            &format!("redrive of {ids:?}"),
            "Redrives the orders",
            "int8[], int2, int2[], int2, text, bool, text, int4",
            &format!(
                "'{{{}, {}}}', 3, '{{0,3,4}}', 0, null, false, null, null",
                ids[0], ids[1]
            ),
            PAGES_MAX,
        );
    }
    push(
        "known key",
        "The answers to these keys",
        "text[], text[]",
        "'{orders}', '{key 500}'",
        PAGES_MAX,
    );
    push("old keys", "Forgets nodes that died", "int8", "2", PAGES_MAX);
    asked
}
