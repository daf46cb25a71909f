//! The real program under what really happens to programs: SIGKILL, SIGTERM, a failing disk, a second start.

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
