//! The URL of standbys.

use super::*;
use crate::config::Session;

#[test]
fn reads_may_go_to_standbys() {
    let read = "postgres://me:hunter2@a,b/db?target_session_attrs=standby";
    let given = given()
        .variable("DATABASE_URL", "postgres://me@host/db")
        .variable("DATABASE_READ_URL", read);
    let config = given.config();
    let Database::Postgres(database) = &config.database else {
        panic!("the database is PostgreSQL");
    };
    let read = database.read.as_ref().unwrap();
    assert_eq!((read.hosts.len(), read.session), (2, Some(Session::Standby)));
    assert_eq!(read.server.get_password(), Some("hunter2".as_bytes()));
    let shown = format!("{config:?} {:?}", Layers::gather(&given.sources).shown());
    assert!(!shown.contains("hunter2"), "{shown}");
}
