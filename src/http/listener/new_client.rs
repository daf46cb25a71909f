//! Facts about a connection's client that the listener and the routes tell each other.

use std::net::SocketAddr;
use std::sync::Arc;

use super::watch::{KeyCheck, Watch};

/// Request extension: the other end of the connection, a proxy's where one is in front; `None` if the system cannot tell.
#[derive(Clone, Copy, Debug)]
pub struct ClientAddress(pub Option<SocketAddr>);

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
