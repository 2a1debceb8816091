//! The life of tokens, under paused time.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod answers;
mod graph;
mod life;
mod many;
mod refused_apps;
#[path = "../support_tokens/mod.rs"]
mod support_tokens;
