//! What is wrong with a configuration.
//!
//! Invariant: each error names the file, the line where it has one, the key, and what to do.

use std::fmt;
use std::path::{Path, PathBuf};

use crate::private_file::PrivateFileError;

/// An error of the configuration, for the person who wrote it.
#[derive(Debug)]
pub struct ConfigError {
    file: PathBuf,
    line: Option<usize>,
    key: String,
    problem: String,
    remedy: String,
}

impl ConfigError {
    pub(super) fn new(
        file: &Path,
        line: Option<usize>,
        key: impl Into<String>,
        problem: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        Self {
            file: file.to_owned(),
            line,
            key: key.into(),
            problem: problem.into(),
            remedy: remedy.into(),
        }
    }

    pub(super) fn unreadable(file: &Path, error: &PrivateFileError) -> Self {
        let problem = match error {
            PrivateFileError::Unexpected { what, .. } => format!("it is {what}"),
            PrivateFileError::TooLong { limit, .. } => format!("it is longer than {limit}"),
            PrivateFileError::Io { why, .. } => format!("it can't be read: {why}"),
            other => format!("it can't be read: {other}"),
        };
        Self::new(file, None, "", problem, "name a configuration file with --config FILE")
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.file.display())?;
        if let Some(line) = self.line {
            write!(f, ", line {line}")?;
        }
        if !self.key.is_empty() {
            write!(f, ", {}", self.key)?;
        }
        write!(f, ": {}\nhint: {}", self.problem, self.remedy)
    }
}

impl std::error::Error for ConfigError {}

/// The line (from 1) of an octet of `text`.
pub(super) fn line_at(text: &str, octet: usize) -> usize {
    text.bytes().take(octet).filter(|&byte| byte == b'\n').count() + 1
}
