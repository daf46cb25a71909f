//! The state machine without a database: allowed steps and their effect on orders.

use std::collections::BTreeMap;
use std::time::Duration;

use orderly::lease::{Lease, LeaseKey, NodeId, Outcome};
use orderly::order::{Member, NewOrder, OrderId, OrderStatus, Patch};
use orderly::store::{ClaimRequest, GivenBack, Settled};
use orderly::time::Timestamp;
use proptest::sample::Index;

use super::order::{Granted, ModelOrder};
use crate::support::make::LEASE;

/// Low enough for random sequences to reach.
pub const CRASHES_MAX: u32 = 3;
pub const SUSPECT_CRASHES: u32 = 2;

#[derive(Default)]
pub struct Model {
    pub orders: BTreeMap<OrderId, ModelOrder>,
    heartbeats: BTreeMap<NodeId, Timestamp>,
    pub paused: bool,
}

impl Model {
    pub fn pick(&self, index: Index) -> OrderId {
        let ids: Vec<OrderId> = self.orders.keys().copied().collect();
        *index.get(&ids)
    }

    pub fn accept(&mut self, ids: &[OrderId], request: &NewOrder, now: Timestamp) {
        for id in ids {
            assert!(self.orders.keys().all(|known| known < id), "ids rise");
            let order = ModelOrder {
                status: OrderStatus::Pending,
                version: 1,
                attempts: 0,
                generation: 0,
                crashes: 0,
                processing_at: None,
                finished_at: None,
                due: None,
                created: now,
                hold: request.hold.is_some(),
                scheduled: request.start_after,
                start_after: request.start_after,
                deadline: request.deadline,
                overdue: false,
                lease: None,
            };
            self.orders.insert(*id, order);
        }
    }

    /// The orders of each line in their order, as far as the claim may take them.
    fn lines(&self, suspect: bool, now: Timestamp) -> (Vec<OrderId>, Vec<OrderId>) {
        let pending = || self.orders.iter().filter(|(_, order)| order.is_in_line());
        let first = pending()
            .filter(|(_, order)| order.due.is_none())
            .map(|(id, _)| *id)
            .collect();
        let mut second: Vec<_> = pending()
            .filter(|(_, order)| order.due.is_some_and(|due| due <= now))
            .collect();
        second.sort_by_key(|(id, order)| (order.due, **id));
        let mut suspects_left = usize::from(suspect);
        second.retain(|(_, order)| {
            let allowed = !order.is_suspect() || suspects_left > 0;
            suspects_left -= usize::from(order.is_suspect() && allowed);
            allowed
        });
        (first, second.into_iter().map(|(id, _)| *id).collect())
    }

    /// The given orders that may start, in the given order.
    pub fn startable(&self, given: &[OrderId], request: &ClaimRequest, now: Timestamp) -> Vec<OrderId> {
        let mut startable = Vec::new();
        let mut suspects_left = usize::from(request.suspect);
        for id in given {
            let order = &self.orders[id];
            let is_due = order.due.is_none_or(|due| due <= now);
            let waits = order.is_in_line() && is_due && !startable.contains(id);
            let has_place = startable.len() < request.orders_max && !self.paused;
            if !waits || !has_place || (order.is_suspect() && suspects_left == 0) {
                continue;
            }
            suspects_left -= usize::from(order.is_suspect());
            startable.push(*id);
        }
        startable
    }

    pub fn assert_claim_is_legal(&self, request: &ClaimRequest, leases: &[Lease], now: Timestamp) {
        if self.paused {
            assert!(leases.is_empty(), "an order started while paused");
            return;
        }
        let (first, second) = self.lines(request.suspect, now);
        let expected = request.orders_max.min(first.len() + second.len());
        assert_eq!(leases.len(), expected, "a claim takes all available orders");
        let (of_second, of_first): (Vec<&Lease>, Vec<&Lease>) = leases
            .iter()
            .partition(|lease| self.orders[&lease.order.order_id].due.is_some());
        let ids =
            |leases: &[&Lease]| -> Vec<OrderId> { leases.iter().map(|lease| lease.order.order_id).collect() };
        assert_eq!(
            ids(&of_first),
            first[..of_first.len()],
            "first attempts out of order"
        );
        self.assert_due_order(&ids(&of_second), &second, request.suspect);
        if expected >= 2 && !first.is_empty() && !second.is_empty() {
            assert!(!of_first.is_empty() && !of_second.is_empty(), "one line starves");
        }
        for lease in leases {
            let order = &self.orders[&lease.order.order_id];
            assert_eq!(lease.suspect, order.is_suspect());
        }
    }

    /// Checks the order by due time. Orders due at one instant may come in any order, and the suspect in any place.
    fn assert_due_order(&self, taken: &[OrderId], line: &[OrderId], suspect: bool) {
        let due = |id: &OrderId| self.orders[id].due;
        let plain = |ids: &[OrderId]| -> Vec<OrderId> {
            ids.iter()
                .filter(|id| !self.orders[id].is_suspect())
                .copied()
                .collect()
        };
        let (plain_taken, plain_line) = (plain(taken), plain(line));
        let taken_dues: Vec<_> = plain_taken.iter().map(due).collect();
        let line_dues: Vec<_> = plain_line.iter().map(due).take(taken_dues.len()).collect();
        assert_eq!(taken_dues, line_dues, "the second line is out of order");
        let suspects = taken.len() - plain_taken.len();
        assert!(suspects <= usize::from(suspect), "more suspects than requested");
    }

    pub fn assert_next_due(&self, request: &ClaimRequest, next_due_in: Option<Duration>, now: Timestamp) {
        let may_take =
            |order: &&ModelOrder| !self.paused && (request.suspect || order.crashes < SUSPECT_CRASHES);
        let waiting = || {
            self.orders
                .values()
                .filter(may_take)
                .filter(|order| !order.is_set_aside())
                .filter_map(|order| order.due)
        };
        if let Some(due) = waiting().filter(|due| *due > now).min() {
            let reported = next_due_in.expect("the store reports the next due time");
            assert!(
                reported <= due.since(now),
                "{reported:?} is later than {:?}",
                due.since(now)
            );
        }
        if waiting().count() == 0 {
            assert_eq!(next_due_in, None);
        }
    }

    pub fn start(&mut self, lease: &Lease, node: NodeId, now: Timestamp) {
        let order = self
            .orders
            .get_mut(&lease.order.order_id)
            .expect("only accepted orders start");
        order.change(OrderStatus::Processing);
        order.attempts += 1;
        order.processing_at = Some(now);
        order.lease = Some(Granted {
            node,
            fence: lease.fence,
            expires_at: now.plus(LEASE),
        });
        assert_eq!(ModelOrder::of(&lease.order, order.crashes), order.visible());
    }

    fn holds(&self, key: LeaseKey) -> bool {
        let held = self.orders[&key.order_id].lease;
        held.is_some_and(|held| held.fence == key.fence)
    }

    pub fn settle(&mut self, key: LeaseKey, outcome: &Outcome, now: Timestamp) -> Settled {
        if !self.holds(key) {
            return Settled::Stale;
        }
        let order = self
            .orders
            .get_mut(&key.order_id)
            .expect("the lease is of a known order");
        match outcome {
            Outcome::Completed { .. } => order.finish(OrderStatus::Completed, now),
            Outcome::Failed { .. } => order.finish(OrderStatus::Failed, now),
            Outcome::Retry { after, .. } => order.wait_until(now.plus(*after)),
            Outcome::Released => {
                order.attempts -= 1;
                order.wait_until(now);
            }
            Outcome::GivenBack { after, .. } => {
                order.attempts -= 1;
                order.wait_until(now.plus(*after));
            }
        }
        Settled::Done(order.status)
    }

    /// Leases the node still holds, and all it ever requested.
    pub fn leases_of(&self, node: NodeId, granted: &[LeaseKey]) -> (Vec<LeaseKey>, Vec<LeaseKey>) {
        let of_another = |key: &LeaseKey| {
            self.holds(*key)
                && self.orders[&key.order_id]
                    .lease
                    .is_some_and(|held| held.node != node)
        };
        let asked: Vec<LeaseKey> = granted.iter().filter(|key| !of_another(key)).copied().collect();
        let kept = asked.iter().filter(|key| self.holds(**key)).copied().collect();
        (kept, asked)
    }

    pub fn renew(&mut self, node: NodeId, kept: &[LeaseKey], now: Timestamp) {
        self.heartbeats.insert(node, now);
        for key in kept {
            let order = self
                .orders
                .get_mut(&key.order_id)
                .expect("kept leases are of known orders");
            let held = order.lease.as_mut().expect("kept leases are held");
            held.expires_at = held.expires_at.max(now.plus(LEASE));
        }
    }

    pub fn give_back(&mut self, asking: NodeId, now: Timestamp) -> GivenBack {
        let alive = |node: NodeId| {
            let heartbeat = self.heartbeats.get(&node);
            node == asking || heartbeat.is_some_and(|at| now.since(*at) < LEASE)
        };
        let mut given = GivenBack::default();
        for order in self.orders.values_mut() {
            let Some(held) = order.lease.filter(|held| held.expires_at <= now) else {
                continue;
            };
            order.crashes += u32::from(!alive(held.node));
            if !alive(held.node) && order.crashes >= CRASHES_MAX {
                order.finish(OrderStatus::Failed, now);
                given.poisoned += 1;
            } else {
                order.attempts -= 1;
                order.wait_until(now);
                given.pending += 1;
            }
        }
        given
    }

    /// Returns true when the order is cancelled, now or before.
    pub fn cancel(&mut self, id: OrderId, now: Timestamp) -> bool {
        let order = self.orders.get_mut(&id).expect("the order was accepted");
        match order.status {
            OrderStatus::Pending | OrderStatus::Processing | OrderStatus::Failed => {
                order.finish(OrderStatus::Cancelled, now);
                true
            }
            OrderStatus::Cancelled => true,
            OrderStatus::Completed => false,
        }
    }

    /// Returns true when the order is held, now or before.
    pub fn hold(&mut self, id: OrderId) -> bool {
        let order = self.orders.get_mut(&id).expect("the order was accepted");
        if order.status != OrderStatus::Pending {
            return false;
        }
        order.version += u32::from(!order.hold);
        order.hold = true;
        true
    }

    /// Returns true when the order is released, now or before.
    pub fn release(&mut self, id: OrderId, now: Timestamp) -> bool {
        let order = self.orders.get_mut(&id).expect("the order was accepted");
        if order.hold {
            order.version += 1;
            order.hold = false;
            if order.scheduled.is_none_or(|time| time <= now) {
                order.enter_line();
            }
        }
        order.status == OrderStatus::Pending
    }

    /// Returns the numbers of orders that entered their line and that became overdue, and the time until the next one.
    pub fn fire_timers(&mut self, now: Timestamp) -> (usize, usize, Option<Duration>) {
        let (mut entered, mut overdue, mut next) = (0, 0, Vec::new());
        for order in self.orders.values_mut() {
            match order.scheduled.filter(|_| !order.hold) {
                Some(time) if time <= now => {
                    order.enter_line();
                    entered += 1;
                }
                waits => next.extend(waits),
            }
            let open = !order.status.is_final() && !order.overdue;
            match order.deadline.filter(|_| open) {
                Some(time) if time <= now => {
                    order.overdue = true;
                    order.version += 1;
                    overdue += 1;
                }
                waits => next.extend(waits),
            }
        }
        (
            entered,
            overdue,
            next.into_iter().min().map(|time| time.since(now)),
        )
    }

    /// Returns true when the order has the times now.
    pub fn amend(&mut self, id: OrderId, patch: &Patch, now: Timestamp) -> bool {
        let order = self.orders.get_mut(&id).expect("the order was accepted");
        let may_change = matches!(order.status, OrderStatus::Pending | OrderStatus::Failed);
        let has_passed = matches!(patch.deadline, Member::Set(deadline) if deadline <= now);
        if !may_change || has_passed || order.overdue && patch.deadline != Member::Keep {
            return false;
        }
        let after = |member: &Member<Timestamp>, before| match member {
            Member::Keep => before,
            Member::Remove => None,
            Member::Set(time) => Some(*time),
        };
        let start_after = after(&patch.start_after, order.start_after);
        order.amend(start_after, after(&patch.deadline, order.deadline), now);
        true
    }

    pub fn milestone(&mut self, id: OrderId) {
        let order = self.orders.get_mut(&id).expect("the order was accepted");
        order.version += 1;
    }

    /// Returns true when the order is redriven or already due.
    pub fn redrive(&mut self, id: OrderId, now: Timestamp) -> bool {
        let order = self.orders.get_mut(&id).expect("the order was accepted");
        match order.status {
            OrderStatus::Failed | OrderStatus::Cancelled => {
                order.wait_until(now);
                order.finished_at = None;
                order.attempts = 0;
                order.crashes = 0;
                order.generation += 1;
                order.forget_start(now);
                true
            }
            OrderStatus::Pending => {
                let waits_for_time = order.scheduled.is_some() || order.due.is_some_and(|due| due > now);
                if waits_for_time && !order.hold {
                    order.wait_until(now);
                    order.forget_start(now);
                }
                true
            }
            OrderStatus::Processing | OrderStatus::Completed => false,
        }
    }
}
