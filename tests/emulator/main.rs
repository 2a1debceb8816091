//! The emulated Exchange and Entra: before they may judge the proxy, they are judged here.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod graph;
mod limits;
mod mail;
mod sign_in;
#[allow(dead_code, unreachable_pub, reason = "shared with other tests, which use other parts")]
#[path = "../support/wire.rs"]
mod wire;
