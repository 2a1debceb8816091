//! Whether the store can be used: looked at while a proxy runs, told to people when it can't, and to all of the proxy
//! when it can again.
//!
//! Invariant: an outage is told once. A file that is not the one that was opened counts as no store: what is written
//! into it would be gone with the process.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, sleep, timeout};
use tracing::{error, info, warn};

use super::{Store, StoreError, Trouble};
use crate::attention::{Attention, Call};
use crate::backoff::Backoff;
use crate::explain::split_hint;
use crate::private_file;

/// How often it is looked whether the file is still in its place.
const LOOK: Duration = Duration::from_secs(1);

/// An outage that is shorter is not told: another process may write or make a backup for some seconds.
const PATIENCE: Duration = Duration::from_secs(10);

/// Pauses between tries. The longest is what a healed disk may still cost.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// Written to find out whether the disk takes more: more than a page, so that it needs one.
const TRIAL: &str = "INSERT INTO meta (name, value) VALUES ('trial', randomblob(8192))
                     ON CONFLICT (name) DO UPDATE SET value = excluded.value";

/// What is known of the store's state.
#[derive(Debug, Default)]
pub(super) struct Health {
    trouble: Mutex<Option<Trouble>>,
    /// There is a trouble.
    news: Notify,
    /// Somebody tries until it is over.
    watched: AtomicBool,
    /// How often it has come back, or been opened anew.
    returns: AtomicI64,
    opened: Mutex<Option<Opened>>,
}

/// The files that were opened.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Opened {
    file: Option<Identity>,
    log: Option<Identity>,
}

/// Device and inode.
type Identity = (u64, u64);

impl Health {
    pub(super) fn note(&self, trouble: Trouble) {
        if self.trouble().replace(trouble).is_none() {
            self.news.notify_one();
        }
    }

    pub(super) fn returns(&self) -> i64 {
        self.returns.load(Ordering::SeqCst)
    }

    /// These are the store's files from now on.
    pub(super) fn opened(&self, path: &Path) {
        *self.files() = Opened::at(path).ok();
    }

    fn returned(&self) {
        self.returns.fetch_add(1, Ordering::SeqCst);
        *self.trouble() = None;
    }

    fn trouble(&self) -> MutexGuard<'_, Option<Trouble>> {
        self.trouble.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn files(&self) -> MutexGuard<'_, Option<Opened>> {
        self.opened.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Store {
    /// Looks after the store, without end.
    pub async fn watch(&self, attention: &Attention) {
        self.health.watched.store(true, Ordering::SeqCst);
        loop {
            // A trouble is looked at at once.
            let _ = timeout(LOOK, self.health.news.notified()).await;
            if let Err(failure) = self.in_place() {
                self.health.note(failure.trouble().unwrap_or(Trouble::Other));
            }
            let failing = self.health.trouble().is_some();
            if failing {
                self.wait_for_return(attention).await;
            }
        }
    }

    async fn wait_for_return(&self, attention: &Attention) {
        let begun = Instant::now();
        let mut pauses = Backoff::new(FIRST_PAUSE, LONGEST_PAUSE);
        let mut told = None;
        loop {
            let Err(failure) = self.try_out().await else {
                self.health.returned();
                if told.is_some() {
                    let seconds = begun.elapsed().as_secs();
                    info!(seconds, "the store works again: what was in memory alone is written");
                }
                return;
            };
            let trouble = failure.trouble();
            if begun.elapsed() >= PATIENCE && told != Some(trouble) {
                self.tell(&failure, told.is_none().then_some(attention));
                told = Some(trouble);
            }
            sleep(pauses.pause()).await;
        }
    }

    fn tell(&self, failure: &StoreError, attention: Option<&Attention>) {
        let text = failure.to_string();
        let (reason, hint) = split_hint(&text);
        let remedy = hint.unwrap_or("gatepost doctor").to_owned();
        error!(reason, remedy, "the store fails: sessions and logins go on from memory");
        if let Some(attention) = attention {
            let (account, reason) = ("all mailboxes".to_owned(), reason.to_owned());
            attention.call(Call { event: "store_failing", account, reason, remedy });
        }
    }

    /// Whether it can be used as a whole: read, written, and kept where it is.
    pub async fn try_out(&self) -> Result<(), StoreError> {
        if self.in_place().is_err() {
            self.open_anew().await?;
        }
        if *self.health.trouble() == Some(Trouble::Damaged) {
            self.check().await?;
        }
        sqlx::query(TRIAL).execute(&self.pool).await.map_err(|e| self.failed(&e))?;
        Ok(())
    }

    /// Whether it could be written, without writing: what is written is news to a running proxy. A full disk does not
    /// show.
    pub async fn is_open_to_writes(&self) -> Result<(), StoreError> {
        let transaction = self.pool.begin_with("BEGIN IMMEDIATE").await;
        let rolled_back = transaction.map_err(|e| self.failed(&e))?.rollback().await;
        rolled_back.map_err(|e| self.failed(&e))
    }

    /// Before a write: while the store is known to fail, one tries for all. Each other one would wait for a lock for
    /// seconds, and keep the one connection from those who read.
    pub(super) fn may_write(&self) -> Result<(), StoreError> {
        let trouble = *self.health.trouble();
        match trouble.filter(|_| self.health.watched.load(Ordering::SeqCst)) {
            None => Ok(()),
            Some(trouble) => Err(StoreError::Failing {
                path: self.path.clone(),
                trouble,
                why: "it has failed a moment ago".into(),
            }),
        }
    }

    /// Whether the file that was opened is still the one that the next process would open.
    pub(super) fn in_place(&self) -> Result<(), StoreError> {
        let Some(opened) = self.health.files().clone() else { return Ok(()) };
        match Identity::of(&self.path) {
            Ok(file) if file == opened.file => Ok(()),
            Ok(None) => Err(StoreError::replaced(&self.path, "there is no such file any more")),
            Ok(Some(_)) => Err(StoreError::replaced(&self.path, "another file is there now")),
            // What the system does not tell is as it was.
            Err(_) => Ok(()),
        }
    }

    /// Takes over the file that was put in the place of the former one.
    async fn open_anew(&self) -> Result<(), StoreError> {
        if !self.path.exists() {
            return Err(StoreError::replaced(&self.path, "there is no such file any more"));
        }
        private_file::check(&self.path)?;
        let former = self.health.files().clone();
        if let Some(former) = former {
            former.take_log_away(&self.path);
        }
        let connection = self.pool.acquire().await.map_err(|e| self.failed(&e))?;
        // SQLite leaves the files of a database that has moved as they are.
        connection.close().await.map_err(|e| self.failed(&e))?;
        self.prepare().await?;
        self.health.opened(&self.path);
        warn!(path = %self.path.display(), "another store was put in the place of the former one: it counts now");
        Ok(())
    }
}

impl Opened {
    fn at(path: &Path) -> io::Result<Self> {
        Ok(Self { file: Identity::of(path)?, log: Identity::of(&side(path, "-wal"))? })
    }

    /// The former file's write-ahead log would be read into the new one, and damage it. What was in it is in memory.
    fn take_log_away(&self, path: &Path) {
        let log = side(path, "-wal");
        if self.log.is_some() && Identity::of(&log).ok() == Some(self.log) {
            for stale in [log, side(path, "-shm")] {
                if let Err(error) = std::fs::remove_file(&stale) {
                    warn!(path = %stale.display(), %error, "a former store's file is left");
                }
            }
        }
    }
}

/// A file beside the store.
pub(super) fn side(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

trait OfFile: Sized {
    fn of(path: &Path) -> io::Result<Option<Self>>;
}

#[cfg(unix)]
impl OfFile for Identity {
    fn of(path: &Path) -> io::Result<Option<Self>> {
        use std::os::unix::fs::MetadataExt;

        match std::fs::metadata(path) {
            Ok(file) => Ok(Some((file.dev(), file.ino()))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// Windows lets nobody take away a file that is open.
#[cfg(not(unix))]
impl OfFile for Identity {
    fn of(_: &Path) -> io::Result<Option<Self>> {
        Ok(None)
    }
}
