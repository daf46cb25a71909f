//! `orderly orders list`: shows one page of orders, or all pages.

use std::ops::ControlFlow;

use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;

use super::Common;
use crate::cli::arguments::status;
use crate::cli::client::{Client, read};
use crate::cli::failure::Failure;
use crate::cli::output;
use crate::order::UserId;

/// The longest page, for the fewest requests.
const PAGE_OF_ALL: u16 = 500;
/// Characters that show the kind of an error; `orders get` shows all of it.
const ERROR_CHARS_SHOWN: usize = 80;

#[derive(clap::Args)]
pub struct List {
    /// May be repeated: any of these
    #[arg(long, ignore_case = true, value_parser = status())]
    status: Vec<&'static str>,
    #[arg(long, value_name = "ID", value_parser = UserId::parse_either)]
    user_id: Option<UserId>,
    /// Your own order number
    #[arg(long)]
    reference: Option<String>,
    /// Only held orders
    #[arg(long)]
    held: bool,
    /// Only orders that missed their deadline
    #[arg(long)]
    overdue: bool,
    /// Name of the latest milestone, such as `shipped`
    #[arg(long, value_name = "NAME")]
    milestone: Option<String>,
    /// RFC 3339, such as 2026-01-31T12:00:00Z
    #[arg(long, value_name = "TIME")]
    created_after: Option<String>,
    #[arg(long, value_name = "TIME")]
    created_before: Option<String>,
    /// Orders on a page, 1 to 500 [default: 50, with --all 500]
    #[arg(long, value_name = "NUMBER")]
    limit: Option<u16>,
    /// Cursor that the previous page ended with
    #[arg(long)]
    cursor: Option<String>,
    /// All pages, not just one; with --json, one order per line
    #[arg(long)]
    all: bool,
    #[command(flatten)]
    common: Common,
}

#[derive(Deserialize)]
struct OrderPage {
    orders: Vec<Box<RawValue>>,
    next_cursor: Option<String>,
}

/// Members of an order in the table; amounts keep the server's text.
#[derive(Deserialize)]
#[expect(clippy::struct_field_names, reason = "the names are those of the API")]
struct Order {
    order_id: i64,
    user_id: Value,
    item_count: u64,
    total_amount: Box<RawValue>,
    reference: Option<String>,
    status: String,
    attempts: u32,
    created_at: String,
    last_error: Option<String>,
}

pub async fn list(args: &List) -> Result<(), Failure> {
    let client = args.common.client()?;
    if args.all {
        return list_all(args, &client).await;
    }
    let answer = client.get("/orders", &args.query(args.cursor.as_deref())).await?;
    if args.common.json {
        return output::result(&answer);
    }
    let page: OrderPage = read(&answer)?;
    output::result(
        &new_table().lines(
            [&Order::headings()[..]]
                .into_iter()
                .chain(rows(&page)?.iter().map(Vec::as_slice)),
        ),
    )?;
    if let Some(cursor) = page.next_cursor {
        output::message(&format!("there are more: add --cursor {cursor}, or --all"));
    }
    Ok(())
}

/// Writes page by page: the orders may not fit into memory.
async fn list_all(args: &List, client: &Client) -> Result<(), Failure> {
    let mut table = new_table();
    let mut cursor = args.cursor.clone();
    if !args.common.json {
        output::result(&table.lines([Order::headings()]))?;
    }
    loop {
        let answer = client.get("/orders", &args.query(cursor.as_deref())).await?;
        let page: OrderPage = read(&answer)?;
        // A page may be short or empty before the last one.
        let text = if args.common.json {
            let lines: Vec<&str> = page.orders.iter().map(|order| order.get()).collect();
            lines.join("\n")
        } else {
            table.lines(rows(&page)?)
        };
        if !text.is_empty() && output::write(&format!("{text}\n"))? == ControlFlow::Break(()) {
            return Ok(());
        }
        match page.next_cursor {
            None => return Ok(()),
            next if next == cursor => {
                let problem = "the server answered the same cursor twice: is it an orderly server?";
                return Err(Failure::Failed(anyhow::anyhow!(problem)));
            }
            next => cursor = next,
        }
    }
}

impl List {
    fn query(&self, cursor: Option<&str>) -> Vec<(&'static str, String)> {
        let limit = self.limit.or(self.all.then_some(PAGE_OF_ALL));
        let statuses = self
            .status
            .iter()
            .map(|status| ("status", Some((*status).to_owned())));
        let only = |only: bool| only.then(|| "true".to_owned());
        let others = [
            ("held", only(self.held)),
            ("overdue", only(self.overdue)),
            ("milestone", self.milestone.clone()),
            ("user_id", self.user_id.as_ref().map(UserId::to_string)),
            ("reference", self.reference.clone()),
            ("created_after", self.created_after.clone()),
            ("created_before", self.created_before.clone()),
            ("limit", limit.map(|limit| limit.to_string())),
            ("cursor", cursor.map(str::to_owned)),
        ];
        let given = statuses.chain(others);
        given.filter_map(|(name, value)| Some((name, value?))).collect()
    }
}

fn new_table() -> output::Table {
    output::Table::new(Order::HEADINGS.len())
}

fn rows(page: &OrderPage) -> Result<Vec<Vec<String>>, Failure> {
    let rows = page
        .orders
        .iter()
        .map(|order| Ok(read::<Order>(order.get())?.row()));
    rows.collect()
}

impl Order {
    const HEADINGS: [&str; 9] = [
        "ORDER",
        "STATUS",
        "USER",
        "ITEMS",
        "AMOUNT",
        "ATTEMPTS",
        "CREATED",
        "REFERENCE",
        "LAST ERROR",
    ];

    fn headings() -> Vec<String> {
        Order::HEADINGS.map(str::to_owned).to_vec()
    }

    fn row(self) -> Vec<String> {
        let error = self.last_error.unwrap_or_default();
        vec![
            self.order_id.to_string(),
            self.status,
            output::user_text(&self.user_id),
            self.item_count.to_string(),
            self.total_amount.to_string(),
            self.attempts.to_string(),
            self.created_at,
            self.reference.unwrap_or_default(),
            error.chars().take(ERROR_CHARS_SHOWN).collect(),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_has_the_exact_amount_and_the_beginning_of_the_error() {
        let order: Order = read(&format!(
            r#"{{"order_id":45,"user_id":104,"item_count":2,"total_amount":100.00,"reference":null,"status":"Failed",
            "attempts":1,"created_at":"2026-11-22T16:00:00.000000Z","last_error":"refused {}","later":1}}"#,
            "x".repeat(500)
        ))
        .unwrap();
        let row = order.row();
        assert_eq!((&*row[2], &*row[4]), ("104", "100.00"));
        assert_eq!(row[8].chars().count(), ERROR_CHARS_SHOWN);
    }
}
