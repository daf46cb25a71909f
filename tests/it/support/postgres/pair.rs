//! Two private servers: a primary and a standby that streams from it, synchronous where a test asks for that. What becomes
//! of them is the test's to decide: either is frozen, stopped or killed as any server, and the standby is promoted by hand.
//!
//! A frozen standby has in its socket what was sent meanwhile, and stores that when it goes on. A standby that is to lack
//! something is stopped before and started again when its primary is gone.

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
            // Found gone soon, as a team sets it that has standbys.
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

    /// The same, and no commit is answered on the primary before the standby has it.
    pub async fn start_synchronous() -> Pair {
        let pair = Pair::start().await;
        pair.require_standby().await;
        pair
    }

    /// From now on a commit waits for the standby.
    pub async fn require_standby(&self) {
        self.set_synchronous(STANDBY_NAME).await;
        self.until_primary_says(
            "the standby is synchronous",
            "select sync_state = 'sync' from pg_stat_replication",
        )
        .await;
    }

    /// From now on no commit waits for the standby, nor does one that waited.
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
        // Neither waits for a standby: they store nothing in the database.
        let set = format!("alter system set synchronous_standby_names = '{names}'");
        client.batch_execute(&set).await.unwrap();
        client.batch_execute("select pg_reload_conf()").await.unwrap();
    }

    /// Waits until the standby shows everything that the primary has by now.
    pub async fn caught_up(&self) {
        let place = ask(&self.primary, "select pg_current_wal_insert_lsn()").await;
        let has = format!("select pg_last_wal_replay_lsn() >= '{}'", place.unwrap());
        until("the standby has caught up", async || {
            ask(&self.standby, &has).await.as_deref() == Some("t")
        })
        .await;
    }

    /// Waits until this many statements on the primary wait for the standby at their commits.
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

    /// Makes the standby a primary, with what it has. The old primary is to be gone by then.
    pub async fn promote(&self) {
        let promoted = ask(&self.standby, "select pg_promote(true, 60)").await;
        assert_eq!(promoted.as_deref(), Some("t"));
    }

    /// Both in one URL, for a client that takes whichever can be written.
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

/// The first column of the first row as text; `None` where there is no row.
async fn ask(server: &Server, question: &str) -> Option<String> {
    let client = server.connect(MAINTENANCE_DATABASE).await.unwrap();
    let answer = client.simple_query(question).await.unwrap();
    answer.iter().find_map(|message| match message {
        SimpleQueryMessage::Row(row) => row.get(0).map(str::to_owned),
        _ => None,
    })
}
