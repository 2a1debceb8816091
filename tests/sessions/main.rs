//! Sessions as a whole: clients in front, emulated and false servers behind, gatepost between them, all in one process.
//!
//! | file | what it holds |
//! | --- | --- |
//! | `matrix` | each protocol, with each kind of TLS on both sides |
//! | `guard` | who gets in, and what a session before its login may do |
//! | `throttle` | who guesses is slowed down and locked |
//! | `lobby` | how many may wait before their login, and who goes first |
//! | `proxy_header` | who may say for whom he speaks |
//! | `local_tls` | certificates and TLS towards clients |
//! | `dial`, `upstream` | the way to the upstream, and what is believed of it |
//! | `spares` | connections that stand ready for the next login |
//! | `round_trips` | what a login costs on a long way; sessions of TLS that are resumed |
//! | `starttls_attacks`, `smuggling` | published attacks |
//! | `relay` | what passes once a session is logged in |
//! | `direct` | mail in direct mode |
//! | `doctor` | what is found by planted faults |
//! | `reload` | other configurations and the stop |
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "tests"
)]

mod dial;
mod direct;
mod doctor;
mod guard;
mod lobby;
mod local_tls;
mod matrix;
mod proxy_header;
mod relay;
#[cfg(unix)]
mod reload;
mod round_trips;
mod smuggling;
mod spares;
mod starttls_attacks;
#[path = "../support/mod.rs"]
mod support;
// Other systems have 127.0.0.1 alone.
#[cfg(target_os = "linux")]
mod throttle;
mod upstream;
