//! What must hold for any input of gatepost's parsers.
//!
//! Each module has a `check` that a target of `fuzz_targets/` calls with whatever the fuzzer made up, and that the
//! tests of gatepost itself call with the committed seeds and with proptest's inputs.
//!
//! Invariant: nothing here knows how a parser works. What is demanded is said of what goes in and what comes out, and
//! where there is a model it looks at the input as a whole.
#![allow(
    missing_docs,
    unreachable_pub,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a target ends by panicking; its properties are described where they stand"
)]

mod smtp_server;
mod wire;

pub mod case;
pub mod config;
pub mod frontend;
pub mod graph;
pub mod mend;
pub mod mime;
pub mod proxy_header;
pub mod redirect;
pub mod sasl;
pub mod smtp_content;
pub mod smtp_receiver;
pub mod smtp_submission;
pub mod smtp_watch;
pub mod spool_entry;
pub mod tokens;
pub mod upstream;
