//! What an order is about: ids and codes of articles, or lines with quantities and prices.

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::text::{PlainTextError, plain_text};
use super::{CODE_CHARS_MAX, INTEGER_MAX, ITEM_NAME_CHARS_MAX, ITEMS_MAX, PIECES_MAX, QUANTITY_MAX};
use crate::money::Money;

/// 1 to [`ITEMS_MAX`] items. Kept as answers show them: the comma-separated codes, and the lines where there are any.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Items {
    codes: Box<str>,
    /// The sum of the quantities; the number of codes without lines.
    count: u64,
    /// A JSON array.
    lines: Option<Box<str>>,
}

/// The code of an article: 1 to [`CODE_CHARS_MAX`] letters, digits and `._:/-`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Code(Box<str>);

/// Some pieces of an article.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    pub sku: Code,
    /// 1 … [`QUANTITY_MAX`].
    pub quantity: u32,
    pub unit_price: Option<Money>,
    pub name: Option<Box<str>>,
}

/// Reason why a text is no code; the message is fit for an API answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CodeError {
    #[error("must have 1 to {CODE_CHARS_MAX} characters")]
    Length,
    #[error("must consist of letters (A to Z), digits and . _ : / -")]
    Character,
}

/// A line as it is stored and answered.
#[derive(Serialize)]
struct StoredLine<'a> {
    sku: &'a str,
    quantity: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    unit_price: Option<Box<RawValue>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<&'a str>,
}

/// The part of a stored line that is counted.
#[derive(Deserialize)]
struct Counted {
    quantity: u32,
}

impl Items {
    /// Returns `None` if there are none, too many, or one is out of range.
    pub fn of_ids(ids: &[i64]) -> Option<Items> {
        let in_range = ids.iter().all(|id| (1..=INTEGER_MAX).contains(id));
        let texts: Vec<String> = ids.iter().map(i64::to_string).collect();
        if in_range { Items::joined(&texts) } else { None }
    }

    /// Joins texts that are ids or codes. Returns `None` if there are none or too many.
    pub fn joined<T: AsRef<str>>(codes: &[T]) -> Option<Items> {
        if codes.is_empty() || codes.len() > ITEMS_MAX {
            return None;
        }
        let mut text = String::with_capacity(codes.len() * 8);
        for code in codes {
            if !text.is_empty() {
                text.push(',');
            }
            text.push_str(code.as_ref());
        }
        Some(Items {
            codes: text.into(),
            count: codes.len() as u64,
            lines: None,
        })
    }

    /// Returns `None` if there are no lines, too many, or too many pieces.
    pub fn of_lines(lines: &[Line]) -> Option<Items> {
        let codes: Vec<&str> = lines.iter().map(|line| line.sku.as_str()).collect();
        let count = lines.iter().map(|line| u64::from(line.quantity)).sum();
        let stored: Vec<StoredLine<'_>> = lines.iter().map(StoredLine::of).collect();
        let stored = serde_json::to_string(&stored).expect("texts and numbers always serialize");
        let items = Items::joined(&codes).filter(|_| count <= PIECES_MAX)?;
        Some(Items {
            count,
            lines: Some(stored.into()),
            ..items
        })
    }

    /// Reads the two texts that a store keeps.
    pub fn from_stored(codes: &str, lines: Option<&str>) -> Option<Items> {
        let mut count = 0;
        for code in codes.split(',') {
            Code::parse(code).ok()?;
            count += 1;
        }
        if count > ITEMS_MAX as u64 {
            return None;
        }
        if let Some(lines) = lines {
            let lines: Vec<Counted> = serde_json::from_str(lines).ok()?;
            if lines.len() as u64 != count {
                return None;
            }
            count = lines.iter().map(|line| u64::from(line.quantity)).sum();
        }
        Some(Items {
            codes: codes.into(),
            count,
            lines: lines.map(Into::into),
        })
    }

    /// Returns the ids and codes, comma-separated.
    pub fn codes(&self) -> &str {
        &self.codes
    }

    /// Returns the lines as a JSON array; `None` if the order has ids or codes only.
    pub fn lines(&self) -> Option<&str> {
        self.lines.as_deref()
    }

    /// Returns the number of pieces.
    pub fn count(&self) -> u64 {
        self.count
    }
}

impl Code {
    pub fn parse(text: &str) -> Result<Code, CodeError> {
        let is_part = |byte: u8| byte.is_ascii_alphanumeric() || b"._:/-".contains(&byte);
        if !text.bytes().all(is_part) {
            return Err(CodeError::Character);
        }
        if (1..=CODE_CHARS_MAX).contains(&text.len()) {
            Ok(Code(text.into()))
        } else {
            Err(CodeError::Length)
        }
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    pub fn is_all_digits(&self) -> bool {
        self.0.bytes().all(|byte| byte.is_ascii_digit())
    }
}

impl AsRef<str> for Code {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl Line {
    /// Checks the name of an article.
    pub fn parse_name(text: &str) -> Result<Box<str>, PlainTextError> {
        plain_text(text, ITEM_NAME_CHARS_MAX)
    }

    /// Checks a number of pieces.
    pub fn parse_quantity(number: i64) -> Option<u32> {
        u32::try_from(number)
            .ok()
            .filter(|quantity| (1..=QUANTITY_MAX).contains(quantity))
    }
}

impl<'a> StoredLine<'a> {
    fn of(line: &'a Line) -> StoredLine<'a> {
        StoredLine {
            sku: line.sku.as_str(),
            quantity: line.quantity,
            unit_price: line.unit_price.map(|price| {
                RawValue::from_string(price.to_string()).expect("an amount is the text of a JSON number")
            }),
            name: line.name.as_deref(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(sku: &str, quantity: u32) -> Line {
        Line {
            sku: Code::parse(sku).unwrap(),
            quantity,
            unit_price: None,
            name: None,
        }
    }

    #[test]
    fn ids_keep_their_order_and_survive_a_round_trip() {
        let items = Items::of_ids(&[103, 101, 101]).unwrap();
        assert_eq!(
            (items.codes(), items.count(), items.lines()),
            ("103,101,101", 3, None)
        );
        assert_eq!(Items::from_stored(items.codes(), None), Some(items));
    }

    #[test]
    fn ids_have_limits() {
        assert!(Items::of_ids(&[]).is_none());
        assert!(Items::of_ids(&[1; ITEMS_MAX]).is_some());
        assert!(Items::of_ids(&[1; ITEMS_MAX + 1]).is_none());
        assert!(Items::of_ids(&[INTEGER_MAX]).is_some());
        assert!(Items::of_ids(&[INTEGER_MAX + 1]).is_none());
        assert!(Items::of_ids(&[0]).is_none());
        assert!(Items::from_stored("1,,2", None).is_none());
    }

    #[test]
    fn codes_are_plain() {
        for good in ["SKU-1", "a.b_c:d/e-f", "0", "012345678905", &"x".repeat(64)] {
            assert!(Code::parse(good).is_ok(), "{good}");
        }
        for (bad, reason) in [
            ("", CodeError::Length),
            (&*"x".repeat(65), CodeError::Length),
            ("a b", CodeError::Character),
            ("a,b", CodeError::Character),
            ("é", CodeError::Character),
            ("a\"", CodeError::Character),
        ] {
            assert_eq!(Code::parse(bad), Err(reason), "{bad}");
        }
    }

    #[test]
    fn lines_are_kept_exactly_and_their_pieces_counted() {
        let lines = [
            Line {
                unit_price: Some(Money::parse_signed("-5", 2).unwrap()),
                name: Some("Ten \"off\"".into()),
                ..line("012345678905", 1)
            },
            line("MUG/blue", 3),
        ];
        let items = Items::of_lines(&lines).unwrap();
        assert_eq!((items.codes(), items.count()), ("012345678905,MUG/blue", 4));
        let text = r#"[{"sku":"012345678905","quantity":1,"unit_price":-5.00,"name":"Ten \"off\""},{"sku":"MUG/blue","quantity":3}]"#;
        assert_eq!(items.lines(), Some(text));
        assert_eq!(Items::from_stored(items.codes(), items.lines()), Some(items));
    }

    #[test]
    fn an_order_has_at_most_a_billion_pieces() {
        assert!(Items::of_lines(&[]).is_none());
        let most = vec![line("a", QUANTITY_MAX); ITEMS_MAX];
        assert_eq!(Items::of_lines(&most).unwrap().count(), PIECES_MAX);
        assert_eq!(Line::parse_quantity(0), None);
        assert_eq!(Line::parse_quantity(1_000_001), None);
        assert_eq!(Line::parse_quantity(1_000_000), Some(QUANTITY_MAX));
    }
}
