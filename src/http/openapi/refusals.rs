//! Refusals that several operations have.

use std::collections::BTreeMap;

use utoipa::IntoResponses;
use utoipa::openapi::{RefOr, Response};

use super::problem;

macro_rules! refusals {
    ($($name:ident: $status:literal, $description:literal;)+) => {
        $(
            pub struct $name;

            impl IntoResponses for $name {
                fn responses() -> BTreeMap<String, RefOr<Response>> {
                    BTreeMap::from([($status.to_owned(), problem($description).into())])
                }
            }
        )+
    };
}

refusals! {
    InvalidParameters: "400", "Invalid parameters, listed in the answer";
    KeyNeeded: "401", "The list of checks needs the API key";
    UnknownOrder: "404", "No such order";
    KeyInFlight: "409", "The first request with this key is in flight";
    LeaseLost: "409", "The lease is lost; nothing changed";
    InvalidFields: "422", "Invalid fields, listed in the answer; nothing changed";
    NotReady: "503", "Not ready";
}
