//! A shared PostgreSQL for the test process, and private servers for single tests. They live in temporary folders,
//! listen on loopback only, and end with the test process, however it ends.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use tokio::sync::OnceCell;
use tokio_postgres::tls::MakeTlsConnect;
use tokio_postgres::{Client, NoTls, Socket};

pub mod certificates;
mod database;
mod pair;
mod pgbouncer;
mod programs;
mod running;
mod supervised;
mod tests;

pub use certificates::{Authority, Certificate};
pub use database::TestDatabase;
pub use pair::Pair;
pub use pgbouncer::PgBouncer;
pub use running::on_a_free_port;
pub use supervised::{StartSigns, Supervised};

use running::Running;

/// The superuser of every server.
const SUPERUSER: &str = "postgres";
/// The database that every server has from the start.
const MAINTENANCE_DATABASE: &str = "postgres";
/// The application name of the harness's own connections, so that it does not terminate them.
const APPLICATION_NAME: &str = "test harness";

/// Reports whether a private server can be started here.
pub fn is_installed() -> bool {
    programs::server().is_some()
}

/// Reports whether it can also be reached through a pooler.
pub fn is_installed_with_pgbouncer() -> bool {
    is_installed() && programs::pgbouncer().is_some()
}

/// Reports whether a primary and its standby can be started here.
pub fn is_installed_with_standby() -> bool {
    programs::has_base_backup()
}

static SHARED: OnceCell<Result<Server, String>> = OnceCell::const_new();

/// Clones are handles of the same server, which ends with the last one.
#[derive(Clone)]
pub struct Server {
    running: Arc<Running>,
}

/// Differences from the shared server, which loses all data when the machine fails, speaks no TLS and trusts everyone.
#[derive(Default)]
pub struct Options {
    settings: Vec<(String, String)>,
    certificate: Option<Certificate>,
    password: Option<String>,
}

impl Options {
    /// Adds a line to `postgresql.conf`.
    #[must_use]
    pub fn setting(mut self, name: &str, value: &str) -> Options {
        self.settings.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Lets clients ask for TLS.
    #[must_use]
    pub fn certificate(mut self, certificate: Certificate) -> Options {
        self.certificate = Some(certificate);
        self
    }

    /// Requires the superuser's SCRAM password over TCP.
    #[must_use]
    pub fn password(mut self, password: &str) -> Options {
        self.password = Some(password.to_owned());
        self
    }
}

/// The way a server is stopped.
#[derive(Clone, Copy, Debug)]
pub enum Stop {
    /// Ends sessions cleanly.
    Fast,
    /// Ends sessions like a crash; the next start recovers.
    Immediate,
    /// SIGKILL for the server and all its processes.
    Killed,
}

impl Stop {
    fn signal(self) -> &'static str {
        match self {
            Stop::Fast => "INT",
            Stop::Immediate => "QUIT",
            Stop::Killed => "KILL",
        }
    }
}

/// Lifecycle.
impl Server {
    /// The server shared by all tests of the process, each with its own database.
    ///
    /// Its `fsync` is off, and the store reports that. A test that needs durability starts its own server.
    pub async fn shared() -> &'static Server {
        let shared = SHARED.get_or_init(|| Server::try_start(Options::default())).await;
        shared
            .as_ref()
            .unwrap_or_else(|error| panic!("no PostgreSQL: {error}"))
    }

    /// Starts a private server.
    pub async fn start(options: Options) -> Server {
        let started = Server::try_start(options).await;
        started.unwrap_or_else(|error| panic!("no PostgreSQL: {error}"))
    }

    async fn try_start(options: Options) -> Result<Server, String> {
        let running = blocking(move || Running::start(&options)).await?;
        let server = Server {
            running: Arc::new(running),
        };
        database::make_template(&server)
            .await
            .map_err(|error| format!("make the template of the databases: {error}"))?;
        Ok(server)
    }

    /// Stops the server, which cuts all connections.
    pub async fn stop(&self, how: Stop) {
        let running = self.running.clone();
        let stopped = blocking(move || running.stop(how)).await;
        stopped.unwrap_or_else(|error| panic!("PostgreSQL does not stop: {error}"));
    }

    /// Freezes the server and all its processes: connections stay open and get no answers. A frozen server may be
    /// stopped.
    pub async fn freeze(&self) {
        self.signal("STOP").await;
    }

    /// Resumes a frozen server.
    pub async fn thaw(&self) {
        self.signal("CONT").await;
    }

    async fn signal(&self, signal: &'static str) {
        let running = self.running.clone();
        let sent = blocking(move || running.signal(signal)).await;
        sent.unwrap_or_else(|error| panic!("cannot send {signal} to PostgreSQL: {error}"));
    }

    fn is_shared(&self) -> bool {
        let shared = SHARED.get().and_then(|started| started.as_ref().ok());
        shared.is_some_and(|shared| Arc::ptr_eq(&shared.running, &self.running))
    }

    /// Starts a stopped server again, on the same address with its stored data.
    pub async fn start_again(&self) {
        let running = self.running.clone();
        let started = blocking(move || running.start_again()).await;
        started.unwrap_or_else(|error| panic!("PostgreSQL does not start again: {error}"));
    }
}

/// Connections.
impl Server {
    pub fn address(&self) -> SocketAddr {
        SocketAddr::from((Ipv4Addr::LOCALHOST, self.running.port))
    }

    /// The URL of a database for its users, at the server itself or at a proxy before it.
    fn url(&self, host: &str, port: u16, database: &str) -> String {
        let password = match &self.running.password {
            Some(password) => format!(":{password}"),
            None => String::new(),
        };
        format!("postgres://{SUPERUSER}{password}@{host}:{port}/{database}")
    }

    /// Connects as superuser over the socket, which needs no certificate, password or proxy.
    async fn connect(&self, database: &str) -> Result<Client, tokio_postgres::Error> {
        let mut config = tokio_postgres::Config::new();
        config
            .host_path(self.running.folder())
            .port(self.running.port)
            .user(SUPERUSER)
            .dbname(database)
            .application_name(APPLICATION_NAME);
        connected(&config, NoTls).await
    }

    /// Creates an empty database with the test clock, not yet set.
    pub async fn create_database(&self) -> TestDatabase {
        TestDatabase::create(self).await
    }

    /// Ends all sessions of a database except the harness's own, and returns their number.
    pub async fn terminate_backends(&self, database: &TestDatabase) -> usize {
        let client = self.connect(MAINTENANCE_DATABASE).await.unwrap();
        let statement = "select pg_terminate_backend(pid) from pg_stat_activity \
            where datname = $1 and application_name <> $2";
        let ended = client
            .query(statement, &[&database.name(), &APPLICATION_NAME])
            .await;
        ended.unwrap().len()
    }
}

/// Connects as a user does, by a URL without TLS.
pub async fn connect(url: &str) -> Result<Client, tokio_postgres::Error> {
    connected(&url.parse()?, NoTls).await
}

async fn connected<T>(config: &tokio_postgres::Config, tls: T) -> Result<Client, tokio_postgres::Error>
where
    T: MakeTlsConnect<Socket, Stream: Send> + 'static,
{
    let (client, connection) = config.connect(tls).await?;
    // The task ends with the client, which gets the connection's errors too.
    tokio::spawn(connection);
    Ok(client)
}

/// Runs blocking work, such as starting and stopping programs.
pub async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    tokio::task::spawn_blocking(work)
        .await
        .expect("the work does not panic")
}
