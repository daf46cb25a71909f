//! `orderly queue`, `pause`, `resume` and `status`: the queue and readiness of a running server.

use std::time::Duration;

use serde_json::json;
use serde_json::value::RawValue;
use tokio::time::timeout;

use super::client::{Client, Refused, read};
use super::failure::Failure;
use super::flags::{self, Flags};
use super::{Verdict, fields, output};

/// Time for the queue of a server; a store that hangs takes longer.
const QUEUE_TIME_MAX: Duration = Duration::from_millis(2_500);

#[derive(clap::Args)]
pub struct Args {
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    flags: Flags<flags::Client>,
}

#[derive(clap::Args)]
pub struct ActionArgs {
    /// Reason, for the log and for other operators
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
    #[command(flatten)]
    args: Args,
}

pub async fn show(args: &Args) -> Result<Verdict, Failure> {
    args.show(&args.client()?.get("/queue", &[]).await?)
}

pub async fn pause(args: &ActionArgs) -> Result<Verdict, Failure> {
    args.act("/queue/pause").await
}

pub async fn resume(args: &ActionArgs) -> Result<Verdict, Failure> {
    args.act("/queue/resume").await
}

impl ActionArgs {
    async fn act(&self, path: &str) -> Result<Verdict, Failure> {
        let body = self.reason.as_ref().map(|reason| json!({ "reason": reason }));
        let answer = self.args.client()?.post(path, body.as_ref()).await?;
        self.args.show(&answer)
    }
}

/// Shows readiness, and the queue even if the server is not ready, when it can read it.
pub async fn status(args: &Args) -> Result<Verdict, Failure> {
    let client = args.client()?;
    let verbose = [("verbose", String::new())];
    let (ready, queue) = tokio::join!(
        client.get("/readyz", &verbose),
        timeout(QUEUE_TIME_MAX, client.get("/queue", &[]))
    );
    let not_ready = match ready {
        Ok(_) => None,
        Err(failure) => match Refused::of(&failure) {
            Some(refused) if refused.is_unavailable && refused.detail.is_some() => refused.detail.clone(),
            // Not an answer of a readiness check.
            Some(_) | None => return Err(failure),
        },
    };
    let queue = match (queue, &not_ready) {
        (Ok(Ok(queue)), _) => Some(queue),
        (Ok(Err(failure)), None) => return Err(failure),
        (Ok(Err(_)) | Err(_), _) => None,
    };
    if args.json {
        let queue: Option<Box<RawValue>> = queue.as_deref().map(read).transpose()?;
        output::json(&json!({"ready": not_ready.is_none(), "reason": not_ready, "queue": queue}))?;
    } else {
        let readiness = match (not_ready.as_deref(), &queue) {
            (Some(reason), _) => format!("not ready: {reason}; `orderly doctor` says what to do"),
            (None, None) => "ready, but its queue cannot be read now; `orderly doctor` says why".to_owned(),
            (None, Some(_)) => "ready".to_owned(),
        };
        output::result(&format!(
            "{} is {}",
            client.shown_url(),
            output::printable(&readiness)
        ))?;
        if let Some(queue) = queue {
            output::result(&format!("\n{}", fields::read(&queue)?.in_full()))?;
        }
    }
    Ok(if not_ready.is_none() {
        Verdict::Good
    } else {
        Verdict::Bad
    })
}

impl Args {
    fn show(&self, queue: &str) -> Result<Verdict, Failure> {
        if self.json {
            output::result(queue)?;
        } else {
            output::result(&fields::read(queue)?.in_full())?;
        }
        Ok(Verdict::Good)
    }

    fn client(&self) -> Result<Client, Failure> {
        Client::new(self.flags.layers().client()?)
    }
}
