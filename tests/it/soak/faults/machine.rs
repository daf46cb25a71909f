//! Faults of machines: disks, clocks, certificates, connections.

use std::time::{Duration, SystemTime};

use futures_util::future::join_all;

use super::service::place_until_down;
use super::{Shop, order_named, order_of, place_all};
use crate::fulfilment::receiver::{Reaction, Receiver};
use crate::fulfilment::tls::Secured;
use crate::support::client::http;
use crate::support::postgres::{self, Authority, Certificate, PgBouncer, Server};
use crate::support::process::Process;
use crate::support::required;
use crate::support::small_disk::SmallDisk;

pub async fn the_disk_is_filling() {
    let folder = tempfile::tempdir().expect("a folder");
    let Some(disk) = SmallDisk::mount(folder.path()).await else {
        return;
    };
    let path = format!("sqlite:{}", disk.path.join("orderly.db").display());
    let shop = Shop::new(&[("DATABASE_URL", &path)]);
    let node = shop.node().await;
    place_all(&node, [order_of(1)]).await;
    disk.leave_free(1024 * 1024);
    shop.is_named(Some(&node), "disk-filling", &["MiB free", "make room"])
        .await;
}

pub async fn the_disk_of_the_log_is_full() {
    let folder = tempfile::tempdir().expect("a folder");
    let Some(disk) = SmallDisk::mount(folder.path()).await else {
        return;
    };
    let logs = disk.path.join("logs").display().to_string();
    let shop = Shop::new(&[("ORDERLY_LOG_DIR", &logs)]);
    let node = shop.node().await;
    disk.leave_free(0);
    shop.is_named(Some(&node), "log-unwritable", &["0 MiB free", "ORDERLY_LOG_DIR"])
        .await;
}

pub async fn the_log_folder_is_gone() {
    let shop = Shop::new(&[("ORDERLY_LOG_DIR", "logs")]);
    let node = shop.node().await;
    let logs = shop.path().join("logs");
    std::fs::remove_dir_all(&logs).expect("the folder can be removed");
    std::fs::write(&logs, "in the way").expect("a file can be written");
    shop.is_named(Some(&node), "log-unwritable", &["in the way", "ORDERLY_LOG_DIR"])
        .await;
}

pub async fn a_clock_is_wrong() {
    if !required("PostgreSQL", postgres::is_installed()) {
        return;
    }
    let database = super::durable().await.create_database().await;
    let now = database.now().await;
    database.set_clock(Some(now.minus(Duration::from_mins(10)))).await;
    let shop = Shop::new(&[("DATABASE_URL", &database.url()), ("ORDERLY_NODE_NAME", "shop-1")]);
    let node = shop.node().await;
    shop.is_named(Some(&node), "clock-off", &["shop-1", "ahead of", "set the clock"])
        .await;
}

pub async fn clients_hold_all_connections() {
    let shop = Shop::new(&[("ORDERLY_MAX_CONNECTIONS", "2")]);
    let node = shop.node().await;
    let url = format!("{}/events", node.url);
    let streams = (0..2).map(|_| http().get(&url).header("accept", "text/event-stream").send());
    let open: Vec<_> = join_all(streams).await;
    assert!(open.iter().all(Result::is_ok), "{open:?}");
    shop.is_named(Some(&node), "connections-full", &["ORDERLY_MAX_CONNECTIONS"])
        .await;
}

pub async fn another_server_has_the_file() {
    let shop = Shop::new(&[("ORDERLY_NODE_NAME", "shop-1")]);
    let _node = shop.node().await;
    shop.is_named(None, "server", &["shop-1", "one server per file"])
        .await;
}

pub async fn the_pooler_is_exhausted() {
    if !required("PgBouncer", postgres::is_installed_with_pgbouncer()) {
        return;
    }
    let server = Server::start(super::options()).await;
    let database = server.create_database().await;
    let bouncer = PgBouncer::start(&server, 1).await;
    let url = database.url_at("127.0.0.1", bouncer.address().port());
    let shop = Shop::new(&[("DATABASE_URL", &database.url())]);
    assert_eq!(shop.node().await.terminate().await, Some(0));
    let holder = postgres::connect(&url).await.expect("a connection");
    holder
        .batch_execute("begin; select 1")
        .await
        .expect("a transaction");
    let shop = Shop {
        settings: vec![("DATABASE_URL", url)],
        ..shop
    };
    shop.is_named(None, "store", &["within", "SHOW POOLS"]).await;
}

pub async fn the_certificate_of_the_database_has_another_name() {
    if !required("PostgreSQL", postgres::is_installed()) {
        return;
    }
    let authority = Authority::new();
    let server =
        Server::start(super::options().certificate(authority.certificate_for(&["db.internal"]))).await;
    let database = server.create_database().await;
    let shop = Shop::new(&[]);
    let root = shop.path().join("root.pem");
    std::fs::write(&root, authority.root()).expect("a file can be written");
    let mark = if database.url().contains('?') { '&' } else { '?' };
    let url = format!(
        "{}{mark}sslmode=verify-full&sslrootcert={}",
        database.url(),
        root.display()
    );
    let shop = Shop {
        settings: vec![("DATABASE_URL", url)],
        ..shop
    };
    shop.is_named(None, "store", &["certificate", "use a host name that it holds"])
        .await;
}

/// Long enough for the rule: a transaction may be a backup.
pub async fn a_snapshot_is_held() {
    if !required("PostgreSQL", postgres::is_installed()) {
        return;
    }
    let database = super::durable().await.create_database().await;
    let shop = Shop::new(&[("DATABASE_URL", &database.url())]);
    let node = shop.node().await;
    let other = postgres::connect(&database.url()).await.expect("a connection");
    let snapshot = "begin isolation level repeatable read; select count(*) from orderly.orders";
    other.batch_execute(snapshot).await.expect("a snapshot");
    shop.is_named(
        Some(&node),
        "long-transaction",
        &["idle in transaction", "pg_terminate_backend"],
    )
    .await;
}

async fn shop_with(url: &str, root: Option<&str>) -> (Shop, Process) {
    let mut settings = vec![("ORDERLY_PROCESSOR", "http"), ("ORDERLY_PROCESSOR_URL", url)];
    settings.extend(root.map(|root| ("SSL_CERT_FILE", root)));
    let shop = Shop::new(&settings);
    let node = shop.node().await;
    (shop, node)
}

pub async fn the_certificate_of_the_service_is_of_nobody_known() {
    let secured = Secured::start(&Certificate::self_signed(&["127.0.0.1"])).await;
    let (shop, node) = shop_with(&format!("https://{}/orders", secured.address), None).await;
    place_until_down(&node).await;
    shop.is_named(Some(&node), "processor", &["no known authority", "SSL_CERT_FILE"])
        .await;
}

pub async fn the_certificate_of_the_service_ends_soon() {
    let authority = Authority::new();
    let end = SystemTime::now() + Duration::from_hours(7 * 24);
    let secured = Secured::start(&authority.certificate_until(&["127.0.0.1"], end)).await;
    let folder = tempfile::tempdir().expect("a folder");
    let root = folder.path().join("root.pem").display().to_string();
    std::fs::write(&root, authority.root()).expect("a file can be written");
    let url = format!("https://{}/orders", secured.address);
    let (shop, node) = shop_with(&url, Some(&root)).await;
    place_all(&node, [order_of(1)]).await;
    shop.is_named(Some(&node), "certificate-ends", &["service", "renew"])
        .await;
}

pub async fn the_service_speaks_tls_only() {
    let secured = Secured::start(&Certificate::self_signed(&["127.0.0.1"])).await;
    let (shop, node) = shop_with(&format!("http://{}/orders", secured.address), None).await;
    place_until_down(&node).await;
    shop.is_named(Some(&node), "processor", &["speaks TLS", "https://"])
        .await;
}

pub async fn an_order_crashes_the_service() {
    let receiver = Receiver::start().await;
    receiver.set_reactions("666", std::iter::repeat_with(|| Reaction::Reset).take(20));
    let url = receiver.url();
    let shop = Shop::new(&[
        ("ORDERLY_PROCESSOR", "http"),
        ("ORDERLY_PROCESSOR_URL", &url),
        ("ORDERLY_RETRY_BASE", "5s"),
    ]);
    let node = shop.node().await;
    place_all(&node, [order_named("666")]).await;
    shop.is_named(Some(&node), "no-answer", &["order 1", "orderly orders cancel 1"])
        .await;
}
