//! gatepost, a local authenticating mail proxy.
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

pub mod access;
pub mod backoff;
pub mod clock;
pub mod config;
pub mod net;
pub mod private_file;
pub mod protocol;
pub mod secret;
pub mod store;
pub mod vocabulary;
