//! Several real servers on one PostgreSQL: what they promise together, while some of them are killed, stand still, are
//! cut off, or stop in good order.

mod faults;
mod live;
mod nodes;
mod operator;
mod oracle;
mod rolling;
mod shop;
mod story;
mod wakeups;
mod zombie;
