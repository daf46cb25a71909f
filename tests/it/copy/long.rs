//! An order whose history exceeds one row of the copy.

use super::{contents, events, feed, possible};
use crate::support::{Harness, check};

from_every_store! {
    an_order_with_a_long_history_is_copied_completely,
}

async fn an_order_with_a_long_history_is_copied_completely(harness: Harness) {
    let id = harness.eventful_order().await;
    let open = harness.accept_one().await;
    harness.claim_only(open).await;
    let (before, read) = (contents(&harness).await, feed(&harness).await);
    check(harness.move_to_postgres().await, async |copy: &mut Harness| {
        assert_eq!(contents(copy).await, before);
        assert_eq!(events(&feed(copy).await), events(&read));
        // Its history continues in the copy.
        let version = copy.order(id).await.version;
        assert!(version > 64, "{version}");
        assert_eq!(copy.cancel(open).await.version, 3);
        assert_eq!(copy.prune_all().await, []);
        assert_eq!(copy.records().await, []);
    })
    .await;
}
