//! Pauses and resumes the queue.

use super::group::Group;

pub(super) fn set_paused(group: &mut Group<'_>, paused: bool) {
    group.totals.paused = paused;
    group.effects.work |= !paused;
}
