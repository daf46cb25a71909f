//! The binary: everything is in the library.

use std::process::ExitCode;

/// Every order passes through a handful of threads that free what others allocated, which the system's allocator is slow at.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    orderly::cli::run()
}
