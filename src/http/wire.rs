//! The JSON of requests and answers: request bodies, with every invalid field named; orders, events and nodes; leases
//! and results of external workers; the messages of a WebSocket. A body's fields are described once, for its reader and
//! for the OpenAPI document. `order` and `money` have the rules of the fields, `json` the grammar.

/// Detail for text that is not a status.
pub const STATUS_EXPECTED: &str = "must be one of Pending, Processing, Completed, Failed, Cancelled";

mod answers;
mod description;
mod events;
mod leases;
mod messages;
mod requests;
mod time;

pub use crate::order_json::OrderBody;
pub use answers::{OrdersBody, PageBody, QueueBody, RedrivenBody};
pub use description::{Body, read};
pub use events::{EventBody, EventsBody, FeedBody};
pub use leases::{Complete, Fail, LeaseBody, LeasesBody, Release, Renew, RenewalBody, Take};
pub use messages::{BadMessage, ClientMessage, ServerMessage, SubscriptionId, event_message, read_message};
pub use requests::{
    Action, AddMilestone, Amendment, DEADLINE_PASSED, NewOrders, QueueAction, Redrive, Retry, read_batch,
    read_batch_lines, read_order, read_patch, user_schema,
};
pub use time::{PLUS_DECODED, TIME_EXPECTED, lost_a_plus, parse_time};
