//! Opens the store of a server, with Redis around it where it is configured.

use std::sync::Arc;

use super::clock;
use crate::config::Config;
use crate::handout;
use crate::metrics::Metrics;
use crate::store::clock::system_clock;
use crate::store::open::{self, OpenError, OpenOptions};
use crate::store::{PeerNews, Store};

pub(super) async fn open(config: &Config, metrics: &Metrics) -> Result<Arc<dyn Store>, OpenError> {
    let peers = config.redis.as_ref().map(|_| Arc::new(PeerNews::default()));
    let options = OpenOptions {
        migrate: config.migrate,
        pending_max: config.pending_max,
        metrics: metrics.clone(),
        clock: system_clock(),
        ordering: Some(config.ordering),
        peers: peers.clone(),
    };
    let store = open::open(&config.database, options).await?;
    clock::compare(&*store, &config.database).await;
    Ok(match (&config.redis, peers) {
        (Some(server), Some(peers)) => handout::over(store, server, peers, config.ordering),
        _ => store,
    })
}
