//! Asks each server that a configuration names. `store/survey.rs` and its readers draw the conclusions.

use std::sync::Arc;

use futures_util::future::join_all;
use tokio::time::timeout;
use tokio_postgres::SimpleQueryMessage;

use super::super::await_answer::await_answer;
use super::super::connect::{CHECK_TIME_MAX, Connection, Connector};
use super::super::database_state::DatabaseState;
use super::super::tls;
use crate::causes::with_causes;
use crate::config::{PostgresDatabase, PostgresUrl};
use crate::store::survey::{Host, Role, ServerRelation, Survey};

/// The database of `PgBouncer`'s console, and the beginning of its version: `PgBouncer 1.18.0`.
const CONSOLE: &str = "pgbouncer";
const CONSOLE_VERSION: &str = "PgBouncer ";

/// Asks each server of the URLs. A server that does not answer is part of the result.
pub async fn survey(database: &PostgresDatabase) -> Survey {
    let hosts = async {
        if database.url.hosts.len() > 1 {
            join_all(each_host(&database.url).map(|(name, url)| host(name, url))).await
        } else {
            Vec::new()
        }
    };
    let (hosts, direct, read, pgbouncer) = tokio::join!(
        hosts,
        beside(database, database.direct.as_ref()),
        beside(database, database.read.as_ref()),
        pgbouncer_version(&database.url)
    );
    Survey {
        hosts,
        direct,
        read,
        pgbouncer,
    }
}

/// Makes a URL for each host, which accepts the server in any role.
fn each_host(url: &PostgresUrl) -> impl Iterator<Item = (String, PostgresUrl)> {
    url.hosts.iter().map(|host| {
        let alone = PostgresUrl {
            hosts: vec![host.clone()],
            session: None,
            ..url.clone()
        };
        (host.to_string(), alone)
    })
}

async fn host(name: String, url: PostgresUrl) -> Host {
    let role = match connect(&url).await {
        Ok(connection) if connection.only_reads => Role::OnlyReads,
        Ok(_) => Role::TakesWrites,
        Err(reason) => Role::Unknown(reason),
    };
    Host { name, role }
}

async fn beside(database: &PostgresDatabase, url: Option<&PostgresUrl>) -> Option<ServerRelation> {
    let url = url?;
    // Other checks report its failure.
    let main = connect(&database.url).await.ok()?;
    let other = match connect(url).await {
        Ok(other) => other,
        Err(reason) => return Some(ServerRelation::Unknown(reason)),
    };
    if other.server == main.server {
        return Some(ServerRelation::Same);
    }
    let clusters = (cluster(&main).await, cluster(&other).await);
    Some(match clusters {
        (Some(one), Some(other)) if one == other => ServerRelation::SameCluster,
        _ => ServerRelation::Other,
    })
}

/// Returns the identity that a primary shares with its standbys, if this user may read it.
async fn cluster(connection: &Connection) -> Option<String> {
    let identity = "select system_identifier from pg_control_system()";
    let answer = await_answer(connection.client.simple_query(identity))
        .await
        .ok()?;
    first_value(&answer)
}

async fn connect(url: &PostgresUrl) -> Result<Connection, String> {
    let connector = Connector::new(url, Arc::new(DatabaseState::new()), None);
    let connector = connector.map_err(|error| format!("{error:#}"))?.only_reading();
    let connected = Box::pin(connector.connect_to_read()).await;
    connected.map_err(|failure| with_causes(&failure.to_error("connect")))
}

/// Asks the console of a pooler for its version; `None` when there is none, or this user may not.
async fn pgbouncer_version(url: &PostgresUrl) -> Option<String> {
    let mut config = url.config();
    config.dbname(CONSOLE);
    let asked = async {
        let (client, connection) = config.connect(tls::connector(url).ok()?).await.ok()?;
        let ask = async {
            let answer = client.simple_query("show version").await.ok();
            drop(client);
            answer
        };
        let (answer, _ended) = tokio::join!(ask, connection);
        let version = first_value(&answer?)?;
        version.strip_prefix(CONSOLE_VERSION).map(str::to_owned)
    };
    timeout(CHECK_TIME_MAX, asked).await.ok().flatten()
}

fn first_value(answer: &[SimpleQueryMessage]) -> Option<String> {
    answer.iter().find_map(|message| match message {
        SimpleQueryMessage::Row(row) => row.get(0).map(str::to_owned),
        _ => None,
    })
}
