//! Inspects a server over a new connection: whether it can store orders, takes writes, and how durable its commits
//! are.

use std::sync::Arc;

use tokio_postgres::{Client, SimpleQueryMessage};

use super::durability::Durability;
use super::failure::PgFailure;

/// The oldest supported PostgreSQL, as `server_version_num`.
const SERVER_VERSION_MIN: i64 = 140_000;

const STANDBY: &str = "the server is read-only: it is a standby";
const SET_READ_ONLY: &str =
    "the server is read-only: default_transaction_read_only is on there, for the database or for the role";

/// The number of columns that [`Durability::read`] reads.
const DURABILITY_SETTINGS: usize = 5;

/// Identifies one database on one server between two restarts of that server.
pub(super) type ServerRun = Arc<str>;

/// A server as its settings describe it.
pub(super) struct ServerInfo {
    pub run: ServerRun,
    /// It takes no writes: it is a standby, or set to read-only.
    pub only_reads: bool,
    pub is_standby: bool,
    /// The columns for [`Durability::read`].
    settings: [String; DURABILITY_SETTINGS],
}

impl ServerInfo {
    pub fn durability(&self) -> Durability<'_> {
        let setting = |index: usize| Ok(self.settings[index].as_str());
        Durability::read(setting).expect("there is an element for each column")
    }
}

/// Returns the reason why a server takes no writes.
pub(super) fn read_only_reason(is_standby: bool) -> &'static str {
    if is_standby { STANDBY } else { SET_READ_ONLY }
}

/// Reads back the settings on which the promises rest. Fails with [`PgFailure::Unsuitable`] when the server's
/// version, its isolation level or the database's encoding does not allow storing orders.
pub(super) async fn inspect(client: &Client) -> Result<ServerInfo, PgFailure> {
    let answer = client.simple_query(include_str!("settings.sql")).await;
    let answer = answer.map_err(|error| PgFailure::of(&error))?;
    let row = answer.iter().find_map(|message| match message {
        SimpleQueryMessage::Row(row) => Some(row),
        _ => None,
    });
    let setting = |index: usize| {
        row.and_then(|row| row.get(index))
            .ok_or_else(|| PgFailure::undecodable("settings", "nothing"))
    };
    let version = setting(0)?;
    if version.parse::<i64>().unwrap_or(0) < SERVER_VERSION_MIN {
        let text = format!("PostgreSQL 14 or newer is needed, this is server_version_num {version}");
        return Err(PgFailure::Unsuitable(text.into()));
    }
    let isolation = setting(2)?;
    if isolation != "read committed" {
        let text = format!(
            "default_transaction_isolation is {isolation} for this user and database: set it to read committed"
        );
        return Err(PgFailure::Unsuitable(text.into()));
    }
    let encoding = setting(9)?;
    if encoding != "UTF8" {
        let text = format!(
            "the database's encoding is {encoding}, which does not have every text: make another one \
             (create database … encoding 'UTF8' template template0)"
        );
        return Err(PgFailure::Unsuitable(text.into()));
    }
    let mut settings = <[String; DURABILITY_SETTINGS]>::default();
    for (index, value) in settings.iter_mut().enumerate() {
        setting(3 + index)?.clone_into(value);
    }
    Ok(ServerInfo {
        run: setting(8)?.into(),
        only_reads: setting(1)? == "on",
        is_standby: setting(10)? == "true",
        settings,
    })
}
