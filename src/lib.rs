//! gatepost, a local authenticating mail proxy: legacy mail clients log in with an app password, Exchange
//! Online sees OAuth 2.0.
//!
//! # The way of a connection
//!
//! ```text
//!                                             direct ┌──▶ pace ──▶ tokens ──▶ upstream ──▶ relay ──▶ outcome
//! client ──▶ listener ──▶ Frontend ──▶ access ───────┤
//!                                              spool └──▶ intake ──▶ on disk, 250 ──▶ outcome
//! ```
//!
//! [`connection`] shows it in one file. What is on disk goes on by itself: [`outbox`] delivers it, by SMTP or by
//! Microsoft Graph.
//!
//! # The floors
//!
//! A module imports only from lower floors; `tests/layers.rs` holds that.
//!
//! | floor | modules |
//! | --- | --- |
//! | 8 | [`cli`] |
//! | 7 | [`app`] |
//! | 6 | [`connection`], [`doctor`] |
//! | 5 | [`outbox`] |
//! | 4 | [`direct`], [`upstream`], [`signin`] |
//! | 3 | [`access`], [`lobby`], [`oauth`], [`pace`], [`sessions`] |
//! | 2 | [`store`], [`net`], [`entra`] |
//! | 1 | [`config`], [`protocol`] |
//! | 0 | [`secret`], [`vocabulary`], [`clock`], [`backoff`], [`private_file`], [`confine`], [`descriptors`], [`supervisor`], [`attention`], [`explain`], [`json`], [`resident`] |
//!
//! [`emulator`] is a crate of its own, which knows none of them.
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

pub mod access;
pub mod app;
pub mod attention;
pub mod backoff;
pub mod cli;
pub mod clock;
pub mod config;
pub mod confine;
pub mod connection;
pub mod descriptors;
pub mod direct;
pub mod doctor;
pub mod entra;
pub mod explain;
pub mod json;
pub mod lobby;
pub mod net;
pub mod oauth;
pub mod outbox;
pub mod pace;
pub mod private_file;
pub mod protocol;
pub mod resident;
pub mod secret;
pub mod sessions;
pub mod signin;
pub mod store;
pub mod supervisor;
pub mod upstream;
pub mod vocabulary;

pub use gatepost_emulator as emulator;
