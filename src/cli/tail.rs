//! `orderly tail`: prints every change of the orders through a running server until interrupted. After a lost connection
//! it resumes from its last event, so no change is missing or repeated.

use std::ops::ControlFlow;
use std::time::Duration;

use serde::Deserialize;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::sleep;

use super::arguments::{id, status};
use super::client::{Client, Following, Refusal};
use super::failure::Failure;
use super::flags::{self, Flags};
use super::{Verdict, output};
use crate::order::UserId;
use event_stream::{Event, EventStream};
use line::Line;

mod event_stream;
mod line;

/// Delay before reconnecting if the server has named none.
const RETRY_DEFAULT: Duration = Duration::from_secs(2);
/// Maximum delay before reconnecting.
const RETRY_MAX: Duration = Duration::from_secs(30);

#[derive(clap::Args)]
pub struct Args {
    /// Changes of this order only
    #[arg(long, value_name = "ID", alias = "order-id", value_parser = id())]
    order: Option<i64>,
    /// Changes of this user's orders only
    #[arg(long, value_name = "ID", alias = "user-id", value_parser = UserId::parse_either)]
    user: Option<UserId>,
    /// Changes to this status only
    #[arg(long, ignore_case = true, value_parser = status())]
    status: Option<&'static str>,
    /// Start after this cursor instead of now
    #[arg(long)]
    after: Option<String>,
    /// Print the server's JSON, one change per line
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    flags: Flags<flags::Client>,
}

/// Data of a `resync` event.
#[derive(Deserialize)]
struct Resync {
    cursor: String,
}

pub async fn run(args: &Args) -> Result<Verdict, Failure> {
    let client = Client::new(args.flags.layers().client()?)?;
    let mut terminated =
        signal(SignalKind::terminate()).map_err(|error| Failure::failed("listen for signals", error))?;
    let mut tail = Tail {
        client,
        query: args.query(),
        lines: if args.json {
            Lines::Json
        } else {
            Lines::for_people()
        },
        stream: EventStream::default(),
        failures: 0,
        lost: false,
    };
    tokio::select! {
        ended = tail.follow() => ended?,
        interrupted = tokio::signal::ctrl_c() => {
            interrupted.map_err(|error| Failure::failed("listen for signals", error))?;
        }
        _ = terminated.recv() => {}
    }
    Ok(Verdict::Good)
}

impl Args {
    fn query(&self) -> Vec<(&'static str, String)> {
        [
            ("order_id", self.order.map(|id| id.to_string())),
            ("user_id", self.user.as_ref().map(UserId::to_string)),
            ("status", self.status.map(str::to_owned)),
            ("after", self.after.clone()),
        ]
        .into_iter()
        .filter_map(|(name, value)| Some((name, value?)))
        .collect()
    }
}

struct Tail {
    client: Client,
    query: Vec<(&'static str, String)>,
    lines: Lines,
    stream: EventStream,
    /// Failed attempts to reconnect in a row.
    failures: u32,
    /// Set while the connection is lost and the user has been informed.
    lost: bool,
}

enum Lines {
    Json,
    Text { coloured: bool },
}

/// The reason why the stream ended.
enum Cut {
    /// Reconnecting may help.
    Lost(String),
    /// Stdout is closed.
    Unread,
}

impl Tail {
    /// Follows the stream until stdout is closed or the server refuses.
    async fn follow(&mut self) -> Result<(), Failure> {
        let mut following = self.first().await?;
        loop {
            match self.read(&mut following).await? {
                Cut::Unread => return Ok(()),
                Cut::Lost(reason) => self.report_loss(&reason),
            }
            following = self.again().await?;
        }
    }

    /// Opens the first stream. Fails at once: a wrong address is likelier than a server that is briefly away.
    async fn first(&self) -> Result<Following, Failure> {
        let opened = self.client.follow("/events", &self.query, None).await;
        opened.map_err(|refusal| match refusal {
            Refusal::ForNow(failure) | Refusal::ForGood(failure) => failure,
        })
    }

    async fn again(&mut self) -> Result<Following, Failure> {
        loop {
            sleep(self.pause()).await;
            self.failures += 1;
            let last_id = self.stream.last_id();
            match self.client.follow("/events", &self.query, last_id).await {
                Ok(following) => return Ok(following),
                Err(Refusal::ForNow(_)) => {}
                Err(Refusal::ForGood(failure)) => return Err(failure),
            }
        }
    }

    /// Returns the delay before the next attempt: the server's, doubled per failure, with up to 100 % jitter against
    /// simultaneous reconnects; at most [`RETRY_MAX`].
    fn pause(&self) -> Duration {
        let asked = self.stream.retry().unwrap_or(RETRY_DEFAULT).min(RETRY_MAX);
        let longer = asked.saturating_mul(1 << self.failures.min(5));
        longer.mul_f64(rand::random_range(1.0..2.0)).min(RETRY_MAX)
    }

    /// Reads until the stream ends.
    async fn read(&mut self, following: &mut Following) -> Result<Cut, Failure> {
        // An event that was cut off is sent again.
        self.stream = EventStream::after(self.stream.last_id().map(str::to_owned));
        loop {
            let bytes = match following.next().await {
                Ok(Some(bytes)) => bytes,
                Ok(None) => return Ok(Cut::Lost("the server ended it".to_owned())),
                Err(reason) => return Ok(Cut::Lost(reason)),
            };
            // Only data counts as success: a proxy may answer for a server that is away.
            self.failures = 0;
            if std::mem::take(&mut self.lost) {
                output::message("connected again");
            }
            let events = self
                .stream
                .read(&bytes)
                .map_err(|_| strange("sends lines without end"))?;
            let mut text = String::new();
            for event in events {
                self.write_event(&event, &mut text)?;
            }
            if !text.is_empty() && written(text).await?.is_break() {
                return Ok(Cut::Unread);
            }
        }
    }

    fn write_event(&self, event: &Event, text: &mut String) -> Result<(), Failure> {
        match event.name.as_str() {
            "order" => {
                text.push_str(&match self.lines {
                    // Between JSON tokens a line feed is whitespace.
                    Lines::Json => event.data.replace('\n', " "),
                    Lines::Text { coloured } => Line::read(&event.data)
                        .map_err(|_| strange("sends other events"))?
                        .text(coloured),
                });
                text.push('\n');
            }
            "resync" => {
                let resync: Resync =
                    serde_json::from_str(&event.data).map_err(|_| strange("sends other events"))?;
                output::message(&format!(
                    "changes are missing here: the cursor is too old or belongs to another store; continuing \
                     from now, cursor {}",
                    resync.cursor
                ));
            }
            // Events of a newer server.
            _ => {}
        }
        Ok(())
    }

    fn report_loss(&mut self, reason: &str) {
        if !std::mem::replace(&mut self.lost, true) {
            output::message(&format!("the connection was lost ({reason}); reconnecting"));
        }
    }
}

impl Lines {
    fn for_people() -> Lines {
        Lines::Text {
            coloured: anstream::AutoStream::choice(&std::io::stdout()) != anstream::ColorChoice::Never,
        }
    }
}

/// Writes on a separate thread: a stalled terminal must not block signals.
async fn written(text: String) -> Result<ControlFlow<()>, Failure> {
    let writing = tokio::task::spawn_blocking(move || output::write(&text));
    writing
        .await
        .map_err(|error| Failure::failed("write to stdout", error))?
}

fn strange(what: &'static str) -> Failure {
    Failure::Failed(anyhow::anyhow!(
        "the server {what}: does ORDERLY_URL name an orderly server?"
    ))
}
