//! Records of a snapshot one after another, read a page at a time.

use crate::order::OrderId;
use crate::store::snapshot::{EventRecord, KeyName, KeyRecord, OrderRecord};
use crate::store::{FEED_EVENTS_MAX, Snapshot, StoreError};

/// Orders held in memory at once, with their events.
const PAGE_ORDERS: usize = 500;
const PAGE_EVENTS: usize = FEED_EVENTS_MAX;
const PAGE_KEYS: usize = 500;

/// What a snapshot shows by pages.
pub(super) trait Paged: Sized {
    /// Rises from record to record.
    type Place: Ord + Clone;

    /// The next records behind the place; empty at the end.
    async fn page(snapshot: &mut dyn Snapshot, after: Option<Self::Place>) -> Result<Vec<Self>, StoreError>;

    fn place(&self) -> Self::Place;
}

impl Paged for OrderRecord {
    type Place = OrderId;

    async fn page(
        snapshot: &mut dyn Snapshot,
        after: Option<OrderId>,
    ) -> Result<Vec<OrderRecord>, StoreError> {
        snapshot.orders_after(after, PAGE_ORDERS).await
    }

    fn place(&self) -> OrderId {
        self.order.order_id
    }
}

impl Paged for EventRecord {
    type Place = i64;

    async fn page(snapshot: &mut dyn Snapshot, after: Option<i64>) -> Result<Vec<EventRecord>, StoreError> {
        snapshot.events_after(after, PAGE_EVENTS).await
    }

    fn place(&self) -> i64 {
        self.position
    }
}

/// By their bytes: every store sorts them so, whatever the language of its database.
impl Paged for KeyRecord {
    type Place = KeyName;

    async fn page(snapshot: &mut dyn Snapshot, after: Option<KeyName>) -> Result<Vec<KeyRecord>, StoreError> {
        snapshot.keys_after(after, PAGE_KEYS).await
    }

    fn place(&self) -> KeyName {
        (self.scope.clone(), self.key.clone())
    }
}

/// A way through all records of a kind.
pub(super) struct Walk<'s, R: Paged> {
    snapshot: &'s mut dyn Snapshot,
    /// The record the walk has come to; `None` at the end.
    head: Option<R>,
    page: std::vec::IntoIter<R>,
    page_end: Option<R::Place>,
}

impl<'s, R: Paged> Walk<'s, R> {
    pub async fn begin(snapshot: &'s mut dyn Snapshot) -> Result<Walk<'s, R>, StoreError> {
        let mut walk = Walk {
            snapshot,
            head: None,
            page: Vec::new().into_iter(),
            page_end: None,
        };
        walk.head = walk.read().await?;
        Ok(walk)
    }

    pub fn head(&self) -> Option<&R> {
        self.head.as_ref()
    }

    /// The head, and goes on to the next.
    pub async fn take(&mut self) -> Result<Option<R>, StoreError> {
        let next = match self.head {
            Some(_) => self.read().await?,
            None => None,
        };
        Ok(std::mem::replace(&mut self.head, next))
    }

    /// The same when the head is at this place, otherwise nothing.
    pub async fn take_at(&mut self, place: &R::Place) -> Result<Option<R>, StoreError> {
        match &self.head {
            Some(head) if head.place() == *place => self.take().await,
            Some(_) | None => Ok(None),
        }
    }

    async fn read(&mut self) -> Result<Option<R>, StoreError> {
        if let Some(record) = self.page.next() {
            return Ok(Some(record));
        }
        let page = R::page(self.snapshot, self.page_end.take()).await?;
        self.page_end = page.last().map(R::place);
        self.page = page.into_iter();
        Ok(self.page.next())
    }
}
