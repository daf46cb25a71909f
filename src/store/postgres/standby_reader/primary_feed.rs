//! The primary's feed as this node knows it. A standby's answers are compared with it.

use std::time::Duration;

use tokio::time::Instant;

use super::super::query::End;
use crate::store::{FeedBounds, FeedPosition};

/// The age at which the primary is asked again.
const KNOWN_FOR: Duration = Duration::from_secs(1);
/// A standby that lacks what the primary showed this long ago serves nothing.
const LAG_MAX: Duration = Duration::from_secs(10);
/// The age from which an end of the primary's feed is too old to judge a standby by: it would allow too much lag.
const REFERENCE_AGE_MAX: Duration = Duration::from_secs(21);

#[derive(Clone)]
pub struct PrimaryFeed {
    pub bounds: FeedBounds,
    /// The time when the primary was asked.
    at: Instant,
    /// Two ends of its feed with the times when it was asked, the later at least [`LAG_MAX`] after the earlier.
    /// `None` while only one is known.
    earlier: Option<(Instant, FeedPosition)>,
    later: (Instant, FeedPosition),
}

/// The reason why a standby's answer does not count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unfit {
    OtherHistory,
    Lags,
    /// It lacks what the primary shows now, and no known end of the primary's feed has the right age to tell whether
    /// it lags.
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

impl PrimaryFeed {
    /// Combines an answer of the primary, which was asked at `at`, with the previous ones.
    pub fn updated(previous: Option<PrimaryFeed>, bounds: FeedBounds, at: Instant) -> PrimaryFeed {
        let end = (at, bounds.last);
        let same_epoch = |previous: &PrimaryFeed| previous.bounds.epochs.newest() == bounds.epochs.newest();
        let (earlier, later) = match previous.filter(same_epoch) {
            // The answer to a later question came first.
            Some(previous) if at < previous.at => return previous,
            Some(previous) if at.duration_since(previous.later.0) >= LAG_MAX => (Some(previous.later), end),
            Some(previous) => (previous.earlier, previous.later),
            None => (None, end),
        };
        PrimaryFeed {
            bounds,
            at,
            earlier,
            later,
        }
    }

    pub fn is_fresh(&self) -> bool {
        self.at.elapsed() < KNOWN_FOR
    }

    /// Checks that a server has the primary's history, nearly up to now. `was_level` says that the server had
    /// everything that the primary showed when it was first asked.
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
    async fn a_server_that_lacks_ten_second_old_events_lags() {
        let primary = PrimaryFeed::updated(None, bounds(5), Instant::now());
        advance(LAG_MAX).await;
        let primary = PrimaryFeed::updated(Some(primary), bounds(9), Instant::now());
        assert_eq!(primary.check(&end(4), true), Err(Unfit::Lags));
        assert_eq!(primary.check(&end(5), true), Ok(()));
        advance(LAG_MAX).await;
        assert_eq!(primary.check(&end(5), true), Err(Unfit::Lags));
    }

    #[tokio::test(start_paused = true)]
    async fn without_an_old_enough_end_a_server_needs_the_current_one() {
        let primary = PrimaryFeed::updated(None, bounds(5), Instant::now());
        assert_eq!(primary.check(&end(4), false), Err(Unfit::Unclear));
        assert_eq!(primary.check(&end(5), false), Ok(()));
        assert_eq!(primary.check(&end(4), true), Ok(()));
        // A minute passes without a read.
        advance(6 * LAG_MAX).await;
        let primary = PrimaryFeed::updated(Some(primary), bounds(9), Instant::now());
        assert_eq!(primary.check(&end(8), true), Err(Unfit::Unclear));
        assert_eq!(primary.check(&end(9), true), Ok(()));
    }

    #[tokio::test(start_paused = true)]
    async fn an_earlier_answer_does_not_replace_a_later_one() {
        let asked_first = Instant::now();
        advance(KNOWN_FOR).await;
        let primary = PrimaryFeed::updated(None, bounds(9), Instant::now());
        let primary = PrimaryFeed::updated(Some(primary), bounds(5), asked_first);
        assert_eq!(primary.bounds.last, FeedPosition(9));
        let other = End {
            newest: EpochIdentity(7),
            ..end(9)
        };
        assert_eq!(primary.check(&other, true), Err(Unfit::OtherHistory));
    }
}
