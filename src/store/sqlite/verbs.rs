//! The verbs of the store, each handed to the module that carries it out.

use std::sync::Arc;

use async_trait::async_trait;
use rusqlite::Connection;

use super::call::SETTLE;
use super::claim::Choice;
use super::group::{Group, Totals};
use super::reader::ReadKind;
use super::snapshot::SqliteSnapshot;
use super::{
    Sqlite, accept, amend, cancel, claim, explain, external_lease, feed, give_back, hold, listing, milestone,
    nodes, pause, prune, query, redrive, settle, timers, vitals,
};
use crate::epoch::Token;
use crate::lease::{LeaseKey, NodeId, Outcome};
use crate::order::{NewOrder, OrderId, Patch, Reason};
use crate::store::claim::distinct_given;
use crate::store::refusals::{RefusedChange, log_refused};
use crate::store::{
    Accepted, Acted, Activity, Amended, ClaimRequest, Claimed, Counters, Explanation, ExternalHold,
    ExternalLease, FeedPage, FeedPosition, Fired, GiveBack, GivenBack, Heartbeat, History, IdempotencyKey,
    LatestClaim, Leaving, NewMilestone, OrderPage, OrderQuery, OrderView, Prune, Pruned, QueueState,
    RedriveOptions, RedriveQuery, Redriven, Renewed, Settled, SettledExternal, Snapshot, Store, StoreError,
    StoreHealth, Vitals, Wakeups,
};

#[async_trait]
impl Store for Sqlite {
    async fn accept(
        &self,
        orders: Arc<[NewOrder]>,
        key: Option<IdempotencyKey>,
    ) -> Result<Accepted, StoreError> {
        let places = self.waiting.enter(&orders)?;
        let pending_max = self.pending_max;
        self.writer
            .try_accept("accept orders", move |group| {
                // Held until the call is answered, even if its caller is gone.
                let _places = &places;
                accept::accept(group, &orders, key.as_ref(), pending_max)
            })
            .await
    }

    async fn claim(&self, request: ClaimRequest) -> Result<Claimed, StoreError> {
        let choice = Choice::Next(self.second_line_first.clone());
        claim::run_claim(&choice, request, &self.writer, &self.health, &self.refusals).await
    }

    async fn start(&self, order_ids: Arc<[OrderId]>, request: ClaimRequest) -> Result<Claimed, StoreError> {
        let choice = Choice::Given(distinct_given(&order_ids).into());
        claim::run_claim(&choice, request, &self.writer, &self.health, &self.refusals).await
    }

    async fn settle(&self, key: LeaseKey, outcome: Outcome) -> Result<Settled, StoreError> {
        let settled = if outcome == Outcome::COMPLETED {
            self.writer.complete(key).await
        } else {
            let settle = move |group: &mut Group<'_>| Ok(settle::settle(group, key, &outcome)?);
            self.writer.call(SETTLE, settle).await
        };
        self.refusals.record_end(key.order_id, &settled);
        settled
    }

    async fn renew(&self, heartbeat: Heartbeat) -> Result<Renewed, StoreError> {
        let sole_server = self.sole_server.clone();
        let change = move |group: &mut Group<'_>| nodes::renew(group, &sole_server, &heartbeat);
        self.writer.call("renew leases", change).await
    }

    async fn hold_external(&self, key: LeaseKey, hold: ExternalHold) -> Result<ExternalLease, StoreError> {
        let hold = move |group: &mut Group<'_>| external_lease::hold(group, key, hold);
        self.writer.call("hold a lease", hold).await
    }

    async fn settle_external(
        &self,
        id: OrderId,
        token: Token,
        outcome: Outcome,
    ) -> Result<SettledExternal, StoreError> {
        let settle = move |group: &mut Group<'_>| external_lease::settle(group, id, token, &outcome);
        let settled = self.writer.call(SETTLE, settle).await;
        self.refusals.record_end(id, &settled);
        settled
    }

    async fn claimed(&self, id: OrderId) -> Result<Option<LatestClaim>, StoreError> {
        let read = move |connection: &Connection| external_lease::latest_claim(connection, id);
        self.read(ReadKind::Point, "read an order's claim", read).await
    }

    async fn give_back_expired(&self, request: GiveBack) -> Result<GivenBack, StoreError> {
        let sweep = self.writer.call("give back expired leases", move |group| {
            give_back::give_back_expired(group, &request)
        });
        let given_back = sweep.await?;
        self.refusals.record_not_taken_back(&given_back.refused);
        Ok(given_back)
    }

    async fn join(&self, heartbeat: Heartbeat, crashes_max: u32) -> Result<GivenBack, StoreError> {
        let sole_server = self.sole_server.clone();
        let change = move |group: &mut Group<'_>| nodes::join(group, &sole_server, &heartbeat, crashes_max);
        self.writer.call("announce the node", change).await
    }

    async fn leave(&self, node: NodeId, _leaving: Leaving) -> Result<(), StoreError> {
        self.sole_server.forget(node);
        let change = move |group: &mut Group<'_>| nodes::leave(group, node);
        self.writer.call("remove the node from the list", change).await
    }

    async fn cancel(&self, id: OrderId, reason: Option<Reason>) -> Result<Acted, StoreError> {
        self.writer
            .try_call("cancel an order", move |group| {
                cancel::cancel(group, id, reason.as_ref())
            })
            .await
    }

    async fn hold(&self, id: OrderId, reason: Option<Reason>) -> Result<Acted, StoreError> {
        self.writer
            .try_call("hold an order", move |group| {
                hold::hold(group, id, reason.as_ref())
            })
            .await
    }

    async fn release(&self, id: OrderId, reason: Option<Reason>) -> Result<Acted, StoreError> {
        self.writer
            .try_call("release an order", move |group| {
                hold::release(group, id, reason.as_ref())
            })
            .await
    }

    async fn amend(&self, id: OrderId, version: u32, patch: Patch) -> Result<Amended, StoreError> {
        let amend = move |group: &mut Group<'_>| amend::amend(group, id, version, &patch);
        self.writer.try_call("amend an order", amend).await
    }

    async fn add_milestone(&self, id: OrderId, new: NewMilestone) -> Result<Acted, StoreError> {
        let add = move |group: &mut Group<'_>| milestone::add(group, id, &new);
        self.writer.try_call("add a milestone", add).await
    }

    async fn fire_timers(&self, except: Arc<[OrderId]>) -> Result<Fired, StoreError> {
        let fire = move |group: &mut Group<'_>| timers::fire(group, &except);
        self.writer.call("fire timers", fire).await
    }

    async fn redrive(&self, id: OrderId, options: RedriveOptions) -> Result<Acted, StoreError> {
        self.writer
            .try_call("redrive an order", move |group| {
                Ok(redrive::redrive(group, id, &options)?)
            })
            .await
    }

    async fn redrive_matching(&self, query: RedriveQuery) -> Result<Redriven, StoreError> {
        if query.dry_run {
            let count = move |connection: &Connection| redrive::count_matching(connection, &query);
            return self.read(ReadKind::List, "count orders to redrive", count).await;
        }
        let redriven = self.writer.try_call("redrive orders", move |group| {
            redrive::redrive_matching(group, &query)
        });
        let (redriven, refused) = redriven.await?;
        log_refused(RefusedChange::Redrive, &refused);
        Ok(redriven)
    }

    async fn prune(&self, request: Prune) -> Result<Pruned, StoreError> {
        self.writer
            .call("remove old orders", move |group| prune::prune(group, &request))
            .await
    }

    async fn pause(&self, reason: Option<Reason>) -> Result<(), StoreError> {
        // Waits rather than fails when too many calls wait: an operator pauses the queue just when it is overloaded.
        let pause = move |group: &mut Group<'_>| Ok(pause::pause(group, reason.as_ref())?);
        self.writer.call("pause the queue", pause).await
    }

    async fn resume(&self) -> Result<(), StoreError> {
        let resume = |group: &mut Group<'_>| Ok(pause::resume(group)?);
        self.writer.call("resume the queue", resume).await?;
        self.wakeups.notify_resumed();
        Ok(())
    }

    async fn order_view(&self, id: OrderId) -> Result<Option<OrderView>, StoreError> {
        let read = move |connection: &Connection| query::order_view(connection, id);
        self.read(ReadKind::Point, "read an order", read).await
    }

    async fn explain(&self, id: OrderId) -> Result<Option<Explanation>, StoreError> {
        let now = self.clock.now();
        let explanation = self.read(ReadKind::List, "explain an order", move |connection| {
            explain::explain(connection, id, now)
        });
        Ok(self.refusals.with_refusal(explanation.await?))
    }

    async fn orders(&self, query: OrderQuery) -> Result<OrderPage, StoreError> {
        let read = move |connection: &Connection| listing::orders(connection, &query);
        self.read(ReadKind::List, "list orders", read).await
    }

    async fn history(&self, id: OrderId, after: u32) -> Result<Option<History>, StoreError> {
        let read = move |connection: &Connection| feed::history(connection, id, after);
        self.read(ReadKind::List, "read an order's events", read).await
    }

    async fn events_after(&self, after: Option<FeedPosition>, limit: usize) -> Result<FeedPage, StoreError> {
        let now = self.clock.now();
        let read = move |connection: &Connection| feed::events_after(connection, after, limit, now);
        self.read(ReadKind::Control, "read the feed", read).await
    }

    async fn counters(&self) -> Result<Counters, StoreError> {
        self.read(ReadKind::Point, "read the counters", |connection| {
            Ok(Totals::read(connection)?.counters)
        })
        .await
    }

    async fn queue(&self) -> Result<QueueState, StoreError> {
        let now = self.clock.now();
        let read = move |connection: &Connection| query::queue(connection, now);
        self.read(ReadKind::Control, "read the queue", read).await
    }

    async fn record_activity(&self, node: NodeId, number: u64, activity: Activity) -> Result<(), StoreError> {
        let change = move |group: &mut Group<'_>| vitals::record_activity(group, node, number, activity);
        self.writer.call("store what a node counted", change).await
    }

    async fn vitals(&self) -> Result<Vitals, StoreError> {
        let now = self.clock.now();
        let read = move |connection: &Connection| vitals::vitals(connection, now);
        self.read(ReadKind::Control, "read the vitals", read).await
    }

    async fn snapshot(&self) -> Result<Box<dyn Snapshot>, StoreError> {
        if self.readers.is_closed() {
            return Err(StoreError::Closed);
        }
        let opened = SqliteSnapshot::open(self.path.clone(), self.clock.clone());
        Ok(Box::new(opened.await?))
    }

    fn health(&self) -> StoreHealth {
        self.health.current()
    }

    /// None, because a file is opened with durable settings or not at all.
    fn weaknesses(&self) -> Vec<String> {
        Vec::new()
    }

    async fn failed(&self) -> String {
        self.health.broken().await
    }

    fn wakeups(&self) -> Arc<Wakeups> {
        self.wakeups.clone()
    }

    async fn close(&self) {
        self.readers.close().await;
        self.writer.close().await;
        self.health.closed();
        let mut server_lock = self
            .server_lock
            .lock()
            .expect("no code panics while it holds this lock");
        *server_lock = None;
    }
}
