//! Orders and the rules their fields obey. The JSON around them is left to `http/wire.rs`, legal transitions to
//! `event.rs`, storing to `store.rs`.

use std::fmt;

use crate::money::Money;
use crate::portable_json::JsonText;
use crate::time::Timestamp;

/// Largest integer that every JSON reader holds exactly (RFC 8259 section 6): 2^53 − 1.
pub const INTEGER_MAX: i64 = 9_007_199_254_740_991;
pub const ITEMS_MAX: usize = 1_000;
pub const REFERENCE_CHARS_MAX: usize = 200;
pub const METADATA_BYTES_MAX: usize = 8_192;
/// Of the result that a processor gives.
pub const RESULT_BYTES_MAX: usize = 8_192;
/// Orders in one batch.
pub const BATCH_ORDERS_MAX: usize = 1_000;

/// Given by the store, rising in the order of acceptance.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct OrderId(pub i64);

impl fmt::Display for OrderId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(formatter)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum OrderStatus {
    Pending,
    Processing,
    Completed,
    Failed,
    Cancelled,
}

impl OrderStatus {
    pub const ALL: [OrderStatus; 5] = [
        OrderStatus::Pending,
        OrderStatus::Processing,
        OrderStatus::Completed,
        OrderStatus::Failed,
        OrderStatus::Cancelled,
    ];

    pub fn name(self) -> &'static str {
        match self {
            OrderStatus::Pending => "Pending",
            OrderStatus::Processing => "Processing",
            OrderStatus::Completed => "Completed",
            OrderStatus::Failed => "Failed",
            OrderStatus::Cancelled => "Cancelled",
        }
    }

    pub fn parse(name: &str) -> Option<OrderStatus> {
        OrderStatus::ALL.into_iter().find(|status| status.name() == name)
    }

    /// Changes only by an explicit redrive.
    pub fn is_final(self) -> bool {
        match self {
            OrderStatus::Pending | OrderStatus::Processing => false,
            OrderStatus::Completed | OrderStatus::Failed | OrderStatus::Cancelled => true,
        }
    }
}

/// An order as a client asked for it: every field checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewOrder {
    /// 1 … [`INTEGER_MAX`].
    pub user_id: i64,
    pub item_ids: ItemIds,
    pub total_amount: Money,
    pub reference: Option<Reference>,
    /// The text of a JSON object as it came, see `http/wire.rs` for what was checked.
    pub metadata: Option<Box<str>>,
}

/// An order as the store has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Order {
    pub order_id: OrderId,
    /// What the client asked for; never changes.
    pub request: NewOrder,
    pub status: OrderStatus,
    /// Number of its events.
    pub version: u32,
    /// Started and not given back; a redrive starts again at 0.
    pub attempts: u32,
    /// Redrives so far; order id and generation name one business effect downstream.
    pub generation: u32,
    pub created_at: Timestamp,
    /// Latest start.
    pub processing_at: Option<Timestamp>,
    /// When it became final: Completed, Failed or Cancelled.
    pub finished_at: Option<Timestamp>,
    /// While Pending in the second line (retries, redrives, given-back orders): when it is due.
    pub next_attempt_at: Option<Timestamp>,
    pub last_error: Option<String>,
    /// What the processor gave when it completed the order, at most [`RESULT_BYTES_MAX`] bytes.
    pub result: Option<JsonText>,
}

/// Whether the orders of one user wait for each other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Ordering {
    /// They do not.
    #[default]
    None,
    /// At most one of them is in processing, and the next one starts when no earlier one is open any more.
    User(OnFailure),
}

/// What a Failed order means for the later ones of its user.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnFailure {
    /// They go on.
    Skip,
    /// They wait until it was redriven and completed, or cancelled.
    Block,
}

/// 1 to [`ITEMS_MAX`] item ids, each 1 … [`INTEGER_MAX`], kept as the comma-separated text that is answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ItemIds {
    text: Box<str>,
    count: usize,
}

impl ItemIds {
    /// `None` when there are none, too many, or one is out of range.
    pub fn new(ids: &[i64]) -> Option<ItemIds> {
        let in_range = ids.iter().all(|id| (1..=INTEGER_MAX).contains(id));
        if !in_range || ids.is_empty() || ids.len() > ITEMS_MAX {
            return None;
        }
        let mut text = String::with_capacity(ids.len() * 8);
        for id in ids {
            if !text.is_empty() {
                text.push(',');
            }
            text.push_str(&id.to_string());
        }
        Some(ItemIds {
            text: text.into(),
            count: ids.len(),
        })
    }

    /// Reads the text that [`ItemIds::as_str`] gave, as a store keeps it.
    pub fn from_stored(text: &str) -> Option<ItemIds> {
        let mut count = 0;
        for id in text.split(',') {
            parse_integer(id).ok()?;
            count += 1;
        }
        (count <= ITEMS_MAX).then(|| ItemIds {
            text: text.into(),
            count,
        })
    }

    pub fn as_str(&self) -> &str {
        &self.text
    }

    pub fn count(&self) -> usize {
        self.count
    }
}

/// The caller's own order number: 1 to [`REFERENCE_CHARS_MAX`] characters, no control characters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reference(Box<str>);

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReferenceError {
    #[error("must have 1 to {REFERENCE_CHARS_MAX} characters")]
    Length,
    #[error("must not contain control characters")]
    ControlCharacter,
}

impl Reference {
    pub fn parse(text: &str) -> Result<Reference, ReferenceError> {
        if text.is_empty() || text.chars().count() > REFERENCE_CHARS_MAX {
            return Err(ReferenceError::Length);
        }
        if text.chars().any(char::is_control) {
            return Err(ReferenceError::ControlCharacter);
        }
        Ok(Reference(text.into()))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Reads the decimal text of an integer from 1 to [`INTEGER_MAX`]; the error is fit for an API answer.
pub fn parse_integer(text: &str) -> Result<i64, &'static str> {
    const RANGE: &str = "must be an integer from 1 to 9007199254740991";
    let digits = text.strip_prefix('-').unwrap_or(text);
    let leading_zero = digits.len() > 1 && digits.starts_with('0');
    if digits.is_empty() || leading_zero || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err("must be an integer");
    }
    let value: i64 = text.parse().map_err(|_| RANGE)?;
    if (1..=INTEGER_MAX).contains(&value) {
        Ok(value)
    } else {
        Err(RANGE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn item_ids_keep_their_order_and_survive_their_text() {
        let items = ItemIds::new(&[103, 101, 101]).unwrap();
        assert_eq!(items.as_str(), "103,101,101");
        assert_eq!(items.count(), 3);
        assert_eq!(ItemIds::from_stored(items.as_str()), Some(items));
    }

    #[test]
    fn item_ids_have_limits() {
        assert!(ItemIds::new(&[]).is_none());
        assert!(ItemIds::new(&[1; ITEMS_MAX]).is_some());
        assert!(ItemIds::new(&[1; ITEMS_MAX + 1]).is_none());
        assert!(ItemIds::new(&[INTEGER_MAX]).is_some());
        assert!(ItemIds::new(&[INTEGER_MAX + 1]).is_none());
        assert!(ItemIds::new(&[0]).is_none());
        assert!(ItemIds::from_stored("1,,2").is_none());
        assert!(ItemIds::from_stored("01").is_none());
    }

    #[test]
    fn integers_are_exact_or_refused() {
        assert_eq!(parse_integer("9007199254740991"), Ok(INTEGER_MAX));
        for text in [
            "9007199254740993",
            "0",
            "-5",
            "99999999999999999999",
            "1.0",
            "1e3",
            "",
            "-",
            "007",
        ] {
            assert!(parse_integer(text).is_err(), "{text}");
        }
    }

    #[test]
    fn references_are_counted_in_characters() {
        assert!(Reference::parse(&"é".repeat(REFERENCE_CHARS_MAX)).is_ok());
        assert_eq!(Reference::parse(""), Err(ReferenceError::Length));
        assert_eq!(Reference::parse(&"a".repeat(201)), Err(ReferenceError::Length));
        assert_eq!(Reference::parse("a\u{0}b"), Err(ReferenceError::ControlCharacter));
        assert_eq!(
            Reference::parse("a\u{85}b"),
            Err(ReferenceError::ControlCharacter)
        );
    }
}
