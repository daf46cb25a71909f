//! Recognizes that a database, or a pooler before it, refuses a connection because there are too many.

use super::failure::Failure;

/// Texts of refusals, in lower case: servers and poolers send different codes, some of which mean other things as well.
const REFUSALS: [&str; 10] = [
    // PostgreSQL's `too_many_connections`, also when a pooler passes it on.
    "(53300)",
    "too many connections",
    "too many clients",
    "remaining connection slots are reserved",
    // PgBouncer (08P01): `max_client_conn`, the limits per user and database, and those towards the server.
    "no more connections allowed",
    "client connections exceeded",
    "too many servers in the pool",
    // The same for one that waited in its line for too long.
    "query_wait_timeout",
    // Supavisor (XX000): in transaction mode and in session mode.
    "max client connections reached",
    "max clients reached",
];

/// Reports whether an attempt to connect failed for want of room. A pooler in session mode says nothing for long: it
/// takes the connection and lets its first statement wait, which is left to the pool.
pub(super) fn is_refusal_for_want_of_room(failure: &Failure) -> bool {
    match failure {
        Failure::Unavailable(text) | Failure::Unknown(text) => is_refusal_text(text),
        _ => false,
    }
}

pub fn is_refusal_text(text: &str) -> bool {
    let text = text.to_lowercase();
    REFUSALS.iter().any(|refusal| text.contains(refusal))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_are_known_by_the_words_of_servers_and_poolers() {
        for text in [
            "too many connections for role \"limited\" (53300)",
            "sorry, too many clients already (53300)",
            "remaining connection slots are reserved for roles with the SUPERUSER attribute (53300)",
            "no more connections allowed (max_client_conn) (08P01)",
            "client connections exceeded (max_user_client_connections) (08P01)",
            "(EMAXCONNSESSION) max clients reached in session mode - max clients are limited to pool_size: 15 (XX000)",
            "Max client connections reached (XX000)",
            "MaxClientsInSessionMode: max clients reached - in Session mode max clients are limited to pool_size (XX000)",
            "query_wait_timeout (08P01)",
        ] {
            assert!(
                is_refusal_for_want_of_room(&Failure::Unavailable(text.into())),
                "{text}"
            );
        }
        for text in [
            "connection refused",
            "the database system is starting up (57P03)",
            "not connected within 10s",
        ] {
            assert!(
                !is_refusal_for_want_of_room(&Failure::Unavailable(text.into())),
                "{text}"
            );
        }
        assert!(!is_refusal_for_want_of_room(&Failure::Refused("(28P01)".into())));
    }
}
