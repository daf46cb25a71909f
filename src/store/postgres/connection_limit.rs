//! Recognises that a database, or a pooler in front of it, refuses a connection because there are too many.

use super::failure::PgFailure;

/// Texts of refusals, in lower case. Servers and poolers send different codes, some of which also mean other things.
const REFUSALS: [&str; 10] = [
    // PostgreSQL's `too_many_connections`, which poolers pass on.
    "(53300)",
    "too many connections",
    "too many clients",
    "remaining connection slots are reserved",
    // PgBouncer (08P01): `max_client_conn`, the limits per user and database, and the limits towards the server.
    "no more connections allowed",
    "client connections exceeded",
    "too many servers in the pool",
    // PgBouncer, for a client that waited in its queue for too long.
    "query_wait_timeout",
    // Supavisor (XX000): in transaction mode and in session mode.
    "max client connections reached",
    "max clients reached",
];

/// Reports whether an attempt to connect failed because of a connection limit. A pooler in session mode accepts the
/// connection and lets its first statement wait; the pool handles that case.
pub(super) fn is_connection_limit_refusal(failure: &PgFailure) -> bool {
    match failure {
        PgFailure::Unavailable(text) | PgFailure::Unknown(text) => is_refusal_text(text),
        _ => false,
    }
}

/// Reports whether the text of an error is a refusal because of a connection limit.
pub fn is_refusal_text(text: &str) -> bool {
    let text = text.to_lowercase();
    REFUSALS.iter().any(|refusal| text.contains(refusal))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_of_servers_and_poolers_are_recognised() {
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
                is_connection_limit_refusal(&PgFailure::Unavailable(text.into())),
                "{text}"
            );
        }
        for text in [
            "connection refused",
            "the database system is starting up (57P03)",
            "not connected within 10s",
        ] {
            assert!(
                !is_connection_limit_refusal(&PgFailure::Unavailable(text.into())),
                "{text}"
            );
        }
        assert!(!is_connection_limit_refusal(&PgFailure::Refused(
            "(28P01)".into()
        )));
    }
}
