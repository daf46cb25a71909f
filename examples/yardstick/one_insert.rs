//! Yardstick of a typical service: a plain `axum` handler that reads the JSON into a struct and inserts one row per
//! request, over a pool of 16 connections with prepared statements. No checks, events or idempotency.

use std::sync::{Arc, Mutex, MutexGuard};

use anyhow::Context;
use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::response::Response;
use axum::routing::post;
use axum::serve::ListenerExt;
use serde::{Deserialize, Serialize};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio_postgres::{Client, NoTls, Statement};

/// Connections to the database.
const POOL: usize = 16;

#[derive(Deserialize)]
struct Order {
    user_id: i64,
    item_ids: Vec<i64>,
    total_amount: f64,
}

#[derive(Serialize)]
struct Answer<'a> {
    order_id: i64,
    user_id: i64,
    item_ids: &'a str,
    total_amount: f64,
    status: &'a str,
}

/// Creates its table in the empty database and serves until the process ends.
pub async fn serve(listener: TcpListener, database_url: &str) -> anyhow::Result<()> {
    let schema = include_str!("one_insert/schema.sql");
    let made = connect(database_url).await?.batch_execute(schema).await;
    made.context("create the table of the yardstick")?;
    let pool = Pool::open(database_url).await?;
    let router = Router::new().route("/orders", post(insert)).with_state(pool);
    let listener = listener.tap_io(|stream| {
        // A failure only makes it slower.
        let _ = stream.set_nodelay(true);
    });
    axum::serve(listener, router).await.context("serve")
}

async fn connect(database_url: &str) -> anyhow::Result<Client> {
    let connected = tokio_postgres::connect(database_url, NoTls).await;
    let (client, connection) = connected.context("connect to the database")?;
    // Pending calls get its error too.
    tokio::spawn(connection);
    Ok(client)
}

async fn insert(State(pool): State<Arc<Pool>>, body: Bytes) -> Response {
    match pool.insert(&body).await {
        Ok(answer) => respond(201, answer),
        Err(error) => respond(500, format!("{error:#}").into_bytes()),
    }
}

fn respond(status: u16, body: Vec<u8>) -> Response {
    let response = Response::builder()
        .status(status)
        .header(CONTENT_TYPE, "application/json")
        .body(body.into());
    response.expect("the headers are valid")
}

struct Pool {
    free: Semaphore,
    clients: Mutex<Vec<(Client, Statement)>>,
}

impl Pool {
    async fn open(database_url: &str) -> anyhow::Result<Arc<Pool>> {
        let mut clients = Vec::new();
        for _ in 0..POOL {
            let client = connect(database_url).await?;
            let statement = client.prepare(include_str!("one_insert/insert.sql")).await;
            clients.push((client, statement.context("prepare the statement")?));
        }
        Ok(Arc::new(Pool {
            free: Semaphore::new(POOL),
            clients: Mutex::new(clients),
        }))
    }

    async fn insert(&self, body: &[u8]) -> anyhow::Result<Vec<u8>> {
        let order: Order = serde_json::from_slice(body).context("read the order")?;
        let items: Vec<String> = order.item_ids.iter().map(i64::to_string).collect();
        let item_ids = items.join(",");
        let _permit = self.free.acquire().await.context("wait for a connection")?;
        let taken = self.clients().pop();
        let (client, statement) = taken.context("there are as many clients as permits")?;
        let row = client
            .query_one(&statement, &[&order.user_id, &item_ids, &order.total_amount])
            .await;
        self.clients().push((client, statement));
        let answer = Answer {
            order_id: row.context("insert an order")?.get(0),
            user_id: order.user_id,
            item_ids: &item_ids,
            total_amount: order.total_amount,
            status: "Pending",
        };
        serde_json::to_vec(&answer).context("write the answer")
    }

    fn clients(&self) -> MutexGuard<'_, Vec<(Client, Statement)>> {
        self.clients
            .lock()
            .expect("no code panics while it holds this lock")
    }
}
