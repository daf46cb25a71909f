//! Faults of the database and of the disk.

use std::path::Path;

use rusqlite::Connection;

use super::{Shop, order_of, place_all};
use crate::support::client::http;
use crate::support::postgres::{self, Server, Stop, TestDatabase};
use crate::support::required;
use crate::support::small_disk::SmallDisk;

/// A database of its own on the shared server, unless PostgreSQL is missing here.
async fn database() -> Option<TestDatabase> {
    if !required("PostgreSQL", postgres::is_installed()) {
        return None;
    }
    Some(super::durable().await.create_database().await)
}

/// A shop whose node has run, and runs no more.
async fn stopped(settings: &[(&'static str, &str)]) -> Shop {
    let shop = Shop::new(settings);
    assert_eq!(shop.node().await.terminate().await, Some(0));
    shop
}

fn file(shop: &Shop) -> Connection {
    Connection::open(shop.path().join("orderly.db")).expect("the file can be opened")
}

pub async fn the_password_is_wrong() {
    if !required("PostgreSQL", postgres::is_installed()) {
        return;
    }
    let server = Server::start(super::options().password("right")).await;
    let database = server.create_database().await;
    let url = database.url().replace(":right@", ":wrong@");
    let shop = Shop::new(&[("DATABASE_URL", &url)]);
    shop.is_named(None, "store", &["28P01", "password"]).await;
}

pub async fn the_password_is_changed() {
    if !required("PostgreSQL", postgres::is_installed()) {
        return;
    }
    let server = Server::start(super::options().password("right")).await;
    let database = server.create_database().await;
    let shop = Shop::new(&[("DATABASE_URL", &database.url())]);
    let node = shop.node().await;
    let admin = postgres::connect(&database.url()).await.expect("a connection");
    let change = "alter role current_user password 'another'";
    admin.batch_execute(change).await.expect("a new password");
    server.terminate_backends(&database).await;
    shop.is_named(Some(&node), "store", &["28P01", "password"]).await;
}

pub async fn the_server_is_away() {
    if !required("PostgreSQL", postgres::is_installed()) {
        return;
    }
    let server = Server::start(super::options()).await;
    let database = server.create_database().await;
    let shop = Shop::new(&[("DATABASE_URL", &database.url())]);
    let node = shop.node().await;
    server.stop(Stop::Immediate).await;
    shop.is_named(Some(&node), "store", &["Connection refused", "start PostgreSQL"])
        .await;
}

pub async fn the_server_hangs() {
    if !required("PostgreSQL", postgres::is_installed()) {
        return;
    }
    let server = Server::start(super::options()).await;
    let database = server.create_database().await;
    let shop = Shop::new(&[("DATABASE_URL", &database.url())]);
    let node = shop.node().await;
    server.freeze().await;
    shop.is_named(Some(&node), "store", &["within", "SHOW POOLS"])
        .await;
    server.thaw().await;
}

pub async fn a_right_is_missing() {
    let Some(database) = database().await else { return };
    let shop = stopped(&[("DATABASE_URL", &database.url())]).await;
    let admin = postgres::connect(&database.url()).await.expect("a connection");
    let role = format!("clerk_{}", database.name());
    let statements = format!(
        "create role {role} login; grant usage on schema orderly to {role}; \
         grant select on all tables in schema orderly to {role}; revoke select on orderly.nodes from {role}"
    );
    admin.batch_execute(&statements).await.expect("a role");
    let url = format!("{}?options=-c%20role%3D{role}", database.url());
    let shop = Shop {
        settings: vec![("DATABASE_URL", url)],
        ..shop
    };
    shop.is_named(None, "store", &["42501", "privilege"]).await;
    let dropped = format!("drop owned by {role}; drop role {role}");
    admin.batch_execute(&dropped).await.expect("no role");
}

pub async fn no_connection_is_free() {
    if !required("PostgreSQL", postgres::is_installed()) {
        return;
    }
    let server = Server::start(super::options()).await;
    let database = server.create_database().await;
    let shop = stopped(&[("DATABASE_URL", &database.url())]).await;
    let admin = postgres::connect(&database.url()).await.expect("a connection");
    let role = "create role few login connection limit 0; grant all on schema orderly to few; \
                grant all on all tables in schema orderly to few";
    admin.batch_execute(role).await.expect("a role");
    let url = database.url();
    let (_, at) = url.split_once('@').expect("a user in the URL");
    let shop = Shop {
        settings: vec![("DATABASE_URL", format!("postgres://few@{at}"))],
        ..shop
    };
    shop.is_named(None, "store", &["53300", "no connection is free"])
        .await;
}

pub async fn the_database_takes_no_writes() {
    let Some(database) = database().await else { return };
    let shop = stopped(&[("DATABASE_URL", &database.url())]).await;
    let admin = postgres::connect(&database.url()).await.expect("a connection");
    let setting = format!(
        "alter database {} set default_transaction_read_only = on",
        database.name()
    );
    admin.batch_execute(&setting).await.expect("a setting");
    shop.is_named(None, "writes", &["read-only", "default_transaction_read_only"])
        .await;
}

pub async fn a_session_holds_an_order() {
    let Some(database) = database().await else { return };
    let shop = Shop::new(&[
        ("DATABASE_URL", &database.url()),
        ("ORDERLY_SIMULATED_SPEED", "0"),
    ]);
    let node = shop.node().await;
    let other = postgres::connect(&database.url()).await.expect("a connection");
    // A transaction that changes the queue's row, and is forgotten: claims and pauses need it.
    let forgotten = "begin; lock table orderly.first_line in access exclusive mode";
    other.batch_execute(forgotten).await.expect("a lock");
    let placing = async {
        // Answered once the lock is gone, or with an error after the statement's limit.
        let _answer = super::place(&node, order_of(1)).await;
    };
    let named = shop.is_named(
        Some(&node),
        "locked",
        &["idle in transaction", "pg_terminate_backend"],
    );
    tokio::join!(placing, named);
}

/// Claims step around the rows, and nothing else waits for them.
pub async fn the_next_orders_are_locked() {
    let Some(database) = database().await else { return };
    let shop = Shop::new(&[
        ("DATABASE_URL", &database.url()),
        ("ORDERLY_SIMULATED_SPEED", "0"),
    ]);
    let node = shop.node().await;
    let pause = |action: &'static str| http().post(format!("{}/queue/{action}", node.url)).send();
    pause("pause").await.expect("the node answers");
    place_all(&node, [order_of(1), order_of(2)]).await;
    let other = postgres::connect(&database.url()).await.expect("a connection");
    let forgotten = "begin; select from orderly.first_line for update";
    other.batch_execute(forgotten).await.expect("a lock");
    pause("resume").await.expect("the node answers");
    shop.is_named(
        Some(&node),
        "locked",
        &["has locked order 1", "pg_terminate_backend"],
    )
    .await;
}

pub async fn a_table_is_locked() {
    let Some(database) = database().await else { return };
    let shop = Shop::new(&[("DATABASE_URL", &database.url())]);
    let node = shop.node().await;
    let other = postgres::connect(&database.url()).await.expect("a connection");
    let lock = "begin; lock table orderly.nodes in access exclusive mode";
    other.batch_execute(lock).await.expect("a lock");
    shop.is_named(
        Some(&node),
        "locked",
        &["idle in transaction", "pg_terminate_backend"],
    )
    .await;
}

pub async fn the_schema_is_newer() {
    let shop = stopped(&[]).await;
    let later = "insert into migrations (number, name, checksum) values (99, 'later', '')";
    file(&shop).execute(later, []).expect("a migration");
    shop.is_named(None, "store", &["newer", "newest version"]).await;
}

pub async fn the_schema_is_missing_and_migration_is_off() {
    let shop = Shop::new(&[("ORDERLY_MIGRATE", "off")]);
    shop.is_named(None, "store", &["orderly migrate"]).await;
}

pub async fn the_file_is_locked() {
    let shop = stopped(&[]).await;
    let other = file(&shop);
    let lock = "pragma locking_mode = exclusive; begin exclusive; update counters set paused = 0";
    other.execute_batch(lock).expect("a lock");
    shop.is_named(None, "store", &["another program"]).await;
}

pub async fn the_file_is_no_database() {
    let shop = Shop::new(&[]);
    write(&shop.path().join("orderly.db"));
    shop.is_named(None, "store", &["not a database", "backup"]).await;
}

fn write(path: &Path) {
    std::fs::write(path, "not a database, but long enough to be read").expect("the file can be written");
}

pub async fn the_disk_is_full() {
    let folder = tempfile::tempdir().expect("a folder");
    let Some(disk) = SmallDisk::mount(folder.path()).await else {
        return;
    };
    let path = format!("sqlite:{}", disk.path.join("orderly.db").display());
    let shop = Shop::new(&[("DATABASE_URL", &path)]);
    let node = shop.node().await;
    place_all(&node, [order_of(1)]).await;
    disk.leave_free(0);
    shop.is_named(Some(&node), "disk-filling", &["0 MiB free", "make room"])
        .await;
}
