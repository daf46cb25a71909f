//! Several real servers on one PostgreSQL: their joint promises while some are killed, frozen, cut off or stopped
//! cleanly.

mod faults;
mod live;
pub mod load;
mod long_run;
pub mod nodes;
mod operator;
pub mod oracle;
mod rolling;
mod wakeups;
pub mod zombie;
