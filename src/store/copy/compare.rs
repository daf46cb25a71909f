//! Finds what a store and its copy do not have in common: every order with its events and its lease, every key, the order
//! of the feed, the numbers. Places in the feed may differ, as long as they rise alike.

use super::pages::{Paged, Walk};
use super::{Copied, Progress, Step, Watcher};
use crate::event::Event;
use crate::order::OrderId;
use crate::store::snapshot::{EventRecord, KeyRecord, OrderRecord};
use crate::store::{Epoch, Epochs, FeedPosition, Snapshot, StoreError};

/// Differences described one by one; the rest is only counted. A bad copy has either few or the same one often.
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

/// How much there is to compare, `copied` tells the watcher.
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
        if self.source.queue().await?.paused != self.copy.queue().await?.paused {
            self.differences
                .add("one queue is paused, the other is not".to_owned());
        }
        let source = self.source.feed().await?.bounds.epochs;
        let copy = self.copy.feed().await?.bounds.epochs;
        // The copy has one of its own behind them, and other places in the feed.
        let here = FeedPosition(0);
        let all = |epochs: &Epochs| -> Vec<Epoch> {
            let epochs = epochs.all().iter().take(source.all().len());
            epochs
                .map(|epoch| Epoch {
                    after: here,
                    ..epoch.clone()
                })
                .collect()
        };
        if all(&source) != all(&copy) {
            self.differences.add("the epochs differ".to_owned());
        }
        Ok(())
    }

    /// Each record beside the other store's of the same place.
    async fn compare_records<R: Compared>(&mut self, mut progress: Progress) -> Result<(), StoreError> {
        let mut source = Walk::<R>::begin(&mut *self.source).await?;
        let mut copy = Walk::<R>::begin(&mut *self.copy).await?;
        loop {
            let heads = [source.head(), copy.head()];
            let Some(place) = heads.into_iter().flatten().map(R::place).min() else {
                return Ok(());
            };
            match (source.take_at(&place).await?, copy.take_at(&place).await?) {
                (Some(original), Some(copied)) => {
                    for part in original.parts_unlike(&copied) {
                        self.differences
                            .add(format!("{}: {part} differs", original.name()));
                    }
                }
                (Some(original), None) => self.differences.add(format!("{} is missing", original.name())),
                (None, Some(copied)) => self
                    .differences
                    .add(format!("{} is not in the source", copied.name())),
                (None, None) => unreachable!("the place is that of one of them"),
            }
            progress.done += 1;
            (self.watcher)(progress);
        }
    }

    /// What the events say was compared with their orders, so from the first one that is another on nothing is to be
    /// learnt.
    async fn compare_feeds(&mut self, mut progress: Progress) -> Result<(), StoreError> {
        let mut source = Walk::<EventRecord>::begin(&mut *self.source).await?;
        let mut copy = Walk::<EventRecord>::begin(&mut *self.copy).await?;
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
    /// For people.
    fn name(&self) -> String;

    /// What the two do not have in common.
    fn parts_unlike(&self, other: &Self) -> Vec<&'static str>;
}

impl Compared for OrderRecord {
    fn name(&self) -> String {
        format!("order {}", self.order.order_id)
    }

    fn parts_unlike(&self, other: &OrderRecord) -> Vec<&'static str> {
        let events = |record: &OrderRecord| -> Vec<Event> {
            let events = record.events.iter();
            events.map(|stored| stored.event.clone()).collect()
        };
        let passed_over = |record: &OrderRecord| -> Vec<(u32, Vec<OrderId>)> {
            let events = record.events.iter();
            let passing = events.filter(|stored| !stored.passed_over.is_empty());
            passing
                .map(|stored| (stored.event.version, stored.passed_over.clone()))
                .collect()
        };
        unlike(&[
            ("what was ordered", self.order.request == other.order.request),
            ("its state", self.order == other.order),
            ("its lease", self.lease == other.lease),
            ("its fence", self.fence == other.fence),
            ("its node", self.node == other.node),
            ("whether it was handed out", self.handed_out == other.handed_out),
            ("its number of crashes", self.crashes == other.crashes),
            ("its history", events(self) == events(other)),
            ("what it passed over", passed_over(self) == passed_over(other)),
        ])
    }
}

impl Compared for KeyRecord {
    fn name(&self) -> String {
        format!("idempotency key {:?} of {:?}", self.key, self.scope)
    }

    fn parts_unlike(&self, other: &KeyRecord) -> Vec<&'static str> {
        unlike(&[("what it stands for", self == other)])
    }
}

fn unlike(parts: &[(&'static str, bool)]) -> Vec<&'static str> {
    let unlike = parts.iter().filter(|(_, alike)| !alike);
    unlike.map(|(part, _)| *part).collect()
}
