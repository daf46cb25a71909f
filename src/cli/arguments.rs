//! Argument parsers shared by several commands.

use clap::builder::{PossibleValuesParser, RangedI64ValueParser, TypedValueParser};

use crate::order::{INTEGER_MAX, OrderStatus};

/// Parses the id of an order or a user.
pub fn id() -> RangedI64ValueParser<i64> {
    clap::value_parser!(i64).range(1..=INTEGER_MAX)
}

/// Parses a status name. With `ignore_case`, in any case.
pub fn status() -> impl TypedValueParser<Value = &'static str> {
    PossibleValuesParser::new(OrderStatus::ALL.map(OrderStatus::name)).map(|text| {
        let mut names = OrderStatus::ALL.into_iter().map(OrderStatus::name);
        names
            .find(|name| name.eq_ignore_ascii_case(&text))
            .expect("the parser lets only these names through")
    })
}
