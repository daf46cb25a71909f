//! Several real servers on one PostgreSQL: their joint promises while some are killed, frozen, cut off or stopped
//! cleanly.

mod faults;
mod live;
mod load;
mod long_run;
mod nodes;
mod operator;
mod oracle;
mod rolling;
mod wakeups;
mod zombie;
