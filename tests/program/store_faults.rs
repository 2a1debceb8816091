//! The store fails while the program runs: no session, no login and no refresh token is lost, and people are told.
//!
//! A limit of file sizes (prlimit of util-linux) stands for a disk that is full: it needs no root. The tests that wait
//! for several lives of a token are ignored; each takes half a minute.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use crate::support_tokens::process::{Proxy, eventually, gatepost};
use crate::support_tokens::{APP_ONLY, DELEGATED, Site};
use gatepost::store::Store;
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{ConnectOptions, Connection};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::time::sleep;

/// Of access tokens: an outage lasts for several.
const LIFE: Duration = Duration::from_secs(12);

/// For what a session must outlive: it has what is left of its token's life.
const BRIEFLY: Duration = Duration::from_millis(500);

/// Until people are told, and some lives more.
const OUTAGE: Duration = Duration::from_secs(38);

/// A site whose proxy writes down whom it calls.
struct House {
    site: Site,
    calls: PathBuf,
}

impl House {
    async fn new() -> Self {
        let site = Site::new(LIFE).await;
        site.sign_in_with_an_expired_token(DELEGATED).await;
        let calls = site.file.with_file_name("calls");
        let script = r#"ulimit -f unlimited; echo "$GATEPOST_EVENT|$1|$2|$3" >> "$0""#;
        let text = fs::read_to_string(&site.file).unwrap();
        let hook = format!("on_attention = [\"/bin/sh\", \"-c\", '''{script}''', {calls:?}]\n");
        fs::write(&site.file, hook + &text).unwrap();
        Self { site, calls }
    }

    fn store(&self) -> PathBuf {
        self.site.config().state_dir.join("gatepost.db")
    }

    fn calls(&self) -> String {
        fs::read_to_string(&self.calls).unwrap_or_default()
    }

    /// Logs in to both mailboxes all the time; each login works.
    async fn log_in_for(&self, time: Duration, proxy: &Proxy) {
        let end = Instant::now() + time;
        while Instant::now() < end {
            for mailbox in [DELEGATED, APP_ONLY] {
                let login = self.site.log_in(proxy.address, mailbox).await;
                login.unwrap_or_else(|error| panic!("{mailbox}: {error}: {}", proxy.log()));
            }
            sleep(Duration::from_millis(100)).await;
        }
    }

    /// One call and one line of the log, with these words.
    async fn is_told_once(&self, proxy: &Proxy, words: &str) {
        eventually(&format!("a call: {}", proxy.log()), || self.calls().contains('|')).await;
        let (calls, log) = (self.calls(), proxy.log());
        assert_eq!(calls.lines().count(), 1, "{calls}");
        assert!(calls.starts_with("store_failing|all mailboxes|the store "), "{calls}");
        assert!(calls.contains(words), "{calls}");
        let errors: Vec<_> = log.lines().filter(|line| line.contains("ERROR")).collect();
        assert!(errors.len() == 1 && errors[0].contains(words), "{log}");
    }

    /// The store is well again: what was in memory is on disk, and the next process goes on with it.
    async fn recovers(&self, proxy: Proxy) {
        eventually("the end of the outage", || {
            let log = proxy.log();
            log.contains("the store works again") && log.contains("the store has the sign-in again")
        })
        .await;
        proxy.kill().await;
        // Its access token ends; the refresh token alone is left.
        sleep(LIFE).await;
        let next = Proxy::start(&self.site).await;
        self.log_in_for(Duration::from_secs(1), &next).await;
        next.stop().await;
    }

    /// Standard output and error of a command.
    async fn says(&self, arguments: &[&str]) -> String {
        let output = gatepost(&self.site, arguments).output().await.unwrap();
        [output.stdout, output.stderr].map(|said| String::from_utf8(said).unwrap()).concat()
    }
}

/// A session. The emulator ends it with its token, as Exchange does.
struct Session(BufReader<TcpStream>);

impl Session {
    async fn begin(house: &House, proxy: &Proxy) -> Self {
        let stream = TcpStream::connect(proxy.address).await.unwrap();
        let mut session = Self(BufReader::new(stream));
        let login = format!("a LOGIN {DELEGATED} {}\r\n", house.site.password);
        session.ask(&login, "a OK").await;
        session
    }

    async fn ask(&mut self, command: &str, wanted: &str) {
        self.0.write_all(command.as_bytes()).await.unwrap();
        let mut line = String::new();
        while !line.starts_with(wanted) {
            line.clear();
            assert!(self.0.read_line(&mut line).await.unwrap() > 0, "it was cut off");
        }
    }

    async fn goes_on(&mut self) {
        self.ask("b NOOP\r\n", "b OK").await;
    }
}

fn run(program: &str, arguments: &[&str]) {
    let status = Command::new(program).args(arguments).status();
    assert!(status.expect(program).success(), "{program} {arguments:?}");
}

/// No file of this process may grow beyond so many octets.
fn limit_files(proxy: &Proxy, octets: &str) {
    run("prlimit", &["--pid", &proxy.id(), &format!("--fsize={octets}:unlimited")]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "waits for several lives of a token"]
async fn a_full_disk() {
    let house = House::new().await;
    let mut proxy = Proxy::start(&house.site).await;
    let mut session = Session::begin(&house, &proxy).await;
    limit_files(&proxy, "1");
    house.log_in_for(BRIEFLY, &proxy).await;
    session.goes_on().await;
    house.log_in_for(OUTAGE, &proxy).await;
    assert!(proxy.runs(), "SIGXFSZ does not end it");
    house.is_told_once(&proxy, "has no room on its disk").await;
    let mut session = Session::begin(&house, &proxy).await;
    limit_files(&proxy, "unlimited");
    house.log_in_for(BRIEFLY, &proxy).await;
    session.goes_on().await;
    house.recovers(proxy).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "waits for several lives of a token"]
async fn a_lock_that_another_process_does_not_give_back() {
    let house = House::new().await;
    let proxy = Proxy::start(&house.site).await;
    let mut session = Session::begin(&house, &proxy).await;
    // By another process: locks of the same one would not be seen as somebody else's.
    let script = "import sqlite3, sys, time\n\
                  db = sqlite3.connect(sys.argv[1], isolation_level=None)\n\
                  db.execute('BEGIN EXCLUSIVE')\nprint('held', flush=True)\ntime.sleep(600)\n";
    let mut holder = tokio::process::Command::new("python3");
    holder.arg("-c").arg(script).arg(house.store()).stdout(std::process::Stdio::piped());
    let mut holder = holder.kill_on_drop(true).spawn().expect("python3");
    let mut line = String::new();
    BufReader::new(holder.stdout.take().unwrap()).read_line(&mut line).await.unwrap();
    house.log_in_for(BRIEFLY, &proxy).await;
    session.goes_on().await;
    house.log_in_for(OUTAGE, &proxy).await;
    house.is_told_once(&proxy, "is locked by another process").await;
    let by_whom = format!("process {}", holder.id().unwrap());
    assert!(house.calls().contains(&by_whom), "by whom: {}", house.calls());
    let said = house.says(&["doctor"]).await;
    assert!(said.contains("is locked by another process") && said.contains("(python3)"), "{said}");
    let mut session = Session::begin(&house, &proxy).await;
    holder.kill().await.unwrap();
    house.log_in_for(BRIEFLY, &proxy).await;
    session.goes_on().await;
    house.recovers(proxy).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "waits for several lives of a token"]
async fn a_store_that_is_taken_away_and_put_back() {
    let house = House::new().await;
    let proxy = Proxy::start(&house.site).await;
    house.log_in_for(LIFE, &proxy).await;
    let mut session = Session::begin(&house, &proxy).await;
    // As people do: the file alone, which lacks what is in the write-ahead log.
    let backup = house.store().with_extension("backup");
    fs::copy(house.store(), &backup).unwrap();
    fs::remove_file(house.store()).unwrap();
    house.log_in_for(BRIEFLY, &proxy).await;
    session.goes_on().await;
    house.log_in_for(OUTAGE, &proxy).await;
    house.is_told_once(&proxy, "was taken away").await;
    for command in [&["status"][..], &["doctor"], &["password", "list", DELEGATED]] {
        let said = house.says(command).await;
        assert!(said.contains("was taken away") && said.contains("put "), "{command:?}: {said}");
    }
    assert!(!house.store().exists(), "nobody makes a new one");
    let mut session = Session::begin(&house, &proxy).await;
    fs::rename(&backup, house.store()).unwrap();
    house.log_in_for(BRIEFLY, &proxy).await;
    session.goes_on().await;
    eventually("the end of the outage", || proxy.log().contains("the store works again")).await;
    house.log_in_for(LIFE, &proxy).await;
    let log = proxy.log();
    assert!(log.contains("it counts now") && log.contains("the store works again"), "{log}");
    proxy.kill().await;
    sleep(LIFE).await;
    let next = Proxy::start(&house.site).await;
    house.log_in_for(Duration::from_secs(1), &next).await;
    next.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "waits for several lives of a token"]
async fn garbage_in_the_file_of_a_running_proxy() {
    let house = House::new().await;
    let proxy = Proxy::start(&house.site).await;
    let mut session = Session::begin(&house, &proxy).await;
    // The index of the log as well: without it SQLite goes on with what it has in memory.
    for file in ["gatepost.db", "gatepost.db-wal", "gatepost.db-shm"] {
        let path = house.store().with_file_name(file);
        let length = fs::metadata(&path).unwrap().len();
        overwrite(&path, &vec![0xa5; length.try_into().unwrap()]);
    }
    house.log_in_for(BRIEFLY, &proxy).await;
    session.goes_on().await;
    house.log_in_for(OUTAGE, &proxy).await;
    house.is_told_once(&proxy, "is damaged").await;
    let said = house.says(&["doctor"]).await;
    assert!(said.contains("is damaged") && said.contains("put a backup"), "{said}");
    let log = proxy.stop().await;
    assert!(log.contains("the new refresh token is lost"), "said at the stop: {log}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_store_is_not_opened_and_not_changed() {
    for damage in ["header", "pages", "cut off", "emptied"] {
        let house = House::new().await;
        // What a proxy that was killed leaves: a store with a write-ahead log.
        let proxy = Proxy::start(&house.site).await;
        house.log_in_for(Duration::from_millis(200), &proxy).await;
        proxy.kill().await;
        if damage != "emptied" {
            let mut connection =
                SqliteConnectOptions::new().filename(house.store()).connect().await.unwrap();
            sqlx::query("PRAGMA wal_checkpoint(TRUNCATE)").execute(&mut connection).await.unwrap();
            connection.close().await.unwrap();
        }
        let whole = fs::read(house.store()).unwrap();
        let mut broken = whole.clone();
        match damage {
            "header" => broken[..100].fill(0xa5),
            "pages" => broken[4096..].fill(0xa5),
            "cut off" => broken.truncate(whole.len() / 2),
            _ => broken.clear(),
        }
        fs::write(house.store(), &broken).unwrap();
        let log = house.store().with_file_name("gatepost.db-wal");
        let log_before = fs::read(&log).ok();
        let Err(said) = Proxy::try_start(Proxy::command(&house.site)).await else {
            panic!("{damage}: it starts");
        };
        assert!(
            said.contains("is damaged") && said.contains("hint: stop gatepost"),
            "{damage}: {said}"
        );
        let doctor = house.says(&["doctor"]).await;
        assert!(doctor.contains("is damaged"), "{damage}: {doctor}");
        assert_eq!(fs::read(house.store()).unwrap(), broken, "{damage}: it is left as it is");
        assert_eq!(fs::read(&log).ok().filter(|log| !log.is_empty()), log_before, "{damage}");
    }
}

/// Read-only for a process that starts: running ones keep their open files.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_read_only_store_still_serves() {
    let house = House::new().await;
    let proxy = Proxy::start(&house.site).await;
    house.log_in_for(Duration::from_millis(200), &proxy).await;
    proxy.kill().await;
    let files = ["gatepost.db", "gatepost.db-wal", "gatepost.db-shm"];
    let files = files.map(|file| house.store().with_file_name(file));
    let names: Vec<&str> = files.iter().map(|file| file.to_str().unwrap()).collect();
    // Modes mean nothing to root; an immutable file is one for everybody.
    let is_root = Command::new("id").arg("-u").output().unwrap().stdout == b"0\n";
    let (close, open) = if is_root {
        (["chattr", "+i"], ["chattr", "-i"])
    } else {
        (["chmod", "400"], ["chmod", "600"])
    };
    run(close[0], &[&[close[1]], names.as_slice()].concat());
    let done = async {
        let proxy = match Proxy::try_start(Proxy::command(&house.site)).await {
            Ok(proxy) => proxy,
            Err(said) => return Err(said),
        };
        for _ in 0..8 {
            for mailbox in [DELEGATED, APP_ONLY] {
                if let Err(error) = house.site.log_in(proxy.address, mailbox).await {
                    return Err(format!("{mailbox}: {error}: {}", proxy.log()));
                }
            }
            sleep(LIFE / 4).await;
        }
        let (status, doctor) = (house.says(&["status"]).await, house.says(&["doctor"]).await);
        Ok((proxy, status, doctor))
    };
    let done = tokio::time::timeout(Duration::from_secs(60), done).await;
    run(open[0], &[&[open[1]], names.as_slice()].concat());
    let (proxy, status, doctor) = done.expect("an end").unwrap_or_else(|said| panic!("{said}"));
    assert!(status.contains("can be read but not written"), "{status}");
    assert!(doctor.contains("can be read but not written"), "{doctor}");
    proxy.kill().await;
}

/// Puts octets in the place of a file's own, in the file that others have open.
fn overwrite(path: &Path, octets: &[u8]) {
    use std::io::Write;

    let mut file = fs::OpenOptions::new().write(true).open(path).unwrap();
    file.write_all(octets).unwrap();
    file.sync_all().unwrap();
}

/// A store that another program holds for a moment is no outage.
#[tokio::test]
async fn a_short_lock_is_waited_for() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path(), None).await.unwrap();
    let file = folder.path().join("gatepost.db");
    let mut other = SqliteConnectOptions::new().filename(file).connect().await.unwrap();
    sqlx::query("BEGIN IMMEDIATE").execute(&mut other).await.unwrap();
    let trial = tokio::spawn(async move { store.try_out().await });
    sleep(Duration::from_secs(1)).await;
    assert!(!trial.is_finished());
    other.close().await.unwrap();
    trial.await.unwrap().unwrap();
}
