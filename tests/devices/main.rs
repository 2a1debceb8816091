//! Devices and the program itself, as it is installed: what it has accepted is delivered, whatever is killed, away or
//! in a hurry.
//!
//! The proxy is a process here, so that it can be killed, and so that its memory is its own; the upstream is the
//! emulator, which judges the limits.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "tests, which tell what they measured"
)]

mod commands;
mod device;
mod doors;
mod graph;
mod kills;
mod large;
mod mends;
mod outage;
mod panels;
#[path = "../support/passwords.rs"]
mod passwords;
#[path = "../support/ports.rs"]
mod ports;
mod rush;
mod site;
mod wire;

pub(crate) use device::Device;
pub(crate) use site::{Plan, Site};
pub(crate) use wire::Wire;
