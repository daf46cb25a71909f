//! The shared store on bad days and on strange servers: what its callers meet when the database is away, hangs, loses
//! an answer, weakens its settings or shows a wrong certificate. What every store promises is left to the conformance
//! suite, several nodes at once to the cluster tests.

mod agreement;
mod away;
mod beside_standby;
mod classes;
mod damage;
mod direct;
mod doctor;
mod encoding;
mod epochs;
mod feed;
mod full_disk;
mod hosts;
mod hot;
mod idle;
mod late_commits;
mod locked;
mod locked_calls;
mod locked_places;
mod long_history;
mod lost_commit;
mod lost_tail;
mod new_primary;
mod plans;
mod pool;
mod read_only;
mod reads_from_standby;
mod refused;
mod retention;
mod scarce;
mod scarce_nodes;
pub mod scene;
pub mod schema;
mod secrets;
mod settings;
mod signals;
mod standby;
mod tls;
mod turns;
mod unwritable;
