//! An emulator, a configuration for it, and the binary.

use std::path::PathBuf;
use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use gatepost::config::Config;
use gatepost::emulator::{Control, Emulator, Options, Shared, Tls};
use gatepost::oauth::Principal;
use gatepost::store::{Store, Token, TokenFault};
use gatepost::vocabulary::Resource;
use serde_json::Value;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::net::TcpStream;
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::time::{sleep, timeout};

use crate::tap::Tap;
use crate::web::Browser;
use crate::{JANE, JOHN, SHARED};

/// Nothing here takes longer, unless it hangs.
const LIMIT: Duration = Duration::from_secs(30);

/// Between two looks at what should change.
const LOOK: Duration = Duration::from_millis(20);

/// What an app of the tests is registered with; a grant's own keys follow.
pub(crate) const APP: &str = "[app.lab]\nprovider = \"lab\"\ntenant = \"contoso.example\"\n\
     client_id = \"5e1f0a3c-6d1b-4f0e-9a57-0c1d5b7e2f44\"\n";

/// What a [`Site`] is made of.
pub(crate) struct Settings {
    pub(crate) options: Options,
    /// Keys before the first table.
    pub(crate) top: String,
    /// Apps and accounts.
    pub(crate) body: String,
    /// More keys of the provider.
    pub(crate) provider: String,
}

impl Settings {
    /// An app with these keys, and these mailboxes in it.
    pub(crate) fn new(app: &str, mailboxes: &[&str]) -> Self {
        let account = |mailbox| format!("[[account]]\nmailbox = \"{mailbox}\"\napp = \"lab\"\n");
        let accounts: String = mailboxes.iter().map(account).collect();
        let options = Options {
            mailboxes: [JANE, JOHN, SHARED].map(String::from).to_vec(),
            shared: vec![Shared {
                mailbox: SHARED.into(),
                users: [JANE, JOHN].map(String::from).to_vec(),
            }],
            ..Options::default()
        };
        let body = format!("{APP}{app}\n{accounts}");
        Self { options, top: String::new(), body, provider: String::new() }
    }
}

/// See the module.
pub(crate) struct Site {
    pub(crate) emulator: Emulator,
    pub(crate) tap: Tap,
    pub(crate) browser: Browser,
    folder: TempDir,
}

impl Site {
    /// People sign in with a browser.
    pub(crate) async fn by_browser(mailboxes: &[&str]) -> Self {
        Self::new(Settings::new("", mailboxes)).await
    }

    pub(crate) async fn new(settings: Settings) -> Self {
        let emulator = Emulator::start(settings.options).await.unwrap();
        let browser = Browser::new();
        let entra = url::Url::parse(&emulator.token_url()).unwrap();
        let entra = entra.socket_addrs(|| None).unwrap().remove(0);
        let tap = Tap::before(entra, browser.client()).await;
        let site = Self { emulator, tap, browser, folder: tempfile::tempdir().unwrap() };
        site.write("ca.pem", site.emulator.ca_pem());
        site.configure(&settings.top, &settings.body, &settings.provider);
        site
    }

    /// Writes the configuration.
    pub(crate) fn configure(&self, top: &str, body: &str, provider: &str) {
        let endpoint = |name| self.endpoint(name);
        let scope = |name| format!("\"https://outlook.office.com/{name}\"");
        let mut own = format!(
            "authorize_url = \"{}\"\ntoken_url = \"{}\"\ndevice_url = \"{}\"\n\
             imap = \"{}\"\npop3 = \"{}\"\nsmtp = \"{} starttls\"\nca_file = \"ca.pem\"\n",
            endpoint("authorize"),
            endpoint("token"),
            endpoint("devicecode"),
            self.emulator.imap(Tls::Implicit),
            self.emulator.pop3(Tls::Implicit),
            self.emulator.smtp(Tls::StartTls),
        );
        if !provider.contains("app_scopes =") {
            own += "app_scopes = [\"https://outlook.office365.com/.default\"]\n";
        }
        if !provider.lines().any(|line| line.starts_with("scopes =")) {
            own += &format!(
                "scopes = [{}, {}, \"offline_access\"]\n",
                scope("IMAP.AccessAsUser.All"),
                scope("SMTP.Send")
            );
        }
        own += &format!(
            "graph = \"{}\"\ngraph_scopes = [\"https://graph.microsoft.com/Mail.Send\", \"offline_access\"]\n\
             graph_app_scopes = [\"https://graph.microsoft.com/.default\"]\n",
            self.emulator.graph_url()
        );
        let listener =
            "[[listener]]\nprotocol = \"imap\"\nlisten = \"127.0.0.1:0\"\nprovider = \"lab\"\n";
        let text = format!(
            "state_dir = \"state\"\n{top}\n{listener}{body}\n[provider.lab]\n{own}{provider}\n"
        );
        self.write("gatepost.toml", &text);
    }

    /// An endpoint of the emulated Entra, by way of the tap.
    pub(crate) fn endpoint(&self, name: &str) -> String {
        format!("http://{}/contoso.example/oauth2/v2.0/{name}", self.tap.address)
    }

    pub(crate) fn control(&self) -> &Control {
        self.emulator.control()
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn write(&self, name: &str, text: impl AsRef<[u8]>) {
        std::fs::write(self.path(name), text).unwrap();
    }

    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_gatepost"));
        command.arg("--config").arg(self.path("gatepost.toml")).args(arguments);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        // Proxies of the machine are not this test's business.
        for name in ["http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY"] {
            command.env_remove(name);
        }
        command.kill_on_drop(true);
        command
    }

    /// Runs it to its end.
    pub(crate) async fn run(&self, arguments: &[&str]) -> Done {
        Running::start(self.command(arguments)).end().await
    }

    /// The same, and wants success; what is on standard output.
    pub(crate) async fn good(&self, arguments: &[&str]) -> String {
        let done = self.run(arguments).await;
        assert_eq!(done.code, Some(0), "{arguments:?}: {}", done.err);
        done.out
    }

    pub(crate) fn begin(&self, arguments: &[&str]) -> Running {
        Running::start(self.command(arguments))
    }

    /// Signs this mailbox in by a browser.
    pub(crate) async fn sign_in(&self, mailbox: &str, person: &str) -> Done {
        let mut login = self.begin(&["login", mailbox, "--no-browser"]);
        let url = login.line().await;
        let back = self.browser.sign_in(&url, person).await;
        self.browser.get(back).await;
        login.end().await
    }

    /// A new app password.
    pub(crate) async fn password(&self, mailbox: &str) -> String {
        self.good(&["password", "add", mailbox]).await.trim_end().to_owned()
    }

    pub(crate) async fn start(&self) -> Proxy {
        self.start_with(self.command(&["run"])).await
    }

    pub(crate) async fn start_with(&self, mut command: Command) -> Proxy {
        let running = Running::start({
            command.env("GATEPOST_LOG", "debug");
            command
        });
        let said = running.said("gatepost is ready: ").await;
        let (_, port) = said.split_once("imap on 127.0.0.1:").unwrap();
        let port = port.lines().next().unwrap().parse().unwrap();
        Proxy { running, port }
    }

    pub(crate) fn config(&self) -> Config {
        Config::load_without_secrets(&self.path("gatepost.toml")).unwrap()
    }

    pub(crate) async fn store(&self) -> Store {
        Store::open(&self.config().state_dir, None).await.unwrap()
    }

    pub(crate) fn key(&self, mailbox: &str) -> String {
        Principal::of(&self.config().account(mailbox).unwrap()).key()
    }

    /// What the store has of this mailbox's sign-in.
    pub(crate) async fn token(&self, mailbox: &str) -> Option<Token> {
        self.store().await.token(&self.key(mailbox)).await.unwrap().0
    }

    pub(crate) async fn refresh_token(&self, mailbox: &str) -> Option<String> {
        Some(self.token(mailbox).await?.refresh_token?.expose().clone())
    }

    pub(crate) async fn fault(&self, mailbox: &str) -> Option<TokenFault> {
        self.store().await.fault(&self.key(mailbox), Resource::Mail).await.unwrap()
    }

    /// `gatepost status --json` of this mailbox.
    pub(crate) async fn status(&self, mailbox: &str) -> Value {
        let status: Value = serde_json::from_str(&self.good(&["status", "--json"]).await).unwrap();
        let mut accounts = status["accounts"].as_array().unwrap().iter();
        accounts.find(|account| account["mailbox"] == mailbox).unwrap().clone()
    }
}

/// The binary while it runs. It is killed when this is dropped.
pub(crate) struct Running {
    child: Child,
    input: Option<ChildStdin>,
    out: Lines<BufReader<ChildStdout>>,
    err: Arc<Mutex<String>>,
    reader: tokio::task::JoinHandle<()>,
}

/// What it came to.
#[derive(Debug)]
pub(crate) struct Done {
    pub(crate) code: Option<i32>,
    /// What was not read as lines before.
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Running {
    pub(crate) fn start(mut command: Command) -> Self {
        let mut child = command.spawn().unwrap();
        let out = BufReader::new(child.stdout.take().unwrap()).lines();
        let (input, mut pipe) = (child.stdin.take(), child.stderr.take().unwrap());
        let err = Arc::new(Mutex::new(String::new()));
        let said = Arc::clone(&err);
        let reader = tokio::spawn(async move {
            let mut buffer = vec![0; 8192];
            let mut all = Vec::new();
            while let Ok(count @ 1..) = pipe.read(&mut buffer).await {
                all.extend_from_slice(&buffer[..count]);
                *said.lock().unwrap() = String::from_utf8_lossy(&all).into_owned();
            }
        });
        Self { child, input, out, err, reader }
    }

    /// The next line on standard output.
    pub(crate) async fn line(&mut self) -> String {
        let line = timeout(LIMIT, self.out.next_line()).await.expect("a line in time").unwrap();
        line.unwrap_or_else(|| panic!("it has ended: {}", self.err()))
    }

    /// Types a line.
    pub(crate) async fn type_in(&mut self, line: &str) {
        let input = self.input.as_mut().unwrap();
        input.write_all(format!("{line}\n").as_bytes()).await.unwrap();
        input.flush().await.unwrap();
    }

    /// Standard error so far.
    pub(crate) fn err(&self) -> String {
        self.err.lock().unwrap().clone()
    }

    /// Waits for these words on standard error.
    pub(crate) async fn said(&self, words: &str) -> String {
        eventually(words, async || self.err().contains(words).then(|| self.err())).await
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id().unwrap()
    }

    /// `kill -9`.
    pub(crate) async fn kill(mut self) -> String {
        self.child.kill().await.unwrap();
        self.err()
    }

    /// Waits for its end. Its standard input stays open: nobody has typed anything more.
    pub(crate) async fn end(mut self) -> Done {
        let ended = async {
            let mut out = String::new();
            while let Some(line) = self.out.next_line().await.unwrap() {
                out += &format!("{line}\n");
            }
            (self.child.wait().await.unwrap().code(), out)
        };
        let (code, out) = match timeout(LIMIT, ended).await {
            Ok(ended) => ended,
            Err(_) => panic!("it does not end: {}", self.err.lock().unwrap()),
        };
        timeout(LIMIT, self.reader).await.unwrap().unwrap();
        let err = self.err.lock().unwrap().clone();
        Done { code, out, err }
    }
}

/// A running proxy.
pub(crate) struct Proxy {
    pub(crate) running: Running,
    pub(crate) port: u16,
}

impl Proxy {
    /// The answer to an IMAP login.
    pub(crate) async fn log_in(&self, user: &str, password: &str) -> String {
        log_in(self.port, user, password).await
    }

    /// Logs in until it works: the proxy hears of a sign-in within a second.
    pub(crate) async fn admits(&self, user: &str, password: &str) {
        eventually("a login", async || {
            self.log_in(user, password).await.starts_with("a OK").then_some(())
        })
        .await;
    }

    /// SIGTERM, and its log.
    pub(crate) async fn stop(self) -> String {
        let id = self.running.id().to_string();
        let killed = std::process::Command::new("kill").args(["-TERM", &id]).status();
        assert!(killed.unwrap().success());
        let done = self.running.end().await;
        assert_eq!(done.code, Some(0), "{}", done.err);
        done.err
    }
}

/// The answer to an IMAP login at this port.
pub(crate) async fn log_in(port: u16, user: &str, password: &str) -> String {
    let dialogue = async {
        let mut stream = BufReader::new(TcpStream::connect(("127.0.0.1", port)).await?);
        let mut line = String::new();
        stream.read_line(&mut line).await?;
        let user = user.replace('\\', "\\\\");
        stream.write_all(format!("a LOGIN \"{user}\" {password}\r\n").as_bytes()).await?;
        line.clear();
        while !line.starts_with("a ") {
            line.clear();
            if stream.read_line(&mut line).await? == 0 {
                return Err(std::io::Error::from(std::io::ErrorKind::UnexpectedEof));
            }
        }
        Ok(line.trim_end().to_owned())
    };
    timeout(LIMIT, dialogue).await.expect("an answer in time").unwrap()
}

/// Looks until there is something.
pub(crate) async fn eventually<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let looking = async {
        loop {
            if let Some(found) = look().await {
                return found;
            }
            sleep(LOOK).await;
        }
    };
    timeout(LIMIT, looking).await.unwrap_or_else(|_| panic!("{what}: not in time"))
}
