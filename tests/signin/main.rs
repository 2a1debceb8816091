//! Sign-ins and grants: the binary, an emulated Entra, and a browser that follows no redirect by itself.
//!
//! | file | what it holds |
//! | --- | --- |
//! | `site` | [`site::Site`]: an emulator, a configuration for it, the binary |
//! | `tap` | [`tap::Tap`]: stands before the emulated Entra, and keeps each request and its answer |
//! | `web` | [`web::Browser`]: fills in the emulated pages |
//! | `keys/` | client certificates, and the script that makes them |
//! | others | the tests, by subject |
//!
//! Invariant: every wait is bounded, so that a fault shows as a failure and not as a test that hangs.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test ends by panicking"
)]

#[cfg(unix)] // its command is the shell
mod attention;
mod browser;
mod certificates;
mod device;
mod graph;
mod machines;
mod names;
mod pasted;
#[cfg(unix)] // its signal
mod replaced;
mod sharing;
mod signing_out;
mod site;
mod states;
mod stores;
mod tap;
mod traces;
#[cfg(unix)]
mod warnings;
mod web;

/// The people of the tests.
const JANE: &str = "jane@contoso.example";
const JOHN: &str = "john@contoso.example";
/// A mailbox that both may open.
const SHARED: &str = "support@contoso.example";
