//! The service manager's side: it is told, its watchdog is fed, its sockets and credentials are taken.

use std::fs;
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::process::{Proxy, gatepost};
use crate::support_tokens::{APP_ONLY, Site};

const LIFE: Duration = Duration::from_secs(3600);
const LIMIT: Duration = Duration::from_secs(60);
/// As the service manager gives it.
const WATCHDOG: Duration = Duration::from_millis(600);

/// A service manager's socket, in the configuration's folder.
struct Manager {
    socket: UnixDatagram,
    path: PathBuf,
}

impl Manager {
    fn new(folder: &Path) -> Self {
        let path = folder.join("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        socket.set_read_timeout(Some(LIMIT)).unwrap();
        Self { socket, path }
    }

    fn next(&self) -> String {
        let mut message = [0; 1024];
        let length = self.socket.recv(&mut message).unwrap();
        String::from_utf8(message[..length].to_vec()).unwrap()
    }

    /// The next message that is no ping.
    fn told(&self) -> String {
        loop {
            let message = self.next();
            if message.trim() != "WATCHDOG=1" {
                return message;
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_service_manager_is_told_and_its_watchdog_fed() {
    let site = Site::new(LIFE).await;
    let manager = Manager::new(site.file.parent().unwrap());
    let mut command = gatepost(&site.file, &["run"]);
    command.env("NOTIFY_SOCKET", &manager.path);
    command.env("WATCHDOG_USEC", WATCHDOG.as_micros().to_string());
    let mut proxy = Proxy::spawn(command);
    let ready = manager.told();
    assert!(ready.contains("READY=1\n") && ready.contains("STATUS=imap on 127.0.0.1:"), "{ready}");
    site.log_in(proxy.address(), APP_ONLY).await.unwrap();

    // An outage of everything behind it is no reason for a restart.
    site.emulator.control().set_mail_outage(true);
    let begun = Instant::now();
    for _ in 0..6 {
        assert_eq!(manager.next().trim(), "WATCHDOG=1");
    }
    let six = begun.elapsed();
    assert!(six < WATCHDOG * 6, "six pings took {six:?}");

    // A process that stands still feeds nothing.
    proxy.signal("STOP");
    manager.socket.set_read_timeout(Some(WATCHDOG)).unwrap();
    let mut buffer = [0; 64];
    while manager.socket.recv(&mut buffer).is_ok() {}
    manager.socket.set_read_timeout(Some(WATCHDOG * 3)).unwrap();
    assert!(manager.socket.recv(&mut buffer).is_err(), "a ping of a process that stands still");
    proxy.signal("CONT");
    manager.socket.set_read_timeout(Some(LIMIT)).unwrap();
    assert_eq!(manager.next().trim(), "WATCHDOG=1");

    proxy.signal("TERM");
    assert_eq!(manager.told().trim(), "STOPPING=1");
    assert!(proxy.end().success());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_status_says_what_a_reload_has_led_to() {
    let site = Site::new(LIFE).await;
    let manager = Manager::new(site.file.parent().unwrap());
    let mut command = gatepost(&site.file, &["run"]);
    command.env("NOTIFY_SOCKET", &manager.path);
    let proxy = Proxy::spawn(command);
    assert!(manager.told().contains("STATUS=imap on "));
    let good = fs::read_to_string(&site.file).unwrap();
    let reload = |text: &str| {
        fs::write(&site.file, text).unwrap();
        proxy.signal("HUP");
        let reloading = manager.told();
        assert!(reloading.contains("RELOADING=1"), "{reloading}");
        let told = manager.told();
        assert!(told.contains("READY=1"), "{told}");
        let status = told.lines().find_map(|line| line.strip_prefix("STATUS="));
        status.unwrap_or_else(|| panic!("no status: {told}")).to_owned()
    };
    let refused = reload(&format!("tsl = 1\n{good}"));
    let file = site.file.display();
    let begin = format!("running with the former configuration; {file} is refused: line 1");
    assert!(refused.starts_with(&begin) && refused.contains("imap on "), "{refused}");
    // Seccomp and Landlock stay as they are, and no helper can be started.
    let waits = reload(&format!("confine = false\non_attention = [\"/bin/true\"]\n{good}"));
    assert!(waits.ends_with("restart gatepost for on_attention, confine"), "{waits}");
    let said = proxy.said("these keys count after a restart of gatepost alone");
    assert!(said.contains("WARN") && said.contains("systemctl restart gatepost"), "{said}");
    assert!(proxy.said("configuration reloaded").contains("on_attention changed, confine changed"));
    let status = reload(&good);
    assert!(status.starts_with("imap on ") && !status.contains("restart"), "{status}");
}

/// As systemd does, by the shell: descriptors from 3 on, and the process's own id.
fn activated(file: &Path, first: &TcpListener, second: &TcpListener) -> Command {
    let fd = |socket: &TcpListener| Stdio::from(OwnedFd::from(socket.try_clone().unwrap()));
    let script = "LISTEN_PID=$$ LISTEN_FDS=2 exec \"$0\" \"$@\" 3<&0 4<&1 </dev/null >/dev/null";
    let mut command = Command::new("/bin/sh");
    command.args(["-c", script, env!("CARGO_BIN_EXE_gatepost"), "--config"]).arg(file).arg("run");
    command.stdin(fd(first)).stdout(fd(second));
    command
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sockets_of_the_service_manager_are_taken_and_outlive_a_restart() {
    let site = Site::new(LIFE).await;
    let wanted = TcpListener::bind("127.0.0.1:0").unwrap();
    let unwanted = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = wanted.local_addr().unwrap();
    let text = fs::read_to_string(&site.file).unwrap();
    fs::write(&site.file, text.replace("127.0.0.1:0", &address.to_string())).unwrap();

    let mut proxy = Proxy::start(activated(&site.file, &wanted, &unwanted));
    assert_eq!(proxy.address(), address);
    let warning = proxy.said("the service manager listens there");
    assert!(warning.contains(&unwanted.local_addr().unwrap().to_string()), "{warning}");
    site.log_in(address, APP_ONLY).await.unwrap();
    proxy.signal("TERM");
    assert!(proxy.end().success());

    // Who comes meanwhile waits.
    let early = site.log_in(address, APP_ONLY);
    let again = async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        Proxy::start(activated(&site.file, &wanted, &unwanted))
    };
    let (early, _again) = tokio::join!(early, again);
    early.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn credentials_of_the_service_manager_are_read() {
    let site = Site::new(LIFE).await;
    let folder = site.file.parent().unwrap();
    let credentials = folder.join("credentials");
    fs::create_dir(&credentials).unwrap();
    fs::rename(folder.join("secret"), credentials.join("client-secret")).unwrap();
    fs::rename(folder.join("state/gatepost.key"), credentials.join("store-key")).unwrap();
    let text = fs::read_to_string(&site.file).unwrap();
    let text = text.replace("{ file = \"secret\" }", "{ credential = \"client-secret\" }");
    let text = format!("{text}[store]\nkey = {{ credential = \"store-key\" }}\n");
    fs::write(&site.file, &text).unwrap();

    let mut command = gatepost(&site.file, &["run"]);
    command.env("CREDENTIALS_DIRECTORY", &credentials);
    let proxy = Proxy::start(command);
    site.log_in(proxy.address(), APP_ONLY).await.unwrap();
    assert!(!folder.join("state/gatepost.key").exists());

    let without =
        gatepost(&site.file, &["run"]).env_remove("CREDENTIALS_DIRECTORY").output().unwrap();
    let said = String::from_utf8_lossy(&without.stderr).into_owned();
    assert_eq!(without.status.code(), Some(2), "{said}");
    for words in ["CREDENTIALS_DIRECTORY", "LoadCredential=client-secret:PATH"] {
        assert!(said.contains(words), "{said}");
    }
    for (name, key) in [("client-secret", "client_secret"), ("store-key", "store.key")] {
        fs::rename(credentials.join(name), credentials.join("away")).unwrap();
        let mut missing = gatepost(&site.file, &["check"]);
        let missing = missing.env("CREDENTIALS_DIRECTORY", &credentials).output().unwrap();
        let said = String::from_utf8_lossy(&missing.stderr).into_owned();
        assert_eq!(missing.status.code(), Some(2), "{said}");
        let hint = format!("hint: add LoadCredential={name}:PATH to the service's unit");
        assert!(said.contains(key) && said.contains(&hint), "{said}");
        fs::rename(credentials.join("away"), credentials.join(name)).unwrap();
    }
    fs::write(&site.file, text.replace("\"store-key\"", "\"../store-key\"")).unwrap();
    let mut wrong = gatepost(&site.file, &["check"]);
    let wrong = wrong.env("CREDENTIALS_DIRECTORY", &credentials).output().unwrap();
    let said = String::from_utf8_lossy(&wrong.stderr).into_owned();
    assert!(
        wrong.status.code() == Some(2) && said.contains("is no name of a credential"),
        "{said}"
    );
}
