//! The reads that a standby may serve, by the server that answered.

use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelValue)]
#[expect(non_camel_case_types, reason = "the names are the label values")]
pub enum ReadKind {
    /// A page of a list of orders.
    list,
    /// A page of the feed.
    feed,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelValue)]
#[expect(non_camel_case_types, reason = "the names are the label values")]
pub enum ReadServer {
    /// The one of `DATABASE_READ_URL`.
    standby,
    primary,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ReadLabels {
    pub kind: ReadKind,
    pub server: ReadServer,
}

/// Cheap to clone.
#[derive(Clone, Default)]
pub struct Reads {
    pub(super) family: Family<ReadLabels, Counter>,
}

impl Reads {
    /// Counts one.
    pub fn served(&self, kind: ReadKind, server: ReadServer) {
        self.family.get_or_create(&ReadLabels { kind, server }).inc();
    }

    pub(super) fn begin_at_zero(&self) {
        for kind in [ReadKind::list, ReadKind::feed] {
            for server in [ReadServer::standby, ReadServer::primary] {
                drop(self.family.get_or_create(&ReadLabels { kind, server }));
            }
        }
    }
}
