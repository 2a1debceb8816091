//! The delivery of what the spool holds: its order, its times, and what becomes of the answers.
//!
//! | file | what it shows |
//! | --- | --- |
//! | `world` | a spool, a delivery, and a provider that says what a test wants |
//! | `schedule` | outages, waits and orders, under paused time |
//! | `verdicts` | recipients, ways, failures and who is told |
//! | `ends` | stops, crashes, and two processes with one spool |
//! | `trouble` | faults, disks and messages that must keep nothing back for good |
//! | `smtp` | the courier that speaks SMTP, with the emulated Exchange |
//! | `graph` | the courier that speaks Graph, with the emulated Graph |
//! | `pace` | the provider's limits |
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]
#![allow(clippy::print_stderr, reason = "tests")]

mod ends;
mod graph;
mod pace;
mod schedule;
mod smtp;
mod trouble;
mod verdicts;
mod world;
