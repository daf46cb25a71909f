//! Copies of a store in PostgreSQL, with the same clock.

use orderly::config::{Database, PasswordSources, PostgresDatabase};
use orderly::store::copy::{Copied, CopyError, copy};

use super::{Harness, Home};
use crate::support::postgres::{Server, TestDatabase};

impl Harness {
    /// The database of a harness on PostgreSQL.
    pub fn home(&self) -> &TestDatabase {
        match &self.home {
            Home::Postgres(home) => home,
            Home::Folder { .. } => panic!("the store is a file"),
        }
    }

    /// Copies the closed store into the PostgreSQL database of a URL.
    pub async fn copy_into(&self, url: &str) -> Result<Copied, CopyError> {
        copy(&self.database, &postgres_database(url), &mut |_| {}).await
    }

    /// Closes the store and opens its copy, with the same clock.
    pub async fn move_to_postgres(self) -> Harness {
        let home = Server::shared().await.create_database().await;
        self.move_into(home).await
    }

    /// Copies the store into this database and continues there.
    pub async fn move_into(self, home: TestDatabase) -> Harness {
        self.store.close().await;
        let url = home.url();
        let copied = self.copy_into(&url).await.unwrap();
        assert_eq!(copied.differences.shown, [""; 0]);
        home.set_clock(Some(self.clock.now())).await;
        let database = Database::Postgres(Box::new(postgres_database(&url)));
        Harness::open(database, self.clock, Home::Postgres(Box::new(home))).await
    }
}

/// Creates the schema in an empty database.
pub async fn migrate(home: &TestDatabase) {
    let database = Database::Postgres(Box::new(postgres_database(&home.url())));
    orderly::store::open::migrate(&database, false).await.unwrap();
}

fn postgres_database(url: &str) -> PostgresDatabase {
    match Database::parse(url, &PasswordSources::default()) {
        Ok((Database::Postgres(database), _)) => *database,
        other => panic!("the URL was parsed as {other:?}"),
    }
}
