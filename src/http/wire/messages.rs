//! Messages of a WebSocket: parses the client's as strictly as bodies, and renders the server's.

use std::fmt::Display;
use std::sync::Arc;

use serde::Serialize;

use super::STATUS_EXPECTED;
use super::description::{REQUIRED, object_or_error, string};
use super::requests::read_user;
use crate::http::cursor;
use crate::http::fields::{FieldErrors, Pointer, REPEATED};
use crate::http::json::{self, Kind};
use crate::live::Filter;
use crate::order::{OrderId, OrderStatus, parse_integer};
use crate::store::FeedCursor;

const SUBSCRIPTION_ID_CHARS_MAX: usize = 64;
const UNKNOWN: &str = "is not a field of this message";

/// A message from a client.
#[derive(Debug, PartialEq, Eq)]
pub enum ClientMessage {
    Subscribe {
        id: SubscriptionId,
        filter: Filter,
        after: Option<FeedCursor>,
    },
    Unsubscribe {
        id: SubscriptionId,
    },
}

/// The client's own name for a subscription: 1 to 64 characters, none of them a control character. Cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct SubscriptionId(Arc<str>);

impl SubscriptionId {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// A message that is not valid.
#[derive(Debug)]
pub struct BadMessage {
    /// Id of the message, if it could be read.
    pub id: Option<SubscriptionId>,
    /// Everything that is wrong with the message.
    pub detail: String,
}

/// A message from the server; [`event_message`] renders changes.
#[derive(Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum ServerMessage<'a> {
    Subscribed {
        id: &'a str,
        cursor: String,
    },
    Resync {
        id: &'a str,
        cursor: String,
    },
    Error {
        id: Option<&'a str>,
        detail: &'a str,
        /// Cursor to resume from, if the error ends a subscription.
        #[serde(skip_serializing_if = "Option::is_none")]
        cursor: Option<String>,
    },
}

impl ServerMessage<'_> {
    pub fn text(&self) -> String {
        serde_json::to_string(self).expect("strings always serialize")
    }
}

/// Renders an event for a subscription, with the event's JSON copied as it is.
pub fn event_message(id: &SubscriptionId, event: &[u8]) -> String {
    let id = serde_json::to_string(id.as_str()).expect("a string always serializes");
    let parts: [&[u8]; 5] = [
        br#"{"type":"event","id":"#,
        id.as_bytes(),
        br#","event":"#,
        event,
        b"}",
    ];
    String::from_utf8(parts.concat()).expect("JSON is rendered as UTF-8")
}

/// Parses a client's message. Unknown, repeated and invalid fields are all named at once.
pub fn read_message(text: &str) -> Result<ClientMessage, BadMessage> {
    let mut errors = FieldErrors::default();
    let root = Pointer::Root;
    let (mut kind, mut id) = (None, None);
    let mut given = Given::default();
    let read = json::members(text, |name, value| {
        let slot = match name {
            "type" => &mut kind,
            "id" => &mut id,
            "order_id" => &mut given.order_id,
            "user_id" => &mut given.user_id,
            "status" => &mut given.status,
            "all" => &mut given.all,
            "after" => &mut given.after,
            _ => return errors.add(&root.member(name), UNKNOWN),
        };
        if slot.replace(value).is_some() {
            errors.add(&root.member(name), REPEATED);
        }
    });
    match object_or_error(read, &root, &mut errors) {
        Ok(true) => {}
        Ok(false) => return Err(bad(None, &errors)),
        Err(reason) => {
            let detail = format!("the message is not JSON: {reason}");
            return Err(BadMessage { id: None, detail });
        }
    }
    let id = required(id, &root.member("id"), &mut errors, subscription_id);
    let kind = required(kind, &root.member("type"), &mut errors, kind_of_message);
    let (filter, after) = match kind {
        Some(KindOfMessage::Subscribe) => given.read(&mut errors),
        Some(KindOfMessage::Unsubscribe) => {
            given.refuse(&mut errors);
            (Filter::default(), None)
        }
        None => (Filter::default(), None),
    };
    match (kind, id) {
        (Some(kind), Some(id)) if errors.is_empty() => Ok(match kind {
            KindOfMessage::Subscribe => ClientMessage::Subscribe { id, filter, after },
            KindOfMessage::Unsubscribe => ClientMessage::Unsubscribe { id },
        }),
        (_, id) => Err(bad(id, &errors)),
    }
}

#[derive(Clone, Copy)]
enum KindOfMessage {
    Subscribe,
    Unsubscribe,
}

/// Texts of the fields that only a subscription has.
#[derive(Default)]
struct Given<'a> {
    order_id: Option<&'a str>,
    user_id: Option<&'a str>,
    status: Option<&'a str>,
    all: Option<&'a str>,
    after: Option<&'a str>,
}

impl Given<'_> {
    fn read(self, errors: &mut FieldErrors) -> (Filter, Option<FeedCursor>) {
        let root = Pointer::Root;
        let is_filtered = [self.order_id, self.user_id, self.status]
            .into_iter()
            .flatten()
            .any(|value| Kind::of(value) != Kind::Null);
        let filter = Filter {
            order_id: optional(self.order_id, &root.member("order_id"), errors, parse_integer).map(OrderId),
            user_id: optional(self.user_id, &root.member("user_id"), errors, read_user),
            status: optional(self.status, &root.member("status"), errors, status),
        };
        let at = root.member("all");
        match self.all.filter(|value| Kind::of(value) != Kind::Null) {
            None if is_filtered => {}
            None => errors.add(&root, "needs order_id, user_id or status, or \"all\":true"),
            Some("true") if is_filtered => {
                errors.add(&at, "excludes order_id, user_id and status");
            }
            Some("true") => {}
            Some(_) => errors.add(&at, "must be true"),
        }
        let after = optional(self.after, &root.member("after"), errors, |value| {
            let text = string(value).as_deref().and_then(cursor::read);
            text.ok_or(cursor::EXPECTED)
        });
        (filter, after)
    }

    fn refuse(self, errors: &mut FieldErrors) {
        let root = Pointer::Root;
        for (name, value) in [
            ("order_id", self.order_id),
            ("user_id", self.user_id),
            ("status", self.status),
            ("all", self.all),
            ("after", self.after),
        ] {
            if value.is_some() {
                errors.add(&root.member(name), UNKNOWN);
            }
        }
    }
}

fn kind_of_message(value: &str) -> Result<KindOfMessage, &'static str> {
    match string(value).as_deref() {
        Some("subscribe") => Ok(KindOfMessage::Subscribe),
        Some("unsubscribe") => Ok(KindOfMessage::Unsubscribe),
        Some(_) | None => Err("must be \"subscribe\" or \"unsubscribe\""),
    }
}

fn subscription_id(value: &str) -> Result<SubscriptionId, String> {
    string(value)
        .filter(|id| (1..=SUBSCRIPTION_ID_CHARS_MAX).contains(&id.chars().count()))
        .filter(|id| !id.contains(char::is_control))
        .map(|id| SubscriptionId((*id).into()))
        .ok_or_else(|| format!("must be a string of 1 to {SUBSCRIPTION_ID_CHARS_MAX} printable characters"))
}

fn status(value: &str) -> Result<OrderStatus, &'static str> {
    let name = string(value);
    name.and_then(|name| OrderStatus::parse(&name))
        .ok_or(STATUS_EXPECTED)
}

fn required<T, E: Display>(
    value: Option<&str>,
    at: &Pointer<'_>,
    errors: &mut FieldErrors,
    read: impl FnOnce(&str) -> Result<T, E>,
) -> Option<T> {
    if value.is_none() {
        errors.add(at, REQUIRED);
    }
    read(value?).map_err(|reason| errors.add(at, reason)).ok()
}

/// Reads an optional field; `null` means absent.
fn optional<T, E: Display>(
    value: Option<&str>,
    at: &Pointer<'_>,
    errors: &mut FieldErrors,
    read: impl FnOnce(&str) -> Result<T, E>,
) -> Option<T> {
    let value = value.filter(|value| Kind::of(value) != Kind::Null)?;
    read(value).map_err(|reason| errors.add(at, reason)).ok()
}

fn bad(id: Option<SubscriptionId>, errors: &FieldErrors) -> BadMessage {
    BadMessage {
        id,
        detail: errors.listing(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::epoch::EpochIdentity;
    use crate::order::UserId;
    use crate::store::FeedPosition;

    const CURSOR: FeedCursor = FeedCursor {
        epoch: EpochIdentity(7),
        position: FeedPosition(45),
    };

    fn id(text: &str) -> SubscriptionId {
        SubscriptionId(text.into())
    }

    fn refused(text: &str) -> (Option<String>, String) {
        let bad = read_message(text).expect_err(text);
        (bad.id.map(|id| id.as_str().to_owned()), bad.detail)
    }

    #[test]
    fn a_subscription_is_parsed_with_filters_and_cursor() {
        let after = cursor::text(CURSOR);
        let text = format!(
            r#"{{"type":"subscribe","id":"a","order_id":5,"user_id":42,"status":"Failed","after":"{after}","all":null}}"#
        );
        let filter = Filter {
            order_id: Some(OrderId(5)),
            user_id: Some(UserId::Number(42)),
            status: Some(OrderStatus::Failed),
        };
        let expected = ClientMessage::Subscribe {
            id: id("a"),
            filter,
            after: Some(CURSOR),
        };
        assert_eq!(read_message(&text).unwrap(), expected);
        let all = ClientMessage::Subscribe {
            id: id("é"),
            filter: Filter::default(),
            after: None,
        };
        let text = r#" {"all":true,"id":"\u00e9","type":"subscribe"} "#;
        assert_eq!(read_message(text).unwrap(), all);
        let text = r#"{"type":"unsubscribe","id":"a"}"#;
        assert_eq!(
            read_message(text).unwrap(),
            ClientMessage::Unsubscribe { id: id("a") }
        );
    }

    #[test]
    fn all_invalid_fields_are_named_with_the_id() {
        let (named, detail) = refused(
            r#"{"type":"subscribe","id":"a","order_id":"5","user_id":0,"user_id":-1,"status":"failed","after":"x","all":false,"colour":1}"#,
        );
        assert_eq!(named.as_deref(), Some("a"));
        for pointer in [
            "#/order_id must",
            "#/user_id is given more than once",
            "#/user_id must",
            "#/status must",
            "#/after is not",
            "#/all must",
            "#/colour is not a field",
        ] {
            assert!(detail.contains(pointer), "{pointer}: {detail}");
        }
        let (named, detail) = refused(r#"{"type":"unsubscribe","id":"a","user_id":1,"all":null}"#);
        assert_eq!(named.as_deref(), Some("a"));
        assert!(
            detail.contains("#/user_id is not") && detail.contains("#/all is not"),
            "{detail}"
        );
    }

    #[test]
    fn a_message_without_an_id_is_refused_without_one() {
        let long = "x".repeat(SUBSCRIPTION_ID_CHARS_MAX + 1);
        for bad in [
            "",
            "{",
            "[]",
            "1",
            "\"a\"",
            "{}",
            r#"{"type":"subscribe","id":5,"all":true}"#,
        ] {
            assert_eq!(refused(bad).0, None, "{bad}");
        }
        for id in ["", "a\\u0000", "a\\n", "\\ud800", &long] {
            let text = format!(r#"{{"type":"unsubscribe","id":"{id}"}}"#);
            assert_eq!(refused(&text).0, None, "{text}");
        }
    }

    #[test]
    fn a_subscription_to_all_orders_excludes_filters() {
        for (fields, reason) in [
            ("", "# needs"),
            (r#","user_id":null"#, "# needs"),
            (r#","all":true,"user_id":1"#, "#/all excludes"),
            (r#","all":1"#, "#/all must be true"),
        ] {
            let (named, detail) = refused(&format!(r#"{{"type":"subscribe","id":"a"{fields}}}"#));
            assert_eq!(named.as_deref(), Some("a"));
            assert!(detail.starts_with(reason), "{fields}: {detail}");
        }
    }

    #[test]
    fn an_id_is_returned_unchanged() {
        let id = id("a\"\\é");
        assert_eq!(
            event_message(&id, br#"{"version":1}"#),
            r#"{"type":"event","id":"a\"\\é","event":{"version":1}}"#
        );
        let message = ServerMessage::Subscribed {
            id: id.as_str(),
            cursor: "c".into(),
        };
        assert_eq!(
            message.text(),
            r#"{"type":"subscribed","id":"a\"\\é","cursor":"c"}"#
        );
        let message = ServerMessage::Error {
            id: None,
            detail: "no",
            cursor: None,
        };
        assert_eq!(message.text(), r#"{"type":"error","id":null,"detail":"no"}"#);
    }
}
