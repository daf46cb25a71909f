//! Copies a store into an empty PostgreSQL database: orders with their leases, the feed, idempotency keys, counters, the paused
//! flag, epochs, and the numbers that must not be given out again. Nodes are not copied; none may be alive.
//!
//! One transaction writes everything, reads it back and compares it with the source (`copy/compare.rs`). It commits only if
//! nothing differs, so a failed copy leaves the target empty. Both stores are read page by page, so memory use does not grow
//! with them.

use super::open::open_offline;
use super::postgres::Import;
use super::snapshot::{EventRecord, KeyRecord, OrderRecord};
use super::{Snapshot, StoreError};
use crate::config::{Database, PostgresDatabase};
use crate::order::Ordering;

mod compare;
mod pages;
#[cfg(test)]
mod tests;

pub use super::error::CopyError;
pub use compare::{DIFFERENCES_SHOWN_MAX, Differences};

use pages::Paged;

/// The numbers of records in the source, and the differences of the copy. The copy is committed only if there are none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Copied {
    pub orders: u64,
    pub events: u64,
    pub keys: u64,
    pub differences: Differences,
}

/// Progress of a copy.
#[derive(Clone, Copy, Debug)]
pub struct Progress {
    pub step: Step,
    pub done: u64,
    /// Number of records of this step; `None` if it is not known in advance.
    pub total: Option<u64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    CopyEvents,
    CopyOrders,
    CopyKeys,
    CompareOrders,
    CompareEvents,
    CompareKeys,
}

impl Progress {
    fn begun(step: Step, total: Option<u64>) -> Progress {
        Progress { step, done: 0, total }
    }
}

/// A callback for progress. It is called for each page or record and must return quickly.
pub type Watcher<'w> = &'w mut dyn FnMut(Progress);

/// Copies and compares. The source must not be in use. Migrates the target's schema.
///
/// # Errors
/// [`CopyError::Open`] if a store does not open, [`CopyError::NotEmpty`] if the target holds orders, and failures of either store.
/// A copy that differs is no error: see [`Copied::differences`].
pub async fn copy(from: &Database, to: &PostgresDatabase, watcher: Watcher<'_>) -> Result<Copied, CopyError> {
    let mut source = open_offline(from).await?;
    let mut target = Import::begin(to).await?;
    let mut copied = write(&mut *source, &mut target, watcher).await?;
    copied.differences = compare::compare(&mut *source, target.written(), &copied, watcher).await?;
    if copied.differences.is_empty() {
        target.commit(source.last_order_id().await?).await?;
    }
    Ok(copied)
}

async fn write(
    source: &mut dyn Snapshot,
    target: &mut Import,
    watcher: Watcher<'_>,
) -> Result<Copied, StoreError> {
    let counters = source.counters().await?;
    let mut events = Progress::begun(Step::CopyEvents, None);
    each_page(source, async |page: Vec<EventRecord>| {
        target.write_events(&page).await?;
        events.done += page.len() as u64;
        watcher(events);
        Ok(())
    })
    .await?;
    // Orders come after events, because an order's history names the batches of its events.
    let mut orders = Progress::begun(Step::CopyOrders, Some(counters.total()));
    each_page(source, async |page: Vec<OrderRecord>| {
        target.write_orders(&page).await?;
        orders.done += page.len() as u64;
        watcher(orders);
        Ok(())
    })
    .await?;
    let mut keys = Progress::begun(Step::CopyKeys, None);
    each_page(source, async |page: Vec<KeyRecord>| {
        target.write_keys(&page).await?;
        keys.done += page.len() as u64;
        watcher(keys);
        Ok(())
    })
    .await?;
    let epochs = source.feed().await?.bounds.epochs;
    target
        .write_epochs(&epochs, source.last_order_id().await?)
        .await?;
    let pause = source.queue().await?.pause;
    // The copy has no turns until a server with `ORDERLY_ORDERING=user` opens it.
    let rule = source.start_rule().await?;
    let ordering_from = match rule.ordering {
        Ordering::None => rule.from,
        Ordering::User { .. } => source.last_order_id().await?,
    };
    target
        .write_numbers(&counters, pause.as_ref(), ordering_from)
        .await?;
    Ok(Copied {
        orders: orders.done,
        events: events.done,
        keys: keys.done,
        differences: Differences::default(),
    })
}

async fn each_page<R: Paged>(
    source: &mut dyn Snapshot,
    mut take: impl AsyncFnMut(Vec<R>) -> Result<(), StoreError>,
) -> Result<(), StoreError> {
    let mut after = None;
    loop {
        let page = R::page(source, after).await?;
        let Some(last) = page.last() else {
            return Ok(());
        };
        after = Some(last.sort_key());
        take(page).await?;
    }
}
