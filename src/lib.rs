//! gatepost, a local authenticating mail proxy.
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

pub mod config;
pub mod protocol;
pub mod secret;
pub mod vocabulary;
