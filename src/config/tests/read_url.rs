//! The URL of standbys.

use super::*;
use crate::config::{PostgresUrl, Session};

#[test]
fn reads_may_go_to_standbys() {
    let read = "postgres://me:hunter2@a,b/db";
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
    // One host is taken as it is.
    let one = given_read_url("postgres://me@a/db");
    assert_eq!(one.session, None);
    let any = given_read_url("postgres://me@a,b/db?target_session_attrs=any");
    assert_eq!(any.session, Some(Session::Any));
    let shown = format!("{config:?} {:?}", Layers::gather(&given.sources).shown());
    assert!(!shown.contains("hunter2"), "{shown}");
}

fn given_read_url(url: &str) -> PostgresUrl {
    let given = given()
        .variable("DATABASE_URL", "postgres://me@host/db")
        .variable("DATABASE_READ_URL", url);
    match given.config().database {
        Database::Postgres(database) => database.read.unwrap(),
        Database::Sqlite(_) => panic!("the database is PostgreSQL"),
    }
}
