//! `orderly orders`: looks at orders and acts on them through a running server.

use clap::builder::RangedI64ValueParser;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::json;
use serde_json::value::RawValue;

use super::client::Client;
use super::failure::Failure;
use super::flags::{self, Flags};
use super::{Verdict, output};
use crate::order::{INTEGER_MAX, OrderStatus};

#[derive(clap::Subcommand)]
pub enum Command {
    /// List orders, newest first
    List(List),
    /// Show one order
    Get(Get),
    /// Put a Failed or Cancelled order back to Pending, or many Failed ones
    Retry(Retry),
    /// Cancel a Pending, Processing or Failed order
    Cancel(Cancel),
}

#[derive(clap::Args)]
pub struct List {
    #[arg(long, value_parser = OrderStatus::ALL.map(OrderStatus::name))]
    status: Option<String>,
    #[arg(long, value_name = "ID", value_parser = id())]
    user_id: Option<i64>,
    /// The caller's own order number
    #[arg(long)]
    reference: Option<String>,
    /// RFC 3339, such as 2026-01-31T12:00:00Z
    #[arg(long, value_name = "TIME")]
    created_after: Option<String>,
    #[arg(long, value_name = "TIME")]
    created_before: Option<String>,
    /// Orders on a page, 1 to 500 [default: 50]
    #[arg(long, value_name = "NUMBER")]
    limit: Option<u16>,
    /// Where the page before ended
    #[arg(long)]
    cursor: Option<String>,
    #[command(flatten)]
    common: Common,
}

#[derive(clap::Args)]
pub struct Get {
    #[arg(value_parser = id())]
    order_id: i64,
    /// Its history instead of its present state
    #[arg(long)]
    events: bool,
    #[command(flatten)]
    common: Common,
}

#[derive(clap::Args)]
pub struct Retry {
    #[arg(value_parser = id(), required_unless_present = "failed", conflicts_with = "failed")]
    order_id: Option<i64>,
    /// Retry Failed orders, oldest first, as many as the server takes at once
    #[arg(long)]
    failed: bool,
    /// Only those of this user
    #[arg(long, value_name = "ID", value_parser = id(), conflicts_with = "order_id")]
    user_id: Option<i64>,
    /// Only those created before, RFC 3339
    #[arg(long, value_name = "TIME", conflicts_with = "order_id")]
    created_before: Option<String>,
    /// Change nothing, count only
    #[arg(long, conflicts_with = "order_id")]
    dry_run: bool,
    #[command(flatten)]
    common: Common,
}

#[derive(clap::Args)]
pub struct Cancel {
    #[arg(value_parser = id())]
    order_id: i64,
    #[command(flatten)]
    common: Common,
}

#[derive(clap::Args)]
struct Common {
    /// Print the server's JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    flags: Flags<flags::Client>,
}

#[derive(Deserialize)]
struct OrderPage {
    orders: Vec<Order>,
    next_cursor: Option<String>,
}

/// An order as the server answers it; amounts and seconds stay the text they are.
#[derive(Deserialize)]
#[expect(clippy::struct_field_names, reason = "the names are those of the API")]
struct Order {
    order_id: i64,
    user_id: i64,
    item_ids: String,
    item_count: u64,
    total_amount: Box<RawValue>,
    reference: Option<String>,
    metadata: Option<Box<RawValue>>,
    status: String,
    version: u32,
    attempts: u32,
    created_at: String,
    processing_at: Option<String>,
    completed_at: Option<String>,
    time_taken_seconds: Option<Box<RawValue>>,
    next_attempt_at: Option<String>,
    last_error: Option<String>,
    result: Option<Box<RawValue>>,
}

#[derive(Deserialize)]
struct History {
    events: Vec<Event>,
}

#[derive(Deserialize)]
struct Event {
    version: u32,
    kind: String,
    status: String,
    at: String,
    attempt: u32,
    node: Option<String>,
    error: Option<String>,
}

#[derive(Deserialize)]
struct Redriven {
    matched: u64,
    retried: u64,
    more: bool,
}

pub async fn run(command: &Command) -> Result<Verdict, Failure> {
    match command {
        Command::List(args) => list(args).await,
        Command::Get(args) => get(args).await,
        Command::Retry(args) => match args.order_id {
            Some(id) => act(&args.common, id, "retry").await,
            None => retry_failed(args).await,
        },
        Command::Cancel(args) => act(&args.common, args.order_id, "cancel").await,
    }?;
    Ok(Verdict::Good)
}

async fn list(args: &List) -> Result<(), Failure> {
    let query: Vec<(&str, String)> = [
        ("status", args.status.clone()),
        ("user_id", args.user_id.map(|id| id.to_string())),
        ("reference", args.reference.clone()),
        ("created_after", args.created_after.clone()),
        ("created_before", args.created_before.clone()),
        ("limit", args.limit.map(|limit| limit.to_string())),
        ("cursor", args.cursor.clone()),
    ]
    .into_iter()
    .filter_map(|(name, value)| Some((name, value?)))
    .collect();
    let answer = args.common.client()?.get("/orders", &query).await?;
    if args.common.json {
        return output::result(&answer);
    }
    let page: OrderPage = read(&answer)?;
    let rows: Vec<_> = page.orders.iter().map(Order::row).collect();
    output::result(&output::table(Order::HEADINGS, &rows))?;
    if let Some(cursor) = page.next_cursor {
        output::message(&format!("the list goes on: add --cursor {cursor}"));
    }
    Ok(())
}

async fn get(args: &Get) -> Result<(), Failure> {
    let client = args.common.client()?;
    let path = format!("/orders/{}", args.order_id);
    if !args.events {
        let answer = client.get(&path, &[]).await?;
        return args.common.show_order(&answer);
    }
    let answer = client.get(&format!("{path}/events"), &[]).await?;
    if args.common.json {
        return output::result(&answer);
    }
    let history: History = read(&answer)?;
    let rows: Vec<_> = history.events.into_iter().map(Event::row).collect();
    output::result(&output::table(Event::HEADINGS, &rows))
}

/// Posts an action on one order, which answers the order as it stands then.
async fn act(common: &Common, id: i64, action: &str) -> Result<(), Failure> {
    let answer = common
        .client()?
        .post(&format!("/orders/{id}/{action}"), None)
        .await?;
    common.show_order(&answer)
}

async fn retry_failed(args: &Retry) -> Result<(), Failure> {
    let mut body = json!({"status": OrderStatus::Failed.name(), "dry_run": args.dry_run});
    if let Some(user_id) = args.user_id {
        body["user_id"] = json!(user_id);
    }
    if let Some(created_before) = &args.created_before {
        body["created_before"] = json!(created_before);
    }
    let answer = args.common.client()?.post("/orders/retry", Some(&body)).await?;
    if args.common.json {
        return output::result(&answer);
    }
    let Redriven {
        matched,
        retried,
        more,
    } = read(&answer)?;
    output::result(&format!("{matched} matched, {retried} retried"))?;
    if more {
        // Not in a loop: an order that failed again at once would match again for ever.
        output::message("more orders match than one call takes: run it again for the next ones");
    }
    Ok(())
}

impl Common {
    fn client(&self) -> Result<Client, Failure> {
        Client::new(self.flags.layers().client()?)
    }

    fn show_order(&self, answer: &str) -> Result<(), Failure> {
        if self.json {
            return output::result(answer);
        }
        let order: Order = read(answer)?;
        output::result(&order.in_full())
    }
}

impl Order {
    const HEADINGS: [&str; 8] = [
        "ORDER",
        "STATUS",
        "USER",
        "ITEMS",
        "AMOUNT",
        "ATTEMPTS",
        "CREATED",
        "REFERENCE",
    ];

    fn row(&self) -> [String; 8] {
        [
            self.order_id.to_string(),
            self.status.clone(),
            self.user_id.to_string(),
            self.item_count.to_string(),
            self.total_amount.to_string(),
            self.attempts.to_string(),
            self.created_at.clone(),
            self.reference.clone().unwrap_or_default(),
        ]
    }

    /// A line for each field that has a value.
    fn in_full(self) -> String {
        let fields = [
            ("order_id", Some(self.order_id.to_string())),
            ("status", Some(self.status)),
            ("user_id", Some(self.user_id.to_string())),
            ("item_ids", Some(self.item_ids)),
            ("total_amount", Some(self.total_amount.to_string())),
            ("reference", self.reference),
            ("metadata", self.metadata.map(|raw| raw.to_string())),
            ("version", Some(self.version.to_string())),
            ("attempts", Some(self.attempts.to_string())),
            ("created_at", Some(self.created_at)),
            ("processing_at", self.processing_at),
            ("completed_at", self.completed_at),
            (
                "time_taken_seconds",
                self.time_taken_seconds.map(|raw| raw.to_string()),
            ),
            ("next_attempt_at", self.next_attempt_at),
            ("last_error", self.last_error),
            ("result", self.result.map(|raw| raw.to_string())),
        ];
        let lines: Vec<String> = fields
            .into_iter()
            .filter_map(|(name, value)| Some(format!("{name:18}  {}", output::printable(&value?))))
            .collect();
        lines.join("\n")
    }
}

impl Event {
    const HEADINGS: [&str; 7] = ["VERSION", "AT", "KIND", "STATUS", "ATTEMPT", "NODE", "ERROR"];

    fn row(self) -> [String; 7] {
        [
            self.version.to_string(),
            self.at,
            self.kind,
            self.status,
            self.attempt.to_string(),
            self.node.unwrap_or_default(),
            self.error.unwrap_or_default(),
        ]
    }
}

fn id() -> RangedI64ValueParser<i64> {
    clap::value_parser!(i64).range(1..=INTEGER_MAX)
}

fn read<T: DeserializeOwned>(answer: &str) -> Result<T, Failure> {
    serde_json::from_str(answer)
        .map_err(|error| Failure::failed("read the answer, which is not that of an orderly server", error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_order_is_shown_with_exact_amounts_and_without_what_it_has_not() {
        let order: Order = read(
            r#"{"order_id":45,"user_id":104,"item_ids":"101,102","item_count":2,"total_amount":100.00,
            "reference":null,"metadata":{"a":1.50},"status":"Failed","version":3,"attempts":1,
            "created_at":"2026-11-22T16:00:00.000000Z","processing_at":null,"completed_at":null,
            "next_attempt_at":null,"last_error":"refused\u001b[2J"}"#,
        )
        .unwrap();
        assert_eq!(order.row()[4], "100.00");
        let shown = order.in_full();
        assert!(shown.contains("total_amount        100.00\n"), "{shown}");
        assert!(shown.contains("{\"a\":1.50}"), "{shown}");
        assert!(!shown.contains("completed_at"), "{shown}");
        assert!(!shown.contains('\u{1b}'), "{shown}");
    }

    #[test]
    fn an_answer_of_another_program_is_told_apart() {
        assert!(read::<OrderPage>("<html>").is_err());
    }
}
