//! A cursor over the records of a snapshot, which reads one page at a time.

use crate::order::OrderId;
use crate::store::snapshot::{EventRecord, KeyName, KeyRecord, OrderRecord};
use crate::store::{FEED_EVENTS_MAX, Snapshot, StoreError};

/// Records per page. Orders are held in memory with their events.
const PAGE_ORDERS: usize = 500;
const PAGE_EVENTS: usize = FEED_EVENTS_MAX;
const PAGE_KEYS: usize = 500;

/// A kind of record that a snapshot returns in pages.
pub(super) trait Paged: Sized {
    /// Rises from record to record.
    type SortKey: Ord + Clone;

    /// The next records after the sort key; none at the end.
    async fn page(snapshot: &mut dyn Snapshot, after: Option<Self::SortKey>)
    -> Result<Vec<Self>, StoreError>;

    fn sort_key(&self) -> Self::SortKey;
}

impl Paged for OrderRecord {
    type SortKey = OrderId;

    async fn page(
        snapshot: &mut dyn Snapshot,
        after: Option<OrderId>,
    ) -> Result<Vec<OrderRecord>, StoreError> {
        snapshot.orders_after(after, PAGE_ORDERS).await
    }

    fn sort_key(&self) -> OrderId {
        self.order.order_id
    }
}

impl Paged for EventRecord {
    type SortKey = i64;

    async fn page(snapshot: &mut dyn Snapshot, after: Option<i64>) -> Result<Vec<EventRecord>, StoreError> {
        snapshot.events_after(after, PAGE_EVENTS).await
    }

    fn sort_key(&self) -> i64 {
        self.position
    }
}

/// Keys sort by their bytes in every store, independent of the database's collation.
impl Paged for KeyRecord {
    type SortKey = KeyName;

    async fn page(snapshot: &mut dyn Snapshot, after: Option<KeyName>) -> Result<Vec<KeyRecord>, StoreError> {
        snapshot.keys_after(after, PAGE_KEYS).await
    }

    fn sort_key(&self) -> KeyName {
        (self.scope.clone(), self.key.clone())
    }
}

/// A cursor over all records of a kind.
pub(super) struct RecordCursor<'s, R: Paged> {
    snapshot: &'s mut dyn Snapshot,
    /// The next record; `None` at the end.
    head: Option<R>,
    page: std::vec::IntoIter<R>,
    page_end: Option<R::SortKey>,
}

impl<'s, R: Paged> RecordCursor<'s, R> {
    pub async fn begin(snapshot: &'s mut dyn Snapshot) -> Result<RecordCursor<'s, R>, StoreError> {
        let mut cursor = RecordCursor {
            snapshot,
            head: None,
            page: Vec::new().into_iter(),
            page_end: None,
        };
        cursor.head = cursor.read().await?;
        Ok(cursor)
    }

    pub fn head(&self) -> Option<&R> {
        self.head.as_ref()
    }

    /// Returns the head and advances to the next record.
    pub async fn take(&mut self) -> Result<Option<R>, StoreError> {
        let next = match self.head {
            Some(_) => self.read().await?,
            None => None,
        };
        Ok(std::mem::replace(&mut self.head, next))
    }

    /// Takes the head if it has this sort key.
    pub async fn take_if(&mut self, sort_key: &R::SortKey) -> Result<Option<R>, StoreError> {
        match &self.head {
            Some(head) if head.sort_key() == *sort_key => self.take().await,
            Some(_) | None => Ok(None),
        }
    }

    async fn read(&mut self) -> Result<Option<R>, StoreError> {
        if let Some(record) = self.page.next() {
            return Ok(Some(record));
        }
        let page = R::page(self.snapshot, self.page_end.take()).await?;
        self.page_end = page.last().map(R::sort_key);
        self.page = page.into_iter();
        Ok(self.page.next())
    }
}
