//! Redis hands out the work of nodes on PostgreSQL: whatever happens to it, no order is lost, ends twice or stays behind.

mod faults;
pub mod handout;
