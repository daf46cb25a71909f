//! Plans of pages of orders, with every combination of filters.

use orderly::order::OrderStatus;
use orderly::store::{OrderQuery, PAGE_ROWS_EXAMINED_MAX};
use orderly::time::Timestamp;

use super::dataset::{ALL_STATISTICS, BIG_USER, Dataset, FINISHED, SMALL_USER, dataset};
use super::plan::{CapturedStatement, Plan};
use super::{PAGE_ORDERS, PAGES_MAX, PAGES_PER_ROW, ROWS_MAX};

#[tokio::test(flavor = "multi_thread")]
async fn a_page_of_orders_reads_only_its_own_rows_with_any_statistics() {
    let mut faults = Vec::new();
    for statistics in ALL_STATISTICS {
        let Some(dataset) = dataset(statistics, FINISHED).await else {
            return;
        };
        for asked in every_combination() {
            let plan = asked.plan(&dataset).await;
            if let Some(fault) = asked.fault(&plan) {
                faults.push(format!("{statistics:?}: {asked:?}: {fault}"));
            }
        }
    }
    assert!(faults.is_empty(), "{faults:#?}");
}

/// Seconds since 1970.
const IN_2000: i64 = 946_684_800;
const IN_2200: i64 = 7_258_118_400;

/// Bounds in time, relative to the orders.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Times {
    Any,
    /// A bound that all orders meet.
    Wide,
    /// A bound that no order meets, so that a page examines as many rows as it may.
    None,
}

#[derive(Debug)]
struct PageRequest {
    status: Option<OrderStatus>,
    user_id: Option<i64>,
    reference: Option<&'static str>,
    times: Times,
}

fn every_combination() -> Vec<PageRequest> {
    let statuses = OrderStatus::ALL.into_iter().map(Some).chain([None]);
    let users = [None, Some(BIG_USER), Some(SMALL_USER)];
    let references = [None, Some("order 500")];
    let times = [Times::Any, Times::Wide, Times::None];
    let mut mixes = Vec::new();
    for status in statuses {
        for user_id in users {
            for reference in references {
                for times in times {
                    mixes.push(PageRequest {
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

impl PageRequest {
    /// Indexes that contain the requested orders in the right order.
    fn ranges(&self) -> &'static [&'static str] {
        match (self.reference, self.user_id, self.status) {
            (Some(_), _, _) => &["orders_reference"],
            (None, None, Some(OrderStatus::Failed)) => &["failed_pkey"],
            (None, Some(_), Some(OrderStatus::Failed)) => &["failed_user"],
            (None, None, Some(OrderStatus::Cancelled)) => &["cancelled_pkey"],
            (None, Some(_), Some(OrderStatus::Cancelled)) => &["cancelled_user"],
            (None, None, Some(OrderStatus::Pending)) => &[
                "blocked_pkey",
                "first_line_pkey",
                "second_line_pkey",
                "set_aside_pkey",
            ],
            (None, None, Some(OrderStatus::Processing)) => &["leases_pkey"],
            (None, None, Some(OrderStatus::Completed) | None) => &["orders_pkey"],
            (None, Some(_), _) => &["orders_user"],
        }
    }

    /// Reports whether examined rows may be filtered out.
    fn may_filter_rows(&self) -> bool {
        let exact = match (self.reference, self.user_id, self.status) {
            (Some(_), user_id, status) => user_id.is_none() && status.is_none(),
            (None, _, None | Some(OrderStatus::Failed | OrderStatus::Cancelled)) => true,
            (None, user_id, Some(OrderStatus::Pending | OrderStatus::Processing)) => user_id.is_none(),
            (None, _, Some(OrderStatus::Completed)) => false,
        };
        !exact || self.times != Times::Any
    }

    async fn plan(&self, dataset: &Dataset) -> Plan {
        let Dataset { setup, session } = dataset;
        // The bounds in ids stay wide, which is the worst case.
        let (after, before) = match self.times {
            Times::Any => (None, None),
            Times::Wide => (Some(IN_2000), Some(IN_2200)),
            Times::None => (None, Some(IN_2000)),
        };
        let time = |seconds: Option<i64>| seconds.map(|seconds| Timestamp::from_micros(seconds * 1_000_000));
        let query = OrderQuery {
            statuses: self.status.into_iter().collect(),
            user_id: self.user_id,
            reference: self.reference.map(str::to_owned),
            created_after: time(after),
            created_before: time(before),
            limit: PAGE_ORDERS,
            ..OrderQuery::default()
        };
        setup.store.orders(query).await.unwrap();
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
        let page = CapturedStatement::of(setup, "page", "where order_id = page.", &types, &values);
        page.plan(session).await
    }

    fn fault(&self, plan: &Plan) -> Option<String> {
        let rows_examined = PAGE_ROWS_EXAMINED_MAX as u64;
        let (pages_max, rows_max) = if self.may_filter_rows() {
            (
                PAGES_MAX + PAGES_PER_ROW * rows_examined,
                ROWS_MAX + rows_examined,
            )
        } else {
            (PAGES_MAX, ROWS_MAX)
        };
        // Indexes that read the orders of the page, and where each stands.
        let by_key = [
            "orders_pkey",
            "leases_pkey",
            "second_line_pkey",
            "blocked_pkey",
            "set_aside_pkey",
        ];
        let indexes = plan.indexes();
        let ranges = self.ranges();
        let others: Vec<&&str> = indexes
            .iter()
            .filter(|index| !ranges.contains(index) && !by_key.contains(index))
            .collect();
        let (pages, rows, scanned) = (plan.pages(), plan.rows(), plan.sequential_scans());
        let is_faulty = pages > pages_max
            || rows > rows_max
            || !scanned.is_empty()
            || !others.is_empty()
            || plan.is_compiled();
        is_faulty.then(|| {
            format!(
                "{pages} pages, {rows} rows, {indexes:?}, scanned {scanned:?}, compiled: {}",
                plan.is_compiled()
            )
        })
    }
}
