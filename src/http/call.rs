//! A request on its way to a handler, and the client that sent it.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::Request;
use axum::http::HeaderMap;
use axum::http::request::Parts;

use super::Shared;
use super::listener::ClientAddress;
use super::problem::{Problem, ProblemType};
use super::request::RequestId;
use crate::order::{OrderId, parse_integer};

/// The client that sent a request. Idempotency keys of different callers never meet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Caller {
    name: &'static str,
}

impl Caller {
    /// Every admitted client, since there is one API key or none.
    pub const ONLY: Caller = Caller { name: "" };

    /// Returns the scope of the caller's idempotency keys on a route. Stored with them, so it must never change.
    pub fn scope(self, route: &str) -> String {
        format!("{}:{route}", self.name)
    }
}

/// An admitted request.
pub struct Call {
    pub shared: Arc<Shared>,
    pub caller: Caller,
    pub id: RequestId,
    pub head: Parts,
    pub body: Body,
    /// The decoded value of the path's parameter; `None` if the path has none or it is not UTF-8.
    pub parameter: Option<String>,
}

impl Call {
    pub fn new(
        shared: Arc<Shared>,
        caller: Caller,
        id: RequestId,
        request: Request,
        parameter: Option<String>,
    ) -> Call {
        let (head, body) = request.into_parts();
        Call {
            shared,
            caller,
            id,
            head,
            body,
            parameter,
        }
    }

    pub fn headers(&self) -> &HeaderMap {
        &self.head.headers
    }

    /// Returns the address of the client or of a proxy in front, for the log.
    pub fn client_address(&self) -> String {
        let address = self.head.extensions.get::<ClientAddress>();
        let address = address.and_then(|ClientAddress(address)| *address);
        address.map_or_else(|| "unknown".to_owned(), |address| address.to_string())
    }

    pub fn query(&self) -> Option<&str> {
        self.head.uri.query()
    }

    /// Returns the order id in the path. Text that is no id is the id of no order.
    pub fn order_id(&self) -> Result<OrderId, Problem> {
        order_id(self.parameter.as_deref())
    }
}

fn order_id(parameter: Option<&str>) -> Result<OrderId, Problem> {
    parse_integer(parameter.unwrap_or_default())
        .map(OrderId)
        .map_err(|_| unknown_order())
}

pub fn unknown_order() -> Problem {
    Problem::new(ProblemType::OrderNotFound, "no order has this id")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_invalid_order_id_is_not_found() {
        let id = |text: &str| order_id(Some(text));
        assert_eq!(id("45").unwrap(), OrderId(45));
        for text in [
            "0",
            "-1",
            "abc",
            "01",
            "1.0",
            "9007199254740992",
            "99999999999999999999",
            "",
        ] {
            assert_eq!(id(text).unwrap_err().kind, ProblemType::OrderNotFound, "{text}");
        }
    }
}
