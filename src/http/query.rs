//! Strict query parameters: unknown, repeated and invalid ones are all named at once. The store selects by them.

use std::borrow::Cow;

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;

use super::fields::{FieldErrors, Pointer, REPEATED};
use super::problem::{Problem, ProblemType};
use super::wire::{PLUS_DECODED, STATUS_EXPECTED, TIME_EXPECTED, lost_a_plus, parse_time};
use crate::live::Filter;
use crate::order::{MilestoneName, OrderId, OrderStatus, Reference, UserId, parse_integer};
use crate::store::{FEED_EVENTS_MAX, FeedCursor, LogPosition, OrderQuery, PAGE_ORDERS_MAX};
use crate::time::Timestamp;

const PAGE_ORDERS_DEFAULT: usize = 50;
const FEED_EVENTS_DEFAULT: usize = 100;
const NOT_UTF8: &str = "is not UTF-8 after percent-decoding";
/// First bytes of the cursors of a list. They distinguish its formats, and both from a cursor of the feed, which begins with 2.
const CURSOR_FORMAT: u8 = 1;
const CURSOR_FORMAT_WITH_PLACE: u8 = 3;

/// Parses the parameters of `GET /orders`.
pub fn order_query(query: Option<&str>) -> Result<(OrderQuery, Option<UserId>), Problem> {
    let names = [
        "status",
        "user_id",
        "reference",
        "held",
        "overdue",
        "milestone",
        "created_after",
        "created_before",
        "limit",
        "cursor",
    ];
    let mut parameters = Parameters::read_with(query, names, &["status"]);
    let mut statuses = parameters.parse_all("status", parse_status);
    statuses.sort_by_key(|status| *status as u8);
    statuses.dedup();
    let user = parameters.parse("user_id", UserId::parse_either);
    let mut order_query = OrderQuery {
        statuses,
        user_id: user.as_ref().map(UserId::key),
        reference: parameters.parse("reference", |value| {
            Reference::parse(value).map(|reference| reference.as_str().to_owned())
        }),
        held: parameters.parse("held", only_true).is_some(),
        overdue: parameters.parse("overdue", only_true).is_some(),
        milestone: parameters.parse("milestone", MilestoneName::parse),
        created_after: parameters.parse("created_after", time),
        created_before: parameters.parse("created_before", time),
        ..OrderQuery::default()
    };
    let page_before = parameters.parse("cursor", |value| {
        read_cursor(value).ok_or("is not a cursor of this list")
    });
    if let Some((last, as_of)) = page_before {
        order_query.before = Some(last);
        order_query.as_of = as_of;
    }
    let limit = parameters.parse("limit", |value| page_size(value, PAGE_ORDERS_MAX));
    order_query.limit = limit.unwrap_or(PAGE_ORDERS_DEFAULT);
    parameters.finish((order_query, user))
}

/// Parses the parameter of `GET /orders/{id}/events`: the last version the client has.
pub fn history_query(query: Option<&str>) -> Result<u32, Problem> {
    let mut parameters = Parameters::read(query, ["after"]);
    let after = parameters.parse("after", |value| {
        let digits = !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit());
        let version = value.parse::<u32>().ok().filter(|_| digits);
        version.ok_or("must be the version of an event: an integer from 0")
    });
    parameters.finish(after.unwrap_or(0))
}

/// Filter and starting point in the feed.
pub struct FeedQuery {
    pub filter: Filter,
    pub after: Option<FeedCursor>,
}

/// Parameters of a page of `GET /events`.
pub struct FeedPageQuery {
    pub feed: FeedQuery,
    pub limit: usize,
}

/// Parses the parameters of a stream of `GET /events`.
pub fn feed_query(query: Option<&str>) -> Result<FeedQuery, Problem> {
    let mut parameters = Parameters::read(query, ["order_id", "user_id", "status", "after"]);
    let feed = feed_parameters(&mut parameters);
    parameters.finish(feed)
}

pub fn feed_page_query(query: Option<&str>) -> Result<FeedPageQuery, Problem> {
    let mut parameters = Parameters::read(query, ["order_id", "user_id", "status", "after", "limit"]);
    let feed = feed_parameters(&mut parameters);
    let limit = parameters.parse("limit", |value| page_size(value, FEED_EVENTS_MAX));
    parameters.finish(FeedPageQuery {
        feed,
        limit: limit.unwrap_or(FEED_EVENTS_DEFAULT),
    })
}

fn feed_parameters<const N: usize>(parameters: &mut Parameters<'_, N>) -> FeedQuery {
    let filter = Filter {
        order_id: parameters.parse("order_id", parse_integer).map(OrderId),
        user_id: parameters.parse("user_id", UserId::parse_either),
        status: parameters.parse("status", parse_status),
    };
    let after = parameters.parse("after", |value| {
        super::cursor::read(value).ok_or(super::cursor::EXPECTED)
    });
    FeedQuery { filter, after }
}

fn time(value: &str) -> Result<Timestamp, &'static str> {
    let expected = || {
        if lost_a_plus(value) {
            PLUS_DECODED
        } else {
            TIME_EXPECTED
        }
    };
    parse_time(value).ok_or_else(expected)
}

fn only_true(value: &str) -> Result<(), &'static str> {
    (value == "true").then_some(()).ok_or("must be true, or left out")
}

fn parse_status(value: &str) -> Result<OrderStatus, &'static str> {
    OrderStatus::parse(value).ok_or(STATUS_EXPECTED)
}

/// Returns the cursor that continues a list after the order `last`.
pub fn cursor(last: OrderId, as_of: Option<LogPosition>) -> String {
    let last = last.0.to_be_bytes();
    BASE64_URL_SAFE_NO_PAD.encode(match as_of {
        None => [&[CURSOR_FORMAT], &last[..]].concat(),
        Some(as_of) => [&[CURSOR_FORMAT_WITH_PLACE], &last[..], &as_of.0.to_be_bytes()].concat(),
    })
}

fn read_cursor(text: &str) -> Option<(OrderId, Option<LogPosition>)> {
    let bytes = BASE64_URL_SAFE_NO_PAD.decode(text).ok()?;
    let (format, rest) = bytes.split_first()?;
    let (id, place) = rest.split_first_chunk()?;
    let id = i64::from_be_bytes(*id);
    let as_of = match (*format, place) {
        (CURSOR_FORMAT, []) => None,
        (CURSOR_FORMAT_WITH_PLACE, place) => Some(LogPosition(i64::from_be_bytes(place.try_into().ok()?))),
        _ => return None,
    };
    let is_place = as_of.is_none_or(|place| place.0 >= 0);
    (id > 0 && is_place).then_some((OrderId(id), as_of))
}

fn page_size(value: &str, size_max: usize) -> Result<usize, String> {
    let size = parse_integer(value)
        .ok()
        .and_then(|size| usize::try_from(size).ok());
    size.filter(|size| *size <= size_max)
        .ok_or_else(|| format!("must be an integer from 1 to {size_max}"))
}

/// Values of one request's known parameters.
struct Parameters<'a, const N: usize> {
    values: [(&'static str, Vec<Cow<'a, str>>); N],
    errors: FieldErrors,
}

impl<'a, const N: usize> Parameters<'a, N> {
    fn read(query: Option<&'a str>, names: [&'static str; N]) -> Parameters<'a, N> {
        Parameters::read_with(query, names, &[])
    }

    /// Some names may be given more than once.
    fn read_with(query: Option<&'a str>, names: [&'static str; N], repeatable: &[&str]) -> Parameters<'a, N> {
        let mut values = names.map(|name| (name, Vec::new()));
        let mut errors = FieldErrors::default();
        let pairs = query
            .unwrap_or_default()
            .split('&')
            .filter(|pair| !pair.is_empty());
        for pair in pairs {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let name = match decoded(name) {
                Ok(name) => name,
                Err(damaged) => {
                    errors.add(&Pointer::Root.member(&damaged), NOT_UTF8);
                    continue;
                }
            };
            let at = Pointer::Root.member(&name);
            match values.iter_mut().find(|(known, _)| *known == name) {
                None => errors.add(&at, "is not a parameter of this request"),
                Some((known, given)) if !given.is_empty() && !repeatable.contains(known) => {
                    errors.add(&at, REPEATED);
                }
                Some((_, given)) => match decoded(value) {
                    Ok(value) => given.push(value),
                    Err(_) => errors.add(&at, NOT_UTF8),
                },
            }
        }
        Parameters { values, errors }
    }

    fn parse<T, E: std::fmt::Display>(
        &mut self,
        name: &'static str,
        parse: impl FnOnce(&str) -> Result<T, E>,
    ) -> Option<T> {
        let (_, values) = self.values.iter().find(|(known, _)| *known == name)?;
        parse(values.first()?)
            .map_err(|reason| self.errors.add(&Pointer::Root.member(name), reason))
            .ok()
    }

    /// Parses each value of a name.
    fn parse_all<T, E: std::fmt::Display>(
        &mut self,
        name: &'static str,
        parse: impl Fn(&str) -> Result<T, E>,
    ) -> Vec<T> {
        let named = self.values.iter().find(|(known, _)| *known == name);
        let mut parsed = Vec::new();
        for value in named.iter().flat_map(|(_, values)| values) {
            match parse(value) {
                Ok(value) => parsed.push(value),
                Err(reason) => self.errors.add(&Pointer::Root.member(name), reason),
            }
        }
        parsed
    }

    fn finish<T>(self, parsed: T) -> Result<T, Problem> {
        if self.errors.is_empty() {
            return Ok(parsed);
        }
        Err(Problem::invalid(ProblemType::InvalidParameters, self.errors))
    }
}

/// Decodes a name or a value of a query (WHATWG URL, `application/x-www-form-urlencoded`). The error is the text with
/// its invalid UTF-8 replaced; a search for such text would answer another question.
fn decoded(text: &str) -> Result<Cow<'_, str>, String> {
    if !text.contains(['+', '%']) {
        return Ok(Cow::Borrowed(text));
    }
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, tail)) = rest.split_first() {
        rest = tail;
        bytes.push(match (byte, tail) {
            (b'+', _) => b' ',
            (b'%', [high, low, tail @ ..]) => match (hex(*high), hex(*low)) {
                (Some(high), Some(low)) => {
                    rest = tail;
                    high << 4 | low
                }
                _ => b'%',
            },
            (byte, _) => byte,
        });
    }
    match String::from_utf8(bytes) {
        Ok(text) => Ok(Cow::Owned(text)),
        Err(error) => Err(String::from_utf8_lossy(error.as_bytes()).into_owned()),
    }
}

fn hex(digit: u8) -> Option<u8> {
    let value = char::from(digit).to_digit(16)?;
    u8::try_from(value).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pointers<T>(read: Result<T, Problem>) -> Vec<String> {
        let Err(problem) = read else {
            panic!("was accepted")
        };
        assert_eq!(problem.kind, ProblemType::InvalidParameters);
        problem
            .errors()
            .iter()
            .map(|error| error.pointer.clone())
            .collect()
    }

    #[test]
    fn every_filter_is_read() {
        let page = cursor(OrderId(45), None);
        let query = order_query(Some(&format!(
            "status=Failed&status=Pending&status=Failed&held=true&overdue=true&milestone=packed&user_id=7&reference=PO%2F7+x&created_after=1970-01-01T00:00:01Z\
             &created_before=1970-01-01T02:00:02%2B02:00&limit=500&cursor={page}"
        )))
        .unwrap()
        .0;
        assert_eq!(query.statuses, [OrderStatus::Pending, OrderStatus::Failed]);
        assert!(query.held && query.overdue);
        assert_eq!(query.milestone.unwrap().as_str(), "packed");
        assert_eq!(query.user_id, Some(7));
        assert_eq!(query.reference.as_deref(), Some("PO/7 x"));
        assert_eq!(query.created_after.unwrap().micros(), 1_000_000);
        assert_eq!(query.created_before.unwrap().micros(), 2_000_000);
        assert_eq!((query.limit, query.before), (500, Some(OrderId(45))));
        assert_eq!(query.as_of, None);
        let page = cursor(OrderId(45), Some(LogPosition(7)));
        let query = order_query(Some(&format!("cursor={page}"))).unwrap().0;
        assert_eq!(
            (query.before, query.as_of),
            (Some(OrderId(45)), Some(LogPosition(7)))
        );
        assert_eq!(order_query(None).unwrap().0.limit, PAGE_ORDERS_DEFAULT);
    }

    #[test]
    fn all_bad_parameters_are_named() {
        let query = "status=pending&status=Failed&user_id=%00&user_id=1&held=false&overdue=1&milestone=A&created_after=now&limit=501&cursor=x&colour=red";
        assert_eq!(
            pointers(order_query(Some(query))),
            [
                "#/user_id",
                "#/colour",
                "#/status",
                "#/user_id",
                "#/held",
                "#/overdue",
                "#/milestone",
                "#/created_after",
                "#/cursor",
                "#/limit"
            ]
        );
        for bad in ["limit=0", "limit=", "limit=-1", "limit=%2B1"] {
            assert_eq!(pointers(order_query(Some(bad))), ["#/limit"], "{bad}");
        }
        for bad in [
            cursor(OrderId(0), None),
            cursor(OrderId(-1), None),
            cursor(OrderId(1), Some(LogPosition(-1))),
            format!("{}AA", cursor(OrderId(1), None)),
            format!("{}AA", cursor(OrderId(1), Some(LogPosition(1)))),
            String::new(),
        ] {
            assert_eq!(
                pointers(order_query(Some(&format!("cursor={bad}")))),
                ["#/cursor"]
            );
        }
    }

    #[test]
    fn text_that_is_not_utf8_is_refused_by_name() {
        assert_eq!(pointers(order_query(Some("reference=%FF"))), ["#/reference"]);
        assert_eq!(pointers(order_query(Some("reference=a%C3"))), ["#/reference"]);
        assert_eq!(
            pointers(order_query(Some("stat%FFus=Failed"))),
            ["#/stat%EF%BF%BDus"]
        );
        assert_eq!(pointers(history_query(Some("after=%80"))), ["#/after"]);
        let reference = |query| order_query(Some(query)).unwrap().0.reference.unwrap();
        assert_eq!(reference("reference=%C3%A9+%2b%"), "é +%");
        assert_eq!(reference("&&ref%65rence=%EF%BF%BD%4"), "\u{FFFD}%4");
    }

    #[test]
    fn a_plus_decoded_as_a_blank_is_explained() {
        let query = "created_after=1970-01-01T00:00:00+01:00";
        let Err(problem) = order_query(Some(query)) else {
            panic!("was accepted")
        };
        assert_eq!(problem.errors()[0].detail, PLUS_DECODED);
    }

    #[test]
    fn a_history_continues_after_a_version() {
        assert_eq!(history_query(None).unwrap(), 0);
        assert_eq!(history_query(Some("after=3")).unwrap(), 3);
        for bad in ["after=", "after=-1", "after=%2B1", "after=4294967296"] {
            assert_eq!(pointers(history_query(Some(bad))), ["#/after"], "{bad}");
        }
    }
}
