//! The look at a server over a new connection: can it store orders, does it take writes, and how durable is what it stores.

use std::sync::Arc;

use tokio_postgres::{Client, SimpleQueryMessage};

use super::durability::Durability;
use super::failure::Failure;

/// Oldest PostgreSQL whose statements these are, as `server_version_num`.
const SERVER_VERSION_MIN: i64 = 140_000;

const STANDBY: &str = "the server is read-only: it is a standby";
const SET_READ_ONLY: &str =
    "the server is read-only: default_transaction_read_only is on there, for the database or for the role";

/// Columns that [`Durability::read`] reads.
const DURABILITY_SETTINGS: usize = 5;

/// Names one database on one server from a start of that to its end.
pub(super) type ServerRun = Arc<str>;

/// A server as it described itself.
pub(super) struct Found {
    pub run: ServerRun,
    /// It takes no writes: a standby, or set so.
    pub only_reads: bool,
    pub is_standby: bool,
    /// The columns of its durability.
    settings: [String; DURABILITY_SETTINGS],
}

impl Found {
    pub fn durability(&self) -> Durability<'_> {
        let setting = |index: usize| Ok(self.settings[index].as_str());
        Durability::read(setting).expect("there is an element for each column")
    }
}

/// Returns the reason why a server takes no writes.
pub(super) fn read_only_reason(is_standby: bool) -> &'static str {
    if is_standby { STANDBY } else { SET_READ_ONLY }
}

/// Reads back the settings on which the promises rest. Fails where orders must not be stored.
pub(super) async fn look(client: &Client) -> Result<Found, Failure> {
    let answer = client.simple_query(include_str!("settings.sql")).await;
    let answer = answer.map_err(|error| Failure::of(&error))?;
    let row = answer.iter().find_map(|message| match message {
        SimpleQueryMessage::Row(row) => Some(row),
        _ => None,
    });
    let setting = |index: usize| {
        row.and_then(|row| row.get(index))
            .ok_or_else(|| Failure::undecodable("settings", "nothing"))
    };
    let version = setting(0)?;
    if version.parse::<i64>().unwrap_or(0) < SERVER_VERSION_MIN {
        let text = format!("PostgreSQL 14 or newer is needed, this is server_version_num {version}");
        return Err(Failure::Unsuitable(text.into()));
    }
    let isolation = setting(2)?;
    if isolation != "read committed" {
        let text = format!(
            "default_transaction_isolation is {isolation} for this user and database: set it to read committed"
        );
        return Err(Failure::Unsuitable(text.into()));
    }
    let encoding = setting(9)?;
    if encoding != "UTF8" {
        let text = format!(
            "the database's encoding is {encoding}, which does not have every text: make another one \
             (create database … encoding 'UTF8' template template0)"
        );
        return Err(Failure::Unsuitable(text.into()));
    }
    let mut settings = <[String; DURABILITY_SETTINGS]>::default();
    for (index, known) in settings.iter_mut().enumerate() {
        setting(3 + index)?.clone_into(known);
    }
    Ok(Found {
        run: setting(8)?.into(),
        only_reads: setting(1)? == "on",
        is_standby: setting(10)? == "true",
        settings,
    })
}
