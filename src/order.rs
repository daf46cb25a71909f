//! Orders and the rules of their fields. `http/wire.rs` has the JSON, `event.rs` the legal transitions, `store.rs` the
//! storage.

use std::fmt;

use crate::money::Money;
use crate::portable_json::JsonText;
use crate::time::Timestamp;

/// Largest integer that every JSON parser holds exactly (RFC 8259 section 6): 2^53 − 1.
pub const INTEGER_MAX: i64 = 9_007_199_254_740_991;
pub const ITEMS_MAX: usize = 1_000;
pub const REFERENCE_CHARS_MAX: usize = 200;
pub const REASON_CHARS_MAX: usize = 500;
pub const METADATA_BYTES_MAX: usize = 8_192;
/// Maximum size of a processor's result.
pub const RESULT_BYTES_MAX: usize = 8_192;
/// Maximum number of orders in one batch.
pub const BATCH_ORDERS_MAX: usize = 1_000;

/// Assigned by the store; rises in the order of acceptance.
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

    /// Reports whether the order has ended. Only a redrive, or the cancel of a Failed order, changes such a status.
    pub fn is_final(self) -> bool {
        match self {
            OrderStatus::Pending | OrderStatus::Processing => false,
            OrderStatus::Completed | OrderStatus::Failed | OrderStatus::Cancelled => true,
        }
    }
}

/// An order as the client requested it, with every field checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewOrder {
    /// 1 … [`INTEGER_MAX`].
    pub user_id: i64,
    pub item_ids: ItemIds,
    pub total_amount: Money,
    pub reference: Option<Reference>,
    /// The text of a JSON object, unchanged; see `http/wire.rs` for its checks.
    pub metadata: Option<Box<str>>,
}

/// An order as stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Order {
    pub order_id: OrderId,
    /// The client's request; never changes.
    pub request: NewOrder,
    pub status: OrderStatus,
    /// Number of its events.
    pub version: u32,
    /// Attempts started and not given back; a redrive resets them to 0.
    pub attempts: u32,
    /// Number of redrives. Order id and generation together identify one business effect downstream.
    pub generation: u32,
    pub created_at: Timestamp,
    /// Time of the latest start.
    pub processing_at: Option<Timestamp>,
    /// Time when it became final: Completed, Failed or Cancelled.
    pub finished_at: Option<Timestamp>,
    /// Due time while Pending in the second line (retries, redrives, orders given back).
    pub next_attempt_at: Option<Timestamp>,
    pub last_error: Option<String>,
    /// The processor's result of the completed order, at most [`RESULT_BYTES_MAX`] bytes.
    pub result: Option<JsonText>,
}

/// Rule for the orders of one user.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Ordering {
    /// They do not wait for each other.
    #[default]
    None,
    /// At most one of them is Processing; the next one starts once no earlier one is open.
    User(OnFailure),
}

/// Effect of a Failed order on the later ones of its user.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnFailure {
    /// They continue.
    Skip,
    /// They wait until it is redriven and completed, or cancelled.
    Block,
}

/// 1 to [`ITEMS_MAX`] item ids, each 1 … [`INTEGER_MAX`], kept as the comma-separated text of answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ItemIds {
    text: Box<str>,
    count: usize,
}

impl ItemIds {
    /// Returns `None` if there are none, too many, or one is out of range.
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

    /// Parses text from [`ItemIds::as_str`], as a store keeps it.
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

/// The client's own order number: 1 to [`REFERENCE_CHARS_MAX`] characters, no control characters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reference(Box<str>);

impl Reference {
    pub fn parse(text: &str) -> Result<Reference, PlainTextError> {
        plain_text(text, REFERENCE_CHARS_MAX).map(Reference)
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// A person's reason for an action: 1 to [`REASON_CHARS_MAX`] characters, no control characters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reason(Box<str>);

impl Reason {
    pub fn parse(text: &str) -> Result<Reason, PlainTextError> {
        plain_text(text, REASON_CHARS_MAX).map(Reason)
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlainTextError {
    #[error("must have 1 to {0} characters")]
    Length(usize),
    #[error("must not contain control characters")]
    ControlCharacter,
}

fn plain_text(text: &str, chars_max: usize) -> Result<Box<str>, PlainTextError> {
    if text.is_empty() || text.chars().count() > chars_max {
        return Err(PlainTextError::Length(chars_max));
    }
    if text.chars().any(char::is_control) {
        return Err(PlainTextError::ControlCharacter);
    }
    Ok(text.into())
}

/// Parses the decimal text of an integer from 1 to [`INTEGER_MAX`]; the error is fit for an API answer.
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
    fn item_ids_keep_their_order_and_survive_a_round_trip() {
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
        assert_eq!(Reference::parse(""), Err(PlainTextError::Length(200)));
        assert_eq!(
            Reference::parse(&"a".repeat(201)),
            Err(PlainTextError::Length(200))
        );
        assert_eq!(Reference::parse("a\u{0}b"), Err(PlainTextError::ControlCharacter));
        assert_eq!(
            Reference::parse("a\u{85}b"),
            Err(PlainTextError::ControlCharacter)
        );
    }
}
