//! Faults planted one at a time: the doctor names each as its first error, with a remedy, and finds nothing when it
//! is mended.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use crate::support::{Authority, Fake, Leaf, free_address};
use gatepost::access::{Hasher, generate};
use gatepost::clock::Clock;
use gatepost::config::{SenderRule, SpoolSettings};
use gatepost::doctor::{Code, Finding, Level, Wish, examine};
use gatepost::emulator::{
    Emulator, GraphFault, GraphStep, LoginFault, Options, Protocol, Registration, Shared, Tls,
    TokenFault,
};
use gatepost::outbox::{Source, Spool};
use gatepost::protocol::{Envelope, Recipient};
use gatepost::store::{Hash, PasswordRecord, Store};
use gatepost::vocabulary::TlsMode;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

const JANE: &str = "jane@contoso.example";
const SUPPORT: &str = "support@contoso.example";
const SCOPES: &str = r#"["https://outlook.office.com/IMAP.AccessAsUser.All", "https://outlook.office.com/POP.AccessAsUser.All", "https://outlook.office.com/SMTP.Send", "offline_access"]"#;

/// An emulated Exchange and a configuration for it, both as they should be.
struct Ward {
    folder: tempfile::TempDir,
    emulator: Emulator,
    text: String,
}

impl Ward {
    async fn new() -> Self {
        Self::with(Options::default(), "client_credentials", "").await
    }

    async fn with(options: Options, grant: &str, account: &str) -> Self {
        let emulator = Emulator::start(options).await.unwrap();
        let folder = tempfile::tempdir().unwrap();
        let app = Options::default().app;
        let listeners = ["imap", "pop3", "smtp"].map(|protocol| {
            format!(
                "[[listener]]\nprotocol = \"{protocol}\"\nlisten = \"127.0.0.1:{}\"\nprovider = \"lab\"\n",
                free_address().port()
            )
        });
        let text = format!(
            r#"state_dir = "state"
{listeners}
[app.lab]
provider      = "lab"
tenant        = "{tenant}"
client_id     = "{client_id}"
client_secret = {{ file = "secret" }}
grant         = "{grant}"
[[account]]
mailbox = "{JANE}"
app     = "lab"
{account}
[provider.lab]
token_url  = "{token}"
imap       = "{imap}"
pop3       = "{pop3}"
smtp       = "{smtp} starttls"
scopes     = {SCOPES}
graph      = "{graph}"
app_scopes = ["https://outlook.office365.com/.default"]
graph_scopes     = ["https://graph.microsoft.com/Mail.Send", "https://graph.microsoft.com/Mail.ReadWrite", "offline_access"]
graph_app_scopes = ["https://graph.microsoft.com/.default"]
ca_file    = "ca.pem"
"#,
            listeners = listeners.concat(),
            tenant = app.tenant,
            client_id = app.client_id,
            token = emulator.token_url().replace(&app.tenant, "{tenant}"),
            imap = emulator.imap(Tls::Implicit),
            pop3 = emulator.pop3(Tls::Implicit),
            smtp = emulator.smtp(Tls::StartTls),
            graph = emulator.graph_url(),
        );
        let ward = Self { folder, emulator, text };
        ward.write_private("ca.pem", ward.emulator.ca_pem());
        ward.write_private("secret", &app.client_secret);
        ward.write_private("gatepost.toml", &ward.text);
        for mailbox in [JANE, SUPPORT] {
            ward.add_password(mailbox).await;
        }
        ward
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn write_private(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).unwrap();
        chmod(&self.path(name), "600");
    }

    /// The configuration with one thing changed.
    fn change(&self, from: &str, to: &str) {
        assert!(self.text.contains(from), "{from} is not in the configuration");
        self.write_private("gatepost.toml", &self.text.replacen(from, to, 1));
    }

    /// The configuration with another mail server.
    fn serve_imap(&self, endpoint: &str) {
        self.change(
            &format!("imap       = \"{}\"", self.emulator.imap(Tls::Implicit)),
            &format!("imap = {endpoint:?}"),
        );
    }

    /// No listener is for anything else.
    fn serve_smtp_alone(&mut self, delivery: &str) {
        let lines = self.text.lines().filter(|line| !line.starts_with("delivery = "));
        let line = |line: &str| match line.starts_with("protocol = ") {
            true => format!("protocol = \"smtp\"\ndelivery = {delivery:?}\n"),
            false => format!("{line}\n"),
        };
        self.text = lines.map(line).collect();
        self.write_private("gatepost.toml", &self.text);
    }

    async fn store(&self) -> Store {
        Store::open(&self.path("state"), None).await.unwrap()
    }

    async fn add_password(&self, mailbox: &str) {
        let store = self.store().await;
        let hash = Hasher::new(&store).generated(mailbox, generate().unwrap().expose());
        let record = PasswordRecord {
            mailbox: mailbox.into(),
            name: "first".into(),
            hash: Hash::Generated(hash.to_vec()),
            protocols: Vec::new(),
            networks: Vec::new(),
            created_at: Clock::system().now(),
        };
        store.add_password(&record).await.unwrap();
        store.close().await;
    }

    async fn examine(&self) -> Vec<Finding> {
        self.examine_with(Wish::default()).await
    }

    async fn examine_with(&self, wish: Wish<'_>) -> Vec<Finding> {
        examine(&self.path("gatepost.toml"), wish).await
    }

    /// The first error is this one, and its remedy has these words.
    async fn names(&self, code: Code, remedy: &str) -> Finding {
        let findings = self.examine().await;
        expect_first(&findings, code, remedy)
    }

    /// No error, and each warning is one of these.
    async fn is_well_but(&self, warnings: &[Code]) {
        let findings = self.examine().await;
        let unwell: Vec<_> = findings
            .iter()
            .filter(|finding| finding.level != Level::Ok && !warnings.contains(&finding.code))
            .collect();
        assert!(unwell.is_empty(), "{unwell:#?}");
        for code in warnings {
            assert!(
                findings.iter().any(|finding| finding.code == *code),
                "no {code}: {findings:#?}"
            );
        }
    }

    fn command(&self, arguments: &[&str]) -> std::process::Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_gatepost"));
        command.arg("--config").arg(self.path("gatepost.toml")).args(arguments);
        command.output().unwrap()
    }
}

fn expect_first(findings: &[Finding], code: Code, remedy: &str) -> Finding {
    let first = findings.first().unwrap();
    assert_eq!((first.level, first.code), (Level::Error, code), "{findings:#?}");
    assert!(first.remedy.contains(remedy), "no {remedy:?} in {first:#?}");
    first.clone()
}

fn chmod(path: &std::path::Path, mode: &str) {
    assert!(Command::new("chmod").arg(mode).arg(path).status().unwrap().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn all_is_well() {
    let ward = Ward::new().await;
    ward.is_well_but(&[Code::NotRunning]).await;
    let findings = ward.examine().await;
    for code in [Code::Token, Code::Login, Code::MailServer, Code::TokenEndpoint, Code::Store] {
        assert!(findings.iter().any(|finding| finding.code == code), "no {code}: {findings:#?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_configuration() {
    let ward = Ward::new().await;
    ward.change("state_dir", "state_folder");
    ward.names(Code::Config, "configuration.md").await;
    ward.change("provider = \"lab\"", "provider = \"microsoft365\"");
    ward.names(Code::Config, "provider").await;
    fs::remove_file(ward.path("gatepost.toml")).unwrap();
    ward.names(Code::Config, "gatepost init").await;
    let only = "state_dir = \"state\"\n";
    ward.write_private("gatepost.toml", only);
    ward.names(Code::Config, "gatepost init").await;
    ward.write_private("gatepost.toml", &ward.text);
    ward.is_well_but(&[Code::NotRunning]).await;
}

#[cfg(unix)]
#[tokio::test(flavor = "multi_thread")]
async fn the_store_and_what_others_can_read() {
    let ward = Ward::new().await;
    for name in ["state/gatepost.db", "state/gatepost.key"] {
        chmod(&ward.path(name), "644");
        ward.names(Code::Permissions, "chmod 600").await;
        chmod(&ward.path(name), "600");
    }
    chmod(&ward.path("secret"), "644");
    ward.is_well_but(&[Code::NotRunning, Code::Permissions]).await;
    if rustix::process::geteuid().is_root() {
        // Of another user than the one whose the state is: with the mode alone gatepost could not read it either.
        std::os::unix::fs::chown(ward.path("secret"), Some(54_321), None).unwrap();
        let found = examine(&ward.path("gatepost.toml"), Wish::default()).await;
        let found = found.iter().find(|one| one.code == Code::Permissions).unwrap();
        let secret = ward.path("secret").display().to_string();
        let owned = format!("`chown 0 {secret} && chmod 600 {secret}`");
        let passed = format!("LoadCredential=NAME:{secret}");
        assert!(found.remedy.contains(&owned) && found.remedy.contains(&passed), "{found:?}");
        std::os::unix::fs::chown(ward.path("secret"), Some(0), None).unwrap();
    }
    chmod(&ward.path("secret"), "600");
    let key = fs::read(ward.path("state/gatepost.key")).unwrap();
    ward.write_private("state/gatepost.key", &"0".repeat(64));
    ward.names(Code::Store, "key").await;
    ward.write_private("state/gatepost.key", &String::from_utf8(key).unwrap());
    ward.is_well_but(&[Code::NotRunning]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn listeners_and_passwords() {
    let ward = Ward::new().await;
    let line = ward.text.lines().find(|line| line.starts_with("listen ")).unwrap().to_owned();
    let port: u16 = line.trim_end_matches('"').rsplit(':').next().unwrap().parse().unwrap();
    let taken = TcpListener::bind(("127.0.0.1", port)).await.unwrap();
    let found = ward.names(Code::PortTaken, "another port").await;
    assert!(found.what.contains(&format!("process {}", std::process::id())), "{found:?}");
    drop(taken);
    ward.change(&line, "listen = \"192.0.2.7:1143\"\nallow_plaintext_lan = true");
    ward.names(Code::Listener, "ip address").await;
    ward.write_private("gatepost.toml", &ward.text);
    let store = ward.store().await;
    store.revoke_password(JANE, "first").await.unwrap();
    store.close().await;
    ward.names(Code::NoPassword, "gatepost password add").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn credentials_and_their_end() {
    let ward = Ward::new().await;
    fs::remove_file(ward.path("secret")).unwrap();
    ward.names(Code::Credential, "file").await;
    ward.write_private("secret", "");
    ward.names(Code::Credential, "file").await;
    ward.write_private("secret", &Options::default().app.client_secret);
    let with_end = |end: &str| format!("client_secret_expires = {end}\nclient_secret");
    ward.change("client_secret", &with_end("2024-05-06"));
    ward.names(Code::CredentialExpiry, "Certificates & secrets").await;
    let soon = Clock::system().now().plus(std::time::Duration::from_secs(9 * 86_400));
    ward.change("client_secret", &with_end(soon.text().split(' ').next().unwrap()));
    ward.is_well_but(&[Code::NotRunning, Code::CredentialExpiry]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn names_and_connections() {
    let ward = Ward::new().await;
    ward.serve_imap("no-such-host.invalid:993");
    ward.names(Code::Dns, "getent hosts").await;
    ward.serve_imap(&free_address().to_string());
    ward.names(Code::Tcp, "firewall").await;
    ward.serve_imap(&ward.emulator.imap(Tls::StartTls).to_string());
    ward.names(Code::MailServer, "starttls").await;
    ward.emulator.control().set_mail_outage(true);
    ward.write_private("gatepost.toml", &ward.text);
    ward.names(Code::MailServer, "").await;
    ward.emulator.control().set_mail_outage(false);
    let token = format!("token_url  = \"http://127.0.0.1:{}/token\"", free_address().port());
    let line = ward.text.lines().find(|line| line.starts_with("token_url")).unwrap().to_owned();
    ward.change(&line, &token);
    ward.names(Code::Tcp, "firewall").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn certificates() {
    let ward = Ward::new().await;
    let unknown = "\nca_file    = \"ca.pem\"";
    ward.change(unknown, "");
    ward.names(Code::Tls, "ca_file").await;
    let authority = Authority::new();
    ward.write_private("ca.pem", &(ward.emulator.ca_pem().to_owned() + &authority.pem()));
    for (leaf, code, remedy) in [
        (Leaf::OtherName, Code::TlsName, "resolves to"),
        (Leaf::Expired, Code::TlsExpired, "timedatectl"),
    ] {
        ward.serve_imap(&shows(&authority, leaf).await.endpoint(TlsMode::Implicit));
        ward.names(code, remedy).await;
    }
    let inspector = Authority::named("Contoso TLS Inspection CA");
    ward.serve_imap(&shows(&inspector, Leaf::Good).await.endpoint(TlsMode::Implicit));
    let found = ward.names(Code::TlsIntercepted, "ca_file").await;
    assert!(found.what.contains("Contoso TLS Inspection CA"), "{found:?}");
}

/// An IMAP server that does no more than show its certificate and greet.
async fn shows(authority: &Authority, leaf: Leaf) -> Fake {
    let acceptor = authority.acceptor(leaf);
    Fake::start(move |wire| {
        let acceptor = acceptor.clone();
        async move {
            if let Ok(mut wire) = wire.accept_tls(&acceptor).await {
                wire.send("* OK ready\r\n").await;
            }
        }
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_clock_and_the_token_endpoint() {
    let ward = Ward::new().await;
    ward.emulator.control().set_clock_offset(1_200);
    ward.names(Code::Clock, "set-ntp").await;
    ward.emulator.control().set_clock_offset(100);
    ward.is_well_but(&[Code::NotRunning, Code::Clock]).await;
    ward.emulator.control().set_clock_offset(0);
    let down = TokenFault::Status { status: 503, retry_after: None };
    for fault in [down, TokenFault::Closed] {
        ward.emulator.control().set_token_outage(Some(fault));
        ward.names(Code::TokenEndpoint, "try again").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_token_endpoint_refuses() {
    let ward = Ward::new().await;
    let app = Options::default().app;
    let changes = [
        (app.tenant.as_str(), "fabrikam.example", Code::Tenant, "tenant"),
        (
            app.client_id.as_str(),
            "00000000-1111-2222-3333-444444444444",
            Code::AppRegistration,
            "client",
        ),
        ("grant  ", "scopes = [\"nonsense\"]\ngrant  ", Code::Scope, "scope"),
    ];
    for (from, to, code, remedy) in changes {
        ward.change(from, to);
        let found = ward.names(code, "").await;
        assert!(found.remedy.to_lowercase().contains(remedy), "{found:?}");
    }
    ward.write_private("gatepost.toml", &ward.text);
    ward.write_private("secret", "of-another-app");
    ward.names(Code::ClientAuthentication, "secret").await;
    ward.write_private("secret", &app.client_secret);
    let answers = [
        (7_000_222, Code::CredentialExpiry, "secret"),
        (700_027, Code::ClientAuthentication, "certificate"),
        (65_001, Code::Consent, "onsent"),
        (53_003, Code::Policy, ""),
        (50_076, Code::Policy, ""),
        (50_173, Code::SignIn, "gatepost login"),
        (700_082, Code::SignIn, "gatepost login"),
        (500_011, Code::Scope, ""),
    ];
    for (number, code, remedy) in answers {
        ward.emulator.control().set_token_outage(Some(TokenFault::Aadsts(number)));
        let found = ward.names(code, remedy).await;
        assert!(found.what.contains("for support: client-request-id"), "{found:?}");
        assert!(!found.remedy.is_empty(), "{found:?}");
    }
    ward.emulator.control().set_token_outage(None);
    ward.is_well_but(&[Code::NotRunning]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sign_ins() {
    let ward = Ward::with(Options::default(), "authorization_code", "").await;
    ward.names(Code::SignIn, "gatepost login").await;
    sign_in(&ward, &ward.emulator.issue_refresh_token(JANE));
    ward.is_well_but(&[Code::NotRunning]).await;
    // Its renewals are renewals: what they brought is kept.
    ward.is_well_but(&[Code::NotRunning]).await;
    ward.emulator.control().revoke_refresh_tokens(JANE);
    ward.names(Code::SignIn, "gatepost login").await;
    sign_in(&ward, &ward.emulator.issue_refresh_token(SUPPORT));
    let findings = ward.examine().await;
    let told = findings.iter().find(|finding| finding.code == Code::TokenIdentity).unwrap();
    assert!(told.what.contains(SUPPORT) && told.remedy.contains("signed_in_as"), "{told:?}");
}

fn sign_in(ward: &Ward, refresh_token: &str) {
    ward.write_private("token", refresh_token);
    let mut command = Command::new(env!("CARGO_BIN_EXE_gatepost"));
    command.arg("--config").arg(ward.path("gatepost.toml"));
    command.args(["login", JANE, "--refresh-token-stdin"]);
    let done = command.stdin(fs::File::open(ward.path("token")).unwrap()).output().unwrap();
    assert!(done.status.success(), "{done:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_token_is_for() {
    let ward = Ward::new().await;
    ward.change("grant  ", "scopes = [\"https://graph.microsoft.com/.default\"]\ngrant  ");
    ward.names(Code::TokenAudience, "scopes").await;
    let registration = Registration {
        roles: vec!["IMAP.AccessAsApp".into(), "POP.AccessAsApp".into()],
        ..Registration::default()
    };
    let options = Options { registration, ..Options::default() };
    let ward = Ward::with(options, "client_credentials", "").await;
    let found = ward.names(Code::TokenPermission, "SMTP.SendAsApp").await;
    assert!(found.remedy.contains("gatepost entra script"), "{found:?}");
    let ward = Ward::with(Options::default(), "authorization_code", "").await;
    ward.change("grant  ", "scopes = [\"https://outlook.office.com/IMAP.AccessAsUser.All\", \"offline_access\"]\ngrant  ");
    sign_in(&ward, &ward.emulator.issue_refresh_token(JANE));
    ward.names(Code::TokenPermission, "scopes").await;
    ward.change(
        "grant  ",
        "scopes = [\"https://outlook.office.com/IMAP.AccessAsUser.All\"]\ngrant  ",
    );
    ward.names(Code::NoRefreshToken, "offline_access").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_exchange_refuses() {
    let ward = Ward::new().await;
    let table = [
        (LoginFault::SmtpAuthDisabled, Code::SmtpAuthTenant, "Set-TransportConfig"),
        (LoginFault::SmtpAuthDisabledMailbox, Code::SmtpAuthMailbox, "Set-CASMailbox"),
        (LoginFault::AuthFailed, Code::MailboxPermission, "Add-MailboxPermission"),
        (LoginFault::NotConnected, Code::MailboxPermission, "Add-MailboxPermission"),
        (LoginFault::Throttled { milliseconds: 5_000 }, Code::Throttled, ""),
        (LoginFault::ConnectionLimit, Code::Throttled, ""),
        (LoginFault::AccessTokenExpired, Code::TokenIdentity, ""),
    ];
    for (fault, code, remedy) in table {
        ward.emulator.control().set_login_fault(Some(fault));
        ward.names(code, remedy).await;
    }
    ward.emulator.control().set_login_fault(None);
    ward.is_well_but(&[Code::NotRunning]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_protocol_that_is_switched_off_is_told_from_a_missing_permission() {
    for (protocol, remedy) in
        [(Protocol::Imap, "-ImapEnabled $true"), (Protocol::Pop3, "-PopEnabled $true")]
    {
        let switched_off = vec![(JANE.to_owned(), protocol)];
        let registration = Registration { switched_off, ..Registration::default() };
        let options = Options { registration, ..Options::default() };
        let ward = Ward::with(options, "client_credentials", "").await;
        ward.names(Code::ProtocolOff, remedy).await;
        // Without the other listener, the other protocol's server tells it all the same.
        if protocol == Protocol::Imap {
            ward.change("protocol = \"pop3\"", "protocol = \"smtp\"");
            ward.names(Code::ProtocolOff, remedy).await;
        }
    }
    let mut options = Options::default();
    options.app.mailboxes = Some(vec![SUPPORT.into()]);
    let ward = Ward::with(options, "client_credentials", "").await;
    let found = ward.names(Code::MailboxPermission, "New-ServicePrincipal").await;
    assert!(found.remedy.contains("-ObjectId"), "{found:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sender_that_is_not_allowed() {
    let shared = vec![Shared { mailbox: SUPPORT.into(), users: vec![JANE.into()] }];
    let options = Options { shared, ..Options::default() };
    let account =
        format!("[[account]]\nmailbox = \"{SUPPORT}\"\napp = \"lab\"\nsigned_in_as = \"{JANE}\"");
    let ward = Ward::with(options, "authorization_code", &account).await;
    sign_in(&ward, &ward.emulator.issue_refresh_token(JANE));
    ward.emulator.control().set_login_fault(Some(LoginFault::SenderRefused));
    ward.names(Code::SendAs, "SendAs").await;
    ward.emulator.control().set_login_fault(Some(LoginFault::SendAsDenied));
    let findings = ward.examine_with(Wish { mailbox: Some(SUPPORT), send: true }).await;
    expect_first(&findings, Code::SendAs, "SendAs");
    assert!(ward.emulator.control().messages(SUPPORT, "INBOX").len() < 10);
    ward.emulator.control().set_login_fault(None);
    let before = ward.emulator.control().messages(SUPPORT, "INBOX").len();
    ward.is_well_but(&[Code::NotRunning]).await;
    assert_eq!(
        ward.emulator.control().messages(SUPPORT, "INBOX").len(),
        before,
        "mail was sent unasked"
    );
    let findings = ward.examine_with(Wish { mailbox: Some(SUPPORT), send: true }).await;
    assert!(findings.iter().all(|finding| finding.level != Level::Error), "{findings:#?}");
    assert_eq!(ward.emulator.control().messages(SUPPORT, "INBOX").len(), before + 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn by_graph_alone_smtp_may_be_off_and_graph_must_work() {
    let mut ward = Ward::with(Options::default(), "client_credentials", "via = [\"graph\"]").await;
    ward.serve_smtp_alone("direct");
    let control = ward.emulator.control();
    control.set_login_fault(Some(LoginFault::SmtpAuthDisabled));
    let findings = ward.examine().await;
    assert!(findings.iter().all(|finding| finding.level != Level::Error), "{findings:#?}");
    let graph = findings.iter().find(|finding| finding.code == Code::Graph).unwrap();
    assert!(graph.level == Level::Ok && graph.subject.contains(JANE), "{graph:?}");
    assert!(control.sent().is_empty());
    for (fault, remedy) in [
        (GraphFault::AccessDenied, "gatepost entra script"),
        (GraphFault::MailboxNotEnabled, "licence"),
    ] {
        control.fail_graph(GraphStep::SendMail, fault, Some(1));
        ward.names(Code::Graph, remedy).await;
    }
    control.fail_graph(GraphStep::SendMail, GraphFault::Throttled { retry_after: None }, Some(1));
    ward.is_well_but(&[Code::NotRunning, Code::Graph]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn with_two_ways_one_that_is_closed_is_a_warning() {
    let via = "via = [\"smtp\", \"graph\"]";
    let mut ward = Ward::with(Options::default(), "client_credentials", via).await;
    ward.serve_smtp_alone("direct");
    let control = ward.emulator.control();
    control.fail_graph(GraphStep::SendMail, GraphFault::AccessDenied, Some(1));
    ward.is_well_but(&[Code::NotRunning, Code::Graph]).await;
    // Who talks through this listener has SMTP alone.
    control.set_login_fault(Some(LoginFault::SmtpAuthDisabledMailbox));
    ward.names(Code::SmtpAuthMailbox, "Set-CASMailbox").await;
    let control = control.clone();
    ward.serve_smtp_alone("spool");
    ward.is_well_but(&[Code::NotRunning, Code::SmtpAuthMailbox]).await;
    control.fail_graph(GraphStep::SendMail, GraphFault::AccessDenied, Some(1));
    ward.is_well_but(&[Code::NotRunning, Code::SmtpAuthMailbox, Code::Graph]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn permissions_for_graph() {
    // An app's own may stand in Exchange alone: its token has no roles then, and Graph lets it in all the same.
    let registration = Registration { graph_roles: Vec::new(), ..Registration::default() };
    let options = Options { registration, ..Options::default() };
    let ward = Ward::with(options, "client_credentials", "via = [\"graph\"]").await;
    let findings = ward.examine().await;
    assert!(findings.iter().all(|finding| finding.code != Code::GraphPermission), "{findings:#?}");
    expect_first(&findings, Code::Graph, "gatepost entra script");
    let registration =
        Registration { graph_consented: vec!["Mail.Send".into()], ..Registration::default() };
    let options = Options { registration, ..Options::default() };
    let ward = Ward::with(options, "authorization_code", "via = [\"graph\"]").await;
    sign_in(&ward, &ward.emulator.issue_refresh_token(JANE));
    ward.change("\"https://graph.microsoft.com/Mail.ReadWrite\", ", "");
    ward.is_well_but(&[Code::NotRunning, Code::GraphPermission]).await;
    ward.change(
        "\"https://graph.microsoft.com/Mail.Send\", \"https://graph.microsoft.com/Mail.ReadWrite\"",
        "\"https://outlook.office.com/SMTP.Send\"",
    );
    ward.names(Code::GraphPermission, "gatepost login").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_that_are_set_otherwise() {
    let ward = Ward::new().await;
    ward.change(
        "provider = \"lab\"\n[[listener]]\nprotocol = \"pop3\"",
        "provider = \"lab\"\n[[listener]]\ntls = \"implicit\"\nprotocol = \"pop3\"",
    );
    let config = gatepost::config::Config::load(&ward.path("gatepost.toml")).unwrap();
    let app = gatepost::app::App::start(config, Clock::system()).await.unwrap();
    let at = |index: usize| app.listening()[index].1;
    let mut hello = TcpStream::connect(at(0)).await.unwrap();
    hello.write_all(&[0x16, 3, 1, 0, 5, 1, 0, 0, 1, 0]).await.unwrap();
    let mut plain = TcpStream::connect(at(1)).await.unwrap();
    plain.write_all(b"USER jane\r\n").await.unwrap();
    let mut rest = Vec::new();
    // Until gatepost has closed both; a reset is as good.
    let _ = (hello.read_to_end(&mut rest).await, plain.read_to_end(&mut rest).await);
    // The board is written once a second.
    tokio::time::sleep(std::time::Duration::from_millis(2_500)).await;
    ward.names(Code::ClientTls, "implicit").await;
    ward.is_well_but(&[Code::ClientTls, Code::ClientPlain]).await;
    app.stop().await;
}

/// Nothing on this machine is asked by a proxy; what is elsewhere is, and a proxy that is dead is named.
#[tokio::test(flavor = "multi_thread")]
async fn proxies_of_the_system() {
    let ward = Ward::new().await;
    let dead = format!("http://jane:s3cret@127.0.0.1:{}", free_address().port());
    let examine = || {
        let mut command = Command::new(env!("CARGO_BIN_EXE_gatepost"));
        command.arg("--config").arg(ward.path("gatepost.toml")).args(["doctor", "--json"]);
        command.env_remove("NO_PROXY").env_remove("no_proxy");
        let done = command.env("HTTPS_PROXY", &dead).env("HTTP_PROXY", &dead).output().unwrap();
        let told = String::from_utf8(done.stdout).unwrap();
        assert!(!told.contains("s3cret"), "{told}");
        serde_json::from_str::<serde_json::Value>(&told).unwrap()[0].clone()
    };
    assert_ne!(examine()["code"], "system-proxy", "all of it is on this machine");
    let line = ward.text.lines().find(|line| line.starts_with("token_url")).unwrap().to_owned();
    ward.change(&line, "token_url = \"https://login.contoso.invalid/token\"");
    let first = examine();
    assert_eq!(first["code"], "system-proxy");
    assert_eq!(first["level"], "error");
    assert!(first["remedy"].as_str().unwrap().contains("NO_PROXY"), "{first}");
    ward.serve_imap("imap.contoso.invalid:993");
    let first = examine();
    assert_eq!(first["code"], "system-proxy", "{first}");
    assert!(first["what"].as_str().unwrap().contains("the proxy 127.0.0.1:"), "{first}");
    assert!(first["remedy"].as_str().unwrap().contains("imap.contoso.invalid:993"), "{first}");
}

#[tokio::test(flavor = "multi_thread")]
async fn as_a_script_calls_it() {
    let ward = Ward::new().await;
    let good = ward.command(&["doctor", "--json"]);
    assert!(good.status.success(), "{good:?}");
    ward.emulator.control().set_login_fault(Some(LoginFault::SmtpAuthDisabled));
    let bundle = ward.path("bundle.json");
    let ill = ward.command(&["doctor", JANE, "--json", "--bundle", bundle.to_str().unwrap()]);
    assert_eq!(ill.status.code(), Some(1));
    let findings: serde_json::Value = serde_json::from_slice(&ill.stdout).unwrap();
    let first = &findings[0];
    assert_eq!(
        (first["code"].as_str(), first["level"].as_str()),
        (Some("smtp-auth-tenant"), Some("error"))
    );
    for key in ["subject", "what", "remedy"] {
        assert!(!first[key].as_str().unwrap().is_empty(), "{first}");
    }
    let text = ward.command(&["doctor"]);
    let words = String::from_utf8(text.stdout).unwrap();
    assert!(words.contains("docs/troubleshooting.md#smtp-auth-tenant"), "{words}");
    assert_eq!(ward.command(&["doctor", "nobody@contoso.example"]).status.code(), Some(2));
    let status = ward.command(&["status", "--json"]);
    let told = [
        &ill.stdout,
        &ill.stderr,
        words.as_bytes(),
        &status.stdout,
        &fs::read(&bundle).unwrap()[..],
    ]
    .concat();
    let told = String::from_utf8(told).unwrap();
    let key = fs::read_to_string(ward.path("state/gatepost.key")).unwrap();
    for secret in [Options::default().app.client_secret.as_str(), key.trim(), "eyJ", "Bearer"] {
        assert!(!told.contains(secret), "{secret} is told");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mail_that_waits_for_long_or_has_failed() {
    let ward = Ward::new().await;
    let clock = Clock::with_tokio();
    clock.set_off(-3 * 3_600_000);
    let settings = SpoolSettings::default();
    let spool = Spool::open(&ward.path("state"), &settings, clock).unwrap();
    let source = Source {
        mailbox: JANE.into(),
        device: "scanner 3".into(),
        peer: None,
        sender: SenderRule::Keep,
    };
    let recipients = vec![Recipient { address: "a@b.example".into(), parameters: Vec::new() }];
    let envelope = Envelope { sender: JANE.into(), parameters: Vec::new(), recipients };
    let mut entry =
        spool.enqueue(source.clone(), envelope.clone(), b"\r\nscan\r\n", false).await.unwrap();
    entry.progress.last_error = Some("550 5.7.60 SMTP; Client does not have permissions".into());
    entry.progress.last_try = Some(Clock::system().now());
    spool.note(&entry, true).await.unwrap();
    let found =
        |findings: &[Finding], code| findings.iter().find(|finding| finding.code == code).cloned();
    let findings = ward.examine().await;
    let waiting = found(&findings, Code::MailWaiting).expect("it waits");
    assert!(waiting.what.contains("for 3 h") && waiting.what.contains("5.7.60"), "{waiting:?}");
    assert!(waiting.remedy.contains("SendAs"), "{waiting:?}");
    assert_eq!(found(&findings, Code::MailFailed), None);
    spool.fail(&entry).await.unwrap();
    let findings = ward.examine().await;
    let failed = found(&findings, Code::MailFailed).expect("it has failed");
    assert!(failed.remedy.contains("gatepost spool retry"), "{failed:?}");
    assert_eq!(found(&findings, Code::MailWaiting), None);
}

/// Each code has a heading of its own, in the order in which one explains the other.
#[test]
fn every_code_is_in_the_troubleshooting_page() {
    let page = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/troubleshooting.md"))
        .unwrap();
    let headings: Vec<_> =
        page.lines().filter_map(|line| line.strip_prefix("## `")?.strip_suffix('`')).collect();
    let codes: Vec<_> = Code::ALL.iter().map(|code| code.text()).collect();
    assert_eq!(headings, codes);
}
