//! Claims orders for the workers outside that wait at the desk, and gives back what none of them took. Where nobody waits
//! it only looks: the pace of the node, and with it the sweep for lost leases, follows from what it sees.

use std::sync::Arc;

use tokio::time::{Instant, sleep};

use super::backoff::Backoff;
use super::dispatcher::{
    Lull, POLL_INTERVAL, RETRY_MAX, RETRY_MIN, wait_after_failure, wait_for_work, woken_within,
};
use super::executor::observe_wait;
use super::results::{STORE_RETRY_MAX, STORE_RETRY_MIN};
use super::{Pace, Shared, jittered};
use crate::lease::{Lease, LeaseKey, Outcome};
use crate::order::OrderStatus;
use crate::pull::{Desk, Turn};
use crate::store::{ClaimRequest, Claimed, StoreError};

pub(super) async fn run(shared: Arc<Shared>, desk: Arc<Desk>) {
    let _closed = ClosedAtTheEnd(&desk);
    let mut lull: Option<Lull> = None;
    let mut retries = Backoff::new(RETRY_MIN, RETRY_MAX);
    let mut failing = false;
    let mut suspect: Option<LeaseKey> = None;
    while !shared.draining.is_cancelled() {
        give_back_returned(&shared, &desk);
        let turn = desk.next_turn();
        let may_take_suspect = !is_out(&shared, &mut suspect).await;
        match claim(&shared, &turn, may_take_suspect).await {
            Ok(mut claimed) => {
                let taken = claimed.leases.iter().find(|lease| lease.suspect);
                suspect = taken.map(Lease::key).or(suspect);
                retries.reset();
                failing = false;
                if !claimed.idle {
                    lull = None;
                }
                let leases = std::mem::take(&mut claimed.leases);
                let is_dry = leases.len() < turn.orders_max();
                desk.serve(turn, leases);
                if !desk.has_waiting() && !claimed.idle {
                    wait_for_a_worker(&shared, &desk).await;
                } else if is_dry || !desk.has_waiting() {
                    let may_sleep = shared.settings.idle_sleep && !desk.has_waiting();
                    lull = wait_for_work(&shared, &claimed, lull, may_sleep).await;
                }
            }
            Err(error) => {
                lull = None;
                if !failing {
                    tracing::warn!(%error, "cannot claim orders for workers, trying again");
                    failing = true;
                }
                desk.put_off(turn, error);
                wait_after_failure(&shared, retries.pause()).await;
            }
        }
    }
    // Whoever still waits is told; what was claimed for those who are gone goes back before the node does.
    desk.close();
    give_back_returned(&shared, &desk);
}

/// However the dispatcher ends, nobody waits for it.
struct ClosedAtTheEnd<'d>(&'d Arc<Desk>);

impl Drop for ClosedAtTheEnd<'_> {
    fn drop(&mut self) {
        self.0.close();
    }
}

/// Reports whether the suspect that was handed out last is still out. This node does not know which worker has it, so
/// the next suspect waits for its end: if one worker took down two, both could be taken for poison.
async fn is_out(shared: &Shared, suspect: &mut Option<LeaseKey>) -> bool {
    let Some(key) = *suspect else { return false };
    let is_out = match shared.store.claimed(key.order_id).await {
        Ok(latest) => latest
            .is_some_and(|latest| latest.key == Some(key) && latest.order.status == OrderStatus::Processing),
        // The claim that follows is about to fail as well.
        Err(_) => true,
    };
    if !is_out {
        *suspect = None;
    }
    is_out
}

/// Not to be cancelled, as any claim.
async fn claim(shared: &Shared, turn: &Turn, suspect: bool) -> Result<Claimed, StoreError> {
    let claimed = shared
        .store
        .claim(ClaimRequest {
            node: shared.settings.node,
            orders_max: turn.orders_max(),
            lease: turn.lease().min(shared.settings.attempt_timeout),
            suspect,
            processor: Some(shared.processor_kind()),
        })
        .await?;
    shared.set_pace(if claimed.idle { Pace::Idle } else { Pace::Working });
    for lease in &claimed.leases {
        observe_wait(shared, lease);
    }
    Ok(claimed)
}

/// Orders are open, and nobody asks for any: accepting more of them is no news.
async fn wait_for_a_worker(shared: &Shared, desk: &Desk) {
    let look = Instant::now() + jittered(POLL_INTERVAL);
    while !desk.has_waiting() && !desk.has_returned() {
        let left = look.saturating_duration_since(Instant::now());
        if left.is_zero() || !woken_within(shared, left).await {
            return;
        }
    }
}

fn give_back_returned(shared: &Arc<Shared>, desk: &Desk) {
    for lease in desk.returned() {
        shared.executors.spawn(give_back(shared.clone(), lease));
    }
}

/// Tried again while the lease lasts; after that it is taken back as any other.
async fn give_back(shared: Arc<Shared>, lease: Lease) {
    let order_id = lease.order.order_id;
    let until = Instant::now() + shared.settings.lease;
    let mut retries = Backoff::new(STORE_RETRY_MIN, STORE_RETRY_MAX);
    while let Err(error) = shared.store.settle(lease.key(), Outcome::Released).await {
        let is_over = matches!(error, StoreError::Closed | StoreError::Refused { .. });
        if is_over || Instant::now() >= until || shared.hand_back.is_cancelled() {
            tracing::warn!(order.id = %order_id, %error, "order {order_id}, which no worker took, could not be given back");
            return;
        }
        sleep(retries.pause()).await;
    }
}
