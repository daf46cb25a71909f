//! Several statements sent as one message. A message takes no parameters, so numbers and ids are inserted into its
//! text; strings never are. Apart from function names (`functions`), nothing else in a statement is replaced; the
//! tidy tests check that.

use crate::order::OrderId;

/// Replaces every name (`:places`) by its number.
pub(super) fn with_numbers(text: &str, numbers: &[(&str, i64)]) -> String {
    numbers.iter().fold(text.to_owned(), |text, (name, number)| {
        text.replace(name, &number.to_string())
    })
}

/// Replaces every name by its array of ids, or by null when there is none.
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
