//! The busiest statements, as functions. A session plans the statements of a function once; a node sends only a call,
//! which is cheap to plan anew, as it must be wherever poolers share sessions. To its caller, a function is one
//! statement: committed when it is answered, and run to its end whatever happens to the caller.
//!
//! A function is named by its file and the hash of its text, so that nodes of different builds work side by side,
//! each with its own functions. Texts refer to a function as `:accept(`; [`named`] inserts the name in the database.
//! A plan is kept as long as the session, so it must be right for tables that were empty when it was made. Hence rows
//! are found by index only, from a list of keys or one after another, since a join may scan a whole table that was
//! empty when it was analyzed. Long lists are joined by hashing. JIT compilation is off, because disabled plan types
//! look expensive enough to trigger it.

use std::fmt::Write;
use std::sync::LazyLock;

use sha2::{Digest, Sha256};

/// Names and texts of the functions, each after those that it calls.
const FILES: &[(&str, &str)] = &[
    ("epoch_here", include_str!("epoch_here.sql")),
    ("begin_epoch", include_str!("begin_epoch.sql")),
    ("store_orders", include_str!("store_orders.sql")),
    ("accept", include_str!("accept.sql")),
    ("accept_keyed", include_str!("accept_keyed.sql")),
    ("see_to_turns", include_str!("see_to_turns.sql")),
    ("choose", include_str!("choose.sql")),
    ("pick", include_str!("pick.sql")),
    ("start", include_str!("start.sql")),
    ("claim", include_str!("claim.sql")),
    ("refused_starts", include_str!("refused_starts.sql")),
    ("settle", include_str!("settle.sql")),
    ("view_orders", include_str!("view_orders.sql")),
];

/// The number of bytes of the hash in a name.
const HASH_BYTES: usize = 6;

struct Function {
    /// The call as texts write it, including the bracket: `:accept(`.
    called: String,
    /// The name in the database: `orderly.accept_0f1e2d3c4b5a`.
    name: String,
    text: String,
}

static FUNCTIONS: LazyLock<Vec<Function>> = LazyLock::new(|| {
    let mut functions = Vec::new();
    for (file, text) in FILES {
        let called = format!(":{file}(");
        // The name of the function itself stays open, since it contains the hash.
        let text = with_names(text, &functions);
        let hash = Sha256::digest(&text);
        let name = hash[..HASH_BYTES]
            .iter()
            .fold(format!("orderly.{file}_"), |mut name, byte| {
                write!(name, "{byte:02x}").expect("a string takes any text");
                name
            });
        let text = text.replace(&called, &format!("{name}("));
        functions.push(Function { called, name, text });
    }
    functions
});

/// Replaces the calls in a text by the names that the functions have in the database.
pub(super) fn named(text: &str) -> String {
    with_names(text, &FUNCTIONS)
}

fn with_names(text: &str, functions: &[Function]) -> String {
    functions.iter().fold(text.to_owned(), |text, function| {
        text.replace(&function.called, &format!("{}(", function.name))
    })
}

/// Returns a query that finds one row when a function of this build is missing.
pub(super) fn missing() -> String {
    let names: Vec<String> = FUNCTIONS
        .iter()
        .map(|function| format!("('{}')", function.name))
        .collect();
    format!(
        "select 1 from (values {}) as needed (name) where to_regproc(name) is null limit 1",
        names.join(", ")
    )
}

/// Returns the statements that create the missing functions, for a transaction that holds the migration lock.
pub(super) fn create() -> String {
    FUNCTIONS.iter().fold(String::new(), |mut statements, function| {
        let Function { name, text, .. } = function;
        writeln!(
            statements,
            "do $once$ begin if to_regproc('{name}') is null then execute $function${text}$function$; end if; end $once$;"
        )
        .expect("a string takes any text");
        statements
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_call_in_a_text_is_replaced_by_a_name() {
        for function in FUNCTIONS.iter() {
            for other in FUNCTIONS.iter() {
                assert!(!function.text.contains(&other.called), "{}", function.name);
            }
        }
    }

    /// The texts are quoted within other texts.
    #[test]
    fn no_text_contains_its_delimiters() {
        for function in FUNCTIONS.iter() {
            assert!(!function.text.contains("$function$") && !function.text.contains("$once$"));
        }
    }

    #[test]
    fn the_hash_of_a_function_covers_its_callees() {
        let claim = FUNCTIONS.iter().find(|function| function.called == ":claim(");
        let start = FUNCTIONS.iter().find(|function| function.called == ":start(");
        let (claim, start) = (claim.unwrap(), start.unwrap());
        assert!(claim.text.contains(&format!("{}(", start.name)));
    }
}
