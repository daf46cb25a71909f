//! A database that takes no writes is read all the same.

use super::scene::{accept_keyed, has_postgres, node, store_at};
use crate::support::postgres::Server;

/// Issue 13, point 20.
#[tokio::test(flavor = "multi_thread")]
async fn verify_and_doctor_read_a_database_that_takes_no_writes() {
    if !has_postgres() {
        return;
    }
    let database = Server::shared().await.create_database().await;
    let store = store_at(&database.url()).await;
    accept_keyed(&*store, "before").await.unwrap();
    store.close().await;
    let admin = database.admin().await;
    let name = database.name();
    let read_only = format!("alter database {name} set default_transaction_read_only = on");
    admin.batch_execute(&read_only).await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let told = async |arguments: &[&str]| {
        let mut command = node(folder.path(), &database.url());
        let output = command.args(arguments).output().await.unwrap();
        let said = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
        (output.status.code(), said)
    };
    let (exit, said) = told(&["verify"]).await;
    assert_eq!(exit, Some(0), "{said}");
    assert!(said.contains("1 orders"), "{said}");
    let (exit, said) = told(&["migrate", "--dry-run"]).await;
    assert_eq!(exit, Some(0), "{said}");
    let (_, said) = told(&["doctor"]).await;
    assert!(said.contains("is sound: 1 orders"), "{said}");
    assert!(said.contains("the server is read-only"), "{said}");
}
