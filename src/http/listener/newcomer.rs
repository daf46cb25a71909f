//! The routes' way to tell a connection's listener which client is at the other end.

use std::sync::Arc;

use super::watch::{Standing, Watch};

/// Among the extensions of a request until its connection's standing is known.
#[derive(Clone)]
pub struct Newcomer(pub(super) Arc<Watch>);

impl Newcomer {
    /// Showed the key: never gives way.
    pub fn showed_the_key(&self) {
        self.0.stands(Standing::Keyed);
    }

    /// No key is asked for, so all are strangers.
    pub fn needs_no_key(&self) {
        self.0.stands(Standing::NoKeyAsked);
    }
}
