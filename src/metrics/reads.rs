//! Labels of the reads that a standby may serve.

use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue};

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

impl ReadLabels {
    pub(super) fn all() -> impl Iterator<Item = ReadLabels> {
        let kinds = [ReadKind::list, ReadKind::feed].into_iter();
        kinds.flat_map(|kind| {
            [ReadServer::standby, ReadServer::primary].map(|server| ReadLabels { kind, server })
        })
    }
}
