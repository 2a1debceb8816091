//! An emulated Exchange, and the proxy as a process that is told to reload and to stop.

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use gatepost::emulator::{Control, Emulator, Options, Tls};
use gatepost::store::Store;
use gatepost::vocabulary::Protocol;
use tokio::time::sleep;

use crate::support::{Wire, add_password, try_log_in};

/// For the proxy to be ready, and for what it says.
const LIMIT: Duration = Duration::from_secs(30);

pub(crate) const JANE: &str = "jane@contoso.example";
pub(crate) const JOHN: &str = "john@contoso.example";

/// What is said of a reload.
pub(crate) const RELOADED: &str = "configuration reloaded";
pub(crate) const NOT_RELOADED: &str = "configuration not reloaded";

/// See the module.
pub(crate) struct Proxy {
    emulator: Emulator,
    folder: tempfile::TempDir,
    /// Of both mailboxes.
    passwords: [String; 2],
    child: Child,
    said: Arc<Mutex<String>>,
}

/// Listeners of a configuration, then accounts, then what comes behind.
pub(crate) fn listener(protocol: Protocol, at: SocketAddr, more: &str) -> String {
    format!(
        "[[listener]]\nprotocol = \"{protocol}\"\nlisten = \"{at}\"\nprovider = \"lab\"\n{more}\n"
    )
}

pub(crate) fn account(mailbox: &str) -> String {
    format!("[[account]]\nmailbox = \"{mailbox}\"\napp = \"lab\"\n")
}

impl Proxy {
    /// With the tables of `tables`; when it returns, the proxy listens.
    pub(crate) async fn start(tables: &str) -> Self {
        let mut proxy = Self::begin(tables).await;
        proxy.until("gatepost is ready", 1).await;
        proxy
    }

    /// The same, without waiting.
    pub(crate) async fn begin(tables: &str) -> Self {
        let mailboxes = vec![JANE.to_owned(), JOHN.to_owned()];
        let options = Options { mailboxes, ..Options::default() };
        let secret = options.app.client_secret.clone();
        let emulator = Emulator::start(options).await.unwrap();
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("ca.pem"), emulator.ca_pem()).unwrap();
        fs::write(folder.path().join("secret"), secret).unwrap();
        let store = Store::open(&folder.path().join("state"), None).await.unwrap();
        let passwords =
            [add_password(&store, JANE, "first").await, add_password(&store, JOHN, "first").await];
        store.close().await;
        fs::write(folder.path().join("gatepost.toml"), whole(&emulator, tables)).unwrap();
        let mut child = Command::new(env!("CARGO_BIN_EXE_gatepost"))
            .args(["run", "--config"])
            .arg(folder.path().join("gatepost.toml"))
            .env("GATEPOST_LOG", "info")
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let words = BufReader::new(child.stderr.take().unwrap());
        let said: Arc<Mutex<String>> = Arc::default();
        let heard = Arc::clone(&said);
        std::thread::spawn(move || {
            for line in words.lines().map_while(Result::ok) {
                *heard.lock().unwrap() += &(line + "\n");
            }
        });
        Self { emulator, folder, passwords, child, said }
    }

    pub(crate) fn control(&self) -> &Control {
        self.emulator.control()
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The whole file with these tables.
    pub(crate) fn text(&self, tables: &str) -> String {
        whole(&self.emulator, tables)
    }

    /// As an editor does it: another file in its place.
    pub(crate) fn write(&self, text: &str) {
        fs::write(self.path("new"), text).unwrap();
        fs::rename(self.path("new"), self.path("gatepost.toml")).unwrap();
    }

    pub(crate) fn signal(&self, signal: &str) {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args([signal, &pid]).status().unwrap().success());
    }

    /// Another configuration, read at once; what is said of it.
    pub(crate) async fn reload(&self, tables: &str) -> String {
        self.reload_text(&self.text(tables)).await
    }

    pub(crate) async fn reload_text(&self, text: &str) -> String {
        let before = self.said();
        let count =
            |said: &str| said.matches(RELOADED).count() + said.matches(NOT_RELOADED).count();
        self.write(text);
        self.signal("-HUP");
        let began = Instant::now();
        loop {
            let said = self.said();
            if count(&said) > count(&before) {
                let told = |line: &&str| line.contains(RELOADED) || line.contains(NOT_RELOADED);
                return said.lines().rfind(told).unwrap().to_owned();
            }
            assert!(began.elapsed() < LIMIT, "no reload: {said}");
            sleep(Duration::from_millis(5)).await;
        }
    }

    /// Until it has said this so often.
    pub(crate) async fn until(&mut self, words: &str, times: usize) {
        let began = Instant::now();
        while self.said().matches(words).count() < times {
            assert!(self.child.try_wait().unwrap().is_none(), "it has ended: {}", self.said());
            assert!(began.elapsed() < LIMIT, "{words:?} is not said: {}", self.said());
            sleep(Duration::from_millis(20)).await;
        }
    }

    pub(crate) fn said(&self) -> String {
        self.said.lock().unwrap().clone()
    }

    /// A connection that was greeted.
    pub(crate) async fn open(&self, protocol: Protocol, at: SocketAddr) -> Wire {
        let mut client = Wire::connect(at).await;
        client.answer(protocol).await;
        client
    }

    /// Logs in; the answer to it.
    pub(crate) async fn try_log_in(
        &self,
        client: &mut Wire,
        protocol: Protocol,
        who: &str,
    ) -> String {
        let password = &self.passwords[usize::from(who == JOHN)];
        try_log_in(client, protocol, who, password).await
    }

    /// A connection that is logged in.
    pub(crate) async fn log_in(&self, protocol: Protocol, at: SocketAddr, who: &str) -> Wire {
        let mut client = self.open(protocol, at).await;
        let answer = self.try_log_in(&mut client, protocol, who).await;
        assert!(crate::support::is_welcome(protocol, &answer), "{answer}\n{}", self.said());
        client
    }

    /// Takes the app passwords back, as another process would.
    pub(crate) async fn revoke(&self) {
        let store = Store::open(&self.path("state"), None).await.unwrap();
        for mailbox in [JANE, JOHN] {
            assert!(store.revoke_password(mailbox, "first").await.unwrap());
        }
        store.close().await;
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Open file descriptors, and resident memory in KiB.
    #[cfg(target_os = "linux")]
    pub(crate) fn held(&self) -> (usize, usize) {
        let proc = PathBuf::from(format!("/proc/{}", self.child.id()));
        let files = fs::read_dir(proc.join("fd")).unwrap().count();
        let status = fs::read_to_string(proc.join("status")).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
        (files, line.split_whitespace().nth(1).unwrap().parse().unwrap())
    }

    /// How it ends, and how long that took.
    pub(crate) async fn ended(&mut self) -> (ExitStatus, Duration) {
        let began = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return (status, began.elapsed());
            }
            assert!(began.elapsed() < LIMIT, "it does not end: {}", self.said());
            sleep(Duration::from_millis(10)).await;
        }
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn whole(emulator: &Emulator, tables: &str) -> String {
    let Options { app, .. } = Options::default();
    format!(
        "state_dir = \"state\"\n{tables}\n[app.lab]\nprovider = \"lab\"\ntenant = \"{}\"\n\
         client_id = \"{}\"\nclient_secret = {{ file = \"secret\" }}\ngrant = \"client_credentials\"\n\
         [provider.lab]\ntoken_url = \"{}\"\nca_file = \"ca.pem\"\n\
         app_scopes = [\"https://outlook.office365.com/.default\"]\n\
         imap = \"{}\"\npop3 = \"{}\"\nsmtp = \"{} starttls\"\n",
        app.tenant,
        app.client_id,
        emulator.token_url(),
        emulator.imap(Tls::Implicit),
        emulator.pop3(Tls::Implicit),
        emulator.smtp(Tls::StartTls),
    )
}
