//! Pauses and resumes the queue.

use super::group::Group;
use crate::order::Reason;

/// Pauses the queue; a paused one stays paused since then, and takes a new reason if one is given.
pub(super) fn pause(group: &mut Group<'_>, reason: Option<&Reason>) -> Result<(), rusqlite::Error> {
    group.totals.paused = true;
    group
        .connection
        .prepare_cached(
            "update counters set paused = 1, paused_at = coalesce(paused_at, ?1),
                    pause_reason = coalesce(?2, pause_reason)
             where id = 1",
        )?
        .execute((group.now, reason.map(Reason::as_str)))?;
    Ok(())
}

pub(super) fn resume(group: &mut Group<'_>) -> Result<(), rusqlite::Error> {
    group.totals.paused = false;
    group.effects.work = true;
    group
        .connection
        .prepare_cached("update counters set paused = 0, paused_at = null, pause_reason = null where id = 1")?
        .execute([])?;
    Ok(())
}
