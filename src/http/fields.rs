//! Invalid fields of a request, each named by its JSON pointer. `wire` and `query` read the fields.

use std::fmt::{self, Write};

use serde::Serialize;
use utoipa::ToSchema;

/// Detail of a repeated member or parameter.
pub const REPEATED: &str = "is given more than once";
/// At most this many invalid fields are listed in one answer; the rest are counted, so that the answer to a hostile
/// body stays small.
pub const ERRORS_LISTED_MAX: usize = 100;
/// Maximum bytes of a field name in a pointer, for the same reason.
const NAME_BYTES_SHOWN_MAX: usize = 200;

/// Characters besides letters and digits that a fragment holds unescaped (RFC 3986 section 3.5), without `/` and `~`,
/// which have a meaning in a pointer.
const FRAGMENT_MARKS: &[u8] = b"-._!$&'()*+,;=:@?";

/// One invalid field.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct FieldError {
    /// A JSON pointer (RFC 6901) into the body as a URI fragment; for a query parameter, its name.
    #[schema(example = "#/item_ids/3")]
    pub pointer: String,
    pub detail: String,
}

/// Location in a JSON body; formatted only for an error.
#[derive(Clone, Copy)]
pub enum Pointer<'a> {
    Root,
    Member(&'a Pointer<'a>, &'a str),
    Element(&'a Pointer<'a>, usize),
}

impl<'a> Pointer<'a> {
    pub fn member(&'a self, name: &'a str) -> Pointer<'a> {
        Pointer::Member(self, name)
    }

    pub fn element(&'a self, index: usize) -> Pointer<'a> {
        Pointer::Element(self, index)
    }
}

/// Writes the URI fragment form (RFC 6901 section 6).
impl fmt::Display for Pointer<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Pointer::Root => formatter.write_char('#'),
            Pointer::Member(parent, name) => {
                write!(formatter, "{parent}/")?;
                write_token(formatter, name)
            }
            Pointer::Element(parent, index) => write!(formatter, "{parent}/{index}"),
        }
    }
}

fn write_token(to: &mut fmt::Formatter<'_>, name: &str) -> fmt::Result {
    let shown = &name[..name.floor_char_boundary(NAME_BYTES_SHOWN_MAX)];
    for byte in shown.bytes() {
        match byte {
            b'~' => to.write_str("~0")?,
            b'/' => to.write_str("~1")?,
            _ if byte.is_ascii_alphanumeric() || FRAGMENT_MARKS.contains(&byte) => {
                to.write_char(char::from(byte))?;
            }
            _ => write!(to, "%{byte:02X}")?,
        }
    }
    if shown.len() < name.len() {
        to.write_str("...")?;
    }
    Ok(())
}

/// Collects the invalid fields of one request.
#[derive(Debug, Default)]
pub struct FieldErrors {
    listed: Vec<FieldError>,
    unlisted: usize,
}

impl FieldErrors {
    pub fn add(&mut self, pointer: &Pointer<'_>, detail: impl fmt::Display) {
        if self.listed.len() < ERRORS_LISTED_MAX {
            self.listed.push(FieldError {
                pointer: pointer.to_string(),
                detail: detail.to_string(),
            });
        } else {
            self.unlisted += 1;
        }
    }

    /// Adds the errors of another reader behind these.
    pub fn append(&mut self, others: FieldErrors) {
        for error in others.listed {
            if self.listed.len() < ERRORS_LISTED_MAX {
                self.listed.push(error);
            } else {
                self.unlisted += 1;
            }
        }
        self.unlisted += others.unlisted;
    }

    pub fn is_empty(&self) -> bool {
        self.listed.is_empty()
    }

    /// Returns the number of invalid fields and the first one, for people.
    pub fn summary(&self) -> String {
        let count = self.listed.len() + self.unlisted;
        match self.listed.first() {
            None => String::from("no field is invalid"),
            Some(first) if count == 1 => format!("{} {}", first.pointer, first.detail),
            Some(first) => format!(
                "{count} fields are invalid, the first: {} {}",
                first.pointer, first.detail
            ),
        }
    }

    /// Returns all listed fields in one text, for answers that consist of a text alone.
    pub fn listing(&self) -> String {
        let listed = self.listed.iter();
        let texts = listed.map(|error| format!("{} {}", error.pointer, error.detail));
        texts.collect::<Vec<_>>().join("; ")
    }

    pub fn into_listed(self) -> Vec<FieldError> {
        self.listed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pointers_are_escaped_twice() {
        let orders = Pointer::Root.member("orders");
        let third = orders.element(3);
        assert_eq!(
            third.member("total_amount").to_string(),
            "#/orders/3/total_amount"
        );
        assert_eq!(
            Pointer::Root.member("a/b~c d\u{e9}\"").to_string(),
            "#/a~1b~0c%20d%C3%A9%22"
        );
        assert_eq!(Pointer::Root.to_string(), "#");
    }

    #[test]
    fn a_long_name_is_cut_at_a_character() {
        let name = "é".repeat(1_000);
        let pointer = Pointer::Root.member(&name).to_string();
        assert_eq!(pointer.len(), "#/".len() + NAME_BYTES_SHOWN_MAX * 3 + "...".len());
    }

    #[test]
    fn errors_beyond_the_limit_are_only_counted() {
        let mut errors = FieldErrors::default();
        for index in 0..ERRORS_LISTED_MAX + 7 {
            errors.add(&Pointer::Root.element(index), "is bad");
        }
        assert_eq!(errors.summary(), "107 fields are invalid, the first: #/0 is bad");
        assert_eq!(errors.into_listed().len(), ERRORS_LISTED_MAX);
    }
}
