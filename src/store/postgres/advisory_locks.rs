//! Keys of the advisory locks that all nodes share. They are arbitrary numbers that nothing else in the database
//! should use. `schema` has the key of the migration lock.

pub(super) const CLAIM_LOCK: i64 = 7_239_846_511_032_002;
pub(super) const FEED_LOCK: i64 = 7_239_846_511_032_003;
pub(super) const PRUNE_LOCK: i64 = 7_239_846_511_032_004;
pub(super) const EPOCH_LOCK: i64 = 7_239_846_511_032_005;
