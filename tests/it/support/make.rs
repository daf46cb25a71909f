//! Builders for valid, minimal arguments of store calls.

use std::time::Duration;

use orderly::epoch::FENCE_BITS;
use orderly::lease::{LeaseKey, NodeId, Outcome};
use orderly::money::Money;
use orderly::order::{Items, NewOrder, Reference, UserId};
use orderly::store::{Breaker, ClaimRequest, GiveBack, Heartbeat, IdempotencyKey, NodeReport};

pub const NODE_A: NodeId = NodeId(0xA);
pub const NODE_B: NodeId = NodeId(0xB);

pub const LEASE: Duration = Duration::from_secs(30);
pub const SHORTER_THAN_A_LEASE: Duration = Duration::from_secs(29);
pub const LONGER_THAN_A_LEASE: Duration = Duration::from_secs(31);
pub const CRASHES_MAX: u32 = 5;
/// The fence of an order's first claim in a new store. Each claim adds one.
pub const FIRST_FENCE: u64 = (1 << FENCE_BITS) + 1;

pub fn new_order() -> NewOrder {
    NewOrder {
        user_id: UserId::Number(104),
        items: Items::of_ids(&[101, 102, 103]).expect("three ids in range"),
        total_amount: Money::parse("250.75", 2).expect("an amount"),
        currency: None,
        reference: None,
        metadata: None,
        start_after: None,
        deadline: None,
        hold: None,
    }
}

pub fn order_of(user_id: i64) -> NewOrder {
    NewOrder {
        user_id: UserId::Number(user_id),
        ..new_order()
    }
}

pub fn order_with_reference(reference: &str) -> NewOrder {
    NewOrder {
        reference: Some(Reference::parse(reference).expect("a valid reference")),
        ..new_order()
    }
}

/// The same `body` means the same request.
pub fn key(name: &str, body: u8) -> IdempotencyKey {
    IdempotencyKey {
        scope: "orders".to_owned(),
        key: name.to_owned(),
        fingerprint: [body; 32],
    }
}

pub fn claim_by(node: NodeId, orders_max: usize) -> ClaimRequest {
    ClaimRequest {
        node,
        orders_max,
        lease: LEASE,
        suspect: true,
        processor: None,
    }
}

pub fn heartbeat(node: NodeId, leases: &[LeaseKey]) -> Heartbeat {
    Heartbeat {
        node,
        slots: 10,
        busy: u32::try_from(leases.len()).expect("tests hold few leases"),
        leases: leases.to_vec(),
        lease: LEASE,
        breaker: Breaker::Closed,
        processor: None,
        report: NodeReport::default(),
    }
}

pub fn give_back_by(node: NodeId) -> GiveBack {
    GiveBack {
        node,
        crashes_max: CRASHES_MAX,
        after: None,
    }
}

pub fn retry_after(seconds: u64) -> Outcome {
    Outcome::Retry {
        after: Duration::from_secs(seconds),
        error: "the warehouse did not answer".to_owned(),
    }
}

pub fn failed() -> Outcome {
    Outcome::Failed {
        error: "the card was declined".to_owned(),
    }
}
