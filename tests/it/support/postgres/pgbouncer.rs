//! PgBouncer in transaction mode before a private server, as hosting providers run it. The version is the machine's;
//! Debian 12 has 1.18, which supports no prepared statements and is the strictest.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;

use tokio::sync::OnceCell;

use super::running::on_a_free_port;
use super::supervised::{StartSigns, Supervised};
use super::{SUPERUSER, Server, blocking, programs};

/// Connections per database: more than a store needs at once, fewer than a test run could open.
const SHARED_POOL_SIZE: u32 = 20;

const START_SIGNS: StartSigns = StartSigns {
    ready: "process up",
    failed: "FATAL",
};

/// Stopped with the handle.
pub struct PgBouncer {
    running: Arc<Running>,
    port: u16,
}

struct Running {
    supervised: Supervised,
    command: Vec<String>,
    /// The server behind it.
    _server: Server,
}

impl PgBouncer {
    /// The pooler of the shared server, for all its databases.
    pub async fn shared() -> &'static PgBouncer {
        static SHARED: OnceCell<Result<PgBouncer, String>> = OnceCell::const_new();
        let start =
            async || PgBouncer::try_start(Server::shared().await, "transaction", SHARED_POOL_SIZE).await;
        let shared = SHARED.get_or_init(start).await;
        shared
            .as_ref()
            .unwrap_or_else(|error| panic!("no PgBouncer: {error}"))
    }

    /// Starts a private pooler with this many connections per database.
    pub async fn start(server: &Server, pool_size: u32) -> PgBouncer {
        let started = PgBouncer::try_start(server, "transaction", pool_size).await;
        started.unwrap_or_else(|error| panic!("no PgBouncer: {error}"))
    }

    /// The same in session mode, where each client keeps its connection until it leaves.
    pub async fn start_in_session_mode(server: &Server, pool_size: u32) -> PgBouncer {
        let started = PgBouncer::try_start(server, "session", pool_size).await;
        started.unwrap_or_else(|error| panic!("no PgBouncer: {error}"))
    }

    async fn try_start(server: &Server, mode: &'static str, pool_size: u32) -> Result<PgBouncer, String> {
        let server = server.clone();
        blocking(move || PgBouncer::start_blocking(server, mode, pool_size)).await
    }

    fn start_blocking(server: Server, mode: &str, pool_size: u32) -> Result<PgBouncer, String> {
        let program = programs::pgbouncer().ok_or("its program is not installed")?;
        let supervised = Supervised::new("pgbouncer", "TERM")?;
        let (port, command) = on_a_free_port(|port| {
            let settings = supervised.write("pgbouncer.ini", &settings(&server, mode, port, pool_size))?;
            let command = vec![program.display().to_string(), settings.display().to_string()];
            supervised.start(&command, &START_SIGNS).map(|()| command)
        })?;
        Ok(PgBouncer {
            running: Arc::new(Running {
                supervised,
                command,
                _server: server,
            }),
            port,
        })
    }

    /// Cuts all connections on both sides.
    pub async fn restart(&self) {
        let running = self.running.clone();
        let restarted = blocking(move || {
            running.supervised.end("TERM")?;
            running.supervised.start(&running.command, &START_SIGNS)
        });
        restarted
            .await
            .unwrap_or_else(|error| panic!("PgBouncer does not start again: {error}"));
    }

    pub(super) fn folder(&self) -> &Path {
        self.running.supervised.folder()
    }

    pub fn address(&self) -> SocketAddr {
        SocketAddr::from((Ipv4Addr::LOCALHOST, self.port))
    }
}

/// Ignores no startup parameter: a client whose parameters providers refuse is refused here too.
fn settings(server: &Server, mode: &str, port: u16, pool_size: u32) -> String {
    let folder = server.running.folder().display();
    let server_port = server.running.port;
    format!(
        "[databases]
* = host={folder} port={server_port} user={SUPERUSER}

[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = any
pool_mode = {mode}
default_pool_size = {pool_size}
max_client_conn = 1000
log_connections = 0
log_disconnections = 0
"
    )
}
