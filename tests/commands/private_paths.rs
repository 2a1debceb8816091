//! What somebody has planted at the paths of the store, its key and the spool is refused, at once and with the
//! command that helps.
//!
//! Other owners take root to make: as root they are made, and otherwise the test of them says that it was not run.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::os::unix::net::UnixListener;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use gatepost::clock::Clock;
use gatepost::config::SpoolSettings;
use gatepost::outbox::Spool;
use gatepost::store::{SessionBoard, Store};
use tempfile::TempDir;
use tokio::time::timeout;

/// Whoever waits for the other end of a pipe waits longer.
const AT_ONCE: Duration = Duration::from_secs(20);
/// Nobody's number here.
const STRANGER: u32 = 54_321;
/// Another one, which runs gatepost.
const SERVICE: u32 = 54_322;

/// A state folder with a store that was closed in good order.
struct State {
    folder: TempDir,
}

impl State {
    async fn new() -> Self {
        let state = Self { folder: tempfile::tempdir().unwrap() };
        state.open().await.unwrap();
        state
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join("state").join(name)
    }

    async fn open(&self) -> Result<(), String> {
        let state = self.folder.path().join("state");
        let opened = async {
            let store = Store::open(&state, None).await.map_err(|error| error.to_string())?;
            store.close().await;
            let spool = Spool::open(&state, &SpoolSettings::default(), Clock::system());
            let spool = spool.map_err(|error| error.to_string())?;
            spool.lock().map_err(|error| error.to_string()).map(drop)
        };
        timeout(AT_ONCE, opened).await.expect("it waits")
    }

    /// Opening is refused with these words.
    async fn refuses(&self, what: &str, words: &[&str]) {
        let error = self.open().await.expect_err(what);
        for word in words {
            assert!(error.contains(word), "{what}: no {word:?} in: {error}");
        }
    }
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
}

fn make_pipe(path: &Path) {
    assert!(Command::new("mkfifo").arg(path).status().unwrap().success());
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// The store, what SQLite keeps beside it, the key, the certificate's key, what a running proxy shows, the locks.
const FILES: [&str; 9] = [
    "gatepost.db",
    "gatepost.db-wal",
    "gatepost.db-shm",
    "gatepost.key",
    "listener.key",
    "listener.pem",
    "run-1.lock",
    "turns/opening",
    "spool/lock",
];

#[tokio::test]
async fn links_pipes_sockets_and_folders_in_place_of_files() {
    for name in FILES {
        let state = State::new().await;
        let path = state.path(name);
        let real = state.folder.path().join("real");
        let content = fs::read(&path).unwrap_or_default();
        fs::write(&real, content).unwrap();
        set_mode(&real, 0o600);
        let renew = || {
            let _ = (fs::remove_file(&path), fs::remove_dir(&path));
        };
        renew();
        symlink(&real, &path).unwrap();
        state.refuses(&format!("{name}: link"), &["symbolic link", "hint: ls -ld"]).await;
        assert!(fs::symlink_metadata(&path).unwrap().is_symlink(), "{name}: it is left as it is");
        renew();
        make_pipe(&path);
        state.refuses(&format!("{name}: pipe"), &["a pipe"]).await;
        renew();
        let _socket = UnixListener::bind(&path).unwrap();
        state.refuses(&format!("{name}: socket"), &["a socket"]).await;
        renew();
        fs::create_dir(&path).unwrap();
        state.refuses(&format!("{name}: folder"), &["a folder"]).await;
    }
}

#[tokio::test]
async fn links_and_wide_modes_of_folders() {
    for name in ["", "turns", "spool", "spool/queue"] {
        let state = State::new().await;
        let path: PathBuf = state.path(name).components().collect();
        for mode in [0o770, 0o707, 0o1777] {
            set_mode(&path, mode);
            state
                .refuses(&format!("{name:?} {mode:o}"), &["written by others", "chmod go-w"])
                .await;
        }
        set_mode(&path, 0o700);
        state.open().await.unwrap();
        // Not root's, or root is who runs it: in both cases no layout of systemd's.
        let moved = state.folder.path().join("moved");
        fs::rename(&path, &moved).unwrap();
        symlink(&moved, &path).unwrap();
        if is_root() || name.is_empty() {
            state.refuses(&format!("{name:?} link"), &["symbolic link"]).await;
        }
        fs::remove_file(&path).unwrap();
        fs::write(&path, "").unwrap();
        state.refuses(&format!("{name:?} file"), &[]).await;
    }
}

#[tokio::test]
async fn wide_modes_of_secrets() {
    for name in ["gatepost.db", "gatepost.key"] {
        let state = State::new().await;
        for mode in [0o640, 0o604, 0o620, 0o666] {
            set_mode(&state.path(name), mode);
            state.refuses(&format!("{name} {mode:o}"), &["chmod 600"]).await;
        }
        set_mode(&state.path(name), 0o600);
        state.open().await.unwrap();
    }
}

#[tokio::test]
async fn a_key_that_is_named_may_be_a_link_to_a_private_file() {
    let state = State::new().await;
    let root = state.folder.path();
    let (real, link) = (root.join("real"), root.join("key"));
    fs::copy(state.path("gatepost.key"), &real).unwrap();
    set_mode(&real, 0o600);
    symlink(&real, &link).unwrap();
    let open =
        async || timeout(AT_ONCE, Store::open(&root.join("state"), Some(&link))).await.unwrap();
    open().await.unwrap().close().await;
    set_mode(&real, 0o644);
    assert!(open().await.unwrap_err().to_string().contains("chmod 600"));
    fs::remove_file(&real).unwrap();
    let error = open().await.unwrap_err().to_string();
    assert!(error.contains("No such file"), "a link that leads nowhere is left alone: {error}");
    make_pipe(&real);
    assert!(open().await.unwrap_err().to_string().contains("a pipe"));
}

/// `gatepost status` reads what proxies of other processes have left.
#[tokio::test]
async fn a_pipe_among_what_proxies_show_hangs_nobody() {
    let state = State::new().await;
    make_pipe(&state.path("run-1.lock"));
    make_pipe(&state.path("run-1.json"));
    let folder = state.folder.path().join("state");
    let read = tokio::task::spawn_blocking(move || SessionBoard::read_all(&folder).unwrap());
    assert_eq!(timeout(AT_ONCE, read).await.expect("it waits").unwrap(), []);
}

#[tokio::test]
async fn other_owners() {
    if !is_root() {
        eprintln!("NOT RUN: files of other owners take root to make");
        return;
    }
    for name in
        FILES.iter().filter(|name| !name.starts_with("gatepost.db-")).chain(&["", "turns", "spool"])
    {
        let state = State::new().await;
        let path: PathBuf = state.path(name).components().collect();
        if !path.exists() {
            fs::write(&path, "").unwrap();
        }
        chown(&path, Some(STRANGER), None).unwrap();
        let words = ["belongs to user 54321", "started by user 0", "hint: start it as that user"];
        state.refuses(&format!("{name:?}"), &words).await;
    }
}

/// `gatepost password list` as the service's user.
fn as_service(folder: &Path) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_gatepost"));
    command.arg("--config").arg(folder.join("gatepost.toml")).args(["password", "list"]);
    command.uid(SERVICE).gid(SERVICE).env("HOME", folder).current_dir("/").output().unwrap()
}

fn service_refuses(folder: &Path, words: &str) {
    let output = as_service(folder);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && said.contains(words), "no {words:?} in: {said}");
}

/// A service with a user of its own, whose state root has laid out: as systemd does with DynamicUser=.
#[tokio::test]
async fn a_service_takes_what_root_has_laid_out_for_it() {
    if !is_root() {
        eprintln!("NOT RUN: another user takes root to become");
        return;
    }
    let state = State::new().await;
    let root = state.folder.path();
    set_mode(root, 0o755);
    fs::rename(root.join("state"), root.join("private")).unwrap();
    assert!(
        Command::new("chown")
            .arg("-R")
            .arg(format!("{SERVICE}:{SERVICE}"))
            .arg(root.join("private"))
            .status()
            .unwrap()
            .success()
    );
    symlink("private", root.join("state")).unwrap();
    let key = root.join("key");
    fs::rename(root.join("private/gatepost.key"), &key).unwrap();
    fs::write(
        root.join("gatepost.toml"),
        "state_dir = \"state\"\n[store]\nkey = { file = \"key\" }\n",
    )
    .unwrap();

    // Root's, and lent to the service's group.
    chown(&key, Some(0), Some(SERVICE)).unwrap();
    set_mode(&key, 0o440);
    let good = as_service(root);
    assert!(good.status.success(), "{}", String::from_utf8_lossy(&good.stderr));
    set_mode(&key, 0o444);
    service_refuses(root, "chmod 600");
    set_mode(&key, 0o460);
    service_refuses(root, "chmod 600");
    set_mode(&key, 0o440);

    let link = root.join("state");
    rustix::fs::chownat(
        rustix::fs::CWD,
        &link,
        Some(rustix::fs::Uid::from_raw(STRANGER)),
        None,
        rustix::fs::AtFlags::SYMLINK_NOFOLLOW,
    )
    .unwrap();
    service_refuses(root, "symbolic link");
    fs::remove_file(&link).unwrap();
    symlink("private", &link).unwrap();
    chown(root.join("private/gatepost.db"), Some(STRANGER), None).unwrap();
    set_mode(&root.join("private/gatepost.db"), 0o666);
    service_refuses(root, "belongs to user 54321");
}
