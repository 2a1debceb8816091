//! A store of the first version is taken over as it is.

use std::path::Path;

use gatepost::clock::{Clock, Timestamp};
use gatepost::private_file;
use gatepost::secret::Secret;
use gatepost::store::{Hash, PasswordRecord, Store, Token, TokenFault};
use gatepost::vocabulary::{Cause, Protocol, Resource};
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection, SqliteJournalMode};
use sqlx::{ConnectOptions, Connection, Row};

use crate::JANE;
use crate::site::Site;

/// The tables as the first version made them; it left `user_version` at 0.
const FIRST: &str = "
    CREATE TABLE meta (name TEXT PRIMARY KEY, value BLOB NOT NULL) STRICT;
    CREATE TABLE token (
        principal TEXT PRIMARY KEY,
        revision  INTEGER NOT NULL,
        sealed    BLOB
    ) STRICT;
    CREATE TABLE fault (
        principal TEXT PRIMARY KEY,
        error     TEXT NOT NULL,
        permanent INTEGER NOT NULL,
        error_at  INTEGER NOT NULL
    ) STRICT;
    CREATE TABLE password (
        mailbox    TEXT NOT NULL,
        name       TEXT NOT NULL,
        kind       TEXT NOT NULL,
        hash       BLOB NOT NULL,
        protocols  TEXT NOT NULL,
        networks   TEXT NOT NULL,
        created_at INTEGER NOT NULL,
        PRIMARY KEY (mailbox, name)
    ) STRICT;
";

/// As gatepost opens it: with a write-ahead log.
async fn connect(file: &Path) -> SqliteConnection {
    let options = SqliteConnectOptions::new().filename(file).journal_mode(SqliteJournalMode::Wal);
    options.connect().await.unwrap()
}

fn token() -> Token {
    Token { refresh_token: Some(Secret::new("refresh".into())), ..Token::default() }
}

fn password() -> PasswordRecord {
    PasswordRecord {
        mailbox: JANE.into(),
        name: "scanner".into(),
        hash: Hash::Generated(vec![7; 32]),
        protocols: vec![Protocol::Smtp],
        networks: vec!["10.0.0.0/8".parse().unwrap()],
        created_at: Timestamp::from_millis(1_700_000_000_000),
    }
}

/// A folder with a store of the first version, which has a row in each table.
async fn first_version() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    // Only today's gatepost can seal: its rows are carried over, its key stays.
    let today = Store::open(folder.path(), None).await.unwrap();
    today.replace_token(JANE, &token()).await.unwrap();
    assert!(today.add_password(&password()).await.unwrap());
    today.close().await;
    let file = folder.path().join("gatepost.db");
    let mut new = connect(&file).await;
    let meta: Vec<u8> = sqlx::query_scalar("SELECT value FROM meta WHERE name = 'key'")
        .fetch_one(&mut new)
        .await
        .unwrap();
    let row = sqlx::query("SELECT revision, sealed FROM token").fetch_one(&mut new).await.unwrap();
    let (revision, sealed): (i64, Vec<u8>) = (row.get(0), row.get(1));
    let kept = sqlx::query("SELECT * FROM password").fetch_one(&mut new).await.unwrap();
    new.close().await.unwrap();
    for name in ["gatepost.db", "gatepost.db-wal", "gatepost.db-shm"] {
        // The last connection has taken the side files away.
        let _ = std::fs::remove_file(folder.path().join(name));
    }
    private_file::create(&file, b"").unwrap();
    let mut old = connect(&file).await;
    sqlx::raw_sql(FIRST).execute(&mut old).await.unwrap();
    sqlx::query("INSERT INTO meta VALUES ('key', ?)").bind(meta).execute(&mut old).await.unwrap();
    sqlx::query("INSERT INTO token VALUES (?, ?, ?)")
        .bind(JANE)
        .bind(revision)
        .bind(sealed)
        .execute(&mut old)
        .await
        .unwrap();
    sqlx::query("INSERT INTO fault VALUES (?, 'down', 0, 1000), ('robot', 'no such app', 1, 2000)")
        .bind(JANE)
        .execute(&mut old)
        .await
        .unwrap();
    sqlx::query("INSERT INTO password VALUES (?, ?, ?, ?, ?, ?, ?)")
        .bind(kept.get::<String, _>("mailbox"))
        .bind(kept.get::<String, _>("name"))
        .bind(kept.get::<String, _>("kind"))
        .bind(kept.get::<Vec<u8>, _>("hash"))
        .bind(kept.get::<String, _>("protocols"))
        .bind(kept.get::<String, _>("networks"))
        .bind(kept.get::<i64, _>("created_at"))
        .execute(&mut old)
        .await
        .unwrap();
    old.close().await.unwrap();
    folder
}

async fn user_version(folder: &Path) -> i64 {
    let mut connection = connect(&folder.join("gatepost.db")).await;
    let version = sqlx::query_scalar("PRAGMA user_version").fetch_one(&mut connection).await;
    connection.close().await.unwrap();
    version.unwrap()
}

async fn assert_rows(store: &Store) {
    assert_eq!(store.token(JANE).await.unwrap(), (Some(token()), 1));
    let passwords = store.passwords().await.unwrap();
    assert_eq!(passwords.len(), 1);
    let (kept, wanted) = (&passwords[0], password());
    assert_eq!((&kept.mailbox, &kept.name), (&wanted.mailbox, &wanted.name));
    assert_eq!((&kept.protocols, &kept.networks), (&wanted.protocols, &wanted.networks));
    assert!(matches!(&kept.hash, Hash::Generated(hash) if *hash == vec![7; 32]));
    let passed = store.fault(JANE, Resource::Mail).await.unwrap().unwrap();
    let old = |error: &str, cause, millis| TokenFault {
        error: error.into(),
        cause,
        trace: String::new(),
        at: Timestamp::from_millis(millis),
    };
    assert_eq!(passed, old("down", None, 1000));
    let robot = store.fault("robot", Resource::Mail).await.unwrap().unwrap();
    assert_eq!(robot, old("no such app", Some(Cause::Registration), 2000));
}

#[tokio::test]
async fn it_keeps_its_rows_and_has_what_is_new() {
    let folder = first_version().await;
    assert_eq!(user_version(folder.path()).await, 0);
    let store = Store::open(folder.path(), None).await.unwrap();
    assert_rows(&store).await;
    assert_eq!(user_version(folder.path()).await, 4);
    let fault = TokenFault {
        error: "revoked".into(),
        cause: Some(Cause::SignIn),
        trace: "client-request-id 1".into(),
        at: Clock::system().now(),
    };
    assert!(
        store.note_fault(JANE, Resource::Mail, 1, &fault).await.unwrap(),
        "the first news that a person must act"
    );
    assert!(!store.note_fault(JANE, Resource::Mail, 1, &fault).await.unwrap());
    assert_eq!(store.fault(JANE, Resource::Mail).await.unwrap(), Some(fault));
    assert!(store.tell_once("app lab", "ends").await.unwrap());
    assert!(!store.tell_once("app lab", "ends").await.unwrap());
    store.keep_device(JANE, Some(b"code")).await.unwrap();
    assert_eq!(store.device(JANE).await.unwrap().unwrap().as_slice(), b"code");
    store.close().await;
    // And once more, when nothing is left to do.
    let store = Store::open(folder.path(), None).await.unwrap();
    assert_eq!(store.token(JANE).await.unwrap().0, Some(token()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn processes_that_start_at_once_take_it_over_once() {
    for _ in 0..5 {
        let folder = first_version().await;
        let open = || {
            let folder = folder.path().to_owned();
            tokio::spawn(async move { Store::open(&folder, None).await })
        };
        for opened in [open(), open(), open(), open()] {
            assert_rows(&opened.await.unwrap().unwrap()).await;
        }
        assert_eq!(user_version(folder.path()).await, 4);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn processes_that_start_at_once_make_one_store() {
    let site = Site::by_browser(&[JANE]).await;
    for round in 0..5 {
        let name = |number| format!("{round}-{number}");
        let add = |number| site.begin(&["password", "add", JANE, "--name", &name(number)]);
        let adding: Vec<_> = (0..6).map(add).collect();
        for one in adding {
            let done = one.end().await;
            assert_eq!(done.code, Some(0), "{}", done.err);
        }
        assert_eq!(site.store().await.passwords().await.unwrap().len(), 6);
        std::fs::remove_dir_all(site.path("state")).unwrap();
    }
}

/// One of a newer gatepost is left as it is.
#[tokio::test]
async fn one_of_a_newer_version_is_left_alone() {
    let folder = first_version().await;
    Store::open(folder.path(), None).await.unwrap().close().await;
    let mut connection = connect(&folder.path().join("gatepost.db")).await;
    sqlx::query("PRAGMA user_version = 99").execute(&mut connection).await.unwrap();
    connection.close().await.unwrap();
    let store = Store::open(folder.path(), None).await.unwrap();
    assert_rows(&store).await;
    assert_eq!(user_version(folder.path()).await, 99);
}
