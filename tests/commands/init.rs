//! `gatepost init`: from nothing to a login, by flags and by answers typed into a terminal.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use gatepost::config::{Config, Credential, Grant, SecretSource};
use gatepost::emulator::{Emulator, Options, Tls};
use serde_json::Value;

const JANE: &str = "jane@contoso.example";
const ID: &str = "5e1f0a3c-6d1b-4f0e-9a57-0c1d5b7e2f44";

/// A home folder with nothing in it.
struct Home(tempfile::TempDir);

impl Home {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn file(&self) -> PathBuf {
        self.path("config/gatepost.toml")
    }

    fn command(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_gatepost"));
        command.env("HOME", self.0.path()).env("XDG_STATE_HOME", self.path("state"));
        command.env("XDG_CONFIG_HOME", self.path("xdg")).current_dir(self.0.path());
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    fn run_with(&self, arguments: &[&str], input: &str) -> Output {
        let mut command = self.command();
        let mut child = command.arg("--config").arg(self.file()).args(arguments).spawn().unwrap();
        // Whoever refuses at once reads nothing.
        let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
        child.wait_with_output().unwrap()
    }

    fn run(&self, arguments: &[&str]) -> Output {
        self.run_with(arguments, "")
    }

    fn good(&self, arguments: &[&str], input: &str) -> String {
        let output = self.run_with(arguments, input);
        assert!(output.status.success(), "{arguments:?}: {}", words(&output));
        String::from_utf8(output.stdout).unwrap()
    }

    /// Wants this exit status, these words on standard error, nothing on standard output.
    fn bad(&self, arguments: &[&str], input: &str, status: i32, wanted: &[&str]) {
        let output = self.run_with(arguments, input);
        assert_eq!(output.status.code(), Some(status), "{arguments:?}: {}", words(&output));
        assert!(output.stdout.is_empty(), "{arguments:?} prints on standard output");
        for word in wanted {
            let said = words(&output);
            assert!(said.contains(word), "{arguments:?}: no {word:?} in: {said}");
        }
    }

    /// Names of all that is there.
    fn contents(&self) -> Vec<PathBuf> {
        let mut found = Vec::new();
        let mut folders = vec![self.0.path().to_owned()];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    folders.push(path.clone());
                }
                found.push(path);
            }
        }
        found
    }

    /// Starts the proxy, logs in by IMAP with this password, and gives the answer.
    fn log_in(&self, mailbox: &str, password: &str) -> String {
        let mut command = self.command();
        let mut proxy = command.arg("--config").arg(self.file()).arg("run").spawn().unwrap();
        let mut log = BufReader::new(proxy.stderr.take().unwrap());
        let mut seen = String::new();
        while !seen.contains("gatepost is ready: ") {
            assert_ne!(log.read_line(&mut seen).unwrap(), 0, "not ready: {seen}");
        }
        let ready = seen.split("imap on ").nth(1).unwrap();
        let address = ready.split([',', '\n']).next().unwrap();
        let stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
        lines.next().unwrap().unwrap();
        (&stream).write_all(format!("1 LOGIN {mailbox} {password}\r\n").as_bytes()).unwrap();
        let answer = lines.next().unwrap().unwrap();
        proxy.kill().unwrap();
        proxy.wait().unwrap();
        answer
    }
}

fn words(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn strings(arguments: &[String]) -> Vec<&str> {
    arguments.iter().map(String::as_str).collect()
}

/// An emulated Exchange and token endpoint.
struct Lab {
    emulator: Emulator,
    _runtime: tokio::runtime::Runtime,
}

impl Lab {
    fn new(home: &Home) -> Self {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let emulator = runtime.block_on(Emulator::start(Options::default())).unwrap();
        fs::write(home.path("ca.pem"), emulator.ca_pem()).unwrap();
        Self { emulator, _runtime: runtime }
    }

    fn imap(&self) -> String {
        self.emulator.imap(Tls::Implicit).to_string()
    }

    fn smtp(&self) -> String {
        format!("{} starttls", self.emulator.smtp(Tls::StartTls))
    }

    /// All flags that make a configuration for it.
    fn flags(&self, grant: &str, more: &[&str]) -> Vec<String> {
        let (token_url, imap, smtp) = (self.emulator.token_url(), self.imap(), self.smtp());
        let flags = [
            ["--mailbox", JANE],
            ["--provider", "lab"],
            ["--grant", grant],
            ["--client-id", ID],
            ["--token-url", &token_url],
            ["--device-url", &token_url],
            ["--imap", &imap],
            ["--smtp", &smtp],
            ["--scope", "https://outlook.office365.com/.default"],
            ["--ca-file", "ca.pem"],
            ["--listen", "imap=127.0.0.1:0"],
            ["--listen", "smtp=127.0.0.1:0"],
        ];
        let flags = flags.as_flattened().iter().chain(more).map(|&flag| flag.to_owned());
        std::iter::once("init".to_owned()).chain(flags).collect()
    }
}

#[test]
fn an_app_by_itself_from_nothing_to_a_login() {
    let home = Home::new();
    let lab = Lab::new(&home);
    let secret = Options::default().app.client_secret;
    let flags = lab.flags("client_credentials", &["--client-secret-stdin"]);
    let made = home.run_with(&strings(&flags), &format!("{secret}\n"));
    let said = words(&made);
    assert!(made.status.success(), "{said}");
    // The password alone, and nowhere else.
    let password = String::from_utf8(made.stdout).unwrap();
    let password = password.strip_suffix('\n').unwrap();
    assert_eq!((password.len(), password.matches('-').count()), (23, 3), "{password:?}");
    assert!(!said.contains(password));
    for word in ["IMAP", "SMTP", "localhost", JANE, "gatepost run", "gatepost doctor", "signed in"]
    {
        assert!(said.contains(word), "no {word:?} in: {said}");
    }
    assert!(!said.contains("gatepost login"), "{said}");

    let text = fs::read_to_string(home.file()).unwrap();
    assert!(!text.contains(&secret), "{text}");
    assert_eq!(fs::read_to_string(home.path("config/contoso-secret")).unwrap(), secret);
    private(&[home.path("config/contoso-secret"), home.file()], 0o600);
    private(&[home.path("config"), home.path("state/gatepost")], 0o700);

    assert_eq!(home.good(&["check"], ""), "");
    let status: Value = serde_json::from_str(&home.good(&["status", "--json"], "")).unwrap();
    assert_eq!(status["accounts"][0]["state"], "ready");
    assert_eq!(status["accounts"][0]["passwords"], 1);
    assert!(home.log_in(JANE, password).starts_with("1 OK"));
    assert!(home.log_in(JANE, "wrong").starts_with("1 NO"));
}

#[cfg(unix)]
fn private(paths: &[PathBuf], wanted: u32) {
    use std::os::unix::fs::PermissionsExt;
    for path in paths {
        let mode = fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode, wanted, "{}: {mode:o}", path.display());
    }
}

#[cfg(not(unix))]
fn private(_: &[PathBuf], _: u32) {}

#[test]
fn a_person_signs_in_later() {
    let home = Home::new();
    let flags =
        ["init", "--mailbox", JANE, "--client-id", ID, "--no-login", "--password-name", "p"];
    let made = home.run(&[&flags[..], &["--signed-in-as", "john@contoso.example"]].concat());
    let said = words(&made);
    assert!(made.status.success() && said.contains(&format!("{JANE}\n")), "{said}");
    assert!(said.contains("gatepost login --config"), "{said}");
    let config = Config::load(&home.file()).unwrap();
    let account = config.accounts.first().unwrap();
    assert_eq!(account.signed_in_as.as_deref(), Some("john@contoso.example"));
    assert_eq!(account.app.grant, Grant::AuthorizationCode);
    assert_eq!(account.app.provider.name, "microsoft365");
    // Any verified domain names the tenant.
    assert_eq!(account.app.tenant, "contoso.example");
    let protocols: Vec<_> = config.listeners.iter().map(|it| it.protocol.name()).collect();
    assert_eq!(protocols, ["imap", "smtp"]);
    assert!(home.good(&["password", "list"], "").contains(" p "));
    assert!(home.good(&["status"], "").contains("sign in needed"));
}

/// The file stays, the password is not lost, and the command that goes on is named.
#[test]
fn a_refused_sign_in_leaves_the_configuration() {
    let home = Home::new();
    let lab = Lab::new(&home);
    let flags = lab.flags("client_credentials", &["--client-secret-stdin"]);
    let made = home.run_with(&strings(&flags), "wrong");
    let said = words(&made);
    assert_eq!(made.status.code(), Some(1), "{said}");
    assert_eq!(made.stdout.len(), 24);
    assert!(said.contains("AADSTS") && said.contains("gatepost login --config"), "{said}");
    fs::write(home.path("config/contoso-secret"), Options::default().app.client_secret).unwrap();
    home.good(&["login", JANE], "");
    let password = String::from_utf8(made.stdout).unwrap();
    assert!(home.log_in(JANE, password.trim()).starts_with("1 OK"));
}

#[test]
fn all_that_is_missing_is_named_at_once() {
    let home = Home::new();
    home.bad(&["init"], "", 2, &["--mailbox", "--client-id", "hint:"]);
    let app = ["--mailbox", "--client-id", "--client-secret-stdin", "--pkcs12", "--certificate"];
    home.bad(&["init", "--yes", "--grant", "client_credentials"], "", 2, &app);
    let own = ["--token-url", "--imap", "--mailbox", "--client-id"];
    home.bad(&["init", "--authorize-url", "https://login.example/a"], "", 2, &own);
    home.bad(
        &["init", "--grant", "jwt_bearer", "--provider", "gmail"],
        "",
        2,
        &["--mailbox", "--service-account", "--client-id"],
    );
    assert_eq!(home.contents(), Vec::<PathBuf>::new());
}

#[test]
fn a_file_that_is_there_is_not_touched() {
    let home = Home::new();
    fs::create_dir(home.path("config")).unwrap();
    fs::write(home.file(), "# mine\n").unwrap();
    let before = fs::metadata(home.file()).unwrap().modified().unwrap();
    let flags = ["init", "--mailbox", JANE, "--client-id", ID, "--yes"];
    home.bad(&flags, "", 2, &["gatepost.toml", "never overwritten", "--config OTHER"]);
    // It comes before everything else.
    home.bad(&["init", "--client-id", "nonsense"], "", 2, &["never overwritten"]);
    assert_eq!(fs::read_to_string(home.file()).unwrap(), "# mine\n");
    assert_eq!(fs::metadata(home.file()).unwrap().modified().unwrap(), before);
    assert_eq!(home.contents().len(), 2);
}

#[test]
fn nonsense_is_refused_and_leaves_nothing() {
    let home = Home::new();
    let base = ["--no-login", "--mailbox", JANE];
    let cases: [(&[&str], &[&str]); 15] = [
        (&["--client-id", "gatepost"], &["--client-id", "36 characters", "Overview"]),
        (&["--client-id", ID, "--tenant", ID], &["the tenant's id"]),
        (&["--client-id", ID, "--provider", "exchange"], &["exchange", "microsoft365, "]),
        (&["--client-id", ID, "--imap", "a:1", "--provider", "gmail"], &["--imap", "built in"]),
        (
            &["--client-id", ID, "--provider", "outlook.com", "--grant", "client_credentials"],
            &["client_credentials", "authorization_code"],
        ),
        (&["--client-id", ID, "--grant", "jwt_bearer"], &["jwt_bearer", "managed_identity"]),
        (
            &["--client-id", ID, "--token-url", "https://a.example", "--ca-file", "none.pem"],
            &["no such file"],
        ),
        (&["--client-id", ID, "--certificate", "app.pem"], &["--private-key"]),
        (&["--client-id", ID, "--pkcs12", "a", "--client-secret-stdin"], &["cannot be used with"]),
        (&["--client-id", ID, "--listen", "imap=1143"], &["--listen", "no address"]),
        (&["--client-id", ID, "--protocol", "jmap"], &["jmap"]),
        (
            &["--client-id", ID, "--listen", "imap=0.0.0.0:0", "--tls", "none"],
            &["nothing was written", "plain text"],
        ),
        (&["--client-id", ID, "--redirect-uri", "http://example.com"], &["redirect_uri"]),
        (
            &["--client-id", ID, "--client-secret-env", "GATEPOST_TEST_NO_SUCH"],
            &["GATEPOST_TEST_NO_SUCH", "nothing was written"],
        ),
        (
            &["--client-id", ID, "--client-secret-stdin", "--grant", "client_credentials"],
            &["Value"],
        ),
    ];
    for (flags, wanted) in cases {
        home.bad(&[&["init"], &base[..], flags].concat(), ID, 2, wanted);
        assert_eq!(home.contents(), Vec::<PathBuf>::new(), "{flags:?}");
    }
    // The secret is on the disk already when the configuration is refused.
    let flags = ["--client-id", ID, "--grant", "client_credentials", "--client-secret-stdin"];
    let wrong = ["--listen", "imap=127.0.0.1:1", "--listen", "smtp=127.0.0.1:1"];
    home.bad(&[&["init"], &base[..], &flags, &wrong].concat(), "s3cret", 2, &["nothing was"]);
    assert_eq!(home.contents(), Vec::<PathBuf>::new());
}

/// Quotes, backslashes and control characters are values, whatever they look like.
#[test]
fn odd_characters_survive() {
    let home = Home::new();
    let lab = Lab::new(&home);
    let mailbox = r#"o'ha"ra\s@contoso.example"#;
    let state = home.path(r#"st"ate 'of' \x C:\n"#);
    fs::write(home.path(r#"se"cret\n"#), "s3cret\n").unwrap();
    let flags = lab.flags("client_credentials", &["--client-secret-file", r#"se"cret\n"#]);
    let mut flags = strings(&flags);
    *flags.iter_mut().find(|flag| **flag == JANE).unwrap() = mailbox;
    let more =
        ["--state-dir", state.to_str().unwrap(), "--no-login", "--password-name", "the \"old\""];
    home.good(&[&flags[..], &more].concat(), "");
    let config = Config::load(&home.file()).unwrap();
    let account = config.accounts.first().unwrap();
    assert_eq!(account.mailbox, mailbox);
    assert_eq!(config.state_dir, state);
    let secret = SecretSource::File(home.path(r#"se"cret\n"#));
    assert_eq!(account.app.credential, Some(Credential::Secret(secret)));
    assert!(home.good(&["password", "list"], "").contains("the \"old\""));

    let other = Home::new();
    let forged = "x\"\n[app.evil]\nclient_id = \"y";
    other.bad(
        &["init", "--mailbox", JANE, "--client-id", ID, "--tenant", forged],
        "",
        2,
        &["--tenant"],
    );
    other.bad(
        &[
            "init",
            "--mailbox",
            JANE,
            "--client-id",
            ID,
            "--scope",
            forged,
            "--state-dir",
            forged,
            "--no-login",
            "--redirect-uri",
            forged,
        ],
        "",
        2,
        &["redirect_uri"],
    );
    assert_eq!(other.contents(), Vec::<PathBuf>::new());
}

#[test]
fn every_key_is_explained_where_it_stands() {
    let home = Home::new();
    let lab = Lab::new(&home);
    let more =
        ["--redirect-uri", "http://localhost:1", "--state-dir", "s", "--signed-in-as", "j@x.y"];
    let flags =
        lab.flags("device_code", &[&more[..], &["--no-login", "--client-secret-stdin"]].concat());
    home.good(&strings(&flags), "s3cret");
    let text = fs::read_to_string(home.file()).unwrap();
    let mut keys = 0;
    let mut before = String::new();
    for line in text.lines() {
        if let Some(words) = line.strip_prefix('#') {
            before.push_str(words);
            before.push('\n');
        } else if let Some((key, _)) = line.split_once(" = ") {
            let named = before.lines().any(|words| words.contains(key));
            assert!(named, "no comment before {key} tells of it:\n{text}");
            keys += 1;
        }
        assert!(!line.starts_with('#') || line.len() <= 80, "{line}");
    }
    assert!(keys > 20, "only {keys} keys:\n{text}");
    // What is left out is there to be used.
    let examples: String = text
        .lines()
        .map(|line| match line.strip_prefix("# ") {
            Some(key) if key.contains(" = ") && !key.contains(": ") => format!("{key}\n"),
            _ => format!("{line}\n"),
        })
        .collect();
    assert!(examples.contains("\naliases = ") && examples.contains("\non_attention = "));
    fs::write(home.file(), examples).unwrap();
    Config::load(&home.file()).unwrap();
}

#[test]
fn a_port_that_is_taken_is_passed_over() {
    let home = Home::new();
    // If it can't be bound, somebody else has it, which is as good.
    let _taken = TcpListener::bind("127.0.0.1:1143");
    let flags =
        ["init", "--mailbox", JANE, "--client-id", ID, "--no-login", "--no-password", "--protocol"];
    let made = home.run(&[&flags[..], &["imap"]].concat());
    assert!(made.status.success() && made.stdout.is_empty(), "{}", words(&made));
    assert!(words(&made).contains("port 1143 is taken"), "{}", words(&made));
    assert!(words(&made).contains("gatepost password add --config"), "{}", words(&made));
    let config = Config::load(&home.file()).unwrap();
    let address = config.listeners.first().unwrap().addresses.first().unwrap().address;
    assert!(address.ip().is_loopback() && address.port() > 1143, "{address}");
}

/// Without `--config` it goes where every command looks for it.
#[test]
fn the_default_place_is_the_platforms_folder() {
    let home = Home::new();
    let flags = ["init", "--mailbox", JANE, "--client-id", ID, "--no-login", "--no-password"];
    let output = home.command().args(flags).stdin(Stdio::null()).output().unwrap();
    assert!(output.status.success(), "{}", words(&output));
    assert!(words(&output).contains(&format!("gatepost login {JANE}")), "{}", words(&output));
    let output = home.command().arg("check").output().unwrap();
    assert!(output.status.success(), "{}", words(&output));
}

/// The real questions, in a terminal of 80 columns.
#[cfg(unix)]
mod terminal {
    use rexpect::session::{Options as Session, PtySession, spawn_with_options};

    use super::*;

    const ENTER: &str = "\r";
    const DOWN: &str = "\x1b[B";

    struct Terminal(PtySession);

    impl Terminal {
        fn open(home: &Home, arguments: &[&str]) -> Self {
            let script = "stty cols 80 rows 24; \"$@\"; echo \"status $?\"";
            let mut command = Command::new("sh");
            command.args(["-c", script, "sh", env!("CARGO_BIN_EXE_gatepost"), "--config"]);
            command.arg(home.file()).args(arguments).current_dir(home.0.path());
            command.env("HOME", home.0.path()).env("XDG_STATE_HOME", home.path("state"));
            command.env("NO_COLOR", "1").env("TERM", "xterm");
            let options = Session::new().timeout_ms(Some(30_000)).strip_ansi_escape_codes(true);
            Self(spawn_with_options(command, options).unwrap())
        }

        /// Waits for the end of a question's help, which is drawn last, then types.
        fn answer(&mut self, help: &str, typed: &str) {
            self.sees(help);
            self.0.send(typed).unwrap();
            self.0.flush().unwrap();
        }

        fn sees(&mut self, words: &str) -> String {
            self.0.exp_string(words).unwrap()
        }
    }

    #[test]
    fn answers_lead_to_a_login() {
        let home = Home::new();
        let lab = Lab::new(&home);
        let secret = Options::default().app.client_secret;
        let line = |text: &str| format!("{text}{ENTER}");
        let listen = ["--listen", "imap=127.0.0.1:0", "--listen", "smtp=127.0.0.1:0"];
        let mut terminal = Terminal::open(&home, &[&["init"], &listen[..]].concat());
        terminal.answer("Esc ends without a trace", &format!("{}{ENTER}", DOWN.repeat(6)));
        terminal.answer("letters, digits, hyphens]", &line("lab"));
        terminal.answer("openid-configuration]", &line(&lab.emulator.token_url()));
        terminal.answer("Enter if there is none]", ENTER);
        terminal.answer("Enter if there is none]", ENTER);
        terminal.answer("Enter if there is none]", &line(&lab.imap()));
        terminal.answer("Enter if there is none]", ENTER);
        terminal.answer("Enter if there is none]", &line(&lab.smtp()));
        terminal.answer("Enter if there is none]", &line("ca.pem"));
        terminal.answer("logs in with]", &line(JANE));
        // Without a browser's or a device's URL only the app by itself can sign in.
        terminal.answer("Enter for none]", &line("https://outlook.office365.com/.default"));
        terminal.answer("its client id]", &line(&format!("  {ID} ")));
        terminal.answer("at the app registration; Esc ends without a trace]", ENTER);
        terminal.answer("its client secret]", &line(&secret));
        terminal.answer("revoked alone]", &line("the old laptop"));
        terminal.sees("is signed in");
        terminal.sees("password   ");
        let password = terminal.sees("\r\n");
        let end = terminal.sees("status 0");
        assert!(end.contains("gatepost run") && !end.contains("gatepost login"), "{end}");
        let status: Value = serde_json::from_str(&home.good(&["status", "--json"], "")).unwrap();
        assert_eq!(status["accounts"][0]["state"], "ready");
        assert!(home.good(&["password", "list"], "").contains("the old laptop"));
        assert!(home.log_in(JANE, password.trim()).starts_with("1 OK"), "{password:?}");
    }

    #[test]
    fn what_is_wrong_is_said_at_once_and_esc_and_ctrl_c_leave_nothing() {
        for end in ["\x1b", "\x03"] {
            let home = Home::new();
            let flags = ["init", "--provider", "microsoft365", "--mailbox", JANE];
            let mut terminal = Terminal::open(&home, &flags);
            terminal.answer("people with a browser]", &format!("{DOWN}{DOWN}{ENTER}"));
            terminal.sees("https://entra.microsoft.com");
            terminal.answer("or the domain]", ENTER);
            terminal.answer("Application (client) ID]", &format!("gatepost{ENTER}"));
            terminal.sees("36 characters");
            terminal
                .answer("Application (client) ID]", &format!("{}{ID}{ENTER}", "\x7f".repeat(8)));
            terminal.answer("at the app registration; Esc ends without a trace]", ENTER);
            terminal.answer("not its Secret ID]", &format!("{ID}{ENTER}"));
            terminal.sees("its Value, in");
            let shown = terminal.sees("not its Secret ID]");
            assert!(!shown.contains(ID), "the secret is shown: {shown}");
            terminal.0.send(end).unwrap();
            terminal.0.flush().unwrap();
            terminal.sees("nothing was written");
            terminal.sees("status 1");
            assert_eq!(home.contents(), Vec::<PathBuf>::new());
        }
    }
}
