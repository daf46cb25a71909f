//! Lets the routes tell a connection's listener whether its client sent the key.

use std::sync::Arc;

use super::watch::{KeyCheck, Watch};

/// Request extension, present until the key check of the connection is decided.
#[derive(Clone)]
pub struct NewClient(pub(super) Arc<Watch>);

impl NewClient {
    /// Records that the client sent the key: its connection is never evicted.
    pub fn showed_the_key(&self) {
        self.0.set_key_check(KeyCheck::Passed);
    }

    /// Records that the server requires no key: the connection stays unverified.
    pub fn needs_no_key(&self) {
        self.0.set_key_check(KeyCheck::NotRequired);
    }
}
