//! The JSON of requests and answers: bodies in, every field checked and every bad one named; orders, events and
//! nodes out. The rules of the fields are `order`'s and `money`'s, the grammar is `json`'s.

mod answers;
mod requests;

pub use answers::{
    EventBody, EventsBody, OrderBody, OrdersBody, PageBody, QueueBody, RedrivenBody, TIME_EXPECTED,
    parse_time,
};
pub use requests::{read_batch, read_batch_lines, read_order, read_redrive};
