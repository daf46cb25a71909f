//! The real program under SIGKILL, SIGTERM, failing disks and a second start.

mod control;
mod disk;
mod killed;
pub mod load;
mod names;
mod read_only;
mod replaced;
mod rights;
mod start;
mod stopped;
