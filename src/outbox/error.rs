//! What goes wrong with the spool.

use std::io;
use std::path::{Path, PathBuf};

use crate::private_file::PrivateFileError;

/// What goes wrong with the spool.
#[derive(Debug, thiserror::Error)]
pub enum SpoolError {
    /// There is no room for more: `452 4.3.1`.
    #[error(
        "the spool has no room: {why}\nhint: make room on the disk, raise size in [spool], or drop what nobody needs: gatepost spool list"
    )]
    Full {
        /// Which room.
        why: String,
    },
    /// The message is not there, because somebody dropped it.
    #[error("message {0} is no longer in the spool")]
    Gone(String),
    /// Its file is no message.
    #[error("the file of message {id} is damaged: {why}\nhint: gatepost spool show {id} --message")]
    Damaged {
        /// Which one.
        id: String,
        /// What is wrong.
        why: String,
    },
    /// The folder's permissions.
    #[error(transparent)]
    Private(#[from] PrivateFileError),
    /// The system's.
    #[error("the spool {path}: {source}", path = .path.display())]
    Io {
        /// Where.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

impl SpoolError {
    /// An error of the system's at this file. A disk that is full is [`SpoolError::Full`], and so is a limit of the
    /// process for the size of its files.
    pub(super) fn at(path: &Path) -> impl FnOnce(io::Error) -> Self + '_ {
        use io::ErrorKind::{FileTooLarge, QuotaExceeded, StorageFull};
        move |source| match source.kind() {
            StorageFull | QuotaExceeded | FileTooLarge => Self::Full { why: source.to_string() },
            _ => Self::Io { path: path.to_owned(), source },
        }
    }

    /// Whether there is no room.
    pub fn is_full(&self) -> bool {
        matches!(self, Self::Full { .. })
    }
}
