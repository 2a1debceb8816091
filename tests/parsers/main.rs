//! What reads octets: dialogues as data, and what must hold for any input.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod dialogues;
#[path = "../../fuzz/src/lib.rs"]
#[allow(dead_code, reason = "the fuzz targets need all of it")]
mod fuzz;
mod mend;
mod mime;
mod properties;
mod receiver;
#[path = "../support/receiving.rs"]
mod receiving;
#[path = "../support/session.rs"]
mod session;
mod submission;
#[path = "../support/transcript.rs"]
mod transcript;
mod watch;
