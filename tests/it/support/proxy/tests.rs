//! The proxy between a real server and a real client: the effects of its faults on both sides.

use tokio::sync::mpsc;
use tokio_postgres::Client;
use tokio_postgres::error::SqlState;
use tokio_postgres::types::Type;

use super::{Action, Proxy};
use crate::support::gate::Gate;
use crate::support::postgres::{self, Authority, Options, Server, TestDatabase};
use crate::support::{required, until};

/// A database with one table, a proxy before its server, and connections through the proxy and past it.
struct Fixture {
    proxy: Proxy,
    database: TestDatabase,
    client: Client,
    admin: Client,
}

impl Fixture {
    async fn new() -> Option<Fixture> {
        if !required("a private PostgreSQL", postgres::is_installed()) {
            return None;
        }
        let server = Server::shared().await;
        let database = server.create_database().await;
        let admin = database.admin().await;
        let table = "create table public.rows (id int primary key, token int not null default 1)";
        admin.batch_execute(table).await.unwrap();
        let proxy = Proxy::before(server.address()).await;
        let client = postgres::connect(&through(&proxy, &database)).await.unwrap();
        Some(Fixture {
            proxy,
            database,
            client,
            admin,
        })
    }

    async fn connect(&self) -> Result<Client, tokio_postgres::Error> {
        postgres::connect(&through(&self.proxy, &self.database)).await
    }

    /// Applies the action to flights whose statements contain the text; others pass.
    fn when(&self, text: &'static str, action: Action) {
        self.proxy.on_flight(move |flight| {
            if flight.sql().contains(text) {
                action.clone()
            } else {
                Action::Forward
            }
        });
    }

    async fn rows(&self) -> i64 {
        let counted = self
            .admin
            .query_one("select count(*) from public.rows", &[])
            .await;
        counted.unwrap().get(0)
    }

    async fn until_rows(&self, expected: i64) {
        until("the rows are visible", async || self.rows().await == expected).await;
    }
}

fn through(proxy: &Proxy, database: &TestDatabase) -> String {
    database.url_at("127.0.0.1", proxy.address().port())
}

/// One flight of the extended protocol, as the store sends them.
async fn insert(client: &Client, id: i32) -> Result<u64, tokio_postgres::Error> {
    let statement = "insert into public.rows values ($1)";
    client.execute_typed(statement, &[(&id, Type::INT4)]).await
}

#[tokio::test]
async fn forwarded_flights_are_recorded_and_counted() {
    let Some(fixture) = Fixture::new().await else {
        return;
    };
    assert_eq!(
        (fixture.proxy.connection_count(), fixture.proxy.flight_count()),
        (1, 0)
    );
    insert(&fixture.client, 1).await.unwrap();
    fixture.client.batch_execute("begin; commit").await.unwrap();
    assert_eq!(fixture.proxy.flight_count(), 2);
    assert_eq!(
        fixture.proxy.flights(),
        ["insert into public.rows values ($1)", "begin; commit"]
    );
    assert_eq!(fixture.rows().await, 1);
}

#[tokio::test]
async fn data_sent_byte_by_byte_arrives() {
    let Some(fixture) = Fixture::new().await else {
        return;
    };
    fixture.proxy.slice(true);
    let long = "ä".repeat(1000);
    let client = fixture.connect().await.unwrap();
    let row = client
        .query_typed("select $1", &[(&long, Type::TEXT)])
        .await
        .unwrap();
    assert_eq!(row[0].get::<_, &str>(0), long);
}

#[tokio::test]
async fn cut_connections_are_closed_and_new_ones_pass() {
    let Some(fixture) = Fixture::new().await else {
        return;
    };
    let other = fixture.connect().await.unwrap();
    fixture.proxy.cut_all();
    for client in [&fixture.client, &other] {
        assert!(insert(client, 1).await.unwrap_err().is_closed());
    }
    insert(&fixture.connect().await.unwrap(), 1).await.unwrap();
}

#[tokio::test]
async fn refused_connections_are_counted_and_old_ones_pass() {
    let Some(fixture) = Fixture::new().await else {
        return;
    };
    fixture.proxy.refuse(true);
    assert!(fixture.connect().await.is_err());
    insert(&fixture.client, 1).await.unwrap();
    fixture.proxy.refuse(false);
    assert!(fixture.connect().await.is_ok());
    assert_eq!(fixture.proxy.connection_count(), 3);
}

#[tokio::test]
async fn a_flight_with_a_lost_answer_was_carried_out() {
    let Some(fixture) = Fixture::new().await else {
        return;
    };
    fixture.when("insert", Action::LoseAnswer);
    // Sent before the first answer: earlier flights are answered, later ones are not.
    let (before, lost, after) = tokio::join!(
        fixture.client.batch_execute("select 1"),
        insert(&fixture.client, 1),
        fixture.client.batch_execute("select 2"),
    );
    before.unwrap();
    assert!(lost.unwrap_err().is_closed());
    assert!(after.unwrap_err().is_closed());
    assert_eq!(fixture.rows().await, 1);
}

#[tokio::test]
async fn the_answer_to_a_commit_can_be_lost() {
    let Some(fixture) = Fixture::new().await else {
        return;
    };
    fixture.when("commit", Action::LoseAnswer);
    fixture.client.batch_execute("begin").await.unwrap();
    insert(&fixture.client, 1).await.unwrap();
    assert_eq!(fixture.rows().await, 0);
    assert!(fixture.client.batch_execute("commit").await.is_err());
    assert_eq!(fixture.rows().await, 1);
}

#[tokio::test]
async fn a_silenced_connection_stays_open() {
    let Some(fixture) = Fixture::new().await else {
        return;
    };
    fixture.when("insert", Action::Silence);
    let unanswered = insert(&fixture.client, 1);
    tokio::pin!(unanswered);
    tokio::select! {
        biased;
        answered = &mut unanswered => panic!("{answered:?}"),
        () = fixture.until_rows(1) => {}
    }
    assert!(!fixture.client.is_closed());
    fixture.proxy.cut_all();
    assert!(unanswered.await.unwrap_err().is_closed());
}

#[tokio::test]
async fn a_cut_flight_never_reaches_the_server() {
    let Some(fixture) = Fixture::new().await else {
        return;
    };
    fixture.when("insert", Action::Cut);
    assert!(insert(&fixture.client, 1).await.unwrap_err().is_closed());
    assert_eq!(fixture.rows().await, 0);
}

#[tokio::test]
async fn a_held_flight_commits_once_released() {
    let Some(fixture) = Fixture::new().await else {
        return;
    };
    let gate = Gate::closed();
    fixture.when("insert", Action::Hold(gate.clone()));
    let held = insert(&fixture.client, 1);
    let let_go = async {
        gate.arrival().await;
        let locked =
            "select 1 from pg_locks where relation = 'public.rows'::regclass and mode = 'RowExclusiveLock'";
        until("the row is inserted", async || {
            !fixture.admin.query(locked, &[]).await.unwrap().is_empty()
        })
        .await;
        assert_eq!(fixture.rows().await, 0);
        gate.open();
    };
    let (held, ()) = tokio::join!(held, let_go);
    held.unwrap();
    assert_eq!(fixture.rows().await, 1);
}

#[tokio::test]
async fn a_delayed_flight_arrives_after_later_flights_of_others() {
    let Some(fixture) = Fixture::new().await else {
        return;
    };
    let gate = Gate::closed();
    let then = Box::new(Action::Rewrite {
        from: "($1)".to_owned(),
        to: "($1 + 1)".to_owned(),
    });
    fixture.when(
        "insert",
        Action::KeepBack {
            gate: gate.clone(),
            then,
        },
    );
    let kept_back = insert(&fixture.client, 1);
    let meanwhile = async {
        gate.arrival().await;
        insert(&fixture.admin, 2).await.unwrap();
        gate.open();
    };
    let (kept_back, ()) = tokio::join!(kept_back, meanwhile);
    let refused = kept_back.unwrap_err();
    assert_eq!(refused.code(), Some(&SqlState::UNIQUE_VIOLATION), "{refused}");
}

#[tokio::test]
async fn nothing_passes_a_frozen_proxy_until_it_thaws() {
    let Some(fixture) = Fixture::new().await else {
        return;
    };
    let (arrived, mut arrivals) = mpsc::unbounded_channel();
    fixture.proxy.on_flight(move |_| {
        arrived.send(()).expect("the test receives");
        Action::Forward
    });
    fixture.proxy.freeze(true);
    let frozen = insert(&fixture.client, 1);
    let thaw = async {
        arrivals.recv().await.unwrap();
        assert_eq!(fixture.rows().await, 0);
        assert!(!fixture.client.is_closed());
        fixture.proxy.freeze(false);
    };
    let (frozen, ()) = tokio::join!(frozen, thaw);
    frozen.unwrap();
}

#[tokio::test]
async fn a_condition_can_be_removed_from_a_statement() {
    let Some(fixture) = Fixture::new().await else {
        return;
    };
    insert(&fixture.client, 1).await.unwrap();
    let update = async || {
        let statement = "update public.rows set token = token + 1 where id = $1 and token = $2";
        let (id, stale) = (1_i32, 7_i32);
        let values: [(&(dyn tokio_postgres::types::ToSql + Sync), Type); 2] =
            [(&id, Type::INT4), (&stale, Type::INT4)];
        fixture.client.execute_typed(statement, &values).await.unwrap()
    };
    assert_eq!(update().await, 0);
    let rewrite = Action::Rewrite {
        from: " and token = $2".to_owned(),
        to: String::new(),
    };
    fixture.when("update", rewrite);
    assert_eq!(update().await, 1);
}

#[tokio::test]
async fn encrypted_traffic_passes_unread() {
    if !required("a private PostgreSQL", postgres::is_installed()) {
        return;
    }
    let authority = Authority::new();
    let options = Options::default().certificate(authority.certificate_for(&["127.0.0.1"]));
    let server = Server::start(options).await;
    let database = server.create_database().await;
    let encrypted = async |proxy: &Proxy| {
        let url = format!("{}?sslmode=require", through(proxy, &database));
        let config: tokio_postgres::Config = url.parse().unwrap();
        let (client, connection) = config.connect(authority.client()).await?;
        tokio::spawn(connection);
        client.batch_execute("select 1").await
    };
    let proxy = Proxy::before(server.address()).await;
    encrypted(&proxy).await.unwrap();
    assert_eq!((proxy.connection_count(), proxy.flight_count()), (1, 0));
    let proxy = Proxy::refusing_tls(server.address()).await;
    assert!(encrypted(&proxy).await.is_err());
    let client = postgres::connect(&through(&proxy, &database)).await.unwrap();
    client.batch_execute("select 1").await.unwrap();
    assert_eq!(proxy.flights(), ["select 1"]);
}

#[tokio::test]
async fn everything_ends_with_the_proxy() {
    let Some(fixture) = Fixture::new().await else {
        return;
    };
    let url = through(&fixture.proxy, &fixture.database);
    drop(fixture.proxy);
    assert!(insert(&fixture.client, 1).await.unwrap_err().is_closed());
    assert!(postgres::connect(&url).await.is_err());
}
