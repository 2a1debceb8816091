//! The commands as a script calls them: exit status, standard output, standard error, and no secret in any.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use gatepost::emulator::{Emulator, Options, Tls};
use serde_json::Value;

const JANE: &str = "jane@contoso.example";
const WRONG: &str = "wr0ng-but-secret-too";

/// An emulated Exchange, a configuration for it, and the binary.
struct Bench {
    folder: tempfile::TempDir,
    emulator: Emulator,
    _runtime: tokio::runtime::Runtime,
}

impl Bench {
    fn new() -> Self {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let emulator = runtime.block_on(Emulator::start(Options::default())).unwrap();
        let bench = Self { folder: tempfile::tempdir().unwrap(), emulator, _runtime: runtime };
        fs::write(bench.path("ca.pem"), bench.emulator.ca_pem()).unwrap();
        fs::write(bench.path("secret"), format!("{}\n", Options::default().app.client_secret))
            .unwrap();
        bench.write("client_credentials", "127.0.0.1:0");
        bench
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Three listeners on free ports, an account of this grant.
    fn write(&self, grant: &str, listen: &str) {
        let Options { app, .. } = Options::default();
        let listener = |protocol| {
            format!(
                "[[listener]]\nprotocol = \"{protocol}\"\nlisten = \"{listen}\"\nprovider = \"lab\"\n"
            )
        };
        let text = format!(
            r#"state_dir = "state"
{}
[app.lab]
provider      = "lab"
client_id     = "{}"
client_secret = {{ file = "secret" }}
grant         = "{grant}"
[[account]]
mailbox = "{JANE}"
app     = "lab"
[provider.lab]
token_url  = "{}"
imap       = "{}"
pop3       = "{}"
smtp       = "{} starttls"
scopes     = ["https://outlook.office.com/IMAP.AccessAsUser.All", "https://outlook.office.com/POP.AccessAsUser.All", "https://outlook.office.com/SMTP.Send", "offline_access"]
app_scopes = ["https://outlook.office365.com/.default"]
ca_file    = "ca.pem"
"#,
            ["imap", "pop3", "smtp"].map(listener).concat(),
            app.client_id,
            self.emulator.token_url(),
            self.emulator.imap(Tls::Implicit),
            self.emulator.pop3(Tls::Implicit),
            self.emulator.smtp(Tls::StartTls),
        );
        fs::write(self.path("gatepost.toml"), text).unwrap();
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_gatepost"));
        command.arg("--config").arg(self.path("gatepost.toml")).args(arguments);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    fn run_with(&self, arguments: &[&str], input: &str) -> Output {
        let mut child = self.command(arguments).spawn().unwrap();
        child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
        child.wait_with_output().unwrap()
    }

    fn run(&self, arguments: &[&str]) -> Output {
        self.run_with(arguments, "")
    }

    /// Runs, wants success, gives standard output.
    fn good(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        assert!(output.status.success(), "{arguments:?}: {}", words(&output));
        String::from_utf8(output.stdout).unwrap()
    }

    /// Runs, wants this exit status and these words on standard error.
    fn bad(&self, arguments: &[&str], status: i32, wanted: &[&str]) {
        let output = self.run(arguments);
        assert_eq!(output.status.code(), Some(status), "{arguments:?}: {}", words(&output));
        assert!(output.stdout.is_empty(), "{arguments:?} prints on standard output");
        for word in wanted {
            assert!(
                words(&output).contains(word),
                "{arguments:?}: no {word:?} in: {}",
                words(&output)
            );
        }
    }

    fn start(&self) -> Proxy {
        let mut child = self.command(&["run"]).env("GATEPOST_LOG", "trace").spawn().unwrap();
        let mut log = BufReader::new(child.stderr.take().unwrap());
        let mut seen = String::new();
        while !seen.contains("gatepost is ready: ") {
            assert_ne!(log.read_line(&mut seen).unwrap(), 0, "not ready: {seen}");
        }
        let ready = seen.lines().last().unwrap();
        let ports = ready.split(", ").map(|at| at.rsplit(':').next().unwrap().parse().unwrap());
        let ports = ports.collect::<Vec<_>>().try_into().unwrap();
        let log = std::thread::spawn(move || {
            log.read_to_string(&mut seen).unwrap();
            seen
        });
        Proxy { child, ports, log }
    }
}

fn words(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// A running proxy.
struct Proxy {
    child: Child,
    /// imap, pop3, smtp
    ports: [u16; 3],
    log: JoinHandle<String>,
}

impl Proxy {
    /// Sends lines one by one, each when the one before is answered; gives the last answer.
    fn talk(&self, protocol: usize, lines: &[String]) -> String {
        let stream = TcpStream::connect(("127.0.0.1", self.ports[protocol])).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let mut reader = BufReader::new(stream.try_clone().unwrap());
        let mut answer = String::new();
        let mut read = |answer: &mut String| loop {
            answer.clear();
            let more = |answer: &str| {
                answer.as_bytes().get(3) == Some(&b'-') || answer.starts_with("* NO")
            };
            if reader.read_line(answer).unwrap() == 0 || !more(answer) {
                return;
            }
        };
        read(&mut answer);
        for line in lines {
            (&stream).write_all(format!("{line}\r\n").as_bytes()).unwrap();
            read(&mut answer);
        }
        answer
    }

    fn log_in_everywhere(&self, password: &str) -> [String; 3] {
        let plain = BASE64_STANDARD.encode(format!("\0{JANE}\0{password}"));
        let smtp = ["EHLO test".into(), format!("AUTH PLAIN {plain}")];
        [
            self.talk(0, &[format!("1 LOGIN {JANE} {password}")]),
            self.talk(1, &[format!("USER {JANE}"), format!("PASS {password}")]),
            self.talk(2, &smtp),
        ]
    }

    fn stop(mut self) -> String {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
        assert!(self.child.wait().unwrap().success());
        self.log.join().unwrap()
    }
}

#[test]
fn errors_of_the_configuration_name_file_line_key_and_remedy() {
    let bench = Bench::new();
    let good = fs::read_to_string(bench.path("gatepost.toml")).unwrap();
    let cases: [(&str, &str, &[&str]); 6] = [
        ("state_dir", "state_folder", &["line 1", "state_folder", "hint:"]),
        ("\"127.0.0.1:0\"", "5", &["line 4", "listener[0].listen", "hint:"]),
        ("app     = \"lab\"", "app = \"nowhere\"", &["account[0].app", "[app.nowhere]"]),
        (
            "\"127.0.0.1:0\"",
            "\"127.0.0.1:1143\"",
            &["listener[1].listen", "taken by the listener of line 2"],
        ),
        ("\"127.0.0.1:0\"", "\"0.0.0.0:0\"", &["listener[0].tls", "allow_plaintext_lan"]),
        ("client_id", "client_secrets", &["app.lab", "client_secrets"]),
    ];
    for (from, to, wanted) in cases {
        fs::write(bench.path("gatepost.toml"), good.replace(from, to)).unwrap();
        for command in ["check", "run"] {
            bench.bad(&[command], 2, &[wanted, &["gatepost.toml"]].concat());
        }
    }
    bench.bad(&["fly"], 2, &["fly"]);
    fs::write(bench.path("gatepost.toml"), good).unwrap();
    assert_eq!(bench.good(&["check"]), "");
}

#[test]
fn passwords_are_made_listed_and_revoked() {
    let bench = Bench::new();
    // Whoever adds a password need not have the client secret.
    fs::remove_file(bench.path("secret")).unwrap();
    bench.bad(&["run"], 2, &["app.lab.client_secret", "hint:"]);
    let made = bench.good(&[
        "password",
        "add",
        JANE,
        "--name",
        "scanner",
        "--protocol",
        "smtp",
        "--from",
        "10.1.2.0/24",
    ]);
    assert_eq!(made.trim_end().len(), 23, "{made:?}");
    bench.bad(&["password", "add", JANE, "--name", "scanner"], 1, &["scanner", "hint:"]);
    bench.bad(&["password", "add", "john@contoso.example"], 2, &["john@contoso.example", JANE]);
    bench.bad(&["password", "add", JANE, "--protocol", "ftp"], 2, &["ftp"]);
    bench.bad(&["password", "add", JANE, "--from", "lan"], 2, &["192.168.7.0/24"]);
    let chosen = bench.run_with(&["password", "add", JANE, "--stdin"], "of my own\n");
    assert!(chosen.status.success() && chosen.stdout.is_empty(), "{}", words(&chosen));
    bench.bad(&["password", "add", JANE, "--stdin"], 2, &["no password", "hint:"]);
    let list = bench.good(&["password", "list"]);
    assert!(
        list.contains("scanner") && list.contains("smtp") && list.contains("10.1.2.0/24"),
        "{list}"
    );
    assert!(list.contains("device-1") && !list.contains(made.trim_end()), "{list}");
    bench.bad(&["password", "revoke", JANE], 2, &["device-1, scanner"]);
    bench.good(&["password", "revoke", JANE, "scanner"]);
    bench.bad(&["password", "revoke", JANE, "--name", "scanner"], 1, &["scanner"]);
    bench.good(&["password", "revoke", JANE]);
    assert_eq!(bench.good(&["password", "list"]).lines().count(), 1);
}

#[test]
fn a_refresh_token_is_imported_beside_a_running_proxy() {
    let bench = Bench::new();
    bench.write("authorization_code", "127.0.0.1:0");
    let password = bench.good(&["password", "add", JANE]);
    let proxy = bench.start();
    let [imap, pop3, smtp] = proxy.log_in_everywhere(password.trim_end());
    assert!(imap.starts_with("1 NO [UNAVAILABLE]") && imap.contains("gatepost login"), "{imap}");
    assert!(pop3.starts_with("-ERR [SYS/TEMP]"), "{pop3}");
    assert!(smtp.starts_with("454 4.7.0"), "{smtp}");
    bench.bad(&["login", JANE], 2, &["--refresh-token-stdin"]);
    let wrong = bench.run_with(&["login", JANE, "--refresh-token-stdin"], "none-of-entras\n");
    assert_eq!(wrong.status.code(), Some(1));
    assert!(words(&wrong).contains("AADSTS"), "{}", words(&wrong));
    let token = bench.emulator.issue_refresh_token(JANE);
    let login = bench.run_with(&["login", JANE, "--refresh-token-stdin"], &token);
    assert!(login.status.success() && login.stdout.is_empty(), "{}", words(&login));
    let signed_in = Instant::now();
    while !proxy.log_in_everywhere(password.trim_end())[0].starts_with("1 OK") {
        assert!(signed_in.elapsed() < Duration::from_secs(1), "the sign-in is not honoured");
    }
    let status: Value = serde_json::from_str(&bench.good(&["status", "--json"])).unwrap();
    assert_eq!(status["accounts"][0]["state"], "ready");
    assert_eq!(status["proxies"][0], proxy.child.id());
    bench.good(&["logout", JANE]);
    bench.bad(&["logout", JANE], 1, &["not signed in"]);
    assert!(bench.good(&["status"]).contains("sign in needed"));
    let log = proxy.stop();
    assert!(!log.contains(&token));
}

#[test]
fn a_store_or_key_that_others_can_read_is_refused() {
    if !cfg!(unix) {
        return;
    }
    let bench = Bench::new();
    bench.good(&["password", "add", JANE]);
    for name in ["gatepost.db", "gatepost.key"] {
        let path = bench.path("state").join(name);
        chmod(&path, "644");
        bench.bad(&["status"], 1, &[name, "chmod 600"]);
        chmod(&path, "600");
    }
    bench.good(&["status"]);
}

fn chmod(path: &Path, mode: &str) {
    assert!(Command::new("chmod").arg(mode).arg(path).status().unwrap().success());
}

#[test]
fn a_listener_on_the_lan_needs_a_password_first() {
    let bench = Bench::new();
    bench.write("client_credentials", "0.0.0.0:0");
    let text = fs::read_to_string(bench.path("gatepost.toml")).unwrap();
    let text =
        text.replace("provider = \"lab\"\n", "provider = \"lab\"\nallow_plaintext_lan = true\n");
    fs::write(bench.path("gatepost.toml"), text).unwrap();
    bench.bad(&["run"], 1, &["no app password", "gatepost password add"]);
    let password = bench.good(&["password", "add", JANE]);
    let proxy = bench.start();
    assert!(proxy.log_in_everywhere(password.trim_end())[0].starts_with("1 OK"));
    proxy.stop();
}

#[test]
fn completions_and_help() {
    let bench = Bench::new();
    for shell in ["bash", "zsh", "fish", "powershell", "elvish"] {
        assert!(bench.good(&["completions", shell]).contains("gatepost"), "{shell}");
    }
    assert!(bench.good(&["--help"]).contains("password"));
}

/// Everything at TRACE, with right and wrong passwords, failing and working tokens.
#[test]
fn no_secret_is_ever_logged() {
    let bench = Bench::new();
    let made = bench.good(&["password", "add", JANE]);
    let made = made.trim_end();
    bench.run_with(&["password", "add", JANE, "--stdin"], "Ch0sen-by-a-person\n");
    let proxy = bench.start();
    for round in 0..2 {
        for [imap, pop3, smtp] in [made, "Ch0sen-by-a-person"].map(|it| proxy.log_in_everywhere(it))
        {
            assert!(
                imap.starts_with("1 OK") && pop3.starts_with("+OK") && smtp.starts_with("235"),
                "{imap} {pop3} {smtp}"
            );
        }
        let [imap, pop3, smtp] = proxy.log_in_everywhere(WRONG);
        assert!(imap.starts_with("1 NO [AUTHENTICATIONFAILED]"), "{imap}");
        assert!(pop3.starts_with("-ERR [AUTH]") && smtp.starts_with("535 5.7.8"), "{pop3} {smtp}");
        if round == 0 {
            // The next round begins with tokens that the upstream rejects.
            bench.emulator.control().revoke_access_tokens();
        }
    }
    let unknown = proxy.talk(0, &[format!("1 LOGIN s3cret-user@contoso.example {WRONG}")]);
    assert!(unknown.starts_with("1 NO [AUTHENTICATIONFAILED]"), "{unknown}");
    let arguments = fs::read(format!("/proc/{}/cmdline", proxy.child.id())).unwrap_or_default();
    let log = proxy.stop();
    assert!(log.contains("TRACE") && log.contains(JANE), "the log is not what this test is about");
    let key = fs::read_to_string(bench.path("state/gatepost.key")).unwrap();
    let secret = Options::default().app.client_secret;
    let planted = [made, "Ch0sen-by-a-person", WRONG, "s3cret-user", key.trim(), secret.as_str()];
    for planted in planted.into_iter().chain(["eyJ", "Bearer "]) {
        for form in forms(planted) {
            assert!(
                !log.contains(&form),
                "{planted:?} is in the log as {form:?}:\n{}",
                around(&log, &form)
            );
            assert!(
                !String::from_utf8_lossy(&arguments).contains(&form),
                "{planted:?} is an argument"
            );
        }
    }
}

/// As it is, percent-encoded as in a form, and the parts that base64 always has, at each of its phases.
fn forms(secret: &str) -> Vec<String> {
    let encoded: String = url::form_urlencoded::byte_serialize(secret.as_bytes()).collect();
    let mut forms = vec![secret.to_owned(), encoded];
    if secret.len() > 8 {
        for phase in 0..3 {
            let text = BASE64_STANDARD.encode(format!("{}{secret}", "x".repeat(phase)));
            forms.push(text[4..text.len() - 4].to_owned());
        }
    }
    forms
}

fn around(log: &str, form: &str) -> String {
    log.lines().filter(|line| line.contains(form)).take(3).collect::<Vec<_>>().join("\n")
}

#[test]
fn a_number_of_threads_that_is_none_is_told_of() {
    let bench = Bench::new();
    for wrong in ["none", "0", "257", "-1", ""] {
        let output = bench.command(&["check"]).env("GATEPOST_WORKERS", wrong).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{wrong}: {}", words(&output));
        let said = words(&output);
        assert!(said.contains(&format!("GATEPOST_WORKERS is {wrong:?}")), "{said}");
        assert!(said.contains("a number from 1 to 256"), "{said}");
    }
    let output = bench.command(&["check"]).env("GATEPOST_WORKERS", "4").output().unwrap();
    assert!(output.status.success(), "{}", words(&output));
}
