//! The program as a process, with its log.

use std::net::SocketAddr;
use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};
use tokio::time::{sleep, timeout};

use super::Site;

/// For a start or a stop, and for what should come soon.
const LIMIT: Duration = Duration::from_secs(30);

/// A running proxy. It is killed when this is dropped.
pub(crate) struct Proxy {
    pub(crate) address: SocketAddr,
    child: Child,
    log: Arc<Mutex<String>>,
}

impl Proxy {
    pub(crate) async fn start(site: &Site) -> Self {
        Self::start_command(Self::command(site)).await
    }

    /// To run it, with changes of a test's own.
    pub(crate) fn command(site: &Site) -> Command {
        let mut command = gatepost(site, &["run"]);
        command.env("GATEPOST_LOG", "gatepost=info,gatepost::connection=off");
        command
    }

    pub(crate) async fn start_command(command: Command) -> Self {
        Self::try_start(command).await.unwrap_or_else(|said| panic!("it does not start: {said}"))
    }

    /// What it says instead, if it ends.
    pub(crate) async fn try_start(mut command: Command) -> Result<Self, String> {
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.kill_on_drop(true).spawn().unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let log = Arc::new(Mutex::new(String::new()));
        let ready = async {
            while let Some(line) = lines.next_line().await.unwrap() {
                log.lock().unwrap().push_str(&format!("{line}\n"));
                if let Some((_, address)) = line.split_once("gatepost is ready: imap on ") {
                    return Some(address.parse().unwrap());
                }
            }
            None
        };
        let Some(address) = timeout(LIMIT, ready).await.expect("a start in time") else {
            return Err(log.lock().unwrap().clone());
        };
        let said = Arc::clone(&log);
        tokio::spawn(async move {
            while let Ok(Some(line)) = lines.next_line().await {
                said.lock().unwrap().push_str(&format!("{line}\n"));
            }
        });
        Ok(Self { address, child, log })
    }

    pub(crate) fn id(&self) -> String {
        self.child.id().unwrap().to_string()
    }

    /// Standard error so far.
    pub(crate) fn log(&self) -> String {
        self.log.lock().unwrap().clone()
    }

    /// Whether it has not ended by itself.
    pub(crate) fn runs(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// `kill -9`.
    pub(crate) async fn kill(mut self) {
        self.child.kill().await.unwrap();
    }

    /// SIGTERM; its log.
    pub(crate) async fn stop(mut self) -> String {
        let status = std::process::Command::new("kill").args(["-TERM", &self.id()]).status();
        assert!(status.unwrap().success());
        let ended = timeout(LIMIT, self.child.wait()).await.expect("a stop in time").unwrap();
        assert!(ended.success(), "{ended}: {}", self.log());
        // The reader of the log has a moment to come to its end.
        sleep(Duration::from_millis(100)).await;
        self.log()
    }
}

/// A command of the program on the site's configuration.
pub(crate) fn gatepost(site: &Site, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_gatepost"));
    command.arg("--config").arg(&site.file).args(arguments);
    for name in ["http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY"] {
        command.env_remove(name);
    }
    command
}

/// Waits for it.
pub(crate) async fn eventually(what: &str, mut is: impl FnMut() -> bool) {
    let waiting = async {
        while !is() {
            sleep(Duration::from_millis(50)).await;
        }
    };
    timeout(LIMIT, waiting).await.unwrap_or_else(|_| panic!("{what}: not in time"));
}
