//! An emulated Exchange, and the proxy as a process.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use gatepost::access::{Hasher, generate};
use gatepost::clock::Clock;
use gatepost::emulator::{Emulator, Options, SentMail, Tls};
use gatepost::store::{Hash, PasswordRecord, Store};
use tokio::time::sleep;

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
    folder: tempfile::TempDir,
    proxy: Option<Child>,
}

impl Site {
    pub(crate) async fn new(plan: Plan) -> Self {
        Self::with_keys(plan, "").await
    }

    /// The same, with more keys that stand before all tables.
    pub(crate) async fn with_keys(plan: Plan, keys: &str) -> Self {
        let emulator = Emulator::start(plan.emulated.clone()).await.unwrap();
        let folder = tempfile::tempdir().unwrap();
        let (spool, direct) = (free_port(), free_port());
        let path = |name: &str| folder.path().join(name);
        fs::write(path("ca.pem"), emulator.ca_pem()).unwrap();
        fs::write(path("secret"), &plan.emulated.app.client_secret).unwrap();
        let mut text = format!(
            "state_dir = \"state\"\n{keys}\n\
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
        fs::write(path("gatepost.toml"), text + plan.more).unwrap();
        let store = Store::open(&path("state"), None).await.unwrap();
        let mut passwords = Vec::new();
        for mailbox in &plan.emulated.mailboxes {
            passwords.push(add_password(&store, mailbox).await);
        }
        store.close().await;
        let mut site = Self { emulator, spool, direct, passwords, folder, proxy: None };
        site.start();
        site
    }

    /// Starts the proxy; when it returns, it listens.
    pub(crate) fn start(&mut self) {
        let mut child = Command::new(env!("CARGO_BIN_EXE_gatepost"))
            .args(["run", "--config"])
            .arg(self.folder.path().join("gatepost.toml"))
            .env("GATEPOST_LOG", std::env::var("GATEPOST_LOG").unwrap_or("warn".into()))
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut words = BufReader::new(child.stderr.take().unwrap());
        let began = Instant::now();
        let mut line = String::new();
        while !line.contains("gatepost is ready") {
            line.clear();
            let read = words.read_line(&mut line).unwrap();
            assert!(read > 0 && began.elapsed() < READY, "the proxy does not start: {line}");
        }
        // What it says later must not fill the pipe.
        std::thread::spawn(move || {
            let mut said = Vec::new();
            let _ = words.read_to_end(&mut said);
            if std::env::var_os("GATEPOST_LOG").is_some() {
                eprintln!("{}", String::from_utf8_lossy(&said));
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
        let output = Command::new(env!("CARGO_BIN_EXE_gatepost"))
            .args(args)
            .arg("--config")
            .arg(self.folder.path().join("gatepost.toml"))
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "gatepost {args:?}: {said}");
        String::from_utf8(output.stdout).unwrap()
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

/// Below the ephemeral ports, so that nothing takes it while the proxy is down.
fn free_port() -> SocketAddr {
    loop {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, fastrand::u16(10_000..20_000)));
        if TcpListener::bind(address).is_ok() {
            return address;
        }
    }
}

async fn add_password(store: &Store, mailbox: &str) -> String {
    let password = generate().unwrap();
    let hash = Hasher::new(store).generated(mailbox, password.expose());
    let record = PasswordRecord {
        mailbox: mailbox.into(),
        name: "device".into(),
        hash: Hash::Generated(hash.to_vec()),
        protocols: Vec::new(),
        networks: Vec::new(),
        created_at: Clock::system().now(),
    };
    assert!(store.add_password(&record).await.unwrap());
    password.expose().clone()
}

/// Mailboxes for so many devices.
pub(crate) fn mailboxes(count: usize) -> Vec<String> {
    (0..count).map(|number| format!("device{number}@contoso.example")).collect()
}
