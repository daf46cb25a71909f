//! PostgreSQL databases of a run, created beside the one in the given URL and dropped at the end. The given database is
//! never read.

use std::sync::{Mutex, MutexGuard};

use anyhow::{Context, ensure};
use tokio::task::JoinHandle;
use tokio_postgres::Client;
use tokio_postgres::config::Host;
use tokio_util::task::AbortOnDropHandle;

use crate::config::{PostgresUrl, is_this_machine, names_this_machine};
use crate::store::postgres::tls_connector;

pub struct Databases {
    url: String,
    server: PostgresUrl,
    made: Mutex<Vec<String>>,
}

impl Databases {
    pub fn beside(url: &str) -> Result<Databases, String> {
        let (server, _) = PostgresUrl::parse(url)?;
        Ok(Databases {
            url: url.to_owned(),
            server,
            made: Mutex::default(),
        })
    }

    /// Reports whether the server is on this machine, by its addresses or the name `localhost`.
    pub fn is_local(&self) -> bool {
        self.server
            .hosts
            .iter()
            .all(|host| match (host.address, &host.name) {
                (Some(address), _) => is_this_machine(address),
                (None, Host::Tcp(name)) => names_this_machine(name),
                (None, Host::Unix(_)) => true,
            })
    }

    /// Returns the server's location without user or secrets.
    pub fn location(&self) -> &str {
        &self.server.location
    }

    /// Creates a database and returns its URL.
    pub async fn make(&self) -> anyhow::Result<String> {
        let name = format!(
            "orderly_bench_{}_{:08x}",
            std::process::id(),
            rand::random::<u32>()
        );
        let url = with_database(&self.url, &name);
        let (parsed, _) = PostgresUrl::parse(&url).map_err(anyhow::Error::msg)?;
        ensure!(
            parsed.server.get_dbname() == Some(name.as_str()),
            "cannot add the name of a database to the URL"
        );
        let (client, _driver) = connect(&self.server).await?;
        // Recorded before the call, which may succeed even if its answer is lost.
        self.made().push(name.clone());
        let made = client.batch_execute(&format!("create database {name}")).await;
        made.context("create a database (the user needs that privilege)")?;
        Ok(url)
    }

    /// Drops all created databases, closing their connections.
    pub async fn drop_all(&self) {
        let names = std::mem::take(&mut *self.made());
        if names.is_empty() {
            return;
        }
        let dropped = async {
            let (client, _driver) = connect(&self.server).await?;
            for name in &names {
                client
                    .batch_execute(&format!("drop database if exists {name} with (force)"))
                    .await?;
            }
            anyhow::Ok(())
        };
        if let Err(error) = dropped.await {
            tracing::warn!("cannot drop the databases {}: {error:#}", names.join(", "));
        }
    }

    fn made(&self) -> MutexGuard<'_, Vec<String>> {
        self.made.lock().expect("no code panics while it holds this lock")
    }
}

/// Connects and returns the client with the task that reads its messages; dropping the task closes the connection.
async fn connect(url: &PostgresUrl) -> anyhow::Result<(Client, AbortOnDropHandle<()>)> {
    let connected = url.config().connect(tls_connector(url)?).await;
    let (client, connection) = connected.with_context(|| format!("connect to {}", url.location))?;
    let driver: JoinHandle<()> = tokio::spawn(async move {
        // Pending calls get the error too.
        if let Err(error) = connection.await {
            tracing::debug!(%error, "a connection to the database ended");
        }
    });
    Ok((client, AbortOnDropHandle::new(driver)))
}

/// Returns the connection string with another database. The last name given counts.
fn with_database(url: &str, name: &str) -> String {
    // A password may hold a `?`.
    let after_password = url.rsplit_once('@').map_or(url, |(_, rest)| rest);
    let separator = if PostgresUrl::is_in_keywords(url) {
        ' '
    } else if after_password.contains('?') {
        '&'
    } else {
        '?'
    };
    format!("{url}{separator}dbname={name}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_gets_another_database_on_the_same_server() {
        for url in [
            "postgres://h:1/d",
            "postgres://u:p?@h:1",
            "postgresql://h:1/d?dbname=e&sslmode=require",
            "postgresql:///d?host=h&port=1",
            "host=h port=1 dbname=d",
        ] {
            let (server, _) = PostgresUrl::parse(&with_database(url, "x")).unwrap();
            assert_eq!(server.location, "postgres://h:1/x", "{url}");
        }
    }

    #[test]
    fn a_remote_server_is_not_this_machine() {
        let is_local = |url: &str| Databases::beside(url).unwrap().is_local();
        assert!(is_local("postgres://127.0.0.1/d") && is_local("postgres://localhost/d"));
        assert!(!is_local("postgres://db.example/d"));
        assert!(!is_local("postgres://127.0.0.1,db.example/d"));
    }
}
