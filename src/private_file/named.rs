//! Files that an administrator names, and how long files may be.
//!
//! Invariant: a link is followed, and only a regular file is opened; no more of it is read than its kind has.

use std::fmt;
use std::path::Path;

use super::{Origin, PrivateFileError, at, contents, opened, read_secret, rules};

/// How long a file of a kind may be. What is longer is another file, or one that somebody has planted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limit {
    kib: u64,
    what: &'static str,
}

impl Limit {
    /// One of 100,000 accounts, each with an alias, has 10 MiB.
    pub const CONFIGURATION: Self = Self { kib: 32 * 1024, what: "a configuration" };

    /// In PEM or PKCS#12: the roots of a system have 250 KB, a chain of five certificates with its key 10 KB.
    pub const CERTIFICATES: Self = Self { kib: 4096, what: "certificates and keys" };

    /// A password, a key, a token, a service account's JSON: Entra's longest tokens have some 10 KB, Google's key files
    /// 2.4 KB.
    pub const SECRET: Self = Self { kib: 64, what: "a secret" };

    pub(super) fn octets(self) -> u64 {
        self.kib.saturating_mul(1024)
    }
}

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.kib {
            kib if kib.is_multiple_of(1024) => write!(f, "{} MiB", kib / 1024)?,
            kib => write!(f, "{kib} KiB")?,
        }
        write!(f, ", the most for {}", self.what)
    }
}

/// Reads a secret that must be readable by its owner alone. One of root's may also be readable by its group, in which
/// a service is to read it (systemd's credentials look so).
pub fn read_named(path: &Path) -> Result<Vec<u8>, PrivateFileError> {
    read_secret(path, Origin::Named)
}

/// Reads a file, whoever may read it besides.
pub fn read_regular(path: &Path, limit: Limit) -> Result<Vec<u8>, PrivateFileError> {
    contents(path, opened(path, Origin::Named)?, limit)
}

/// The same, or the pipe that the process was started with: `--config <(...)`. Its writer is waited for, so that this is
/// for the start alone.
pub fn read_passed(path: &Path, limit: Limit) -> Result<Vec<u8>, PrivateFileError> {
    match rules::passed_pipe(path) {
        Some(pipe) => contents(path, pipe.map_err(at(path))?, limit),
        None => read_regular(path, limit),
    }
}
