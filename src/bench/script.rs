//! Requests of the load generator, prepared as bytes before the measurement.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::sync::Arc;

use crate::config::Secret;

/// Number of distinct requests in a script unless there are more users, sent in turn.
const VARIANTS: usize = 1_000;
/// Number of distinct batch requests, which are long.
const BATCH_VARIANTS: usize = 4;
/// Reads of the mixed load after each accepted order.
const READS_PER_ORDER: u32 = 3;

/// Destination of requests.
#[derive(Clone)]
pub struct Caller {
    pub address: SocketAddr,
    pub api_key: Option<Secret>,
}

impl Caller {
    /// Returns the caller of a server without a key.
    pub fn of(address: SocketAddr) -> Caller {
        Caller {
            address,
            api_key: None,
        }
    }

    pub fn get(&self, path: &str) -> Vec<u8> {
        format!("GET {path} HTTP/1.1\r\n{}\r\n", self.fields()).into_bytes()
    }

    pub fn post(&self, path: &str, body: &str) -> Vec<u8> {
        let fields = self.fields();
        let bytes = body.len();
        format!(
            "POST {path} HTTP/1.1\r\n{fields}Content-Type: application/json\r\nContent-Length: {bytes}\r\n\r\n{body}"
        )
        .into_bytes()
    }

    fn fields(&self) -> String {
        let mut fields = format!("Host: {}\r\n", self.address);
        if let Some(key) = &self.api_key {
            // Writing to a String does not fail.
            let _ = write!(fields, "Authorization: Bearer {}\r\n", key.expose());
        }
        fields
    }
}

pub struct Script {
    caller: Caller,
    requests: Vec<Vec<u8>>,
    /// Number of orders that one successful answer counts for.
    pub orders_per_request: u64,
    reads_per_request: u32,
}

impl Script {
    /// Returns a script with one order per request, the users in turn.
    pub fn accept(caller: &Caller, users: usize) -> Script {
        let variants = 1..=VARIANTS.max(users);
        let requests = variants.map(|number| caller.post("/orders", &order(number, users)));
        Script {
            requests: requests.collect(),
            caller: caller.clone(),
            orders_per_request: 1,
            reads_per_request: 0,
        }
    }

    pub fn batch(caller: &Caller, orders: usize, users: usize) -> Script {
        let requests = (0..BATCH_VARIANTS).map(|variant| {
            let numbers = (1..=orders).map(|number| variant * orders + number);
            let orders: Vec<String> = numbers.map(|number| order(number, users)).collect();
            let body = format!("{{\"orders\":[{}]}}", orders.join(","));
            caller.post("/orders/batch", &body)
        });
        Script {
            requests: requests.collect(),
            caller: caller.clone(),
            orders_per_request: orders as u64,
            reads_per_request: 0,
        }
    }

    /// Returns a script that reads existing orders.
    pub fn status(caller: &Caller, order_ids: &[i64]) -> Script {
        let ids = order_ids.iter().take(VARIANTS);
        Script {
            requests: ids.map(|id| caller.get(&format!("/orders/{id}"))).collect(),
            caller: caller.clone(),
            orders_per_request: 1,
            reads_per_request: 0,
        }
    }

    /// Returns a script of orders, each followed by reads of it.
    pub fn mixed(caller: &Caller, users: usize) -> Script {
        Script {
            reads_per_request: READS_PER_ORDER,
            ..Script::accept(caller, users)
        }
    }

    pub fn address(&self) -> SocketAddr {
        self.caller.address
    }
}

/// Position of one connection in the script.
pub struct Turns {
    script: Arc<Script>,
    next: usize,
    reads_left: u32,
    read: Vec<u8>,
}

impl Turns {
    /// Starts each connection at another place.
    pub fn begin(script: Arc<Script>, connection: usize) -> Turns {
        Turns {
            // A prime far above any number of variants.
            next: connection.wrapping_mul(7_919),
            script,
            reads_left: 0,
            read: Vec::new(),
        }
    }

    pub fn request(&self) -> &[u8] {
        if self.reads_left > 0 {
            return &self.read;
        }
        let requests = &self.script.requests;
        &requests[self.next % requests.len()]
    }

    pub fn answered(&mut self, body: &[u8]) {
        if self.reads_left > 0 {
            self.reads_left -= 1;
            return;
        }
        self.next = self.next.wrapping_add(1);
        if self.script.reads_per_request > 0
            && let Some(id) = order_ids(body).first()
        {
            self.read = self.script.caller.get(&format!("/orders/{id}"));
            self.reads_left = self.script.reads_per_request;
        }
    }
}

/// Returns the order ids in an answer, in its order.
pub fn order_ids(body: &[u8]) -> Vec<i64> {
    let text = String::from_utf8_lossy(body);
    let after_names = text.split("\"order_id\":").skip(1);
    let digits = after_names.map(|rest| {
        let end = rest.find(|character: char| !character.is_ascii_digit());
        &rest[..end.unwrap_or(rest.len())]
    });
    digits.filter_map(|digits| digits.parse().ok()).collect()
}

/// Returns the user of an order by its number.
pub fn user_of(number: usize, users: usize) -> usize {
    number % users + 1
}

/// Returns an order with three items.
fn order(number: usize, users: usize) -> String {
    let user = user_of(number, users);
    let (first, cents) = (100 + number % 800, number % 90 + 10);
    format!(
        "{{\"user_id\":{user},\"item_ids\":[{first},{},{}],\"total_amount\":250.{cents}}}",
        first + 1,
        first + 2
    )
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    fn caller() -> Caller {
        Caller {
            api_key: Some(Secret::new("a key".to_owned())),
            ..Caller::of(([127, 0, 0, 1], 5000).into())
        }
    }

    #[test]
    fn a_request_is_complete() {
        let script = Arc::new(Script::accept(&caller(), 1));
        let turns = Turns::begin(script, 0);
        let text = std::str::from_utf8(turns.request()).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("POST /orders HTTP/1.1\r\nHost: 127.0.0.1:5000\r\n"));
        assert!(head.contains("\r\nAuthorization: Bearer a key\r\n"));
        assert!(head.ends_with(&format!("Content-Length: {}", body.len())));
        let order: serde_json::Value = serde_json::from_str(body).unwrap();
        assert_eq!(order["user_id"], 1);
    }

    #[test]
    fn orders_are_spread_over_the_given_number_of_users() {
        for users in [1, 3, 2_000] {
            for script in [
                Script::accept(&caller(), users),
                Script::batch(&caller(), 1_000, users),
            ] {
                let texts = script
                    .requests
                    .iter()
                    .map(|request| String::from_utf8_lossy(request));
                let texts: Vec<_> = texts.collect();
                let of_text = |text| str::split(text, "\"user_id\":").skip(1);
                let rests = texts.iter().flat_map(|text| of_text(text));
                let seen: HashSet<_> = rests.filter_map(|rest| rest.split(',').next()).collect();
                assert_eq!(seen.len(), users);
            }
        }
    }

    #[test]
    fn the_mixed_load_reads_an_order_after_its_acceptance() {
        let mut turns = Turns::begin(Arc::new(Script::mixed(&caller(), 5)), 3);
        assert!(turns.request().starts_with(b"POST /orders "));
        turns.answered(br#"{"order_id":45,"user_id":1}"#);
        for _ in 0..READS_PER_ORDER {
            assert!(turns.request().starts_with(b"GET /orders/45 HTTP/1.1\r\n"));
            turns.answered(br#"{"order_id":45,"user_id":1}"#);
        }
        assert!(turns.request().starts_with(b"POST /orders "));
    }

    #[test]
    fn ids_are_read_from_an_answer() {
        let body = br#"{"orders":[{"order_id":7,"a":1},{"order_id":8}]}"#;
        assert_eq!(order_ids(body), [7, 8]);
    }
}
