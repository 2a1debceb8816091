//! One way to read what the configuration names.
//!
//! Invariant: it ends. What is no regular file, or has more than its kind, is refused in words of its own; what a
//! confined process may not open is told apart from what its user may not.

use std::path::Path;

use crate::confine::explain;
use crate::private_file::{self, Limit, PrivateFileError};

/// Reads a file that the configuration names.
pub fn read_named_file(path: &Path, limit: Limit) -> Result<Vec<u8>, PrivateFileError> {
    private_file::read_regular(path, limit).map_err(|error| match error {
        PrivateFileError::Io { path, why } => {
            let why = explain(&path, why);
            PrivateFileError::Io { path, why }
        }
        refused => refused,
    })
}
