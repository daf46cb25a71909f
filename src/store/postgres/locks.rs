//! Names of the locks that all nodes share with whatever else uses the database: any numbers that nothing else takes. The lock of
//! migrations is in `schema`.

pub(super) const CLAIM_LOCK: i64 = 7_239_846_511_032_002;
pub(super) const FEED_LOCK: i64 = 7_239_846_511_032_003;
pub(super) const PRUNE_LOCK: i64 = 7_239_846_511_032_004;
pub(super) const EPOCH_LOCK: i64 = 7_239_846_511_032_005;
