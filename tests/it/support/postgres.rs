//! A private PostgreSQL for the test process, and servers of a test's own: what PostgreSQL does is asked of PostgreSQL.
//! They live in temporary folders, listen on loopback only, and are gone with the test process however it ends.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use tokio::sync::OnceCell;
use tokio_postgres::tls::MakeTlsConnect;
use tokio_postgres::{Client, NoTls, Socket};

mod certificates;
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

use running::Running;

/// The superuser of every server here.
const SUPERUSER: &str = "postgres";
/// The database every server comes with.
const MAINTENANCE_DATABASE: &str = "postgres";
/// What the harness calls its own connections, so that it does not end them itself.
const APPLICATION_NAME: &str = "test harness";

/// Whether a private server can be started here.
pub fn is_installed() -> bool {
    programs::server().is_some()
}

/// Whether it can be reached through a pooler as well.
pub fn is_installed_with_pgbouncer() -> bool {
    is_installed() && programs::pgbouncer().is_some()
}

/// Whether a primary and its standby can be started here.
pub fn is_installed_with_standby() -> bool {
    programs::has_base_backup()
}

static SHARED: OnceCell<Result<Server, String>> = OnceCell::const_new();

/// Clones are handles of the same server, which ends with the last one.
#[derive(Clone)]
pub struct Server {
    running: Arc<Running>,
}

/// How a server differs from the shared one, which loses everything when the machine fails, speaks no TLS and trusts
/// everybody.
#[derive(Default)]
pub struct Options {
    settings: Vec<(String, String)>,
    certificate: Option<Certificate>,
    password: Option<String>,
}

impl Options {
    /// A line of `postgresql.conf`.
    #[must_use]
    pub fn setting(mut self, name: &str, value: &str) -> Options {
        self.settings.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Clients may ask for TLS.
    #[must_use]
    pub fn certificate(mut self, certificate: Certificate) -> Options {
        self.certificate = Some(certificate);
        self
    }

    /// Over TCP the superuser must prove it by SCRAM.
    #[must_use]
    pub fn password(mut self, password: &str) -> Options {
        self.password = Some(password.to_owned());
        self
    }
}

/// How a server comes to its end.
#[derive(Clone, Copy, Debug)]
pub enum Stop {
    /// Ends sessions in good order.
    Fast,
    /// Ends sessions as a crash does; the next start recovers.
    Immediate,
    /// SIGKILL for the server and all of its processes.
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

/// Its life.
impl Server {
    /// The one that all tests of the process share, each with a database of its own.
    ///
    /// Its `fsync` is off, and the store says so of it. A test that minds starts a server of its own.
    pub async fn shared() -> &'static Server {
        let shared = SHARED.get_or_init(|| Server::try_start(Options::default())).await;
        shared
            .as_ref()
            .unwrap_or_else(|error| panic!("no PostgreSQL: {error}"))
    }

    /// One of the test's own.
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

    /// Everything that is connected is cut.
    pub async fn stop(&self, how: Stop) {
        let running = self.running.clone();
        let stopped = blocking(move || running.stop(how)).await;
        stopped.unwrap_or_else(|error| panic!("PostgreSQL does not stop: {error}"));
    }

    /// Freezes the server and all of its processes: its connections stay open and nothing answers. It may be stopped as
    /// it is.
    pub async fn freeze(&self) {
        self.signal("STOP").await;
    }

    /// Lets a frozen server go on.
    pub async fn thaw(&self) {
        self.signal("CONT").await;
    }

    async fn signal(&self, signal: &'static str) {
        let running = self.running.clone();
        let sent = blocking(move || running.signal(signal)).await;
        sent.unwrap_or_else(|error| panic!("PostgreSQL takes no {signal}: {error}"));
    }

    fn is_shared(&self) -> bool {
        let shared = SHARED.get().and_then(|started| started.as_ref().ok());
        shared.is_some_and(|shared| Arc::ptr_eq(&shared.running, &self.running))
    }

    /// After a stop: in the same place, with what it had stored.
    pub async fn start_again(&self) {
        let running = self.running.clone();
        let started = blocking(move || running.start_again()).await;
        started.unwrap_or_else(|error| panic!("PostgreSQL does not start again: {error}"));
    }
}

/// Its door.
impl Server {
    pub fn address(&self) -> SocketAddr {
        SocketAddr::from((Ipv4Addr::LOCALHOST, self.running.port))
    }

    /// A database as its users know it, at the server itself or at whatever stands before it.
    fn url(&self, host: &str, port: u16, database: &str) -> String {
        let password = match &self.running.password {
            Some(password) => format!(":{password}"),
            None => String::new(),
        };
        format!("postgres://{SUPERUSER}{password}@{host}:{port}/{database}")
    }

    /// A superuser's connection that no certificate, password or proxy stands before.
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

    /// An empty database with the test clock, the clock not set.
    pub async fn create_database(&self) -> TestDatabase {
        TestDatabase::create(self).await
    }

    /// Ends all sessions of a database but the harness's own, and answers how many there were.
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

/// A connection as a user has it, by a URL that asks for no TLS.
pub async fn connect(url: &str) -> Result<Client, tokio_postgres::Error> {
    connected(&url.parse()?, NoTls).await
}

async fn connected<T>(config: &tokio_postgres::Config, tls: T) -> Result<Client, tokio_postgres::Error>
where
    T: MakeTlsConnect<Socket, Stream: Send> + 'static,
{
    let (client, connection) = config.connect(tls).await?;
    // It ends with the client, which is told of its failure too.
    tokio::spawn(connection);
    Ok(client)
}

/// Starting and stopping programs blocks.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    tokio::task::spawn_blocking(work)
        .await
        .expect("it does not panic")
}
