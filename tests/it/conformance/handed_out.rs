//! Only orders whose token was given to others than their node accept results from outside (issue 13, point 5).

use orderly::lease::{Outcome, ProcessorKind};
use orderly::order::{OnFailure, OrderId, Ordering};
use orderly::store::{ClaimRequest, ExternalHold};

use crate::support::Harness;
use crate::support::make::{LEASE, NODE_A, claim_by};

conformance! {
    only_claims_whose_token_left_the_node_are_handed_out,
    a_claim_by_turn_records_whether_it_hands_orders_out,
    an_order_handed_over_counts_as_handed_out,
}

async fn only_claims_whose_token_left_the_node_are_handed_out(harness: &mut Harness) {
    // Orders that start together, and one that starts again.
    let ids = harness.accept_some(3).await;
    for processor in ProcessorKind::ALL {
        let request = ClaimRequest {
            processor: Some(processor),
            ..claim_by(NODE_A, 3)
        };
        let leases = harness.store().claim(request).await.unwrap().leases;
        assert_eq!(leases.len(), 3);
        for id in &ids {
            let handed_out = matches!(
                processor,
                ProcessorKind::Http | ProcessorKind::Pull | ProcessorKind::OwnDelivering
            );
            assert_eq!(is_handed_out(harness, *id).await, handed_out, "{processor:?}");
        }
        for lease in leases {
            harness.settle(&lease, Outcome::Released).await;
        }
    }
}

async fn an_order_handed_over_counts_as_handed_out(harness: &mut Harness) {
    let id = harness.accept_one().await;
    let lease = harness.claim_only(id).await;
    assert!(!is_handed_out(harness, id).await);
    let hold = ExternalHold {
        lease: LEASE,
        run_max: 2 * LEASE,
    };
    harness.store().hold_external(lease.key(), hold).await.unwrap();
    assert!(is_handed_out(harness, id).await);
    harness.settle(&lease, Outcome::Released).await;
    harness.claim_only(id).await;
    assert!(
        !is_handed_out(harness, id).await,
        "the next claim is not handed out"
    );
}

async fn a_claim_by_turn_records_whether_it_hands_orders_out(harness: &mut Harness) {
    harness
        .reopen_with_ordering(Ordering::by_user(OnFailure::Skip))
        .await;
    let id = harness.accept_one().await;
    for (processor, handed_out) in [(ProcessorKind::Http, true), (ProcessorKind::Simulated, false)] {
        let request = ClaimRequest {
            processor: Some(processor),
            ..claim_by(NODE_A, 1)
        };
        let lease = harness.store().claim(request).await.unwrap().leases.remove(0);
        assert_eq!(is_handed_out(harness, id).await, handed_out, "{processor:?}");
        harness.settle(&lease, Outcome::Released).await;
    }
}

async fn is_handed_out(harness: &Harness, id: OrderId) -> bool {
    let latest = harness.store().claimed(id).await.unwrap();
    latest.expect("the order was accepted").handed_out
}
