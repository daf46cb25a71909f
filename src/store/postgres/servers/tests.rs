//! The time that an attempt at a server may take.

use super::*;
use crate::config::{Database, PasswordSources};

#[tokio::test(start_paused = true)]
async fn an_unresponsive_server_gets_little_time_once_another_answered() {
    let url = "postgres://me:x@a,b/db?connect_timeout=3";
    let (database, _) = Database::parse(url, &PasswordSources::default()).unwrap();
    let Database::Postgres(database) = database else {
        panic!("{url} is no URL of PostgreSQL")
    };
    let servers = Servers::new(&database.url).unwrap();
    let (full, brief) = (Duration::from_secs(3), BRIEF_TIME_MAX);
    let times = || [false, true].map(|answered| servers.time_max_of(0, answered));
    assert_eq!(times(), [full, full]);
    servers.note_unresponsive(0, Instant::now());
    assert_eq!(times(), [full, brief]);
    assert_eq!(servers.time_max_of(1, true), full);
    // A brief attempt that fails does not prolong it.
    tokio::time::advance(UNRESPONSIVE_FOR / 2).await;
    servers.note_unresponsive(0, Instant::now());
    tokio::time::advance(UNRESPONSIVE_FOR / 2).await;
    assert_eq!(times(), [full, full]);
}
