//! The primary's feed as this node knows it: what a standby's answer is held against.

use std::time::Duration;

use tokio::time::Instant;

use super::super::query::End;
use crate::store::{FeedBounds, FeedPosition};

/// The age at which the primary is asked again.
const KNOWN_FOR: Duration = Duration::from_secs(1);
/// A standby that lacks what the primary showed this long ago serves nothing.
const LAG_MAX: Duration = Duration::from_secs(10);
/// The age beyond which an end of the primary's feed allows too much lag to go by.
const REFERENCE_AGE_MAX: Duration = Duration::from_secs(21);

#[derive(Clone)]
pub struct Known {
    pub bounds: FeedBounds,
    /// The time when the primary was asked.
    at: Instant,
    /// Ends of its feed, with the times when it was asked: the later one at least [`LAG_MAX`] after the earlier one. `None` while
    /// only one is known.
    earlier: Option<(Instant, FeedPosition)>,
    later: (Instant, FeedPosition),
}

/// The reason why a standby's answer does not count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unfit {
    OtherHistory,
    Lags,
    /// It lacks what the primary shows now, and no end of the primary's feed is known that is old enough to tell whether it lags.
    Unclear,
}

impl Unfit {
    pub fn reason(self) -> &'static str {
        match self {
            Unfit::OtherHistory => {
                "its newest epoch is not the primary's: it was promoted or left behind, or has another store"
            }
            Unfit::Lags => "it lags more than 10 s behind the primary",
            Unfit::Unclear => "it has not yet replayed what the primary shows",
        }
    }
}

impl Known {
    /// Adds what the primary answered when it was asked at `at` to what was known.
    pub fn with(known: Option<Known>, bounds: FeedBounds, at: Instant) -> Known {
        let end = (at, bounds.last);
        let same_life = |known: &Known| known.bounds.epochs.newest() == bounds.epochs.newest();
        let (earlier, later) = match known.filter(same_life) {
            // A later answer came first.
            Some(known) if at < known.at => return known,
            Some(known) if at.duration_since(known.later.0) >= LAG_MAX => (Some(known.later), end),
            Some(known) => (known.earlier, known.later),
            None => (None, end),
        };
        Known {
            bounds,
            at,
            earlier,
            later,
        }
    }

    pub fn is_fresh(&self) -> bool {
        self.at.elapsed() < KNOWN_FOR
    }

    /// Checks that a server has the primary's history, nearly up to now. `was_level`: it had all that the primary showed when the
    /// primary was first asked.
    pub fn check(&self, end: &End, was_level: bool) -> Result<(), Unfit> {
        if end.newest != self.bounds.epochs.newest().identity {
            return Err(Unfit::OtherHistory);
        }
        if end.last >= self.bounds.last {
            return Ok(());
        }
        let is_reference =
            |(at, _): &(Instant, FeedPosition)| (LAG_MAX..REFERENCE_AGE_MAX).contains(&at.elapsed());
        let mut ends = [Some(self.later), self.earlier].into_iter().flatten();
        match ends.find(is_reference) {
            Some((_, shown)) if end.last >= shown => Ok(()),
            Some(_) => Err(Unfit::Lags),
            None if was_level && self.earlier.is_none() => Ok(()),
            None => Err(Unfit::Unclear),
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;
    use crate::epoch::EpochIdentity;
    use crate::store::{Epochs, first_epoch};

    fn bounds(last: i64) -> FeedBounds {
        FeedBounds {
            epochs: Epochs::of(vec![first_epoch()]).unwrap(),
            complete_after: FeedPosition(0),
            last: FeedPosition(last),
        }
    }

    fn end(last: i64) -> End {
        End {
            newest: first_epoch().identity,
            complete_after: FeedPosition(0),
            last: FeedPosition(last),
            place: None,
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_lags_that_lacks_what_was_shown_ten_seconds_ago() {
        let known = Known::with(None, bounds(5), Instant::now());
        advance(LAG_MAX).await;
        let known = Known::with(Some(known), bounds(9), Instant::now());
        assert_eq!(known.check(&end(4), true), Err(Unfit::Lags));
        assert_eq!(known.check(&end(5), true), Ok(()));
        advance(LAG_MAX).await;
        assert_eq!(known.check(&end(5), true), Err(Unfit::Lags));
    }

    #[tokio::test(start_paused = true)]
    async fn without_an_old_enough_end_a_server_must_have_what_is_shown_now() {
        let known = Known::with(None, bounds(5), Instant::now());
        assert_eq!(known.check(&end(4), false), Err(Unfit::Unclear));
        assert_eq!(known.check(&end(5), false), Ok(()));
        assert_eq!(known.check(&end(4), true), Ok(()));
        // No read for a minute.
        advance(6 * LAG_MAX).await;
        let known = Known::with(Some(known), bounds(9), Instant::now());
        assert_eq!(known.check(&end(8), true), Err(Unfit::Unclear));
        assert_eq!(known.check(&end(9), true), Ok(()));
    }

    #[tokio::test(start_paused = true)]
    async fn an_earlier_answer_does_not_replace_a_later_one() {
        let asked_first = Instant::now();
        advance(KNOWN_FOR).await;
        let known = Known::with(None, bounds(9), Instant::now());
        let known = Known::with(Some(known), bounds(5), asked_first);
        assert_eq!(known.bounds.last, FeedPosition(9));
        let other = End {
            newest: EpochIdentity(7),
            ..end(9)
        };
        assert_eq!(known.check(&other, true), Err(Unfit::OtherHistory));
    }
}
