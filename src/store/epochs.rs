//! The epochs of a store. An epoch begins where history may fork: with a failover or a restored backup
//! (docs/decisions/0021-an-epoch-begins-where-history-may-fork.md). Drivers begin epochs.

use std::sync::Arc;

use crate::epoch::{AttemptKey, EpochIdentity, FENCE_BITS, Token, TokenSecret};
use crate::lease::{Lease, NodeId};
use crate::order::{Order, OrderId};
use crate::time::Timestamp;

/// Order ids that an epoch skips after a failover: this number times a random factor from 1 to [`JUMPS_MAX`]. More than a standby
/// may lack.
pub const FAILOVER_JUMP: i64 = 1_000_000;
/// Order ids that an epoch skips after a restore, times the same factor. More than were given out since the backup.
pub const RESTORE_JUMP: i64 = 1_000_000_000;
/// Upper bound of the random factor. It makes it unlikely that two epochs that begin at the same point, as after restoring one
/// backup twice, use the same ids.
pub const JUMPS_MAX: i64 = 100;
/// Highest number of an epoch. It keeps fences below 2^53, so that every JSON reader represents them exactly.
pub const EPOCH_MAX: u64 = (1 << 26) - 1;
/// The first minute of 2025 in minutes since 1970. Epochs are numbered from there.
const NUMBERED_FROM_MINUTE: i64 = 28_928_160;
const _: () = assert!((EPOCH_MAX + 1) << FENCE_BITS <= 1 << 53);

/// A position in the feed. It rises in the order of commits; 0 is before the first event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FeedPosition(pub i64);

/// A position in the feed with its epoch, which makes it unique among stores and epochs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FeedCursor {
    /// The epoch in which the position was assigned.
    pub epoch: EpochIdentity,
    pub position: FeedPosition,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Epoch {
    /// Rises from 1, with gaps.
    pub number: u64,
    pub identity: EpochIdentity,
    pub secret: TokenSecret,
    /// The lowest id of an order accepted in this epoch.
    pub first_order_id: OrderId,
    /// The last position in the feed when the epoch began.
    pub after: FeedPosition,
    pub began_at: Timestamp,
}

/// An epoch that just began.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewEpoch {
    pub number: u64,
    /// The id of the epoch's first order, unless another epoch begins before that order.
    pub first_order_id: OrderId,
    /// The last position in the feed of the earlier epochs.
    pub after: FeedPosition,
    /// The time of the last event in the feed; `None` if there is none.
    pub stored_until: Option<Timestamp>,
}

impl NewEpoch {
    /// The time of the last event, in RFC 3339.
    pub fn stored_until_text(&self) -> Option<String> {
        let instant = jiff::Timestamp::from_microsecond(self.stored_until?.micros());
        instant.ok().map(|instant| format!("{instant:.6}"))
    }
}

/// The epochs of a store up to a certain one, by rising number. There is at least one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Epochs(Arc<[Epoch]>);

impl Epochs {
    /// Sorts the epochs; `None` if there are none.
    pub fn of(mut epochs: Vec<Epoch>) -> Option<Epochs> {
        epochs.sort_by_key(|epoch| epoch.number);
        (!epochs.is_empty()).then(|| Epochs(epochs.into()))
    }

    pub fn all(&self) -> &[Epoch] {
        &self.0
    }

    pub fn newest(&self) -> &Epoch {
        self.0.last().expect("a store has an epoch from its creation")
    }

    fn oldest(&self) -> &Epoch {
        self.0.first().expect("a store has an epoch from its creation")
    }

    /// The epochs up to `newest`; `None` if that is not among them.
    pub fn up_to(&self, newest: EpochIdentity) -> Option<Epochs> {
        let index = self.0.iter().position(|epoch| epoch.identity == newest)?;
        Some(if index + 1 == self.0.len() {
            self.clone()
        } else {
            Epochs(self.0[..=index].into())
        })
    }

    /// The position with its epoch.
    pub fn cursor(&self, position: FeedPosition) -> FeedCursor {
        let began_before = self.0.iter().rev().find(|epoch| epoch.after < position);
        FeedCursor {
            epoch: began_before.unwrap_or(self.oldest()).identity,
            position,
        }
    }

    /// Reports whether the cursor belongs to this history: its epoch is known, and its position was reached before the next epoch
    /// began. Later positions of that epoch are lost, and other events may have them now.
    pub fn contain(&self, cursor: FeedCursor) -> bool {
        let Some(index) = self.0.iter().position(|epoch| epoch.identity == cursor.epoch) else {
            return false;
        };
        self.0
            .get(index + 1)
            .is_none_or(|next| cursor.position <= next.after)
    }

    /// The lease that a claim in the newest epoch just granted.
    pub(super) fn lease(&self, order: Order, fence: u64, node: NodeId, suspect: bool) -> Lease {
        Lease {
            token: self.newest().secret.token(order.order_id, fence),
            attempt_key: self.attempt_key(&order),
            order,
            fence,
            node,
            suspect,
        }
    }

    /// The epoch in which the order with this id was accepted.
    pub fn of_acceptance(&self, order_id: OrderId) -> &Epoch {
        let begun_before = self.0.iter().rev().find(|epoch| epoch.first_order_id <= order_id);
        begun_before.unwrap_or(self.oldest())
    }

    pub fn attempt_key(&self, order: &Order) -> AttemptKey {
        AttemptKey {
            accepted_in: self.of_acceptance(order.order_id).identity,
            order_id: order.order_id,
            generation: order.generation,
        }
    }

    /// The token of the claim with this fence; `None` if the claim's epoch is unknown, and before the first claim.
    pub fn token(&self, order_id: OrderId, fence: u64) -> Option<Token> {
        let number = fence >> FENCE_BITS;
        let epoch = self.0.iter().rev().find(|epoch| epoch.number == number)?;
        Some(epoch.secret.token(order_id, fence))
    }

    /// Reports whether this store issued the token for this order.
    pub fn gave(&self, order_id: OrderId, token: Token) -> bool {
        self.token(order_id, token.fence()) == Some(token)
    }

    /// The number just below the fences of the newest epoch. A new fence is above it and above the order's previous fence.
    pub fn fence_base(&self) -> u64 {
        self.newest().number << FENCE_BITS
    }
}

/// The number of a new epoch: the minutes since 2025, and at least one more than `newest`. It therefore also exceeds the number of
/// an epoch that this copy of the store has lost or never saw, so that fences keep rising.
pub(super) fn next_number(newest: i64, now: Timestamp) -> i64 {
    (newest + 1).max(now.micros() / 60_000_000 - NUMBERED_FROM_MINUTE)
}

/// The epoch of a new store.
#[cfg(test)]
pub fn first_epoch() -> Epoch {
    Epoch {
        number: 1,
        identity: EpochIdentity(0x1234),
        secret: TokenSecret::of([1; 16]),
        first_order_id: OrderId(1),
        after: FeedPosition(0),
        began_at: Timestamp::from_micros(0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn epoch(number: u64, first_order_id: i64, after: i64) -> Epoch {
        Epoch {
            number,
            identity: EpochIdentity(number * 100),
            secret: TokenSecret::of([u8::try_from(number).unwrap(); 16]),
            first_order_id: OrderId(first_order_id),
            after: FeedPosition(after),
            ..first_epoch()
        }
    }

    fn epochs() -> Epochs {
        Epochs::of(vec![
            epoch(1, 1, 0),
            epoch(4, 1_000_050, 100),
            epoch(6, 2_000_050, 100),
        ])
        .unwrap()
    }

    fn cursor(epoch: u64, position: i64) -> FeedCursor {
        FeedCursor {
            epoch: EpochIdentity(epoch),
            position: FeedPosition(position),
        }
    }

    #[test]
    fn a_position_belongs_to_the_last_epoch_begun_before_it() {
        for (position, epoch) in [(0, 100), (1, 100), (100, 100), (101, 600)] {
            let expected = cursor(epoch, position);
            assert_eq!(epochs().cursor(FeedPosition(position)), expected);
            assert!(epochs().contain(expected), "{expected:?}");
        }
    }

    #[test]
    fn a_cursor_past_the_end_of_its_epoch_is_lost() {
        for (lost, position) in [(100, 101), (400, 101), (200, 1)] {
            assert!(!epochs().contain(cursor(lost, position)));
        }
        let before = epochs().up_to(EpochIdentity(100)).unwrap();
        assert!(before.contain(cursor(100, 101)));
        assert!(epochs().up_to(EpochIdentity(7)).is_none());
    }

    #[test]
    fn a_token_belongs_to_the_epoch_of_its_fence() {
        let fence = (4 << FENCE_BITS) + 2;
        let token = epochs().token(OrderId(5), fence).unwrap();
        assert!(epochs().gave(OrderId(5), token));
        assert!(!epochs().gave(OrderId(6), token));
        let lost = TokenSecret::of([9; 16]).token(OrderId(5), fence);
        assert!(!epochs().gave(OrderId(5), lost));
        assert_eq!(epochs().token(OrderId(5), 2 << FENCE_BITS), None);
    }
}
