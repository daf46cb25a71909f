//! Pauses and resumes the queue.

use super::advisory_locks::CLAIM_LOCK;
use super::class_pool::ClassPool;
use super::failure::PgFailure;
use super::shared::Shared;

/// The limit for locking the queue's row while holding the claim lock, in milliseconds: all claims wait meanwhile.
const QUEUE_LOCK_MS: u32 = 1_000;

/// Pauses or resumes the queue. Waits for a claim under way: after a pause is committed, no order starts.
pub(super) async fn set_paused(pool: &ClassPool, shared: &Shared, paused: bool) -> Result<(), PgFailure> {
    let message = format!(
        "begin isolation level read committed; set local statement_timeout = 5000; set local lock_timeout = 5000; \
         select pg_advisory_xact_lock({CLAIM_LOCK}); set local lock_timeout = {QUEUE_LOCK_MS}; \
         update orderly.queue set paused = {paused}; commit"
    );
    pool.send_message(&message).await?;
    if !paused {
        shared.work_available();
        shared.wakeups.notify_resumed();
    }
    Ok(())
}
