//! Recognizes that a database, or a pooler before it, refuses a connection because there are too many. Reads how many
//! connections the database's settings allow.

use std::sync::Arc;

use super::classes::{CONNECTIONS_MAX, CONNECTIONS_MIN, Class};
use super::failure::Failure;
use super::links::Links;
use super::pool::Pool;
use super::query::Reads;
use super::rows;
use crate::store::snapshot::Room;

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

/// Reads how many connections the settings allow the nodes of a database; meaningless for connections to a pooler.
pub(super) async fn room(source: &impl Reads) -> Result<Option<Room>, Failure> {
    let found = source.read(include_str!("allowance.sql"), &[]).await?;
    let Some(row) = found.first() else { return Ok(None) };
    let allowed: i32 = rows::column(row, 0)?;
    Ok(Some(Room {
        allowed: usize::try_from(allowed).unwrap_or(0),
        setting: rows::column(row, 1)?,
        node_wants: CONNECTIONS_MAX,
        node_needs: CONNECTIONS_MIN,
    }))
}

/// Nodes that live, and this one, which is not on the list yet.
async fn nodes_with_this_one(source: &impl Reads) -> Result<usize, Failure> {
    let others = "select count(*) from orderly.nodes where expires_at >= clock_timestamp()";
    let found = source.read(others, &[]).await?;
    let others = rows::large_count(rows::only(&found)?, 0)?;
    Ok(usize::try_from(others).unwrap_or(0) + 1)
}

/// Counts on what the settings allow, and says so when that is less than the nodes want.
pub(super) async fn count_on_room(pool: &Arc<Pool>) {
    let control = Links::new(pool, Class::Control);
    let found = async {
        let room = room(&control).await?;
        Ok((room, nodes_with_this_one(&control).await?))
    };
    match found.await {
        Ok((Some(room), nodes)) => {
            // The first node leaves room for the others.
            pool.expect((room.allowed / nodes).max(CONNECTIONS_MIN));
            if let Some(shortage) = room.shortage(nodes) {
                tracing::warn!("too few connections to the database, so nodes work more slowly: {shortage}");
            }
        }
        Ok((None, _)) => {}
        Err::<_, Failure>(failure) => {
            tracing::debug!(?failure, "cannot read how many connections the database allows");
        }
    }
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
