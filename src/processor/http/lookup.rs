//! Resolves the service's host name with a limited number of concurrent lookups.

use std::net::ToSocketAddrs;
use std::sync::Arc;

use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use tokio::sync::Semaphore;

/// Maximum number of concurrent lookups. The system's lookup blocks a thread while a name server is silent, even after
/// its caller gave up. Connections are reused, so few lookups serve many attempts.
const LOOKUPS_MAX: usize = 8;

pub(super) struct Lookups(Arc<Semaphore>);

impl Lookups {
    pub(super) fn new() -> Lookups {
        Lookups(Arc::new(Semaphore::new(LOOKUPS_MAX)))
    }
}

impl Resolve for Lookups {
    fn resolve(&self, name: Name) -> Resolving {
        let lookups = self.0.clone();
        Box::pin(async move {
            let permit = lookups.acquire_owned().await?;
            let addresses = tokio::task::spawn_blocking(move || {
                // Held until the thread is free, not only until the attempt gives up.
                let _permit = permit;
                // The client inserts the port of the URL.
                (name.as_str(), 0).to_socket_addrs()
            });
            Ok(Box::new(addresses.await??) as Addrs)
        })
    }
}
