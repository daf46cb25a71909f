//! Pausing and resuming the queue.

use super::failure::Failure;
use super::links::Links;
use super::locks::CLAIM_LOCK;
use super::shared::Shared;

/// The longest wait for the queue's row while holding the claims' lock: all claims wait meanwhile.
const QUEUE_LOCK_MS: u32 = 1_000;

/// Waits for the claim that is under way, if one is: no order starts after this is committed.
pub(super) async fn set_paused(links: &Links, shared: &Shared, paused: bool) -> Result<(), Failure> {
    let message = format!(
        "begin isolation level read committed; set local statement_timeout = 5000; set local lock_timeout = 5000; \
         select pg_advisory_xact_lock({CLAIM_LOCK}); set local lock_timeout = {QUEUE_LOCK_MS}; \
         update orderly.queue set paused = {paused}; commit"
    );
    links.flight(&message).await?;
    if !paused {
        shared.work_came();
        shared.wakeups.notify_resumed();
    }
    Ok(())
}
