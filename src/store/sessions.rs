//! The live sessions of running proxies and what they use of the provider's limits, for `gatepost status`.
//!
//! Each proxy writes a small file of its own beside the store and holds a lock on another while it runs;
//! what a proxy that is gone has left behind is removed by the next reader.
//!
//! Invariant: nothing secret is in there, and nothing depends on it.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufReader, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::clock::Timestamp;
use crate::private_file;
use crate::vocabulary::Protocol;

/// Sessions of one proxy by mailbox and protocol.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LiveSessions {
    /// Its process id.
    pub pid: u32,
    /// Mailbox, protocol, count.
    pub sessions: BTreeMap<String, BTreeMap<String, u64>>,
    /// The last client of a listener that began in the wrong way, by the listener's address.
    #[serde(default)]
    pub mismatches: BTreeMap<String, Mismatch>,
    /// How much of their limits the mailboxes use.
    #[serde(default)]
    pub limits: Vec<MailboxUse>,
}

/// How much of its limits a mailbox uses, for people.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MailboxUse {
    /// As it logs in at the provider.
    pub mailbox: String,
    /// SMTP connections in use, and the limit.
    pub connections: (usize, Option<u32>),
    /// Sessions and deliveries that wait for a connection.
    pub waiting: usize,
    /// Messages of the last minute, and the limit.
    pub messages: (usize, Option<u32>),
    /// Recipients of the last 24 hours, and the limit.
    pub recipients: (u64, Option<u32>),
    /// By which protocols it is held back, and until when.
    pub held: Vec<(Protocol, Timestamp)>,
}

/// A client that is set otherwise than its listener.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mismatch {
    /// What it did.
    pub kind: MismatchKind,
    /// Its address.
    pub peer: String,
    /// When.
    pub at: Timestamp,
    /// How many there were since the proxy was started.
    pub count: u64,
}

/// How a client is set otherwise than its listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MismatchKind {
    /// It begins with TLS where none is spoken.
    TlsOnPlainPort,
    /// It speaks plainly where TLS is, or does not trust the certificate.
    NoTls,
}

/// Where a running proxy shows its sessions.
#[derive(Debug)]
pub struct SessionBoard {
    path: PathBuf,
    lock_path: PathBuf,
    /// Held as long as the proxy runs.
    _lock: File,
}

impl SessionBoard {
    /// A board for this process.
    pub fn open(state_dir: &Path) -> io::Result<Self> {
        let base = state_dir.join(format!("run-{}", std::process::id()));
        let (path, lock_path) = (base.with_extension("json"), base.with_extension("lock"));
        let lock = private_file::open_shared(&lock_path)?;
        lock.lock()?;
        Ok(Self { path, lock_path, _lock: lock })
    }

    /// Shows these. Off the runtime: a disk may take its time.
    pub async fn show(&self, live: &LiveSessions) -> io::Result<()> {
        let (path, json) = (self.path.clone(), serde_json::to_vec(live)?);
        let shown = tokio::task::spawn_blocking(move || {
            let draft = path.with_extension("new");
            // One that a former process with the same id has left.
            let _ = std::fs::remove_file(&draft);
            let mut file = private_file::options().write(true).create_new(true).open(&draft)?;
            file.write_all(&json)?;
            std::fs::rename(draft, &path)
        });
        shown.await.map_err(io::Error::other)?
    }

    /// What the proxies that run now show.
    pub fn read_all(state_dir: &Path) -> io::Result<Vec<LiveSessions>> {
        let mut all = Vec::new();
        for entry in std::fs::read_dir(state_dir)? {
            let lock_path = entry?.path();
            if lock_path.extension().is_none_or(|extension| extension != "lock") {
                continue;
            }
            let path = lock_path.with_extension("json");
            if private_file::open(&lock_path).is_ok_and(|lock| lock.try_lock_shared().is_ok()) {
                // Nobody holds it: its proxy is gone. Another reader may be faster in removing it.
                let _ = (std::fs::remove_file(&path), std::fs::remove_file(&lock_path));
                continue;
            }
            let shown = private_file::open(&path).map(BufReader::new).ok();
            all.extend(
                shown.and_then(|json| serde_json::from_reader::<_, LiveSessions>(json).ok()),
            );
        }
        Ok(all)
    }
}

impl Drop for SessionBoard {
    fn drop(&mut self) {
        // A leftover is removed by the next reader.
        let _ = (std::fs::remove_file(&self.path), std::fs::remove_file(&self.lock_path));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn shown_while_the_proxy_runs() {
        let folder = tempfile::tempdir().unwrap();
        let board = SessionBoard::open(folder.path()).unwrap();
        let live = LiveSessions { pid: 7, ..LiveSessions::default() };
        board.show(&live).await.unwrap();
        assert_eq!(SessionBoard::read_all(folder.path()).unwrap(), [live]);
        drop(board);
        assert_eq!(SessionBoard::read_all(folder.path()).unwrap(), []);
    }
}
