//! Compares a store with its copy: orders with their events and leases, keys, the order of the feed, counters and epochs. Positions
//! in the feed may differ if the order of the events is the same.

use super::pages::{Paged, RecordCursor};
use super::{Copied, Progress, Step, Watcher};
use crate::event::Event;
use crate::order::OrderId;
use crate::store::snapshot::{EventRecord, KeyRecord, OrderRecord};
use crate::store::{Epoch, Epochs, FeedPosition, Snapshot, StoreError};

/// Differences described individually; beyond that they are only counted. A bad copy has either few differences or the same one
/// many times.
pub const DIFFERENCES_SHOWN_MAX: usize = 100;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Differences {
    /// The first [`DIFFERENCES_SHOWN_MAX`].
    pub shown: Vec<String>,
    pub total: u64,
}

impl Differences {
    pub fn is_empty(&self) -> bool {
        self.total == 0
    }

    fn add(&mut self, difference: String) {
        self.total += 1;
        if self.shown.len() < DIFFERENCES_SHOWN_MAX {
            self.shown.push(difference);
        }
    }
}

/// Compares everything. `copied` has the totals for the progress.
pub(super) async fn compare(
    source: &mut dyn Snapshot,
    copy: &mut dyn Snapshot,
    copied: &Copied,
    watcher: Watcher<'_>,
) -> Result<Differences, StoreError> {
    let mut comparison = Comparison {
        source,
        copy,
        differences: Differences::default(),
        watcher,
    };
    comparison.compare_numbers().await?;
    comparison
        .compare_records::<OrderRecord>(Progress::begun(Step::CompareOrders, Some(copied.orders)))
        .await?;
    comparison
        .compare_feeds(Progress::begun(Step::CompareEvents, Some(copied.events)))
        .await?;
    comparison
        .compare_records::<KeyRecord>(Progress::begun(Step::CompareKeys, Some(copied.keys)))
        .await?;
    Ok(comparison.differences)
}

struct Comparison<'c> {
    source: &'c mut dyn Snapshot,
    copy: &'c mut dyn Snapshot,
    differences: Differences,
    watcher: Watcher<'c>,
}

impl Comparison<'_> {
    async fn compare_numbers(&mut self) -> Result<(), StoreError> {
        if self.source.counters().await? != self.copy.counters().await? {
            self.differences.add("the counters differ".to_owned());
        }
        if self.source.queue().await?.pause != self.copy.queue().await?.pause {
            self.differences
                .add("one queue is paused, the other is not".to_owned());
        }
        let source = self.source.feed().await?.bounds.epochs;
        let copy = self.copy.feed().await?.bounds.epochs;
        // The copy has one more epoch of its own, and other positions.
        let any_position = FeedPosition(0);
        let comparable = |epochs: &Epochs| -> Vec<Epoch> {
            let epochs = epochs.all().iter().take(source.all().len());
            epochs
                .map(|epoch| Epoch {
                    after: any_position,
                    ..epoch.clone()
                })
                .collect()
        };
        if comparable(&source) != comparable(&copy) {
            self.differences.add("the epochs differ".to_owned());
        }
        Ok(())
    }

    /// Compares each record with the record of the other store that has the same sort key.
    async fn compare_records<R: Compared>(&mut self, mut progress: Progress) -> Result<(), StoreError> {
        let mut source = RecordCursor::<R>::begin(&mut *self.source).await?;
        let mut copy = RecordCursor::<R>::begin(&mut *self.copy).await?;
        loop {
            let heads = [source.head(), copy.head()];
            let Some(sort_key) = heads.into_iter().flatten().map(R::sort_key).min() else {
                return Ok(());
            };
            match (source.take_if(&sort_key).await?, copy.take_if(&sort_key).await?) {
                (Some(original), Some(copied)) => {
                    for part in original.differing_parts(&copied) {
                        self.differences
                            .add(format!("{}: {part} differs", original.name()));
                    }
                }
                (Some(original), None) => self.differences.add(format!("{} is missing", original.name())),
                (None, Some(copied)) => self
                    .differences
                    .add(format!("{} is not in the source", copied.name())),
                (None, None) => unreachable!("one of the heads has this sort key"),
            }
            progress.done += 1;
            (self.watcher)(progress);
        }
    }

    /// Compares the order of the events. Stops at the first difference: the events themselves were compared with their orders, so
    /// further differences would add nothing.
    async fn compare_feeds(&mut self, mut progress: Progress) -> Result<(), StoreError> {
        let mut source = RecordCursor::<EventRecord>::begin(&mut *self.source).await?;
        let mut copy = RecordCursor::<EventRecord>::begin(&mut *self.copy).await?;
        loop {
            let (original, copied) = (source.take().await?, copy.take().await?);
            let event = original.map(|record| record.event);
            if event != copied.map(|record| record.event) {
                let found = event.as_ref().map_or("its end".to_owned(), |event: &Event| {
                    format!("version {} of order {}", event.version, event.order_id)
                });
                self.differences.add(format!("the feed differs from {found} on"));
                return Ok(());
            }
            if event.is_none() {
                return Ok(());
            }
            progress.done += 1;
            (self.watcher)(progress);
        }
    }
}

trait Compared: Paged {
    /// The record's name in messages.
    fn name(&self) -> String;

    /// Names of the parts that differ.
    fn differing_parts(&self, other: &Self) -> Vec<&'static str>;
}

impl Compared for OrderRecord {
    fn name(&self) -> String {
        format!("order {}", self.order.order_id)
    }

    fn differing_parts(&self, other: &OrderRecord) -> Vec<&'static str> {
        let events = |record: &OrderRecord| -> Vec<Event> {
            let events = record.events.iter();
            events.map(|stored| stored.event.clone()).collect()
        };
        let passed_over = |record: &OrderRecord| -> Vec<(u32, Vec<OrderId>)> {
            let events = record.events.iter();
            let starts = events.filter(|stored| !stored.passed_over.is_empty());
            starts
                .map(|stored| (stored.event.version, stored.passed_over.clone()))
                .collect()
        };
        unequal(&[
            ("its request", self.order.request == other.order.request),
            ("its state", self.order == other.order),
            ("its lease", self.lease == other.lease),
            ("its line", self.set_aside == other.set_aside),
            ("its fence", self.fence == other.fence),
            ("its node", self.node == other.node),
            ("whether it was handed out", self.handed_out == other.handed_out),
            ("its number of crashes", self.crashes == other.crashes),
            ("its history", events(self) == events(other)),
            (
                "the orders it passed over",
                passed_over(self) == passed_over(other),
            ),
        ])
    }
}

impl Compared for KeyRecord {
    fn name(&self) -> String {
        format!("idempotency key {:?} of {:?}", self.key, self.scope)
    }

    fn differing_parts(&self, other: &KeyRecord) -> Vec<&'static str> {
        unequal(&[("its content", self == other)])
    }
}

fn unequal(parts: &[(&'static str, bool)]) -> Vec<&'static str> {
    let unequal = parts.iter().filter(|(_, is_equal)| !is_equal);
    unequal.map(|(part, _)| *part).collect()
}
