//! Turns at a principal's token request, between the processes that share a store.
//!
//! Some servers revoke a whole sign-in when a refresh token is used twice (RFC 9700 section 4.14.2), so that two
//! processes must not send the same one.
//!
//! Invariant: a turn ends with its holder, also when that is killed: it is a lock of the operating system's.

use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};
use std::time::Duration;

use ring::digest::{SHA256, digest};
use tokio::time::{Instant, sleep};

use super::{Store, StoreError};
use crate::private_file::{self, PrivateFileError};

/// Folder of the locks, in the state folder.
const FOLDER: &str = "turns";

/// The lock of those that open the store: no principal's, which are hexadecimal digits.
const OPENING: &str = "opening";

/// How often a lock that is held is tried again.
const PAUSE: Duration = Duration::from_millis(50);

/// Longest wait for a turn: a token request has 15 s in all, and the holder's write 5 s.
const LONGEST: Duration = Duration::from_secs(25);

/// Until it is dropped, no other process has the turn.
#[derive(Debug)]
pub struct Turn {
    _lock: File,
}

impl Store {
    /// Waits for the turn of `principal`; `None`: somebody else does not end theirs.
    pub async fn turn(&self, principal: &str) -> Result<Option<Turn>, StoreError> {
        let digest = digest(&SHA256, principal.as_bytes());
        let name: String =
            digest.as_ref().iter().take(16).map(|byte| format!("{byte:02x}")).collect();
        take(self.path.with_file_name(FOLDER).join(name)).await
    }
}

/// Waits for the turn at opening the store of this folder.
pub(super) async fn turn_to_open(state_dir: &Path) -> Result<Option<Turn>, StoreError> {
    take(state_dir.join(FOLDER).join(OPENING)).await
}

/// Refuses what is planted there, and makes nothing.
pub(super) fn check_place(state_dir: &Path) -> Result<(), PrivateFileError> {
    let folder = state_dir.join(FOLDER);
    match private_file::check_own_folder(&folder)? {
        true => private_file::refuse_planted(&folder, &[OPENING]),
        false => Ok(()),
    }
}

async fn take(path: PathBuf) -> Result<Option<Turn>, StoreError> {
    let lock = open(&path)?;
    let begun = Instant::now();
    loop {
        match lock.try_lock() {
            Ok(()) => return Ok(Some(Turn { _lock: lock })),
            Err(TryLockError::WouldBlock) if begun.elapsed() > LONGEST => return Ok(None),
            Err(TryLockError::WouldBlock) => sleep(PAUSE).await,
            Err(TryLockError::Error(source)) => {
                return Err(PrivateFileError::Io { path, why: source }.into());
            }
        }
    }
}

fn open(path: &Path) -> Result<File, PrivateFileError> {
    if let Some(folder) = path.parent() {
        private_file::ensure_own_folder(folder)?;
    }
    private_file::open_shared(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn one_at_a_time_and_each_principal_has_its_own() {
        let folder = tempfile::tempdir().unwrap();
        let one = Store::open(folder.path(), None).await.unwrap();
        let two = Store::open(folder.path(), None).await.unwrap();
        let held = one.turn("jane").await.unwrap().unwrap();
        assert!(two.turn("john").await.unwrap().is_some());
        let waiting = tokio::spawn(async move { two.turn("jane").await.unwrap().is_some() });
        sleep(Duration::from_millis(200)).await;
        assert!(!waiting.is_finished());
        drop(held);
        assert!(waiting.await.unwrap());
    }
}
