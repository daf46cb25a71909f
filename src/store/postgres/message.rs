//! Texts of several statements that are sent as one message. Such a message takes no parameters, so numbers and ids are put into
//! its text, and texts never are. Apart from the names of functions (`functions`), nothing else in a statement is replaced; the
//! tidy tests check that.

use crate::order::OrderId;

/// `text` with every name (`:places`) replaced by its number.
pub(super) fn with_numbers(text: &str, numbers: &[(&str, i64)]) -> String {
    numbers.iter().fold(text.to_owned(), |text, (name, number)| {
        text.replace(name, &number.to_string())
    })
}

/// `text` with every name replaced by its array of ids, or by null where there is none.
pub(super) fn with_ids(text: &str, arrays: &[(&str, Option<&[OrderId]>)]) -> String {
    arrays.iter().fold(text.to_owned(), |text, (name, ids)| {
        text.replace(name, &array(*ids))
    })
}

fn array(ids: Option<&[OrderId]>) -> String {
    let Some(ids) = ids else {
        return "null::int8[]".to_owned();
    };
    let ids: Vec<String> = ids.iter().map(ToString::to_string).collect();
    format!("'{{{}}}'::int8[]", ids.join(","))
}
