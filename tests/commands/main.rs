//! The commands and what they write, as people and scripts call them; and the documents that tell of them.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stderr,
    reason = "tests"
)]

mod documents;
mod entra;
mod explain;
mod init;
#[cfg(unix)]
mod named_files;
#[cfg(unix)]
mod private_paths;
mod scripts;
