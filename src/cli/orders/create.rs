//! `orderly orders create`: creates one order, always under an idempotency key, so that the command can be repeated when
//! its outcome is unknown.

use std::io::{self, Read};
use std::path::PathBuf;

use anyhow::Context;
use serde_json::json;
use serde_json::value::RawValue;

use super::Common;
use crate::cli::client::may_have_changed_something;
use crate::cli::failure::Failure;
use crate::cli::output;
use crate::order::UserId;

/// Far above the server's limit, and small enough for memory.
const BODY_BYTES_MAX: u64 = 16 * 1024 * 1024;

#[derive(clap::Args)]
pub struct Create {
    #[arg(long, value_name = "ID", value_parser = UserId::parse_either, required_unless_present = "body")]
    user_id: Option<UserId>,
    /// Separated by commas
    #[arg(long, value_name = "IDS", required_unless_present = "body")]
    item_ids: Option<String>,
    /// Such as 250.75
    #[arg(long, value_name = "AMOUNT", required_unless_present = "body")]
    total_amount: Option<String>,
    /// Your own order number
    #[arg(long)]
    reference: Option<String>,
    /// A JSON object
    #[arg(long, value_name = "JSON")]
    metadata: Option<String>,
    /// File with the whole order as JSON instead; - is stdin
    #[arg(long, value_name = "PATH", conflicts_with_all = ["user_id", "item_ids", "total_amount", "reference", "metadata"])]
    body: Option<PathBuf>,
    /// Repeat an earlier command without creating a second order [default: a new key]
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
            "the outcome is unknown: repeat the command with --idempotency-key {key} to get the order, without creating \
             a second one"
        ));
    }
    args.common.show(&placed?)
}

impl Create {
    /// Returns the order as JSON. The server validates it.
    fn body(&self) -> Result<String, Failure> {
        if let Some(path) = &self.body {
            return read_body(path).map_err(Failure::Failed);
        }
        let mut order = json!({
            "item_ids": self.item_ids,
            "total_amount": self.total_amount,
        });
        if let Some(user_id) = &self.user_id {
            order["user_id"] = json!(user_id);
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
