//! A private primary and a streaming standby, synchronous where a test asks for it. A test may freeze, stop or kill
//! either one, and promotes the standby by hand.
//!
//! A frozen standby has received later writes in its socket and stores them when it resumes. For a standby that lacks
//! writes, stop it before them and start it again once its primary is gone.

use std::sync::Arc;

use tokio_postgres::SimpleQueryMessage;

use super::running::STANDBY_NAME;
use super::{MAINTENANCE_DATABASE, Options, Server, TestDatabase, blocking};
use crate::support::until;

mod tests;

/// Both end with it.
pub struct Pair {
    pub primary: Server,
    pub standby: Server,
}

impl Pair {
    /// Starts both. The standby streams, and no commit waits for it.
    pub async fn start() -> Pair {
        let options = Options::default()
            // Detects a lost standby soon, as production settings with standbys do.
            .setting("wal_sender_timeout", "2s");
        let primary = Server::start(options).await;
        let running = primary.running.clone();
        let started = blocking(move || running.start_standby()).await;
        let standby = Server {
            running: Arc::new(started.unwrap_or_else(|error| panic!("no standby: {error}"))),
        };
        let pair = Pair { primary, standby };
        pair.caught_up().await;
        pair
    }

    /// Starts both and lets every commit on the primary wait for the standby.
    pub async fn start_synchronous() -> Pair {
        let pair = Pair::start().await;
        pair.require_standby().await;
        pair
    }

    /// Lets commits wait for the standby from now on.
    pub async fn require_standby(&self) {
        self.set_synchronous(STANDBY_NAME).await;
        self.until_primary_says(
            "the standby is synchronous",
            "select sync_state = 'sync' from pg_stat_replication",
        )
        .await;
    }

    /// Lets no commit wait for the standby from now on, and releases those that wait.
    pub async fn require_no_standby(&self) {
        self.set_synchronous("").await;
        self.until_primary_says(
            "no standby is required",
            "select current_setting('synchronous_standby_names') = ''
                and not exists (select from pg_stat_activity where wait_event = 'SyncRep')",
        )
        .await;
    }

    async fn set_synchronous(&self, names: &str) {
        let client = self.primary.connect(MAINTENANCE_DATABASE).await.unwrap();
        // Neither statement waits for a standby: they write nothing to the database.
        let set = format!("alter system set synchronous_standby_names = '{names}'");
        client.batch_execute(&set).await.unwrap();
        client.batch_execute("select pg_reload_conf()").await.unwrap();
    }

    /// Waits until the standby shows all current data of the primary.
    pub async fn caught_up(&self) {
        let place = ask(&self.primary, "select pg_current_wal_insert_lsn()").await;
        let has = format!("select pg_last_wal_replay_lsn() >= '{}'", place.unwrap());
        until("the standby has caught up", async || {
            ask(&self.standby, &has).await.as_deref() == Some("t")
        })
        .await;
    }

    /// Waits until this many commits on the primary wait for the standby.
    pub async fn until_waiting(&self, statements: usize) {
        let waiting =
            format!("select count(*) >= {statements} from pg_stat_activity where wait_event = 'SyncRep'");
        self.until_primary_says("statements wait for the standby", &waiting)
            .await;
    }

    async fn until_primary_says(&self, what: &str, question: &str) {
        until(what, async || {
            ask(&self.primary, question).await.as_deref() == Some("t")
        })
        .await;
    }

    /// Promotes the standby with the data it has. The old primary must be gone.
    pub async fn promote(&self) {
        let promoted = ask(&self.standby, "select pg_promote(true, 60)").await;
        assert_eq!(promoted.as_deref(), Some("t"));
    }

    /// A URL with both servers, for a client that uses whichever accepts writes.
    pub fn url(&self, database: &TestDatabase) -> String {
        let hosts = [&self.primary, &self.standby].map(|server| server.address().to_string());
        format!(
            "postgres://{}@{}/{}?target_session_attrs=read-write",
            super::SUPERUSER,
            hosts.join(","),
            database.name()
        )
    }
}

/// The first column of the first row as text, or `None` without rows.
async fn ask(server: &Server, question: &str) -> Option<String> {
    let client = server.connect(MAINTENANCE_DATABASE).await.unwrap();
    let answer = client.simple_query(question).await.unwrap();
    answer.iter().find_map(|message| match message {
        SimpleQueryMessage::Row(row) => row.get(0).map(str::to_owned),
        _ => None,
    })
}
