//! The one place that prints.
//!
//! Invariant: results go to standard output alone, words on the way to them to standard error.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "the one place that prints")]

/// A result.
pub(crate) fn result(text: &str) {
    println!("{text}");
}

/// What is being done.
pub(crate) fn progress(text: &str) {
    eprintln!("{text}");
}
