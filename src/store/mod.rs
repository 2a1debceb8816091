//! What gatepost must not forget: sealed tokens and app passwords.
//!
//! A SQLite file in the state folder. The commands work on it beside a running proxy, which notices by
//! [`Store::version`] that another process has written.
//!
//! Invariant: a write that has returned is on disk (write-ahead log, synchronised at each commit), tokens
//! are sealed with a key that is not in the file, and neither file can be read by others.

mod changes;
mod error;
mod faults;
mod holder;
mod passwords;
mod seal;
mod sessions;
mod tokens;
mod turns;
mod usage;
mod watch;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous};
use sqlx::{ConnectOptions, SqlitePool};

pub use changes::{News, Seen};
pub use error::{StoreError, Trouble};
pub use faults::TokenFault;
pub use passwords::{Hash, PasswordRecord};
pub use sessions::{LiveSessions, MailboxUse, Mismatch, MismatchKind, SessionBoard};
pub use tokens::{Saved, StoredToken, Token};
pub use turns::Turn;
pub use usage::Usage;

use crate::private_file::{self, PrivateFileError};
use seal::Seal;
use watch::Health;

/// Name of the store in the state folder.
const FILE: &str = "gatepost.db";
/// How the other names in the state folder begin: the certificate for clients, what running proxies show.
const PLANTED: [&str; 2] = ["listener.", "run-"];
/// Name of the sealing key in the state folder, unless the configuration names another.
const KEY: &str = "gatepost.key";

/// Octets of a store that is checked as a whole when it is opened. One of 1,000 sign-ins has 6 MB.
const CHECKED_WHOLE: u64 = 32 << 20;

/// What is checked of a larger one: without the app passwords nobody gets in.
const CHECKED_PARTS: [&str; 3] =
    ["PRAGMA quick_check(meta)", "PRAGMA quick_check(password)", "PRAGMA quick_check(fault)"];

/// Rows that SQLite's thread may be ahead of who reads them: as many as are asked for at once, so that the two threads
/// don't wait for each other at each few.
const ROWS: usize = 256;

/// How long a write waits for another process's.
const BUSY: Duration = Duration::from_secs(5);

/// The tables, in the order in which they came; a store's `user_version` counts those that it has had.
///
/// `revision` grows with each write of a token, so that a slow renewal can't overwrite a newer sign-in.
const MIGRATIONS: [&str; 4] = [
    "
    CREATE TABLE IF NOT EXISTS meta (name TEXT PRIMARY KEY, value BLOB NOT NULL) STRICT;
    CREATE TABLE IF NOT EXISTS token (
        principal TEXT PRIMARY KEY,
        revision  INTEGER NOT NULL,
        sealed    BLOB
    ) STRICT;
    CREATE TABLE IF NOT EXISTS fault (
        principal TEXT PRIMARY KEY,
        error     TEXT NOT NULL,
        permanent INTEGER NOT NULL,
        error_at  INTEGER NOT NULL
    ) STRICT;
    CREATE TABLE IF NOT EXISTS password (
        mailbox    TEXT NOT NULL,
        name       TEXT NOT NULL,
        kind       TEXT NOT NULL,
        hash       BLOB NOT NULL,
        protocols  TEXT NOT NULL,
        networks   TEXT NOT NULL,
        created_at INTEGER NOT NULL,
        PRIMARY KEY (mailbox, name)
    ) STRICT;
",
    "
    ALTER TABLE fault ADD COLUMN trace TEXT NOT NULL DEFAULT '';
    CREATE TABLE notice (subject TEXT NOT NULL, about TEXT NOT NULL, PRIMARY KEY (subject, about)) STRICT;
    CREATE TABLE device (principal TEXT PRIMARY KEY, sealed BLOB NOT NULL) STRICT;
",
    "
    CREATE TABLE usage (
        mailbox    TEXT NOT NULL,
        hour       INTEGER NOT NULL,
        recipients INTEGER NOT NULL,
        PRIMARY KEY (mailbox, hour)
    ) STRICT;
",
    "
    CREATE TABLE change (
        number INTEGER PRIMARY KEY AUTOINCREMENT,
        kind   TEXT NOT NULL,
        name   TEXT NOT NULL,
        UNIQUE (kind, name)
    ) STRICT;
    CREATE TRIGGER token_made AFTER INSERT ON token BEGIN
        DELETE FROM change WHERE kind = 'token' AND name = NEW.principal;
        INSERT INTO change (kind, name) VALUES ('token', NEW.principal);
    END;
    CREATE TRIGGER token_changed AFTER UPDATE ON token BEGIN
        DELETE FROM change WHERE kind = 'token' AND name = NEW.principal;
        INSERT INTO change (kind, name) VALUES ('token', NEW.principal);
    END;
    CREATE TRIGGER token_gone AFTER DELETE ON token BEGIN
        DELETE FROM change WHERE kind = 'token' AND name = OLD.principal;
        INSERT INTO change (kind, name) VALUES ('token', OLD.principal);
    END;
    CREATE TRIGGER password_made AFTER INSERT ON password BEGIN
        DELETE FROM change WHERE kind = 'password';
        INSERT INTO change (kind, name) VALUES ('password', '');
    END;
    CREATE TRIGGER password_changed AFTER UPDATE ON password BEGIN
        DELETE FROM change WHERE kind = 'password';
        INSERT INTO change (kind, name) VALUES ('password', '');
    END;
    CREATE TRIGGER password_gone AFTER DELETE ON password BEGIN
        DELETE FROM change WHERE kind = 'password';
        INSERT INTO change (kind, name) VALUES ('password', '');
    END;
",
];

/// The store of one state folder.
#[derive(Clone, Debug)]
pub struct Store {
    pool: SqlitePool,
    path: PathBuf,
    seal: Seal,
    health: Arc<Health>,
}

impl Store {
    /// Opens the store, and makes it and its key the first time; not where a running proxy has lost its own.
    pub async fn open(state_dir: &Path, key_file: Option<&Path>) -> Result<Self, StoreError> {
        private_file::ensure_state_folder(state_dir)?;
        private_file::refuse_planted(state_dir, &PLANTED)?;
        // SQLite waits for nobody while it makes a write-ahead log: of those that come at once to a new store, one
        // would hear that it is locked. Where nothing can be locked, that is all that is lost.
        let _turn = match turns::turn_to_open(state_dir).await {
            Err(StoreError::File(PrivateFileError::Io { .. })) => None,
            turn => turn?,
        };
        let seal = match key_file {
            Some(file) => Seal::open_named(file)?,
            None => Seal::open(&state_dir.join(KEY))?,
        };
        let path = state_dir.join(FILE);
        if !path.exists() {
            refuse_lost(state_dir, &path)?;
            // SQLite gives its side files the mode of this one.
            private_file::create(&path, b"")?;
        }
        check_files(&path)?;
        refuse_emptied(&path)?;
        let options = SqliteConnectOptions::new()
            .filename(&path)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full)
            .busy_timeout(BUSY)
            // Nothing of it outside of the state folder, where a confined process may not write.
            .pragma("temp_store", "memory")
            .row_buffer_size(ROWS)
            // A disk that is slow for a moment is nobody's errand; one that fails is told by `watch`.
            .disable_statement_logging();
        let pool = one_connection().connect_with(options).await;
        let pool = pool.map_err(|source| StoreError::of(&path, &source))?;
        let store = Self { pool, path, seal, health: Arc::default() };
        store.prepare().await?;
        store.health.opened(&store.path);
        Ok(store)
    }

    /// Refuses what [`Self::open`] would refuse of what is in the state folder already, and makes nothing.
    pub fn check_place(state_dir: &Path) -> Result<(), StoreError> {
        if private_file::check_state_folder(state_dir)? {
            private_file::refuse_planted(state_dir, &PLANTED)?;
            turns::check_place(state_dir)?;
            check_files(&state_dir.join(FILE))?;
        }
        Ok(())
    }

    /// The same of the sealing key.
    pub fn check_key(state_dir: &Path, key_file: Option<&Path>) -> Result<(), StoreError> {
        match key_file {
            Some(file) => Seal::check(file, true),
            None => Seal::check(&state_dir.join(KEY), false),
        }
    }

    /// One that is as it should be is not written to: it opens on a disk that is full or read-only.
    async fn prepare(&self) -> Result<(), StoreError> {
        self.check().await?;
        self.migrate().await.map_err(|e| self.failed(&e))?;
        let canary = match self.canary().await? {
            Some(canary) => canary,
            None => {
                let canary = self.seal.seal(b"gatepost", "key")?;
                sqlx::query("INSERT OR IGNORE INTO meta (name, value) VALUES ('key', ?)")
                    .bind(canary)
                    .execute(&self.pool)
                    .await
                    .map_err(|e| self.failed(&e))?;
                self.canary().await?.unwrap_or_default()
            }
        };
        match self.seal.open_sealed(&canary, "key") {
            Some(_) => Ok(()),
            None => Err(StoreError::WrongKey(self.path.clone())),
        }
    }

    /// What tells whether the key is the store's.
    async fn canary(&self) -> Result<Option<Vec<u8>>, StoreError> {
        sqlx::query_scalar("SELECT value FROM meta WHERE name = 'key'")
            .fetch_optional(&self.pool)
            .await
            .map_err(|e| self.failed(&e))
    }

    /// Whether the file is whole. Of most stores that takes milliseconds. Of one that takes longer the tokens are left
    /// out, which are nearly all of it: a running proxy reads each of them soon, and tells of what it can't read.
    async fn check(&self) -> Result<(), StoreError> {
        let size = std::fs::metadata(&self.path).map_or(0, |file| file.len());
        let parts =
            if size > CHECKED_WHOLE { &CHECKED_PARTS[..] } else { &["PRAGMA quick_check(1)"] };
        for part in parts {
            let found = sqlx::query_scalar::<_, String>(*part).fetch_one(&self.pool).await;
            match found.map_err(|e| self.failed(&e))?.as_str() {
                "ok" => {}
                damage => return Err(self.noted(StoreError::damaged(&self.path, damage))),
            }
        }
        Ok(())
    }

    /// One process at a time; the others find the work done.
    async fn migrate(&self) -> Result<(), sqlx::Error> {
        let version = "PRAGMA user_version";
        let known = i64::try_from(MIGRATIONS.len()).unwrap_or(i64::MAX);
        if sqlx::query_scalar::<_, i64>(version).fetch_one(&self.pool).await? >= known {
            return Ok(());
        }
        let mut transaction = self.pool.begin_with("BEGIN IMMEDIATE").await?;
        let had: i64 = sqlx::query_scalar(version).fetch_one(&mut *transaction).await?;
        let had = usize::try_from(had).unwrap_or(0);
        for migration in MIGRATIONS.iter().skip(had) {
            sqlx::raw_sql(*migration).execute(&mut *transaction).await?;
        }
        let count = format!("PRAGMA user_version = {known}");
        sqlx::raw_sql(sqlx::AssertSqlSafe(count)).execute(&mut *transaction).await?;
        transaction.commit().await
    }

    /// Changes when another process has written, and when the store works again after an outage.
    pub async fn version(&self) -> Result<i64, StoreError> {
        let version: i64 = sqlx::query_scalar("PRAGMA data_version")
            .fetch_one(&self.pool)
            .await
            .map_err(|e| self.failed(&e))?;
        // SQLite's has 32 bits.
        Ok((self.health.returns() << 32) | version)
    }

    /// A key that is derived from the sealing key, for the hashes of `purpose`.
    pub fn derive_key(&self, purpose: &str) -> ring::hmac::Key {
        self.seal.derive(purpose)
    }

    /// Writes what is left and closes the file.
    pub async fn close(&self) {
        self.pool.close().await;
    }

    fn failed(&self, source: &sqlx::Error) -> StoreError {
        let failure = StoreError::of(&self.path, source);
        match source {
            // That is gatepost's own doing.
            sqlx::Error::PoolClosed => failure,
            _ => self.noted(failure),
        }
    }

    fn noted(&self, failure: StoreError) -> StoreError {
        if let Some(trouble) = failure.trouble() {
            self.health.note(trouble);
        }
        failure
    }
}

/// A running proxy would take a new store for its own, and forget the app passwords.
fn refuse_lost(state_dir: &Path, path: &Path) -> Result<(), StoreError> {
    let running = SessionBoard::read_all(state_dir).unwrap_or_default();
    let Some(proxy) = running.first() else { return Ok(()) };
    let why =
        format!("there is no such file any more, but gatepost runs on it as process {}", proxy.pid);
    Err(StoreError::replaced(path, &why))
}

/// An empty file with a write-ahead log beside it was a store: SQLite would throw the log away, and make a new one.
fn refuse_emptied(path: &Path) -> Result<(), StoreError> {
    let length = |path: &Path| std::fs::metadata(path).map_or(0, |file| file.len());
    match length(path) == 0 && length(&watch::side(path, "-wal")) > 0 {
        true => Err(StoreError::damaged(path, "it is empty, but its write-ahead log is not")),
        false => Ok(()),
    }
}

/// The file and those that SQLite keeps beside it, as far as they are there: it follows links, and opens what it finds.
fn check_files(path: &Path) -> Result<(), PrivateFileError> {
    let mut all = ["", "-wal", "-shm", "-journal"].into_iter();
    all.try_for_each(|suffix| private_file::check_if_there(&watch::side(path, suffix)))
}

/// One connection: SQLite has one writer anyway, and `version` must be asked on the same one. It is never
/// replaced (sqlx does so after half an hour): `PRAGMA data_version` counts anew on a new one, so that a write
/// in between would go unseen.
fn one_connection() -> SqlitePoolOptions {
    SqlitePoolOptions::new()
        .max_connections(1)
        .max_lifetime(None)
        .idle_timeout(None)
        .test_before_acquire(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn version_counts_anew_on_each_connection() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path(), None).await.unwrap();
        let before = store.version().await.unwrap();
        let other = Store::open(folder.path(), None).await.unwrap();
        sqlx::query("DELETE FROM meta").execute(&other.pool).await.unwrap();
        assert_ne!(store.version().await.unwrap(), before);
        // A connection that is made now begins where ours began: it must not take our one's place.
        let third = one_connection().connect_with((*store.pool.connect_options()).clone());
        let third = Store { pool: third.await.unwrap(), ..store.clone() };
        assert_eq!(third.version().await.unwrap(), before);
        let options = store.pool.options();
        assert_eq!((options.get_max_lifetime(), options.get_idle_timeout()), (None, None));
    }
}
