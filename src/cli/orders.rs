//! `orderly orders`: shows orders and acts on them through a running server.

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::arguments::id;
use super::client::{Client, read};
use super::failure::Failure;
use super::flags::{self, Flags};
use super::{Verdict, fields, output};
use crate::order::{OrderStatus, UserId};
use create::Create;
use list::List;

mod create;
mod list;

#[derive(clap::Subcommand)]
pub enum Command {
    /// Create an order
    Create(Create),
    /// List orders, newest first
    List(List),
    /// Show one order
    Get(Get),
    /// Explain what an order waits for
    Explain(One),
    /// Send a Failed or Cancelled order, or many Failed ones, back to Pending; end the backoff of a Pending one
    Retry(Retry),
    /// Cancel a Pending, Processing or Failed order
    Cancel(Act),
    /// Keep a Pending order from starting until it is released
    Hold(Act),
    /// Release a held order
    Release(Act),
    /// Add a milestone such as `shipped`
    Milestone(Milestone),
}

#[derive(clap::Args)]
pub struct Get {
    #[arg(value_parser = id())]
    order_id: i64,
    /// Show its history instead of its current state
    #[arg(long)]
    events: bool,
    #[command(flatten)]
    common: Common,
}

#[derive(clap::Args)]
pub struct Retry {
    #[arg(value_parser = id(), required_unless_present = "failed", conflicts_with = "failed")]
    order_id: Option<i64>,
    /// Retry Failed orders, oldest first, up to the limit of one request
    #[arg(long)]
    failed: bool,
    /// Only orders of this user
    #[arg(long, value_name = "ID", value_parser = UserId::parse_either, conflicts_with = "order_id")]
    user_id: Option<UserId>,
    /// Only orders created before this time, RFC 3339
    #[arg(long, value_name = "TIME", conflicts_with = "order_id")]
    created_before: Option<String>,
    /// Count the orders and change nothing
    #[arg(long, conflicts_with = "order_id")]
    dry_run: bool,
    /// Keep the idempotency key of the attempts, so that a service that knows it does nothing twice
    #[arg(long)]
    same_key: bool,
    /// Kept in the history
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
    #[command(flatten)]
    common: Common,
}

#[derive(clap::Args)]
pub struct Milestone {
    #[arg(value_parser = id())]
    order_id: i64,
    /// Small letters and underscores
    name: String,
    /// A JSON object, sent byte for byte
    #[arg(long, value_name = "JSON", value_parser = raw_json)]
    data: Option<Box<RawValue>>,
    /// Kept in the history
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
    #[command(flatten)]
    common: Common,
}

#[derive(clap::Args)]
pub struct Act {
    #[arg(value_parser = id())]
    order_id: i64,
    /// Kept in the history
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
    #[command(flatten)]
    common: Common,
}

#[derive(clap::Args)]
pub struct One {
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
        Command::Create(args) => create::create(args).await,
        Command::List(args) => list::list(args).await,
        Command::Get(args) => get(args).await,
        Command::Explain(args) => explain(args).await,
        Command::Retry(args) => match args.order_id {
            Some(id) => act(&args.common, id, "retry", &args.options()).await,
            None => retry_failed(args).await,
        },
        Command::Cancel(args) => args.act("cancel").await,
        Command::Hold(args) => args.act("hold").await,
        Command::Release(args) => args.act("release").await,
        Command::Milestone(args) => args.add().await,
    }?;
    Ok(Verdict::Good)
}

async fn get(args: &Get) -> Result<(), Failure> {
    let client = args.common.client()?;
    let path = format!("/orders/{}", args.order_id);
    if !args.events {
        let answer = client.get(&path, &[]).await?;
        return args.common.show(&answer);
    }
    let answer = client.get(&format!("{path}/events"), &[]).await?;
    if args.common.json {
        return output::result(&answer);
    }
    let history: History = read(&answer)?;
    let rows: Vec<_> = history.events.into_iter().map(Event::row).collect();
    output::result(&output::table(Event::HEADINGS, &rows))
}

async fn explain(args: &One) -> Result<(), Failure> {
    let path = format!("/orders/{}/explain", args.order_id);
    let answer = args.common.client()?.get(&path, &[]).await?;
    args.common.show(&answer)
}

/// Posts an action on one order and shows the order from the answer.
async fn act(common: &Common, id: i64, action: &str, options: &impl Serialize) -> Result<(), Failure> {
    let answer = common
        .client()?
        .post(&format!("/orders/{id}/{action}"), Some(options))
        .await?;
    common.show(&answer)
}

fn with_reason(mut options: Value, reason: Option<&str>) -> Value {
    if let Some(reason) = reason {
        options["reason"] = json!(reason);
    }
    options
}

async fn retry_failed(args: &Retry) -> Result<(), Failure> {
    let mut body = args.options();
    body["status"] = json!(OrderStatus::Failed.name());
    body["dry_run"] = json!(args.dry_run);
    if let Some(user_id) = &args.user_id {
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
        // No loop: an order that fails again at once would match forever.
        output::message("more orders match than one call takes: run it again for the rest");
    }
    Ok(())
}

impl Act {
    async fn act(&self, action: &str) -> Result<(), Failure> {
        let options = with_reason(json!({}), self.reason.as_deref());
        act(&self.common, self.order_id, action, &options).await
    }
}

impl Milestone {
    async fn add(&self) -> Result<(), Failure> {
        #[derive(Serialize)]
        struct Body<'a> {
            name: &'a str,
            #[serde(skip_serializing_if = "Option::is_none")]
            data: Option<&'a RawValue>,
            #[serde(skip_serializing_if = "Option::is_none")]
            reason: Option<&'a str>,
        }
        let body = Body {
            name: &self.name,
            data: self.data.as_deref(),
            reason: self.reason.as_deref(),
        };
        act(&self.common, self.order_id, "milestones", &body).await
    }
}

fn raw_json(text: &str) -> Result<Box<RawValue>, serde_json::Error> {
    serde_json::from_str(text)
}

impl Retry {
    fn options(&self) -> Value {
        let mut options = json!({});
        if self.same_key {
            options["same_key"] = json!(true);
        }
        with_reason(options, self.reason.as_deref())
    }
}

impl Common {
    fn client(&self) -> Result<Client, Failure> {
        Client::new(self.flags.layers().client()?)
    }

    /// Shows an answer that is one object.
    fn show(&self, answer: &str) -> Result<(), Failure> {
        if self.json {
            return output::result(answer);
        }
        output::result(&fields::read(answer)?.in_full())
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
