//! The real program under what really happens to programs: SIGKILL, SIGTERM, a failing disk, a second start.

mod control;
mod disk;
mod killed;
pub mod load;
mod start;
mod stopped;
