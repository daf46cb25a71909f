//! The epochs of a store: stretches of its life, each beginning where its history may fork. That is where another server takes
//! over, and where a backup comes back (docs/decisions/0021-an-epoch-begins-where-history-may-fork.md). Beginning one is left to
//! the drivers.

use std::sync::Arc;

use crate::epoch::{AttemptKey, EpochIdentity, FENCE_BITS, Token, TokenSecret};
use crate::lease::{Lease, NodeId};
use crate::order::{Order, OrderId};
use crate::time::Timestamp;

/// Order ids that an epoch leaves out after a failover, times a random number of 1 to [`JUMPS_MAX`]: more than a standby may lack.
pub const FAILOVER_JUMP: i64 = 1_000_000;
/// The same after a restore: more than were given out since the backup.
pub const RESTORE_JUMP: i64 = 1_000_000_000;
/// Two epochs that begin at the same point, as after restoring one backup twice, rarely have the same ids.
pub const JUMPS_MAX: i64 = 100;
/// Highest number of an epoch: fences stay below 2^53, which every JSON reader keeps exactly.
pub const EPOCH_MAX: u64 = (1 << 26) - 1;
/// The first minute of 2025, as epochs are numbered, in minutes since 1970.
const NUMBERED_FROM_MINUTE: i64 = 28_928_160;
const _: () = assert!((EPOCH_MAX + 1) << FENCE_BITS <= 1 << 53);

/// A place in the one feed of all events; rises with the commits. 0 is before the first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FeedPosition(pub i64);

/// A place in the feed of a certain store, and of a certain life of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FeedCursor {
    /// The epoch in which the place was given out.
    pub epoch: EpochIdentity,
    pub position: FeedPosition,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Epoch {
    /// Rises from 1, with gaps.
    pub number: u64,
    pub identity: EpochIdentity,
    pub secret: TokenSecret,
    /// Orders with this id and later ones were accepted in this epoch.
    pub first_order_id: OrderId,
    /// The last place in the feed when the epoch began.
    pub after: FeedPosition,
    pub began_at: Timestamp,
}

/// An epoch that just began.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Begun {
    pub number: u64,
    /// The id of the epoch's first order, if no other epoch begins before it.
    pub first_order_id: OrderId,
    /// The last place in the feed of the epochs before.
    pub after: FeedPosition,
    /// The time of the last event in the feed; `None` where there is none.
    pub stored_until: Option<Timestamp>,
}

impl Begun {
    /// The time of the last event, in RFC 3339.
    pub fn stored_until_text(&self) -> Option<String> {
        let instant = jiff::Timestamp::from_microsecond(self.stored_until?.micros());
        instant.ok().map(|instant| format!("{instant:.6}"))
    }
}

/// All epochs of a store up to a certain one, by rising number; never none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Epochs(Arc<[Epoch]>);

impl Epochs {
    /// `None` without any.
    pub fn of(mut epochs: Vec<Epoch>) -> Option<Epochs> {
        epochs.sort_by_key(|epoch| epoch.number);
        (!epochs.is_empty()).then(|| Epochs(epochs.into()))
    }

    pub fn all(&self) -> &[Epoch] {
        &self.0
    }

    pub fn newest(&self) -> &Epoch {
        self.0.last().expect("a store has an epoch from its beginning")
    }

    fn oldest(&self) -> &Epoch {
        self.0.first().expect("a store has an epoch from its beginning")
    }

    /// The epochs as they were when `newest` was the newest; `None` when it is not among them.
    pub fn up_to(&self, newest: EpochIdentity) -> Option<Epochs> {
        let place = self.0.iter().position(|epoch| epoch.identity == newest)?;
        Some(if place + 1 == self.0.len() {
            self.clone()
        } else {
            Epochs(self.0[..=place].into())
        })
    }

    /// A place in the feed with the epoch that it belongs to.
    pub fn cursor(&self, position: FeedPosition) -> FeedCursor {
        let began_before = self.0.iter().rev().find(|epoch| epoch.after < position);
        FeedCursor {
            epoch: began_before.unwrap_or(self.oldest()).identity,
            position,
        }
    }

    /// Reports whether the place was in the feed before the epoch after its own began: later places of that epoch are lost, and
    /// another event may have them.
    pub fn contain(&self, cursor: FeedCursor) -> bool {
        let Some(place) = self.0.iter().position(|epoch| epoch.identity == cursor.epoch) else {
            return false;
        };
        self.0
            .get(place + 1)
            .is_none_or(|next| cursor.position <= next.after)
    }

    /// The lease that a claim just gave, in the newest epoch.
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

    /// The token of the claim with this fence; `None` when the claim's epoch is unknown, and before the first claim.
    pub fn token(&self, order_id: OrderId, fence: u64) -> Option<Token> {
        let number = fence >> FENCE_BITS;
        let epoch = self.0.iter().rev().find(|epoch| epoch.number == number)?;
        Some(epoch.secret.token(order_id, fence))
    }

    /// Reports whether the token is one of this store for this order.
    pub fn gave(&self, order_id: OrderId, token: Token) -> bool {
        self.token(order_id, token.fence()) == Some(token)
    }

    /// The lowest fence of the newest epoch, less one: a claim's fence is above it and above the order's last.
    pub fn fence_floor(&self) -> u64 {
        self.newest().number << FENCE_BITS
    }
}

/// The number of an epoch that begins: the minutes since 2025, and above its predecessor's. So it is above that of an epoch which
/// this copy of the store has lost, or never saw, and the fences of an order rise over that one too.
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
    fn a_place_belongs_to_the_epoch_that_had_begun() {
        for (position, epoch) in [(0, 100), (1, 100), (100, 100), (101, 600)] {
            let expected = cursor(epoch, position);
            assert_eq!(epochs().cursor(FeedPosition(position)), expected);
            assert!(epochs().contain(expected), "{expected:?}");
        }
    }

    #[test]
    fn a_place_behind_the_end_of_its_epoch_is_lost() {
        for (lost, position) in [(100, 101), (400, 101), (200, 1)] {
            assert!(!epochs().contain(cursor(lost, position)));
        }
        let before = epochs().up_to(EpochIdentity(100)).unwrap();
        assert!(before.contain(cursor(100, 101)));
        assert!(epochs().up_to(EpochIdentity(7)).is_none());
    }

    #[test]
    fn a_token_is_of_the_epoch_of_its_fence() {
        let fence = (4 << FENCE_BITS) + 2;
        let token = epochs().token(OrderId(5), fence).unwrap();
        assert!(epochs().gave(OrderId(5), token));
        assert!(!epochs().gave(OrderId(6), token));
        let lost = TokenSecret::of([9; 16]).token(OrderId(5), fence);
        assert!(!epochs().gave(OrderId(5), lost));
        assert_eq!(epochs().token(OrderId(5), 2 << FENCE_BITS), None);
    }
}
