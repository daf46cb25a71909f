//! `orderly orders create`: places one order, under an idempotency key whatever happens, so that the same command can be
//! run again when its end is unknown.

use std::io::{self, Read};
use std::path::PathBuf;

use anyhow::Context;
use serde_json::json;
use serde_json::value::RawValue;

use super::Common;
use crate::cli::client::may_have_changed_something;
use crate::cli::failure::Failure;
use crate::cli::output;

/// Far more than the server takes, and no more than fits into memory.
const BODY_BYTES_MAX: u64 = 16 * 1024 * 1024;

#[derive(clap::Args)]
pub struct Create {
    #[arg(long, value_name = "ID", required_unless_present = "body")]
    user_id: Option<String>,
    /// Separated by commas
    #[arg(long, value_name = "IDS", required_unless_present = "body")]
    item_ids: Option<String>,
    /// Such as 250.75
    #[arg(long, value_name = "AMOUNT", required_unless_present = "body")]
    total_amount: Option<String>,
    /// The caller's own order number
    #[arg(long)]
    reference: Option<String>,
    /// A JSON object
    #[arg(long, value_name = "JSON")]
    metadata: Option<String>,
    /// A file with the whole order as JSON instead; - is stdin
    #[arg(long, value_name = "PATH", conflicts_with_all = ["user_id", "item_ids", "total_amount", "reference", "metadata"])]
    body: Option<PathBuf>,
    /// Repeats an earlier command without a second order [default: a new one]
    #[arg(long, value_name = "KEY")]
    idempotency_key: Option<String>,
    #[command(flatten)]
    common: Common,
}

pub async fn create(args: &Create) -> Result<(), Failure> {
    let body = args.body()?;
    let key = match &args.idempotency_key {
        Some(key) => key.clone(),
        None => uuid::Uuid::now_v7().to_string(),
    };
    let client = args.common.client()?;
    let placed = client.post_keyed("/orders", body, &key).await;
    if let Err(failure) = &placed
        && may_have_changed_something(failure)
    {
        output::message(&format!(
            "whether the order was accepted is unknown: with --idempotency-key {key} the same command answers it, or \
             places it once"
        ));
    }
    args.common.show(&placed?)
}

impl Create {
    /// The order as JSON. What is wrong in it the server tells.
    fn body(&self) -> Result<String, Failure> {
        if let Some(path) = &self.body {
            return read_body(path).map_err(Failure::Failed);
        }
        let mut order = json!({
            "item_ids": self.item_ids,
            "total_amount": self.total_amount,
        });
        if let Some(user_id) = &self.user_id {
            order["user_id"] = match user_id.parse::<i64>() {
                Ok(number) => json!(number),
                Err(_) => json!(user_id),
            };
        }
        if let Some(reference) = &self.reference {
            order["reference"] = json!(reference);
        }
        let mut text = order.to_string();
        if let Some(metadata) = &self.metadata {
            let metadata: Box<RawValue> = serde_json::from_str(metadata)
                .map_err(|error| Failure::failed("read --metadata as JSON", error))?;
            // Kept byte for byte.
            text.pop();
            text = format!("{text},\"metadata\":{metadata}}}");
        }
        Ok(text)
    }
}

fn read_body(path: &PathBuf) -> anyhow::Result<String> {
    let mut text = String::new();
    let read = if path.as_os_str() == "-" {
        io::stdin().take(BODY_BYTES_MAX).read_to_string(&mut text)
    } else {
        std::fs::File::open(path).and_then(|file| file.take(BODY_BYTES_MAX).read_to_string(&mut text))
    };
    read.with_context(|| format!("read {}", path.display()))?;
    Ok(text)
}
