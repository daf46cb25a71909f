//! A database whose encoding cannot store every text is refused.

use tokio::time::timeout;

use super::setup::{has_postgres, node, number};
use crate::support::PATIENCE;
use crate::support::postgres::Server;

#[tokio::test(flavor = "multi_thread")]
async fn a_database_not_encoded_in_utf8_is_refused() {
    if !has_postgres() {
        return;
    }
    let server = Server::shared().await;
    let database = server.create_database().await;
    let admin = database.admin().await;
    let folder = tempfile::tempdir().unwrap();
    for encoding in ["LATIN1", "SQL_ASCII"] {
        let name = format!("{}_{}", database.name(), encoding.to_lowercase());
        let create = format!(
            "create database {name} encoding '{encoding}' lc_collate 'C' lc_ctype 'C' template template0"
        );
        admin.batch_execute(&create).await.unwrap();
        let url = database.url().replace(database.name(), &name);

        let started = timeout(PATIENCE, node(folder.path(), &url).output()).await;
        let started = started.expect("a start that is refused ends").unwrap();
        let said = String::from_utf8(started.stderr).unwrap();
        assert_eq!(started.status.code(), Some(78), "{said}");
        assert!(said.contains(encoding) && said.contains("UTF8"), "{said}");

        let mut doctor = node(folder.path(), &url);
        doctor.arg("doctor");
        let judged = doctor.output().await.unwrap();
        let said = String::from_utf8(judged.stdout).unwrap();
        assert_eq!(judged.status.code(), Some(1), "{said}");
        assert!(
            said.contains(encoding) && said.contains("use another database"),
            "{said}"
        );
        admin
            .batch_execute(&format!("drop database {name}"))
            .await
            .unwrap();
    }
    let schemas = "select count(*) from pg_namespace where nspname = 'orderly'";
    assert_eq!(number(&admin, schemas).await, 0);
}
