//! The JSON of requests and answers: bodies in, every field checked and every bad one named; orders, events and
//! nodes out; leases and results of workers; the messages of a WebSocket both dispatch. The rules of the fields are `order`'s and `money`'s, the grammar is `json`'s.

/// What a status must be, where a text is none.
pub const STATUS_EXPECTED: &str = "must be one of Pending, Processing, Completed, Failed, Cancelled";

mod answers;
mod events;
mod leases;
mod messages;
mod requests;
mod time;

pub use crate::order_json::OrderBody;
pub use answers::{OrdersBody, PageBody, QueueBody, RedrivenBody};
pub use events::{EventBody, EventsBody, FeedBody};
pub use leases::{
    LeaseBody, LeasesBody, RenewalBody, read_completion, read_failure, read_release, read_renewal, read_take,
};
pub use messages::{BadMessage, ClientMessage, ServerMessage, SubscriptionId, event_message, read_message};
pub use requests::{read_action, read_batch, read_batch_lines, read_order, read_redrive};
pub use time::{PLUS_DECODED, TIME_EXPECTED, lost_a_plus, parse_time};
