//! Finds the addresses of the service's name, a few lookups at a time.

use std::net::ToSocketAddrs;
use std::sync::Arc;

use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use tokio::sync::Semaphore;

/// The system's lookup takes a thread, and keeps it for as long as a name server is silent, also when nobody waits for it
/// any more. Connections are kept and used again, so few lookups serve many attempts.
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
            let turn = lookups.acquire_owned().await?;
            let addresses = tokio::task::spawn_blocking(move || {
                // Until the thread is free again, not only until the attempt gives up.
                let _turn = turn;
                // The port of the URL is put in by the client.
                (name.as_str(), 0).to_socket_addrs()
            });
            Ok(Box::new(addresses.await??) as Addrs)
        })
    }
}
