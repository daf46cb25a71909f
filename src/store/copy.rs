//! Moves everything a store holds into an empty PostgreSQL database: orders with their leases, the feed of events in its
//! order, idempotency keys, counters, whether the queue is paused, epochs, the numbers not to be given out again. Not the nodes:
//! none may be alive.
//!
//! Everything is written in one transaction, read back in it, and compared with the source (`copy/compare.rs`); only when
//! nothing differs is it committed. A copy that fails anywhere leaves the target empty. Both stores are read page by page,
//! so the memory needed does not grow with them.

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

/// What was found in the source. It is in the target when nothing differs, and otherwise not.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Copied {
    pub orders: u64,
    pub events: u64,
    pub keys: u64,
    pub differences: Differences,
}

/// How far a copy is.
#[derive(Clone, Copy, Debug)]
pub struct Progress {
    pub step: Step,
    pub done: u64,
    /// `None` where only the end tells.
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

/// Is told often, and must not take long.
pub type Watcher<'w> = &'w mut dyn FnMut(Progress);

/// Copies and compares. The source must not be in use; the schema of the target is brought up to date.
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
    // Orders keep their histories, which name the batches of their events.
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
    let paused = source.queue().await?.paused;
    // In the copy no orders wait for others of their user until a server is told that they do.
    let rule = source.start_rule().await?;
    let ordering_from = match rule.ordering {
        Ordering::None => rule.from,
        Ordering::User(_) => source.last_order_id().await?,
    };
    target.write_numbers(&counters, paused, ordering_from).await?;
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
        after = Some(last.place());
        take(page).await?;
    }
}
