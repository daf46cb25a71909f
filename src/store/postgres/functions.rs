//! The statements that carry the load, as functions: a session plans what is in a function once, and what a node sends each
//! time, which must be planned anew wherever poolers share sessions, is one call. A function is one statement to its caller:
//! committed when it is answered, carried out to its end whatever becomes of the caller.
//!
//! A function is named by its file and the hash of its text, so that nodes of different builds work beside each other, each by
//! its own rules. Texts name functions as `:accept(`; [`named`] puts in the name that the database has. A plan is kept for as long
//! as a session lasts, so it must be right for tables that were empty when it was made: the rows of tables are found by index
//! alone, by a list of keys or one after the other, since a join may walk a whole table that was empty when it was analyzed; lists are
//! joined by hashing where they may be long. Plans that are switched off cost so much that compiling them
//! would seem worth it.

use std::fmt::Write;
use std::sync::LazyLock;

use sha2::{Digest, Sha256};

/// Name and text, each after those that it calls.
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

/// Bytes of the hash that a name carries.
const HASH_BYTES: usize = 6;

struct Function {
    /// The call as texts write it, with what follows the name: `:accept(`.
    called: String,
    /// `orderly.accept_0f1e2d3c4b5a`
    name: String,
    text: String,
}

static FUNCTIONS: LazyLock<Vec<Function>> = LazyLock::new(|| {
    let mut functions = Vec::new();
    for (file, text) in FILES {
        let called = format!(":{file}(");
        // Its own name stays open: it is in the hash.
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

/// `text` with the functions that it calls under the names that the database has for them.
pub(super) fn named(text: &str) -> String {
    with_names(text, &FUNCTIONS)
}

fn with_names(text: &str, functions: &[Function]) -> String {
    functions.iter().fold(text.to_owned(), |text, function| {
        text.replace(&function.called, &format!("{}(", function.name))
    })
}

/// A query for one row when a function of this build is missing.
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

/// Statements that create the functions that are missing, for a transaction that holds the lock of migrations.
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
    fn texts_leave_no_function_without_a_name() {
        for function in FUNCTIONS.iter() {
            for other in FUNCTIONS.iter() {
                assert!(!function.text.contains(&other.called), "{}", function.name);
            }
        }
    }

    /// They are carried out as texts in texts.
    #[test]
    fn no_text_holds_what_stands_around_it() {
        for function in FUNCTIONS.iter() {
            assert!(!function.text.contains("$function$") && !function.text.contains("$once$"));
        }
    }

    #[test]
    fn a_name_changes_with_the_text_of_what_it_calls() {
        let claim = FUNCTIONS.iter().find(|function| function.called == ":claim(");
        let start = FUNCTIONS.iter().find(|function| function.called == ":start(");
        let (claim, start) = (claim.unwrap(), start.unwrap());
        assert!(claim.text.contains(&format!("{}(", start.name)));
    }
}
