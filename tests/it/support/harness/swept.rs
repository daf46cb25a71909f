//! A harness whose node sweeps to the end, however many leases ran out.

use orderly::store::GivenBack;

use super::{Harness, NODE_A, give_back_by};

impl Harness {
    /// Node A takes back all leases that ran out, as its sweep does.
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
