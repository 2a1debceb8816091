//! What stands in the place of a file that the configuration names, of the configuration itself, or of something in the
//! state folder: each command ends at once, says what it found and where it is named, and `check` says what `run` would.

use std::fs::{self, File, Permissions};
use std::io::Write;
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use tempfile::TempDir;

/// Whoever waits for the other end of a pipe, or reads a device to its end, takes longer.
const AT_ONCE: Duration = Duration::from_secs(30);

/// Nobody's number here.
const STRANGER: u32 = 54_321;

/// A configuration that is good, with everything that it names.
struct Site(TempDir);

impl Site {
    fn new() -> Self {
        let site = Self(tempfile::tempdir().unwrap());
        let made =
            rcgen::generate_simple_self_signed(vec!["localhost".into()]).expect("a certificate");
        for name in ["ca.pem", "own.pem"] {
            fs::write(site.path(name), made.cert.pem()).unwrap();
        }
        for (name, text) in [
            ("own.key", made.signing_key.serialize_pem()),
            ("secret", "s3cret".into()),
            ("sealing", "00112233445566778899aabbccddeeff".repeat(2)),
            ("gatepost.toml", TEXT.into()),
        ] {
            fs::write(site.path(name), text).unwrap();
            set_mode(&site.path(name), 0o600);
        }
        site
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_gatepost"));
        command.arg("--config").arg(self.path("gatepost.toml")).args(arguments);
        command
    }

    /// Whether it went well, and what it said. `run` is ended when it is ready.
    fn ends(&self, arguments: &[&str]) -> (bool, String) {
        ends(self.command(arguments), None)
    }

    fn is_good(&self) {
        for command in [&["check"][..], &["certificate", "--listener", "127.0.0.1:0"]] {
            let (good, said) = self.ends(command);
            assert!(good, "{command:?}: {said}");
        }
    }

    /// Each of the commands is refused with these words.
    fn refused(&self, what: &str, commands: &[&[&str]], words: &[&str]) {
        for command in commands {
            let (good, said) = self.ends(command);
            assert!(!good, "{what}, {command:?}: {said}");
            for word in words.iter().chain(&["hint: "]) {
                assert!(said.contains(word), "{what}, {command:?}: no {word:?} in: {said}");
            }
            assert_eq!(said.matches("hint: ").count(), 1, "{what}, {command:?}: {said}");
        }
    }
}

const TEXT: &str = r#"state_dir = "state"
confine = false
[store]
key = { file = "sealing" }
[[listener]]
protocol = "imap"
listen = "127.0.0.1:0"
provider = "lab"
tls = "implicit"
[[listener]]
protocol = "pop3"
listen = "127.0.0.2:0"
provider = "lab"
tls = "implicit"
certificate = "own.pem"
private_key = "own.key"
[app.lab]
provider = "lab"
tenant = "lab"
client_id = "lab"
client_secret = { file = "secret" }
grant = "client_credentials"
[[account]]
mailbox = "jane@lab.example"
app = "lab"
[provider.lab]
token_url = "https://localhost:1/token"
imap = "localhost:1"
pop3 = "localhost:1"
app_scopes = ["mail"]
ca_file = "ca.pem"
"#;

/// The file, its key, its line, more than it may have in KiB.
const NAMED: [(&str, &str, u32, u64); 5] = [
    ("ca.pem", "provider.lab.ca_file", 31, 4097),
    ("own.pem", "certificate", 10, 4097),
    ("own.key", "private_key", 10, 4097),
    ("secret", "app.lab.client_secret", 21, 65),
    ("sealing", "store.key", 4, 65),
];

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
}

/// Ends it, if it does not end by itself.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = (self.0.kill(), self.0.wait());
    }
}

/// See [`Site::ends`]; `input` is its standard input.
fn ends(mut command: Command, input: Option<&str>) -> (bool, String) {
    let said = tempfile::NamedTempFile::new().unwrap();
    command.stdout(Stdio::null()).stderr(said.reopen().unwrap());
    command.stdin(if input.is_some() { Stdio::piped() } else { Stdio::null() });
    let mut child = Running(command.spawn().unwrap());
    if let Some(input) = input {
        // It may go before it has heard all.
        let _ = child.0.stdin.take().unwrap().write_all(input.as_bytes());
    }
    let began = Instant::now();
    loop {
        let words = fs::read_to_string(said.path()).unwrap();
        if let Some(status) = child.0.try_wait().unwrap() {
            return (status.success(), fs::read_to_string(said.path()).unwrap());
        }
        if words.contains("gatepost is ready") {
            return (true, words);
        }
        assert!(began.elapsed() < AT_ONCE, "{command:?} does not end: {words}");
        sleep(Duration::from_millis(10));
    }
}

/// Puts something else in the place of a file, one after the other, and calls `judge` with what it is.
fn plant(path: &Path, kib: u64, mut judge: impl FnMut(&str)) {
    let kept = path.with_extension("kept");
    fs::rename(path, &kept).unwrap();
    let renew = || {
        let _ = (fs::remove_file(path), fs::remove_dir(path));
    };
    assert!(Command::new("mkfifo").arg(path).status().unwrap().success());
    judge("a pipe");
    renew();
    symlink("/dev/zero", path).unwrap();
    judge("a device");
    renew();
    fs::create_dir(path).unwrap();
    judge("a folder");
    renew();
    let socket = UnixListener::bind(path).unwrap();
    judge("a socket");
    drop(socket);
    renew();
    // It has no blocks, and is read in no time: but not to its end.
    File::create(path).unwrap().set_len(kib * 1024).unwrap();
    set_mode(path, 0o600);
    judge("is longer than");
    renew();
    fs::rename(kept, path).unwrap();
}

#[test]
fn what_is_no_file_or_too_long_is_refused_with_its_key_and_line() {
    let site = Site::new();
    site.is_good();
    for (name, key, line, kib) in NAMED {
        let path = site.path(name);
        let (path_shown, at) = (path.display().to_string(), format!("line {line}, {key}: "));
        plant(&path, kib, |what| {
            let words = [what, path_shown.as_str(), at.as_str()];
            site.refused(name, &[&["check"], &["run"]], &words);
            let (_, said) = site.ends(&["check"]);
            assert_eq!(said.matches(&path_shown).count(), 2, "once, and in the hint: {said}");
        });
        site.is_good();
    }
}

#[test]
fn the_configuration_itself() {
    let site = Site::new();
    plant(&site.path("gatepost.toml"), 32 * 1024 + 1, |what| {
        let commands = [&["check"][..], &["run"], &["certificate"], &["password", "list"]];
        site.refused("gatepost.toml", &commands, &[what, "--config FILE"]);
        assert!(!site.ends(&["doctor"]).0);
    });
    site.is_good();
    // What a shell passes is read to its end, but not without one.
    let passed = |input: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_gatepost"));
        command.current_dir(site.0.path()).args(["--config", "/dev/stdin", "check"]);
        ends(command, Some(input))
    };
    let whole = |name: &str| format!("{}/{name}", site.0.path().display());
    let mut text = TEXT.to_owned();
    for name in ["state", "sealing", "own.pem", "own.key", "secret", "ca.pem"] {
        let (short, long) = (format!("\"{name}\""), format!("\"{}\"", whole(name)));
        text = text.replace(&short, &long);
    }
    let (good, said) = passed(&text);
    assert!(good, "{said}");
    let long = "# a comment\n".repeat(3_000_000);
    let (good, said) = passed(&long);
    assert!(!good && said.contains("is longer than"), "{said}");
}

#[test]
fn check_and_certificate_refuse_what_run_refuses_in_the_state_folder() {
    let everything = [&["run"][..], &["check"], &["certificate", "--listener", "127.0.0.1:0"]];
    let renew = &["certificate", "--listener", "127.0.0.1:0", "--renew"][..];
    let all: Vec<&[&str]> = everything.into_iter().chain([renew]).collect();
    for name in ["", "turns", "spool", "spool/queue"] {
        let site = Site::new();
        // It makes the folders.
        assert!(site.ends(&["run"]).0);
        let path: PathBuf = site.path("state").join(name).components().collect();
        let commands = if name.is_empty() { &all[..] } else { &all[..2] };
        set_mode(&path, 0o777);
        site.refused(&format!("{name:?} 777"), commands, &["may be written by others", "go-w"]);
        set_mode(&path, 0o700);
        let moved = site.path("moved");
        fs::rename(&path, &moved).unwrap();
        symlink(&moved, &path).unwrap();
        site.refused(&format!("{name:?} link"), commands, &["a symbolic link"]);
        fs::remove_file(&path).unwrap();
        symlink("nowhere", &path).unwrap();
        site.refused(&format!("{name:?} dangling"), commands, &["a symbolic link"]);
        fs::remove_file(&path).unwrap();
        assert!(Command::new("mkfifo").arg(&path).status().unwrap().success());
        site.refused(&format!("{name:?} pipe"), commands, &["a pipe, where a folder must be"]);
        fs::remove_file(&path).unwrap();
        fs::write(&path, "").unwrap();
        site.refused(&format!("{name:?} file"), commands, &["a file, where a folder must be"]);
        fs::remove_file(&path).unwrap();
        fs::rename(&moved, &path).unwrap();
        if rustix::process::geteuid().is_root() {
            chown(&path, Some(STRANGER), None).unwrap();
            site.refused(&format!("{name:?} owner"), commands, &["belongs to user 54321"]);
            chown(&path, Some(0), None).unwrap();
        }
        site.is_good();
    }
}

#[test]
fn check_and_certificate_refuse_what_is_planted_for_files() {
    let shown = &["certificate", "--listener", "127.0.0.1:0"][..];
    for (name, commands) in [
        ("listener.pem", &[&["run"][..], &["check"], shown][..]),
        ("gatepost.db", &[&["run"], &["check"]]),
        ("turns/opening", &[&["run"], &["check"]]),
        ("spool/lock", &[&["run"], &["check"]]),
    ] {
        let site = Site::new();
        assert!(site.ends(&["run"]).0);
        let (path, moved) = (site.path("state").join(name), site.path("moved"));
        if !path.exists() {
            // Made by the delivery, which may not have come so far.
            assert_eq!(name, "spool/lock");
            fs::write(&path, "").unwrap();
            set_mode(&path, 0o600);
        }
        fs::rename(&path, &moved).unwrap();
        symlink(&moved, &path).unwrap();
        site.refused(&format!("{name} link"), commands, &["a symbolic link"]);
        fs::remove_file(&path).unwrap();
        symlink("nowhere", &path).unwrap();
        site.refused(&format!("{name} dangling"), commands, &["a symbolic link"]);
        fs::remove_file(&path).unwrap();
        assert!(Command::new("mkfifo").arg(&path).status().unwrap().success());
        site.refused(&format!("{name} pipe"), commands, &["a pipe, where a file must be"]);
        fs::remove_file(&path).unwrap();
        fs::rename(&moved, &path).unwrap();
        if rustix::process::geteuid().is_root() {
            chown(&path, Some(STRANGER), None).unwrap();
            site.refused(&format!("{name} owner"), commands, &["belongs to user 54321"]);
            chown(&path, Some(0), None).unwrap();
        }
        site.is_good();
    }
    // Clients are told to trust what is in it.
    let site = Site::new();
    assert!(site.ends(shown).0);
    set_mode(&site.path("state/listener.pem"), 0o666);
    site.refused("666", &[&["run"], &["check"], shown], &["may be written by others", "go-w"]);
    set_mode(&site.path("state/listener.pem"), 0o644);
    site.is_good();
    set_mode(&site.path("sealing"), 0o644);
    site.refused("store.key", &[&["run"], &["check"]], &["sealing may be read by others"]);
    site.refused("store.key", &[&["check"]], &["gatepost.toml, line 4, store.key: "]);
    set_mode(&site.path("sealing"), 0o600);
    set_mode(&site.path("state"), 0o777);
    site.refused("state_dir", &[&["check"]], &["gatepost.toml, line 1, state_dir: "]);
}
