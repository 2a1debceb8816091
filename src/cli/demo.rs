//! `gatepost demo`: an emulated Exchange, a token endpoint and the proxy, all on this machine.

use std::fs;
use std::net::TcpListener;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};

use super::password::{New, make};
use super::signals::StopSignal;
use super::{logs, ui};
use crate::app::App;
use crate::clock::Clock;
use crate::config::Config;
use crate::emulator::{Emulator, Options, Tls};
use crate::private_file;
use crate::store::Store;

/// The mailbox of the demo.
const MAILBOX: &str = "jane@contoso.example";

#[derive(clap::Args)]
pub(super) struct Args {
    /// Life of the emulated access tokens [default: as Entra's, 60 to 90 minutes]
    #[arg(long, value_name = "SECONDS")]
    token_life: Option<u64>,
}

pub(super) async fn demo(args: Args) -> Result<()> {
    logs::start(logs::LogFormat::Text);
    let mut stop = StopSignal::new()?;
    let folder = tempfile::Builder::new().prefix("gatepost-demo-").tempdir()?;
    let options = Options {
        mailboxes: vec![MAILBOX.into()],
        token_life: args.token_life.map(Duration::from_secs),
        ..Options::default()
    };
    let (secret, tenant) = (options.app.client_secret.clone(), options.app.tenant.clone());
    let client_id = options.app.client_id.clone();
    let emulator = Emulator::start(options).await.context("the emulated Exchange")?;
    let ports = Ports::choose()?;
    fs::write(folder.path().join("ca.pem"), emulator.ca_pem())?;
    private_file::create(&folder.path().join("secret"), secret.as_bytes())?;
    let file = folder.path().join("gatepost.toml");
    fs::write(&file, configuration(&emulator, &ports, &tenant, &client_id))?;
    let password = add_password(&file).await?;
    let app = App::start(Config::load(&file)?, Clock::system()).await?;
    show(&emulator, &ports, &file, &password)?;
    stop.received().await;
    app.stop().await;
    emulator.stop().await;
    Ok(())
}

/// Where the proxy listens: the documents' ports if they are free.
struct Ports {
    imap: u16,
    pop3: u16,
    smtp: u16,
    /// For devices, which don't log in.
    spool: u16,
}

impl Ports {
    fn choose() -> Result<Self> {
        Ok(Self {
            imap: free_port(1143)?,
            pop3: free_port(1110)?,
            smtp: free_port(1587)?,
            spool: free_port(2525)?,
        })
    }
}

fn free_port(wanted: u16) -> Result<u16> {
    let socket =
        TcpListener::bind(("127.0.0.1", wanted)).or_else(|_| TcpListener::bind("127.0.0.1:0"));
    Ok(socket.and_then(|socket| socket.local_addr()).context("a free port")?.port())
}

fn configuration(emulator: &Emulator, ports: &Ports, tenant: &str, client_id: &str) -> String {
    let listener = |protocol: &str, port: u16| {
        format!(
            "[[listener]]\nprotocol = \"{protocol}\"\nlisten = \"localhost:{port}\"\nprovider = \"demo\"\n\n"
        )
    };
    let listeners = [("imap", ports.imap), ("pop3", ports.pop3), ("smtp", ports.smtp)];
    let listeners: String = listeners.map(|(protocol, port)| listener(protocol, port)).concat();
    format!(
        r#"state_dir = "state"

{listeners}[[listener]]
protocol = "smtp"
listen   = "localhost:{spool}"
provider = "demo"
delivery = "spool"

[[device]]
name     = "scanner"
networks = ["127.0.0.1", "::1"]
mailbox  = "{MAILBOX}"

[app.demo]
provider      = "demo"
tenant        = "{tenant}"
client_id     = "{client_id}"
client_secret = {{ file = "secret" }}
grant         = "client_credentials"

[[account]]
mailbox = "{MAILBOX}"
app     = "demo"
via     = ["smtp", "graph"]
sender  = "mailbox"

[provider.demo]
token_url  = "{}"
imap       = "{}"
pop3       = "{}"
smtp       = "{} starttls"
graph      = "{}"
app_scopes = ["https://outlook.office365.com/.default"]
graph_app_scopes = ["https://graph.microsoft.com/.default"]
ca_file    = "ca.pem"
"#,
        emulator.token_url(),
        emulator.imap(Tls::Implicit),
        emulator.pop3(Tls::Implicit),
        emulator.smtp(Tls::StartTls),
        emulator.graph_url(),
        spool = ports.spool,
    )
}

async fn add_password(file: &Path) -> Result<String> {
    let config = Config::load(file)?;
    let store = Store::open(&config.state_dir, None).await?;
    let what = New {
        mailbox: MAILBOX,
        name: Some("demo".into()),
        protocols: Vec::new(),
        networks: Vec::new(),
    };
    let (_, password) = make(&store, what).await?;
    store.close().await;
    Ok(password.expose().clone())
}

fn show(emulator: &Emulator, ports: &Ports, file: &Path, password: &str) -> Result<()> {
    let Ports { imap, pop3, smtp, spool } = ports;
    let curl = format!("curl -sS -u '{MAILBOX}:{password}'");
    let scan = "Subject: scan\\r\\n\\r\\npage 1\\r\\n";
    let mail = format!(
        "From: {MAILBOX}\\r\\nTo: {MAILBOX}\\r\\nSubject: hello gatepost\\r\\n\\r\\nIt works.\\r\\n"
    );
    ui::out(&format!(
        "gatepost demo: a mail client with a password, a mail server that takes only OAuth 2.0

  proxy      imap localhost:{imap}   pop3 localhost:{pop3}   smtp localhost:{smtp}   (no TLS, this machine only)
  devices    smtp localhost:{spool}   taken without a login, and delivered by gatepost
  upstream   imap {imaps} (TLS)   pop3 {pop3s} (TLS)   smtp {smtps} (STARTTLS)   emulated Exchange
  tokens     {tokens}
  faults     {control}
  mailbox    {MAILBOX}
  password   {password}
  config     {file}

Paste these into another terminal.

  List the inbox by IMAP:
    {curl} 'imap://localhost:{imap}/INBOX' -X 'FETCH 1:* (FLAGS INTERNALDATE RFC822.SIZE)'

  Fetch a message by POP3:
    {curl} 'pop3://localhost:{pop3}/1'

  Send one by SMTP:
    printf '{mail}' | {curl} 'smtp://localhost:{smtp}' --mail-from {MAILBOX} --mail-rcpt {MAILBOX} -T -

  Find it in the inbox:
    {curl} 'imap://localhost:{imap}/INBOX?SUBJECT%20%22hello%20gatepost%22'

  Send a scan as a device does, with no login and from an address that doesn't exist; what waits is listed:
    printf '{scan}' | curl -sS 'smtp://localhost:{spool}' --mail-from scanner@old.local --mail-rcpt {MAILBOX} -T -
    {program} --config {file} spool list

  Switch SMTP AUTH off as an administrator might, and have the doctor find it:
    curl -d kind=smtp-auth-disabled {control}/login-outage
    {program} --config {file} doctor

  What gatepost delivers goes by Microsoft Graph then; switch SMTP AUTH on again:
    {program} --config {file} send-test --listener localhost:{spool} --to {MAILBOX}
    curl -d off=1 {control}/login-outage

  Set the mailbox up yourself, with a sign-in in your browser (any password will do):
    {program} --config trial.toml init{trial}

Ctrl-C ends it.",
        imaps = emulator.imap(Tls::Implicit),
        pop3s = emulator.pop3(Tls::Implicit),
        smtps = emulator.smtp(Tls::StartTls),
        tokens = emulator.token_url(),
        control = emulator.control_url(),
        file = file.display(),
        program = std::env::current_exe().unwrap_or_else(|_| "gatepost".into()).display(),
        trial = trial(emulator, file),
    ))
}

/// What a person would find in a portal.
fn trial(emulator: &Emulator, file: &Path) -> String {
    let flags = [
        ("mailbox", MAILBOX.to_owned()),
        ("provider", "trial".to_owned()),
        ("client-id", Options::default().app.client_id),
        ("authorize-url", emulator.authorize_url()),
        ("device-url", emulator.device_url()),
        ("token-url", emulator.token_url()),
        ("imap", emulator.imap(Tls::Implicit).to_string()),
        ("pop3", emulator.pop3(Tls::Implicit).to_string()),
        ("smtp", format!("'{} starttls'", emulator.smtp(Tls::StartTls))),
        ("scope", "https://outlook.office.com/IMAP.AccessAsUser.All".to_owned()),
        ("scope", "https://outlook.office.com/POP.AccessAsUser.All".to_owned()),
        ("scope", "https://outlook.office.com/SMTP.Send".to_owned()),
        ("scope", "offline_access".to_owned()),
        ("ca-file", file.with_file_name("ca.pem").display().to_string()),
        ("state-dir", "trial-state".to_owned()),
    ];
    flags.map(|(flag, value)| format!(" \\\n      --{flag} {value}")).concat()
}
