//! Complete sweeps of expired leases.

use orderly::store::GivenBack;

use super::{Harness, NODE_A, give_back_by};

impl Harness {
    /// Lets node A take back all expired leases.
    pub async fn sweep(&self) -> GivenBack {
        let mut swept = GivenBack::default();
        let mut request = give_back_by(NODE_A);
        loop {
            let given_back = self.store.give_back_expired(request).await.unwrap();
            swept.pending += given_back.pending;
            swept.poisoned += given_back.poisoned;
            swept.refused.extend(given_back.refused);
            request.after = given_back.next;
            if request.after.is_none() {
                return swept;
            }
        }
    }
}
