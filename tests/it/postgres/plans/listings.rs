//! Pages of orders, in every mix of what may be asked for.

use orderly::order::OrderStatus;
use orderly::store::{OrderQuery, PAGE_ROWS_LOOKED_AT_MAX};
use orderly::time::Timestamp;

use super::plan::{Caught, Plan};
use super::story::{ALL_STATISTICS, BIG_USER, FINISHED, SMALL_USER, Story, story};
use super::{PAGE_ORDERS, PAGES_MAX, ROWS_MAX};

/// Pages for each row that a page looks at and leaves out: the row, and whether it runs.
const PAGES_PER_ROW: u64 = 5;

#[tokio::test(flavor = "multi_thread")]
async fn a_page_of_orders_costs_what_it_holds_whatever_the_statistics_say() {
    let mut wrong = Vec::new();
    for statistics in ALL_STATISTICS {
        let Some(story) = story(statistics, FINISHED).await else {
            return;
        };
        for asked in every_mix() {
            let plan = asked.plan(&story).await;
            if let Some(fault) = asked.fault(&plan) {
                wrong.push(format!("{statistics:?}: {asked:?}: {fault}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// Seconds since 1970.
const IN_2000: i64 = 946_684_800;
const IN_2200: i64 = 7_258_118_400;

/// A time that all orders are after, or before, or neither.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Times {
    Any,
    /// A bound that all of them keep.
    Wide,
    /// One that none of them keeps, so that a page looks at as many as it may.
    None,
}

#[derive(Debug)]
struct Asked {
    status: Option<OrderStatus>,
    user_id: Option<i64>,
    reference: Option<&'static str>,
    times: Times,
}

fn every_mix() -> Vec<Asked> {
    let statuses = OrderStatus::ALL.into_iter().map(Some).chain([None]);
    let users = [None, Some(BIG_USER), Some(SMALL_USER)];
    let references = [None, Some("order 500")];
    let times = [Times::Any, Times::Wide, Times::None];
    let mut mixes = Vec::new();
    for status in statuses {
        for user_id in users {
            for reference in references {
                for times in times {
                    mixes.push(Asked {
                        status,
                        user_id,
                        reference,
                        times,
                    });
                }
            }
        }
    }
    mixes
}

impl Asked {
    /// The indexes that have what is asked for in its order.
    fn ranges(&self) -> &'static [&'static str] {
        match (self.reference, self.user_id, self.status) {
            (Some(_), _, _) => &["orders_reference"],
            (None, None, Some(OrderStatus::Failed)) => &["failed_pkey"],
            (None, Some(_), Some(OrderStatus::Failed)) => &["failed_user"],
            (None, None, Some(OrderStatus::Cancelled)) => &["cancelled_pkey"],
            (None, Some(_), Some(OrderStatus::Cancelled)) => &["cancelled_user"],
            (None, None, Some(OrderStatus::Pending)) => {
                &["blocked_pkey", "first_line_pkey", "second_line_pkey"]
            }
            (None, None, Some(OrderStatus::Processing)) => &["leases_pkey"],
            (None, None, Some(OrderStatus::Completed) | None) => &["orders_pkey"],
            (None, Some(_), _) => &["orders_user"],
        }
    }

    /// Rows may be looked at in vain.
    fn is_walk(&self) -> bool {
        let exact = match (self.reference, self.user_id, self.status) {
            (Some(_), user_id, status) => user_id.is_none() && status.is_none(),
            (None, _, None | Some(OrderStatus::Failed | OrderStatus::Cancelled)) => true,
            (None, user_id, Some(OrderStatus::Pending | OrderStatus::Processing)) => user_id.is_none(),
            (None, _, Some(OrderStatus::Completed)) => false,
        };
        !exact || self.times != Times::Any
    }

    async fn plan(&self, story: &Story) -> Plan {
        let Story { scene, session } = story;
        // The bounds of the ids that go with the times are left wide below, which is the worst.
        let (after, before) = match self.times {
            Times::Any => (None, None),
            Times::Wide => (Some(IN_2000), Some(IN_2200)),
            Times::None => (None, Some(IN_2000)),
        };
        let time = |seconds: Option<i64>| seconds.map(|seconds| Timestamp::from_micros(seconds * 1_000_000));
        let query = OrderQuery {
            status: self.status,
            user_id: self.user_id,
            reference: self.reference.map(str::to_owned),
            created_after: time(after),
            created_before: time(before),
            limit: PAGE_ORDERS,
            ..OrderQuery::default()
        };
        scene.store.orders(query).await.unwrap();
        let mut types = vec!["int8"; 3];
        let mut values = vec![
            "0".to_owned(),
            i64::MAX.to_string(),
            (PAGE_ORDERS + 1).to_string(),
        ];
        if let Some(user_id) = self.user_id {
            types.push("int8");
            values.push(user_id.to_string());
        }
        if let Some(reference) = self.reference {
            types.push("text");
            values.push(format!("'{reference}'"));
        }
        for time in [after, before].into_iter().flatten() {
            types.push("timestamptz");
            values.push(format!("to_timestamp({time})"));
        }
        let (types, values) = (types.join(", "), values.join(", "));
        let page = Caught::of(scene, "page", "where order_id = page.", &types, &values);
        page.plan(session).await
    }

    fn fault(&self, plan: &Plan) -> Option<String> {
        let looked_at = PAGE_ROWS_LOOKED_AT_MAX as u64;
        let (pages_max, rows_max) = if self.is_walk() {
            (PAGES_MAX + PAGES_PER_ROW * looked_at, ROWS_MAX + looked_at)
        } else {
            (PAGES_MAX, ROWS_MAX)
        };
        // By which the orders of the page are read, and whether an order runs.
        let by_key = ["orders_pkey", "leases_pkey", "second_line_pkey", "blocked_pkey"];
        let indexes = plan.indexes();
        let ranges = self.ranges();
        let others: Vec<&&str> = indexes
            .iter()
            .filter(|index| !ranges.contains(index) && !by_key.contains(index))
            .collect();
        let (pages, rows, walked) = (plan.pages(), plan.rows(), plan.walked());
        let is_wrong = pages > pages_max
            || rows > rows_max
            || !walked.is_empty()
            || !others.is_empty()
            || plan.is_compiled();
        is_wrong.then(|| {
            format!(
                "{pages} pages, {rows} rows, {indexes:?}, walked {walked:?}, compiled: {}",
                plan.is_compiled()
            )
        })
    }
}
