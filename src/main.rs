//! The binary: everything is in the library.

use std::process::ExitCode;

/// Orders pass through several threads that free each other's allocations, which the system allocator does slowly.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    orderly::cli::run()
}
