//! What many accounts cost: gatepost as a process of its own before an emulated Exchange, with one account and with many.
//!
//! `cargo run --release --example accounts -- --shape people --accounts 100000`; Linux. It makes a configuration and a
//! store, starts gatepost on them, and prints how long it takes until all listeners accept, what a login takes, what the
//! process holds and does at rest, and what the commands take that people use beside it. `--program` measures another
//! build of gatepost. On a machine that does other things as well, the processor's time tells more than the clock's.
#![cfg_attr(
    target_os = "linux",
    allow(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        clippy::print_stdout,
        unreachable_pub,
        reason = "a measure, which prints what it finds and ends when it can't"
    )
)]

#[cfg(target_os = "linux")]
mod measure;
#[cfg(target_os = "linux")]
#[path = "../../tests/support_ground/process.rs"]
#[allow(dead_code, reason = "a part of it is used")]
mod process;
#[cfg(target_os = "linux")]
mod site;

use std::process::ExitCode;

/// In the environment of the child, which is this program as gatepost.
#[cfg(target_os = "linux")]
const CHILD: &str = "GATEPOST_ACCOUNTS_CHILD";

#[cfg(target_os = "linux")]
fn main() -> ExitCode {
    use clap::Parser;

    if std::env::var_os(CHILD).is_some() {
        return gatepost::cli::main();
    }
    let args = measure::Args::parse();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(measure::run(args));
    ExitCode::SUCCESS
}

#[cfg(not(target_os = "linux"))]
fn main() -> ExitCode {
    ExitCode::FAILURE
}
