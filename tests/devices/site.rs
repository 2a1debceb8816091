//! An emulated Exchange, and the proxy as a process.

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use gatepost::emulator::{Emulator, Options, SentMail, Tls};
use gatepost::store::Store;
use tokio::time::sleep;

use crate::passwords::add_password;
use crate::ports::free_address;

/// For the proxy to be ready.
const READY: Duration = Duration::from_secs(30);

/// What a site is made of.
pub(crate) struct Plan {
    pub(crate) emulated: Options,
    /// More keys of each account.
    pub(crate) account: &'static str,
    /// More tables.
    pub(crate) more: &'static str,
}

pub(crate) struct Site {
    pub(crate) emulator: Emulator,
    /// The listener with `delivery = "spool"`.
    pub(crate) spool: SocketAddr,
    /// The one with `delivery = "direct"`.
    pub(crate) direct: SocketAddr,
    /// An app password for each of the emulator's mailboxes.
    pub(crate) passwords: Vec<String>,
    pub(crate) folder: tempfile::TempDir,
    proxy: Option<Child>,
    /// What the proxy has said on standard error.
    said: Arc<Mutex<String>>,
}

impl Site {
    pub(crate) async fn new(plan: Plan) -> Self {
        Self::with(plan, |configuration| configuration).await
    }

    /// The same with a configuration that is changed before its proxy starts.
    pub(crate) async fn with(plan: Plan, edit: impl FnOnce(String) -> String) -> Self {
        let emulator = Emulator::start(plan.emulated.clone()).await.unwrap();
        let folder = tempfile::tempdir().unwrap();
        let (spool, direct) = (free_address(), free_address());
        let path = |name: &str| folder.path().join(name);
        fs::write(path("ca.pem"), emulator.ca_pem()).unwrap();
        fs::write(path("secret"), &plan.emulated.app.client_secret).unwrap();
        let mut text = format!(
            "state_dir = \"state\"\n\
             [[listener]]\nprotocol = \"smtp\"\nlisten = \"{spool}\"\nprovider = \"lab\"\ndelivery = \"spool\"\n\
             [[listener]]\nprotocol = \"smtp\"\nlisten = \"{direct}\"\nprovider = \"lab\"\n\
             [app.lab]\nprovider = \"lab\"\ntenant = \"{}\"\nclient_id = \"{}\"\n\
             client_secret = {{ file = \"secret\" }}\ngrant = \"client_credentials\"\n\
             [provider.lab]\ntoken_url = \"{}\"\nca_file = \"ca.pem\"\nsmtp = \"{} starttls\"\n\
             graph = \"{}\"\n\
             app_scopes = [\"https://outlook.office365.com/.default\"]\n\
             graph_app_scopes = [\"https://graph.microsoft.com/.default\"]\n",
            plan.emulated.app.tenant,
            plan.emulated.app.client_id,
            emulator.token_url(),
            emulator.smtp(Tls::StartTls),
            emulator.graph_url(),
        );
        for mailbox in &plan.emulated.mailboxes {
            text +=
                &format!("[[account]]\nmailbox = \"{mailbox}\"\napp = \"lab\"\n{}\n", plan.account);
        }
        fs::write(path("gatepost.toml"), edit(text + plan.more)).unwrap();
        let store = Store::open(&path("state"), None).await.unwrap();
        let mut passwords = Vec::new();
        for mailbox in &plan.emulated.mailboxes {
            passwords.push(add_password(&store, mailbox, "device").await);
        }
        store.close().await;
        let said = Arc::default();
        let mut site = Self { emulator, spool, direct, passwords, folder, proxy: None, said };
        site.start();
        site
    }

    /// Starts the proxy; when it returns, it listens.
    pub(crate) fn start(&mut self) {
        let mut child = Command::new(env!("CARGO_BIN_EXE_gatepost"))
            .args(["run", "--config"])
            .arg(self.folder.path().join("gatepost.toml"))
            .env("GATEPOST_LOG", std::env::var("GATEPOST_LOG").unwrap_or("info".into()))
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut words = BufReader::new(child.stderr.take().unwrap());
        let began = Instant::now();
        let mut lines = String::new();
        while !lines.contains("gatepost is ready") {
            let read = words.read_line(&mut lines).unwrap();
            assert!(read > 0 && began.elapsed() < READY, "the proxy does not start: {lines}");
        }
        // What it says later must not fill the pipe.
        let said = Arc::clone(&self.said);
        std::thread::spawn(move || {
            for line in words.lines().map_while(Result::ok) {
                if std::env::var_os("GATEPOST_LOG").is_some() {
                    eprintln!("{line}");
                }
                *said.lock().unwrap() += &(line + "\n");
            }
        });
        self.proxy = Some(child);
    }

    /// As a power cut ends it.
    pub(crate) fn kill(&mut self) {
        let mut child = self.proxy.take().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
    }

    pub(crate) fn pid(&self) -> u32 {
        self.proxy.as_ref().unwrap().id()
    }

    /// Peak and present resident memory of the proxy, in KiB.
    pub(crate) fn memory(&self) -> (u64, u64) {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap();
        let field = |name: &str| {
            let line = status.lines().find(|line| line.starts_with(name)).unwrap();
            line.split_whitespace().nth(1).unwrap().parse().unwrap()
        };
        (field("VmHWM:"), field("VmRSS:"))
    }

    /// Makes the present memory the peak.
    pub(crate) fn reset_peak(&self) {
        fs::write(format!("/proc/{}/clear_refs", self.pid()), "5").unwrap();
    }

    /// Runs a command of gatepost's; its standard output.
    pub(crate) fn command(&self, args: &[&str]) -> String {
        let output = self.try_command(args);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "gatepost {args:?}: {said}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// Runs a command of gatepost's, whatever becomes of it.
    pub(crate) fn try_command(&self, args: &[&str]) -> Output {
        Command::new(env!("CARGO_BIN_EXE_gatepost"))
            .args(args)
            .arg("--config")
            .arg(self.folder.path().join("gatepost.toml"))
            .output()
            .unwrap()
    }

    /// What the proxy has logged since it was ready.
    pub(crate) fn log(&self) -> String {
        self.said.lock().unwrap().clone()
    }

    /// The same, once it has these words so often: they come from another process.
    pub(crate) async fn logged(&self, words: &str, count: usize) -> String {
        let began = Instant::now();
        loop {
            let log = self.log();
            if log.matches(words).count() >= count {
                return log;
            }
            assert!(began.elapsed() < READY, "{words:?} is not {count} times in the log: {log}");
            sleep(Duration::from_millis(20)).await;
        }
    }

    /// What has arrived, once there are so many.
    pub(crate) async fn arrived(&self, count: usize, limit: Duration) -> Vec<SentMail> {
        let began = Instant::now();
        loop {
            let sent = self.emulator.control().sent();
            if sent.len() >= count {
                return sent;
            }
            assert!(began.elapsed() < limit, "{} of {count} within {limit:?}", sent.len());
            sleep(Duration::from_millis(50)).await;
        }
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        if let Some(mut child) = self.proxy.take() {
            let _ = (child.kill(), child.wait());
        }
    }
}

/// The configuration with more SMTP listeners, each with its own keys.
pub(crate) fn with_listeners(text: String, addresses: &[SocketAddr], kinds: &[&str]) -> String {
    let listeners = addresses.iter().zip(kinds).map(|(address, keys)| {
        format!(
            "[[listener]]\nprotocol = \"smtp\"\nprovider = \"lab\"\nlisten = \"{address}\"\n{keys}\n"
        )
    });
    text + &listeners.collect::<String>()
}

/// Mailboxes for so many devices.
pub(crate) fn mailboxes(count: usize) -> Vec<String> {
    (0..count).map(|number| format!("device{number}@contoso.example")).collect()
}
