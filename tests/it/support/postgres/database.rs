//! A private database of a test, and the clock in it that the test moves. The server is left to `postgres.rs`.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{OnceLock, mpsc};
use std::time::{Duration, SystemTime};

use orderly::time::Timestamp;
use tokio::sync::Mutex;
use tokio_postgres::{Client, Row};

use super::{MAINTENANCE_DATABASE, PgBouncer, Server};

/// The template that every test database is copied from.
const TEMPLATE: &str = "orderly_template";

/// Returns the time set by a test, otherwise the real one. Every session calls it as `clock_timestamp()`, because its
/// schema precedes PostgreSQL's own in the server's `search_path`, also for roles that are no superuser.
const TEST_CLOCK: &str = "
create schema test_clock;
grant usage on schema test_clock to public;
create table test_clock.stored (time timestamptz);
grant select on test_clock.stored to public;
insert into test_clock.stored values (null);
create function test_clock.clock_timestamp() returns timestamptz language sql volatile as
    'select coalesce(time, pg_catalog.clock_timestamp()) from test_clock.stored';
";

pub(super) async fn make_template(server: &Server) -> Result<(), tokio_postgres::Error> {
    let maintenance = server.connect(MAINTENANCE_DATABASE).await?;
    let create = format!(
        "create database {TEMPLATE} template template0{}",
        collation(&maintenance).await?
    );
    maintenance.batch_execute(&create).await?;
    let template = server.connect(TEMPLATE).await?;
    template.batch_execute(TEST_CLOCK).await
}

/// Hosts sort text by language instead of bytes, and so does this server where it can without the system's locales.
async fn collation(maintenance: &Client) -> Result<&'static str, tokio_postgres::Error> {
    let row = maintenance
        .query_one("select current_setting('server_version_num')::int >= 150000", &[])
        .await?;
    Ok(if row.get(0) {
        " locale_provider icu icu_locale 'en-US'"
    } else {
        ""
    })
}

pub struct TestDatabase {
    server: Server,
    name: String,
    /// The connection for the clock, opened on first use and again after a cut.
    client: Mutex<Option<Client>>,
}

impl TestDatabase {
    pub(super) async fn create(server: &Server) -> TestDatabase {
        static CREATED: AtomicU32 = AtomicU32::new(0);
        let name = format!("orderly_{}", CREATED.fetch_add(1, Ordering::Relaxed));
        let maintenance = server.connect(MAINTENANCE_DATABASE).await.unwrap();
        let create = format!("create database {name} template {TEMPLATE}");
        maintenance.batch_execute(&create).await.unwrap();
        TestDatabase {
            server: server.clone(),
            name,
            client: Mutex::new(None),
        }
    }

    /// The same database on another server that is or was a standby of this one.
    pub fn on(&self, server: &Server) -> TestDatabase {
        TestDatabase {
            server: server.clone(),
            name: self.name.clone(),
            client: Mutex::new(None),
        }
    }

    /// Copies the database on the same server, like a backup. No one may be connected to the original.
    pub async fn copy(&self) -> TestDatabase {
        *self.client.lock().await = None;
        let name = format!("{}_copy", self.name);
        let maintenance = self.server.connect(MAINTENANCE_DATABASE).await.unwrap();
        let create = format!("create database {name} template {}", self.name);
        maintenance.batch_execute(&create).await.unwrap();
        TestDatabase {
            server: self.server.clone(),
            name,
            client: Mutex::new(None),
        }
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// The URL at the server itself.
    pub fn url(&self) -> String {
        self.url_at("127.0.0.1", self.server.address().port())
    }

    /// The URL through a pooler in transaction mode.
    pub async fn bouncer_url(&self) -> String {
        assert!(
            self.server.is_shared(),
            "the shared PgBouncer serves only the shared server"
        );
        let bouncer = PgBouncer::shared().await;
        self.url_at("127.0.0.1", bouncer.address().port())
    }

    /// The URL at a proxy before the server, or at another name of the server.
    pub fn url_at(&self, host: &str, port: u16) -> String {
        self.server.url(host, port, &self.name)
    }

    /// Connects the test itself as superuser, past all proxies.
    pub async fn admin(&self) -> Client {
        self.server.connect(&self.name).await.unwrap()
    }

    /// Replaces calls such as `:claim(` with the real names of the store's functions, as the store does in its own
    /// statements.
    pub async fn named(&self, text: &str) -> String {
        let functions = "select substr(proname, 1, length(proname) - 13), proname from pg_proc
            where pronamespace = 'orderly'::regnamespace and proname ~ '_[0-9a-f]{12}$'";
        let functions = self.admin().await.query(functions, &[]).await.unwrap();
        functions.iter().fold(text.to_owned(), |text, function| {
            let (file, name): (String, String) = (function.get(0), function.get(1));
            text.replace(&format!(":{file}("), &format!("orderly.{name}("))
        })
    }

    /// Copies one of the store's functions under the name `copy` plus the hash of the original, with parts of its text
    /// removed.
    pub async fn copy_function(&self, function: &str, copy: &str, without: &[&str]) {
        let admin = self.admin().await;
        let text = "select pg_get_functiondef(oid) from pg_proc
            where pronamespace = 'orderly'::regnamespace and starts_with('orderly.' || proname, $1)";
        let mut text: String = admin.query_one(text, &[&function]).await.unwrap().get(0);
        for part in without {
            assert!(text.contains(part), "{function} lacks {part:?}: {text}");
            text = text.replace(part, "");
        }
        admin.batch_execute(&text.replace(function, copy)).await.unwrap();
    }

    /// Sets the time that `clock_timestamp()` returns, or the real one.
    pub async fn set_clock(&self, time: Option<Timestamp>) {
        let time = time.map(|time| {
            let micros = u64::try_from(time.micros()).expect("tests live after 1970");
            SystemTime::UNIX_EPOCH + Duration::from_micros(micros)
        });
        self.ask("update test_clock.stored set time = $1 returning time", &[&time])
            .await;
    }

    /// The time that `clock_timestamp()` returns.
    pub async fn now(&self) -> Timestamp {
        let row = self.ask("select clock_timestamp()", &[]).await;
        let since_1970 = row.get::<_, SystemTime>(0).duration_since(SystemTime::UNIX_EPOCH);
        let micros = since_1970.expect("tests live after 1970").as_micros();
        Timestamp::from_micros(i64::try_from(micros).expect("tests end before the year 9999"))
    }

    async fn ask(&self, statement: &str, values: &[&(dyn tokio_postgres::types::ToSql + Sync)]) -> Row {
        let mut client = self.client.lock().await;
        if let Some(client) = &*client {
            match client.query_one(statement, values).await {
                // The server was restarted since.
                Err(error) if error.is_closed() => {}
                answered => return answered.unwrap(),
            }
        }
        client
            .insert(self.admin().await)
            .query_one(statement, values)
            .await
            .unwrap()
    }
}

impl Drop for TestDatabase {
    /// Does not wait: a run creates hundreds of databases, and the next test does not need this one to be gone.
    /// Databases on private servers go with their server.
    fn drop(&mut self) {
        if self.server.is_shared() {
            let name = std::mem::take(&mut self.name);
            let sent = dropper(&self.server).send(name);
            sent.expect("the thread runs as long as the process");
        }
    }
}

/// Drops databases of the shared server one after another, so that few exist on disk at a time.
fn dropper(server: &Server) -> &'static mpsc::Sender<String> {
    static NAMES: OnceLock<mpsc::Sender<String>> = OnceLock::new();
    NAMES.get_or_init(|| {
        let server = server.clone();
        let (sender, names) = mpsc::channel::<String>();
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let runtime = runtime.expect("a runtime can be created");
            for name in names {
                let dropped = runtime.block_on(async {
                    let maintenance = server.connect(MAINTENANCE_DATABASE).await?;
                    maintenance
                        .batch_execute(&format!("drop database {name} with (force)"))
                        .await
                });
                if let Err(error) = dropped {
                    eprintln!("cannot drop database {name}: {error}");
                }
            }
        });
        sender
    })
}
