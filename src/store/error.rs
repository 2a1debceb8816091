//! What goes wrong with the store, and what a person does about it.
//!
//! Invariant: each fault of the store's file has words of its own and a remedy, and no remedy is to remove something
//! that may be the only copy.

use std::path::{Path, PathBuf};

use crate::explain::split_hint;
use crate::private_file::PrivateFileError;

/// The store can't be used.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Its file or its key's.
    #[error(transparent)]
    File(#[from] PrivateFileError),
    /// The key's file has no key.
    #[error("{path} holds no sealing key: it must be 64 hexadecimal digits", path = .0.display())]
    BadKey(PathBuf),
    /// The store was sealed with another key.
    #[error(
        "{path} was sealed with another key\n\
         hint: give back the key file that belongs to it, or move the store away and sign in anew",
        path = .0.display()
    )]
    WrongKey(PathBuf),
    /// A token too large to be sealed.
    #[error("the token of {0} can't be sealed")]
    Unsealable(String),
    /// The system gives no random numbers.
    #[error("the system gives no random numbers")]
    NoRandom,
    /// SQLite, or what the system tells of the file.
    #[error("the store {path} {trouble}: {why}\nhint: {hint}", path = .path.display(), hint = .trouble.hint(.path))]
    Failing {
        /// Its file.
        path: PathBuf,
        /// Of which kind.
        trouble: Trouble,
        /// What SQLite says.
        why: String,
    },
}

impl StoreError {
    pub(super) fn of(path: &Path, source: &sqlx::Error) -> Self {
        let (path, trouble) = (path.to_owned(), Trouble::of(source));
        let why = match source.as_database_error() {
            Some(error) => error.to_string(),
            None => source.to_string(),
        };
        Self::Failing { path, trouble, why }
    }

    pub(super) fn damaged(path: &Path, why: impl Into<String>) -> Self {
        Self::Failing { path: path.to_owned(), trouble: Trouble::Damaged, why: why.into() }
    }

    pub(super) fn replaced(path: &Path, why: &str) -> Self {
        Self::Failing { path: path.to_owned(), trouble: Trouble::Replaced, why: why.to_owned() }
    }

    /// Without the hint, for a log line.
    pub fn brief(&self) -> String {
        split_hint(&self.to_string()).0.to_owned()
    }

    /// What is wrong with its file, if that is it.
    pub fn trouble(&self) -> Option<Trouble> {
        match self {
            Self::Failing { trouble, .. } => Some(*trouble),
            _ => None,
        }
    }
}

/// What can be wrong with the store's file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// Its disk has no room.
    Full,
    /// It can be read, not written.
    ReadOnly,
    /// Another process does not let go of it.
    Locked,
    /// It is no longer a store that can be trusted.
    Damaged,
    /// Another file is in its place, or none.
    Replaced,
    /// Something else, in SQLite's words.
    Other,
}

impl std::fmt::Display for Trouble {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Full => "has no room on its disk",
            Self::ReadOnly => "can be read but not written",
            Self::Locked => "is locked by another process",
            Self::Damaged => "is damaged",
            Self::Replaced => "was taken away",
            Self::Other => "can't be used",
        })
    }
}

/// SQLite's primary result codes (<https://www.sqlite.org/rescode.html>); the extended ones have them in the low byte.
mod code {
    pub(super) const PERM: u32 = 3;
    pub(super) const BUSY: u32 = 5;
    pub(super) const LOCKED: u32 = 6;
    pub(super) const READONLY: u32 = 8;
    pub(super) const CORRUPT: u32 = 11;
    pub(super) const FULL: u32 = 13;
    pub(super) const CANTOPEN: u32 = 14;
    pub(super) const PROTOCOL: u32 = 15;
    pub(super) const NOTADB: u32 = 26;
    /// An extended one: a short read, where the file ends before its content does.
    pub(super) const IOERR_SHORT_READ: u32 = 10 | (2 << 8);
    /// Extended ones of writes that no disk has room for: `EFBIG` and `EDQUOT` are no `ENOSPC` for SQLite.
    pub(super) const IOERR_WRITE: u32 = 10 | (3 << 8);
    pub(super) const IOERR_SHMSIZE: u32 = 10 | (19 << 8);
}

impl Trouble {
    fn of(source: &sqlx::Error) -> Self {
        let error = match source {
            sqlx::Error::Database(error) => error,
            // The one connection is waiting for somebody's lock.
            sqlx::Error::PoolTimedOut => return Self::Locked,
            _ => return Self::Other,
        };
        let code = error.code().and_then(|code| code.parse::<u32>().ok()).unwrap_or_default();
        match code {
            code::IOERR_SHORT_READ => return Self::Damaged,
            code::IOERR_WRITE | code::IOERR_SHMSIZE => return Self::Full,
            _ => {}
        }
        match code & 0xff {
            code::FULL => Self::Full,
            code::READONLY | code::PERM | code::CANTOPEN => Self::ReadOnly,
            code::BUSY | code::LOCKED | code::PROTOCOL => Self::Locked,
            code::CORRUPT | code::NOTADB => Self::Damaged,
            _ => Self::Other,
        }
    }

    /// What to do, about the store at `path`.
    fn hint(self, path: &Path) -> String {
        let folder = path.parent().unwrap_or(path).display();
        let file = path.display();
        match self {
            Self::Full => format!(
                "make room on the disk of {folder}: df -h {folder}; a quota or a limit of file sizes counts as well. \
                 Don't stop a running gatepost before: what it could not write is in its memory alone"
            ),
            Self::ReadOnly => format!(
                "see that the disk is not mounted read-only (findmnt -T {folder}) and that {folder} and its files \
                 are the own of the user that runs gatepost (ls -la {folder}). Don't stop a running gatepost before: \
                 what it could not write is in its memory alone"
            ),
            Self::Locked => format!(
                "find out who holds it and end that: {}; a backup must not hold it for longer than a second",
                super::holder::of(path)
                    .unwrap_or_else(|| format!("fuser -v {file} {file}-wal {file}-shm"))
            ),
            Self::Damaged => format!(
                "stop gatepost and copy {file}*, then put a backup of {file} in its place and take {file}-wal and \
                 {file}-shm away; without a backup move all three away, and for each mailbox: gatepost login MAILBOX, \
                 gatepost password add MAILBOX"
            ),
            Self::Replaced => format!(
                "put {file} back where it was; if it was meant to go, restart gatepost. What a running gatepost could \
                 not write is in its memory alone"
            ),
            Self::Other => format!("see that {folder} is on a local disk that works"),
        }
    }
}
