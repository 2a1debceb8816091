//! The program as a process: killed, confined, supervised, with clocks that jump and stores that fail.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "tests"
)]

mod clock_jumps;
#[cfg(target_os = "linux")]
mod confined;
mod lives;
#[path = "../support_process/mod.rs"]
mod process;
mod rotation;
#[cfg(target_os = "linux")]
mod store_faults;
#[cfg(target_os = "linux")]
mod supervised;
#[path = "../support_tokens/mod.rs"]
mod support_tokens;
