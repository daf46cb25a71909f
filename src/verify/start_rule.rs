//! Rule by which orders start: all in one line, or the orders of each user in a line of their own, one at a time.
//! `start_order.rs` checks a line.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use super::start_order::StartOrder;
use super::{Promise, Report};
use crate::order::{OrderId, OrderStatus, Ordering};
use crate::store::snapshot::{OrderRecord, StartRule};

/// Checks orders by rising id.
pub(super) struct Starts {
    rule: StartRule,
    accept_time_max: Duration,
    passed_over: Arc<HashSet<OrderId>>,
    /// Lines by user if the rule is per user; all of them are in memory then.
    lines: HashMap<Option<i64>, StartOrder>,
    /// Processing order by user.
    processing: HashMap<i64, OrderId>,
}

impl Starts {
    pub fn new(rule: StartRule, accept_time_max: Duration, passed_over: HashSet<OrderId>) -> Starts {
        Starts {
            rule,
            accept_time_max,
            passed_over: Arc::new(passed_over),
            lines: HashMap::new(),
            processing: HashMap::new(),
        }
    }

    pub fn check(&mut self, record: &OrderRecord, report: &mut Report) {
        // Earlier orders may have started by another rule.
        if record.order.order_id <= self.rule.from {
            return;
        }
        let line = match self.rule.ordering {
            Ordering::None => None,
            Ordering::User { .. } => {
                self.check_one_at_a_time(record, report);
                Some(record.order.request.user_id.key())
            }
        };
        let line = self
            .lines
            .entry(line)
            .or_insert_with(|| StartOrder::new(self.accept_time_max, self.passed_over.clone()));
        line.check(record, report);
    }

    fn check_one_at_a_time(&mut self, record: &OrderRecord, report: &mut Report) {
        if record.order.status != OrderStatus::Processing {
            return;
        }
        let (id, user_id) = (record.order.order_id, record.order.request.user_id.key());
        if let Some(other) = self.processing.insert(user_id, id) {
            let detail = format!("is Processing at the same time as order {other} of the same user");
            report.breach(Promise::UserTurns, Some(id), detail);
        }
    }
}
