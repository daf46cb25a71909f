//! Pauses and resumes the queue.

use std::fmt::Write;

use super::advisory_locks::CLAIM_LOCK;
use super::class_pool::ClassPool;
use super::failure::PgFailure;
use super::shared::Shared;
use crate::order::Reason;

/// The limit for locking the queue's row while holding the claim lock, in milliseconds: all claims wait meanwhile.
const QUEUE_LOCK_MS: u32 = 1_000;

/// Pauses the queue; a paused one stays paused since then, and takes a new reason if one is given.
pub(super) async fn pause(pool: &ClassPool, reason: Option<&Reason>) -> Result<(), PgFailure> {
    let reason = reason.map_or_else(|| "null".to_owned(), text_literal);
    set(
        pool,
        &format!(
            "paused = true, paused_at = coalesce(paused_at, clock_timestamp()), \
             pause_reason = coalesce({reason}, pause_reason)"
        ),
    )
    .await
}

pub(super) async fn resume(pool: &ClassPool, shared: &Shared) -> Result<(), PgFailure> {
    set(pool, "paused = false, paused_at = null, pause_reason = null").await?;
    shared.work_available();
    shared.wakeups.notify_resumed();
    Ok(())
}

/// Changes the queue's row. Waits for a claim under way: after a pause is committed, no order starts.
async fn set(pool: &ClassPool, values: &str) -> Result<(), PgFailure> {
    let message = format!(
        "begin isolation level read committed; set local statement_timeout = 5000; set local lock_timeout = 5000; \
         select pg_advisory_xact_lock({CLAIM_LOCK}); set local lock_timeout = {QUEUE_LOCK_MS}; \
         update orderly.queue set {values}; commit"
    );
    pool.send_message(&message).await.map(drop)
}

/// Writes a text for a message, which has no parameters, so that no character of it can end the literal.
fn text_literal(reason: &Reason) -> String {
    let mut literal = "convert_from(decode('".to_owned();
    for byte in reason.as_str().bytes() {
        write!(literal, "{byte:02x}").expect("a string takes everything");
    }
    literal + "', 'hex'), 'UTF8')"
}
