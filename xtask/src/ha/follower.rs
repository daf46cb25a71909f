//! Subscriber that follows the feed across lost connections, and a reader of the whole feed.

use std::io::BufRead;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::http;
use super::load::locked;

const RECONNECT_PAUSE: Duration = Duration::from_millis(200);
const PAGE_TIME_MAX: Duration = Duration::from_secs(15);
const PAGE: usize = 500;

/// Identity of an event, the same each time it is delivered.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EventId {
    pub order_id: u64,
    pub version: u64,
    pub kind: String,
}

impl EventId {
    fn parse(event: &Value) -> Option<EventId> {
        Some(EventId {
            order_id: event["order_id"].as_u64()?,
            version: event["version"].as_u64()?,
            kind: event["kind"].as_str()?.to_owned(),
        })
    }
}

#[derive(Clone, Default)]
pub struct Heard {
    pub events: Vec<EventId>,
    pub resyncs: usize,
}

/// Follows the feed from the cursor until `ends`, with `Last-Event-ID` after each lost connection.
pub fn follow(events_url: &str, from: String, heard: &Mutex<Heard>, ends: &AtomicBool) {
    let mut cursor = from;
    while !ends.load(Ordering::Relaxed) {
        if let Ok(stream) = http::follow(events_url, &cursor) {
            listen(stream, &mut cursor, heard);
        }
        sleep(RECONNECT_PAUSE);
    }
}

/// Reads one connection to its end. Fields follow the HTML standard, section 9.2.6.
fn listen(stream: impl BufRead, cursor: &mut String, heard: &Mutex<Heard>) {
    let (mut id, mut kind, mut data) = (None, String::new(), String::new());
    for line in stream.lines() {
        let Ok(line) = line else { return };
        if line.is_empty() {
            // A complete block counts; a partial one does not.
            if let Some(id) = id.take() {
                *cursor = id;
            }
            match kind.as_str() {
                "order" => {
                    let event = serde_json::from_str(&data).ok();
                    let delivered = event.as_ref().and_then(EventId::parse);
                    locked(heard).events.extend(delivered);
                }
                "resync" => {
                    locked(heard).resyncs += 1;
                    let data: Value = serde_json::from_str(&data).unwrap_or_default();
                    if let Some(next) = data["cursor"].as_str() {
                        next.clone_into(cursor);
                    }
                }
                _ => {}
            }
            kind.clear();
            data.clear();
        } else if let Some(value) = field(&line, "id") {
            id = Some(value.to_owned());
        } else if let Some(value) = field(&line, "event") {
            value.clone_into(&mut kind);
        } else if let Some(value) = field(&line, "data") {
            data.push_str(value);
        }
    }
}

fn field<'a>(line: &'a str, name: &str) -> Option<&'a str> {
    let value = line.strip_prefix(name)?.strip_prefix(':')?;
    Some(value.strip_prefix(' ').unwrap_or(value))
}

/// Reads the whole feed by page, and returns it with the cursor at its end.
pub fn read_feed(events_url: &str) -> Result<(Vec<EventId>, String)> {
    let mut events = Vec::new();
    let mut after: Option<String> = None;
    loop {
        let after_parameter = after
            .as_ref()
            .map_or(String::new(), |after| format!("&after={after}"));
        let url = format!("{events_url}?limit={PAGE}{after_parameter}");
        let page = get(&url)?;
        let delivered = page["events"].as_array().context("events in the page")?;
        let next = page["next_cursor"].as_str().context("a cursor in the page")?;
        let is_end = delivered.is_empty() && after.as_deref() == Some(next);
        events.extend(delivered.iter().filter_map(EventId::parse));
        if is_end {
            return Ok((events, next.to_owned()));
        }
        after = Some(next.to_owned());
    }
}

/// Reads all orders as pairs of reference and id.
pub fn read_orders(orders_url: &str) -> Result<Vec<(String, u64)>> {
    let mut orders = Vec::new();
    let mut cursor = String::new();
    loop {
        let page = get(&format!("{orders_url}?limit={PAGE}{cursor}"))?;
        let listed = page["orders"].as_array().context("orders in the page")?;
        orders.extend(listed.iter().filter_map(|order| {
            let reference = order["reference"].as_str()?.to_owned();
            Some((reference, order["order_id"].as_u64()?))
        }));
        match page["next_cursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => return Ok(orders),
        }
    }
}

fn get(url: &str) -> Result<Value> {
    let answer = http::get(url, PAGE_TIME_MAX)?;
    ensure!(
        answer.status == 200,
        "{} for {url}: {}",
        answer.status,
        answer.body
    );
    answer.json()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_is_read_up_to_its_last_complete_block() {
        let stream = "retry: 5\n\nid: a\nevent: order\n\
                      data: {\"order_id\":7,\"version\":1,\"kind\":\"accepted\"}\n\n: alive\n\nid: b\n\n\
                      id: c\nevent: order\ndata: {\"order_id\":7";
        let heard = Mutex::default();
        let mut cursor = "start".to_owned();
        listen(stream.as_bytes(), &mut cursor, &heard);
        let heard = heard.into_inner().unwrap();
        let delivered = EventId {
            order_id: 7,
            version: 1,
            kind: "accepted".to_owned(),
        };
        assert_eq!(heard.events, [delivered]);
        assert_eq!(cursor, "b");
    }

    #[test]
    fn a_resync_moves_the_cursor() {
        let heard = Mutex::default();
        let mut cursor = "old".to_owned();
        listen(
            "event: resync\ndata: {\"cursor\":\"new\"}\n\n".as_bytes(),
            &mut cursor,
            &heard,
        );
        assert_eq!(heard.into_inner().unwrap().resyncs, 1);
        assert_eq!(cursor, "new");
    }
}
