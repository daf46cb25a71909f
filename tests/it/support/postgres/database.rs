//! A database of a test's own, and the clock in it that the test moves. The server is left to `postgres.rs`.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{OnceLock, mpsc};
use std::time::{Duration, SystemTime};

use orderly::time::Timestamp;
use tokio::sync::Mutex;
use tokio_postgres::{Client, Row};

use super::{MAINTENANCE_DATABASE, PgBouncer, Server};

/// What every database here is a copy of.
const TEMPLATE: &str = "orderly_template";

/// Answers the time that a test has set, otherwise the real one. `clock_timestamp()` is this one in every session,
/// because its schema comes before PostgreSQL's own in the server's `search_path`. A role that is no superuser has the
/// same clock.
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

/// Hosts sort text as people do and not by its bytes, and so does this server where it can without the system's help.
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
    /// For the clock; opened when it is first needed and again when it was cut.
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

    /// The same database on another server, which is this one's standby or was.
    pub fn on(&self, server: &Server) -> TestDatabase {
        TestDatabase {
            server: server.clone(),
            name: self.name.clone(),
            client: Mutex::new(None),
        }
    }

    /// A copy of the database on the same server, as a backup is. Nobody may be connected to the original.
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

    /// At the server itself.
    pub fn url(&self) -> String {
        self.url_at("127.0.0.1", self.server.address().port())
    }

    /// Through a pooler in transaction mode.
    pub async fn bouncer_url(&self) -> String {
        assert!(
            self.server.is_shared(),
            "the shared PgBouncer knows no other server"
        );
        let bouncer = PgBouncer::shared().await;
        self.url_at("127.0.0.1", bouncer.address().port())
    }

    /// At whatever stands before the server, or at the server by another name.
    pub fn url_at(&self, host: &str, port: u16) -> String {
        self.server.url(host, port, &self.name)
    }

    /// A superuser's connection for the test itself, past everything that stands before the server.
    pub async fn admin(&self) -> Client {
        self.server.connect(&self.name).await.unwrap()
    }

    /// Puts the names that the store's functions have here into a text that calls them as the store's own texts do, such
    /// as `:claim(`.
    pub async fn named(&self, text: &str) -> String {
        let functions = "select substr(proname, 1, length(proname) - 13), proname from pg_proc
            where pronamespace = 'orderly'::regnamespace and proname ~ '_[0-9a-f]{12}$'";
        let functions = self.admin().await.query(functions, &[]).await.unwrap();
        functions.iter().fold(text.to_owned(), |text, function| {
            let (file, name): (String, String) = (function.get(0), function.get(1));
            text.replace(&format!(":{file}("), &format!("orderly.{name}("))
        })
    }

    /// Makes a copy of one of the store's functions, named `copy` and a hash as that is `function` and the hash, with parts of
    /// its text taken out.
    pub async fn copy_function(&self, function: &str, copy: &str, without: &[&str]) {
        let admin = self.admin().await;
        let text = "select pg_get_functiondef(oid) from pg_proc
            where pronamespace = 'orderly'::regnamespace and starts_with('orderly.' || proname, $1)";
        let mut text: String = admin.query_one(text, &[&function]).await.unwrap().get(0);
        for part in without {
            assert!(text.contains(part), "{function} reads otherwise: {text}");
            text = text.replace(part, "");
        }
        admin.batch_execute(&text.replace(function, copy)).await.unwrap();
    }

    /// What `clock_timestamp()` answers from now on: this time, or the real one.
    pub async fn set_clock(&self, time: Option<Timestamp>) {
        let time = time.map(|time| {
            let micros = u64::try_from(time.micros()).expect("tests live after 1970");
            SystemTime::UNIX_EPOCH + Duration::from_micros(micros)
        });
        self.ask("update test_clock.stored set time = $1 returning time", &[&time])
            .await;
    }

    /// What `clock_timestamp()` answers.
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
    /// Not waited for: a run makes hundreds of databases, and the next test does not need this one to be gone. Those of
    /// a test's own server go with it.
    fn drop(&mut self) {
        if self.server.is_shared() {
            let name = std::mem::take(&mut self.name);
            let sent = dropper(&self.server).send(name);
            sent.expect("the thread takes names as long as the process lives");
        }
    }
}

/// Drops databases of the shared server one after another, so that a run holds few at a time on the disk.
fn dropper(server: &Server) -> &'static mpsc::Sender<String> {
    static NAMES: OnceLock<mpsc::Sender<String>> = OnceLock::new();
    NAMES.get_or_init(|| {
        let server = server.clone();
        let (sender, names) = mpsc::channel::<String>();
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let runtime = runtime.expect("the process can have one more runtime");
            for name in names {
                let dropped = runtime.block_on(async {
                    let maintenance = server.connect(MAINTENANCE_DATABASE).await?;
                    maintenance
                        .batch_execute(&format!("drop database {name} with (force)"))
                        .await
                });
                if let Err(error) = dropped {
                    eprintln!("database {name} stays: {error}");
                }
            }
        });
        sender
    })
}
