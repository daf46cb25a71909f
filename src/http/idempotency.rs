//! The `Idempotency-Key` header (draft-ietf-httpapi-idempotency-key-header): reads it, and refuses a second request
//! while the first with the same key is in flight in this process. The store keeps the keys.

use std::collections::HashSet;
use std::sync::{Mutex, MutexGuard, PoisonError};

use axum::http::HeaderMap;
use sha2::{Digest, Sha256};

use super::call::Caller;
use super::problem::{Problem, ProblemType};
use crate::store::IdempotencyKey;

const HEADER: &str = "idempotency-key";
const KEY_BYTES_MAX: usize = 255;

/// The key of a request, from its header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Key(String);

impl Key {
    /// Reads the key. A bare value and a quoted one (a structured field string, RFC 8941) are the same key.
    pub fn read(headers: &HeaderMap) -> Result<Option<Key>, Problem> {
        let mut given = headers.get_all(HEADER).iter();
        let Some(value) = given.next() else {
            return Ok(None);
        };
        let refuse = |detail| Err(Problem::new(ProblemType::InvalidIdempotencyKey, detail));
        if given.next().is_some() {
            return refuse("send one Idempotency-Key");
        }
        let printable = |byte: &u8| matches!(byte, b' '..=b'~');
        let Some(text) = value
            .to_str()
            .ok()
            .filter(|text| text.as_bytes().iter().all(printable))
        else {
            return refuse("an Idempotency-Key must consist of printable ASCII characters");
        };
        let text = text.trim_ascii();
        let key = match text.strip_prefix('"') {
            Some(quoted) => match unquoted(quoted) {
                Some(key) => key,
                None => return refuse("the quotes around the Idempotency-Key are malformed"),
            },
            None => text.to_owned(),
        };
        if key.is_empty() || key.len() > KEY_BYTES_MAX {
            return refuse("an Idempotency-Key must have 1 to 255 characters");
        }
        Ok(Some(Key(key)))
    }

    /// Binds the key to its caller, its route and the exact bytes of the body. `route` is part of the key's meaning and
    /// must never change.
    pub fn bind(self, caller: Caller, route: &'static str, body: &[u8]) -> IdempotencyKey {
        let fingerprint = Sha256::new()
            .chain_update(route)
            .chain_update([0])
            .chain_update(body)
            .finalize();
        IdempotencyKey {
            scope: caller.scope(route),
            key: self.0,
            fingerprint: fingerprint.into(),
        }
    }
}

/// Returns the text before the closing quote, which nothing may follow.
fn unquoted(rest: &str) -> Option<String> {
    let mut key = String::with_capacity(rest.len());
    let mut characters = rest.chars();
    loop {
        match characters.next()? {
            '"' => return characters.as_str().is_empty().then_some(key),
            '\\' => key.push(characters.next().filter(|next| matches!(next, '"' | '\\'))?),
            character => key.push(character),
        }
    }
}

/// Scope and key of the requests in flight; at most one per connection.
#[derive(Default)]
pub struct InFlight(Mutex<HashSet<(String, String)>>);

impl InFlight {
    /// Marks the key as in flight until the guard is dropped, or refuses because it already is.
    pub fn enter(&self, key: &IdempotencyKey) -> Result<InFlightGuard<'_>, Problem> {
        let entry = (key.scope.clone(), key.key.clone());
        if !self.entries().insert(entry.clone()) {
            return Err(Problem::new(
                ProblemType::IdempotencyInFlight,
                "the first request with this Idempotency-Key is not answered yet",
            ));
        }
        Ok(InFlightGuard {
            registry: self,
            entry,
        })
    }

    fn entries(&self) -> MutexGuard<'_, HashSet<(String, String)>> {
        // Every call leaves the set whole, even if a thread panicked.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Also dropped when the client disconnects; the store then decides on a repeated request.
pub struct InFlightGuard<'a> {
    registry: &'a InFlight,
    entry: (String, String),
}

impl Drop for InFlightGuard<'_> {
    fn drop(&mut self) {
        self.registry.entries().remove(&self.entry);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::HeaderValue;

    fn read(values: &[&[u8]]) -> Result<Option<Key>, Problem> {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(HEADER, HeaderValue::from_bytes(value).unwrap());
        }
        Key::read(&headers)
    }

    #[test]
    fn bare_and_quoted_values_are_the_same_key() {
        let key = Some(Key("a-1 \"x\"".into()));
        assert_eq!(read(&[b"a-1 \"x\""]).unwrap(), key);
        assert_eq!(read(&[b"\"a-1 \\\"x\\\"\""]).unwrap(), key);
        assert_eq!(read(&[]).unwrap(), None);
        assert!(read(&[&[b'k'; KEY_BYTES_MAX]]).unwrap().is_some());
    }

    #[test]
    fn an_invalid_key_is_refused() {
        let long = [b'k'; KEY_BYTES_MAX + 1];
        for values in [
            &[&b""[..]][..],
            &[b"\"\""],
            &[b"  "],
            &[b"a\tb"],
            &[b"caf\xc3\xa9"],
            &[b"\"open"],
            &[b"\"a\"b"],
            &[b"\"a\\n\""],
            &[&long],
            &[b"a", b"a"],
        ] {
            let problem = read(values).unwrap_err();
            assert_eq!(problem.kind, ProblemType::InvalidIdempotencyKey, "{values:?}");
        }
    }

    #[test]
    fn a_key_is_bound_to_route_and_body() {
        let bind = |route, body: &[u8]| Key("k".into()).bind(Caller::ONLY, route, body);
        assert_eq!(bind("orders", b"{}"), bind("orders", b"{}"));
        assert_ne!(
            bind("orders", b"{}").fingerprint,
            bind("orders", b"{ }").fingerprint
        );
        assert_ne!(bind("orders", b"{}").scope, bind("orders/batch", b"{}").scope);
    }

    #[test]
    fn a_key_is_in_flight_until_its_guard_is_dropped() {
        let registry = InFlight::default();
        let key = Key("k".into()).bind(Caller::ONLY, "orders", b"{}");
        let other = Key("k".into()).bind(Caller::ONLY, "orders/batch", b"{}");
        let first = registry.enter(&key).unwrap();
        let refused = registry.enter(&key).err().unwrap();
        assert_eq!(refused.kind, ProblemType::IdempotencyInFlight);
        drop(registry.enter(&other).unwrap());
        drop(first);
        assert!(registry.enter(&key).is_ok());
        assert!(registry.entries().is_empty());
    }
}
