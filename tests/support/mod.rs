//! The harness of the tests that use real sockets: an emulated Exchange, a proxy in front of it with a
//! listener for each protocol and kind of TLS, and raw clients.
//!
//! | file | what it holds |
//! | --- | --- |
//! | `mod` | [`House`]: emulator and proxy; logins |
//! | `wire` | [`Wire`]: one connection, for clients and for fake servers |
//! | `fake` | [`Fake`]: an upstream that says what a test wants, certificates of any kind |
//! | `proxy` | [`Proxy`]: an HTTP proxy that makes tunnels, or does not |
//! | `passwords`, `ports` | one more app password; a port that is free |
//! | `cells` | [`Cells`]: tables of cases, of which each failure is named |
//!
//! Invariant: every wait is bounded, so that a fault shows as a failure and not as a test that hangs.
#![allow(dead_code, unused_imports, reason = "each test file uses its own part")]
#![allow(unreachable_pub, reason = "a module of every test file, and `pub` is what they see of it")]

mod cells;
mod fake;
mod passwords;
mod ports;
mod proxy;
mod wire;

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use gatepost::access::{Hasher, generate};
use gatepost::app::App;
use gatepost::clock::Clock;
use gatepost::config::Config;
use gatepost::emulator::{self, Control, Emulator, Options};
use gatepost::secret::Secret;
use gatepost::store::{Hash, PasswordRecord, Store};
use gatepost::vocabulary::{Protocol, TlsMode};
use tokio_rustls::TlsConnector;

pub use cells::Cells;
pub use fake::{Authority, Fake, Leaf, admit, admit_greeted};
pub(crate) use passwords::add_password;
pub(crate) use ports::free_address;
pub use proxy::{Manner, Proxy};
pub use wire::{LIMIT, Wire, within};

/// The mailbox of all tests.
pub const MAILBOX: &str = "jane@contoso.example";

/// All kinds of TLS on the client's side.
pub const LOCAL_TLS: [TlsMode; 3] = [TlsMode::None, TlsMode::StartTls, TlsMode::Implicit];

/// All kinds of TLS on the upstream's side.
pub const UPSTREAM_TLS: [TlsMode; 2] = [TlsMode::Implicit, TlsMode::StartTls];

/// What a [`House`] is made of.
pub struct Settings {
    /// The emulator's.
    pub emulated: Options,
    /// How TLS begins between proxy and upstream.
    pub upstream_tls: TlsMode,
    /// Endpoints that stand in the emulator's place.
    pub instead: Vec<(Protocol, String)>,
    /// CA certificates that the proxy trusts besides the emulator's.
    pub trusted: Vec<String>,
    /// More keys at the top.
    pub top: String,
    /// Connections that stand ready. None but where they are what is tested: most tests count connections.
    pub spares: usize,
    /// More keys of each listener.
    pub listener: &'static str,
    /// More keys of each listener of SMTP.
    pub smtp_listener: &'static str,
    /// More keys of the account, and tables behind it.
    pub account: &'static str,
    /// More keys of the provider.
    pub provider: &'static str,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            emulated: Options::default(),
            upstream_tls: TlsMode::Implicit,
            instead: Vec::new(),
            trusted: Vec::new(),
            top: String::new(),
            spares: 0,
            listener: "",
            smtp_listener: "",
            account: "",
            provider: "",
        }
    }
}

/// An emulated Exchange and a proxy in front of it.
pub struct House {
    /// The upstream and its token endpoint.
    pub emulator: Emulator,
    /// An app password of [`MAILBOX`].
    pub password: String,
    app: App,
    doors: Vec<(Protocol, TlsMode, SocketAddr)>,
    trust: TlsConnector,
    folder: tempfile::TempDir,
}

impl House {
    /// With an emulator alone.
    pub async fn new() -> Self {
        Self::start(Settings::default()).await
    }

    /// With these upstreams in the emulator's place.
    pub async fn with(fakes: &[(Protocol, &Fake)], tls: TlsMode, trusted: &Authority) -> Self {
        let endpoint = |(protocol, fake): &(Protocol, &Fake)| (*protocol, fake.endpoint(tls));
        let instead = fakes.iter().map(endpoint).collect();
        Self::start(Settings { instead, trusted: vec![trusted.pem()], ..Settings::default() }).await
    }

    /// Starts both; when it returns, all listeners accept.
    pub async fn start(settings: Settings) -> Self {
        let emulator = Emulator::start(settings.emulated.clone()).await.unwrap();
        let folder = tempfile::tempdir().unwrap();
        let trusted = settings.trusted.concat() + emulator.ca_pem();
        fs::write(folder.path().join("ca.pem"), trusted).unwrap();
        fs::write(folder.path().join("secret"), &settings.emulated.app.client_secret).unwrap();
        let file = folder.path().join("gatepost.toml");
        fs::write(&file, configuration(&settings, &emulator)).unwrap();
        let config = Config::load(&file).unwrap();
        let state = config.state_dir.clone();
        let password = add_generated(&state, "first", &[], &[]).await;
        let app = App::start(config, Clock::system()).await.unwrap();
        let pairs = Protocol::ALL.iter().flat_map(|p| LOCAL_TLS.map(|tls| (*p, tls)));
        let doors: Vec<_> = pairs
            .zip(app.listening())
            .map(|((protocol, tls), (listening, address))| {
                assert_eq!(protocol, *listening, "listeners are in the configuration's order");
                (protocol, tls, *address)
            })
            .collect();
        assert_eq!(doors.len(), 9);
        let trust = wire::trusting(&fs::read(state.join("listener.pem")).unwrap());
        Self { emulator, password, app, doors, trust, folder }
    }

    /// The emulator's faults and counts.
    pub fn control(&self) -> &Control {
        self.emulator.control()
    }

    /// Where the proxy listens.
    pub fn address(&self, protocol: Protocol, tls: TlsMode) -> SocketAddr {
        let door = self.doors.iter().find(|(p, t, _)| (*p, *t) == (protocol, tls));
        door.unwrap().2
    }

    /// For handshakes with the proxy.
    pub fn trust(&self) -> &TlsConnector {
        &self.trust
    }

    /// A connection on which a login is possible: greeted, and with TLS if the listener wants it.
    pub async fn open(&self, protocol: Protocol, tls: TlsMode) -> Wire {
        let mut client = Wire::connect(self.address(protocol, tls)).await;
        if tls == TlsMode::Implicit {
            client = client.start_tls(&self.trust).await.unwrap();
        }
        client.answer(protocol).await;
        if tls == TlsMode::StartTls {
            let (command, answer) = start_tls_command(protocol);
            client.send(command).await;
            client.expect(answer).await;
            client = client.start_tls(&self.trust).await.unwrap();
        }
        client
    }

    /// A connection that is logged in, without TLS.
    pub async fn log_in(&self, protocol: Protocol) -> Wire {
        let mut client = self.open(protocol, TlsMode::None).await;
        let answer = self.try_log_in(&mut client, protocol).await;
        assert!(is_welcome(protocol, &answer), "{protocol}: {answer}");
        client
    }

    /// Logs in with the right password; the answer to it.
    pub async fn try_log_in(&self, client: &mut Wire, protocol: Protocol) -> String {
        try_log_in(client, protocol, MAILBOX, &self.password).await
    }

    /// Adds a generated app password, as another process would; the answer is the password.
    pub async fn add_password(&self, name: &str, protocols: &[Protocol], from: &[&str]) -> String {
        add_generated(&self.state(), name, protocols, from).await
    }

    /// Adds a password that a person chose.
    pub async fn add_chosen(&self, name: &str, password: &str) {
        self.add_chosen_from(name, password, &[]).await;
    }

    /// The same, for these networks alone.
    pub async fn add_chosen_from(&self, name: &str, password: &str, from: &[&str]) {
        let store = Store::open(&self.state(), None).await.unwrap();
        let secret = Secret::new(password.as_bytes().to_vec());
        let hash = Hasher::new(&store).hash_chosen(MAILBOX, &secret).await.unwrap();
        add(store, name, hash, &[], from).await;
    }

    /// Revokes one, as another process would.
    pub async fn revoke_password(&self, name: &str) {
        let store = Store::open(&self.state(), None).await.unwrap();
        assert!(store.revoke_password(MAILBOX, name).await.unwrap());
        store.close().await;
    }

    /// Stops the proxy and the emulator in good order.
    pub async fn stop(self) {
        self.app.stop().await;
        self.emulator.stop().await;
    }

    fn state(&self) -> PathBuf {
        self.folder.path().join("state")
    }
}

/// The command that starts TLS, and how the answer to it begins.
pub fn start_tls_command(protocol: Protocol) -> (&'static str, &'static str) {
    match protocol {
        Protocol::Imap => ("0 STARTTLS\r\n", "0 OK"),
        Protocol::Pop3 => ("STLS\r\n", "+OK"),
        Protocol::Smtp => ("STARTTLS\r\n", "220 "),
    }
}

/// The commands of a login, all in one.
pub fn login_command(protocol: Protocol, user: &str, password: &str) -> String {
    match protocol {
        Protocol::Imap => format!("1 LOGIN \"{user}\" \"{password}\"\r\n"),
        Protocol::Pop3 => format!("USER {user}\r\nPASS {password}\r\n"),
        Protocol::Smtp => format!("EHLO test\r\nAUTH PLAIN {}\r\n", plain(user, password)),
    }
}

/// The message of SASL PLAIN, in base64.
pub fn plain(user: &str, password: &str) -> String {
    BASE64_STANDARD.encode(format!("\0{user}\0{password}"))
}

/// Logs in; the last answer.
pub async fn try_log_in(client: &mut Wire, protocol: Protocol, user: &str, pw: &str) -> String {
    client.send(login_command(protocol, user, pw)).await;
    if protocol != Protocol::Imap {
        // that to USER or EHLO
        client.answer(protocol).await;
    }
    client.answer(protocol).await
}

/// Whether this answer lets the client in.
pub fn is_welcome(protocol: Protocol, answer: &str) -> bool {
    answer.starts_with(match protocol {
        Protocol::Imap => "1 OK",
        Protocol::Pop3 => "+OK",
        Protocol::Smtp => "235 ",
    })
}

/// Whether this answer makes a client throw its password away.
pub fn is_wrong_password(protocol: Protocol, answer: &str) -> bool {
    match protocol {
        Protocol::Imap => answer.contains("[AUTHENTICATIONFAILED]"),
        Protocol::Pop3 => answer.contains("[AUTH]"),
        Protocol::Smtp => answer.starts_with("535"),
    }
}

/// Whether this answer asks the client to try again later, in its protocol's own terms.
pub fn is_temporary(protocol: Protocol, answer: &str) -> bool {
    match protocol {
        Protocol::Imap => answer.contains(" NO [UNAVAILABLE]") || answer.contains(" NO [LIMIT]"),
        Protocol::Pop3 => answer.starts_with("-ERR [SYS/TEMP]"),
        Protocol::Smtp => answer.starts_with('4'),
    }
}

fn configuration(settings: &Settings, emulator: &Emulator) -> String {
    let Settings { top, spares, .. } = settings;
    let mut text = format!("state_dir = \"state\"\nspare_connections = {spares}\n{top}\n");
    for protocol in Protocol::ALL {
        let own = if protocol == Protocol::Smtp { settings.smtp_listener } else { "" };
        for tls in LOCAL_TLS {
            text += &format!(
                "[[listener]]\nprotocol = \"{protocol}\"\nlisten = \"127.0.0.1:0\"\n\
                 tls = \"{tls}\"\nprovider = \"lab\"\n{}\n{own}\n",
                settings.listener,
            );
        }
    }
    let app = &settings.emulated.app;
    let (tenant, id) = (&app.tenant, &app.client_id);
    text += &format!(
        "[app.lab]\nprovider = \"lab\"\ntenant = \"{tenant}\"\nclient_id = \"{id}\"\n\
         client_secret = {{ file = \"secret\" }}\ngrant = \"client_credentials\"\n\
         [[account]]\nmailbox = \"{MAILBOX}\"\napp = \"lab\"\n{}\n\
         [provider.lab]\ntoken_url = \"{}\"\nca_file = \"ca.pem\"\n\
         app_scopes = [\"https://outlook.office365.com/.default\"]\n{}\n",
        settings.account,
        emulator.token_url(),
        settings.provider,
    );
    for protocol in Protocol::ALL {
        let instead = settings.instead.iter().find(|(p, _)| *p == protocol);
        let endpoint = instead.map_or_else(
            || emulated_endpoint(emulator, protocol, settings.upstream_tls),
            |(_, endpoint)| endpoint.clone(),
        );
        text += &format!("{protocol} = \"{endpoint}\"\n");
    }
    text
}

fn emulated_endpoint(emulator: &Emulator, protocol: Protocol, tls: TlsMode) -> String {
    let protocol = match protocol {
        Protocol::Imap => emulator::Protocol::Imap,
        Protocol::Pop3 => emulator::Protocol::Pop3,
        Protocol::Smtp => emulator::Protocol::Smtp,
    };
    match tls {
        TlsMode::StartTls => {
            format!("{} starttls", emulator.address(protocol, emulator::Tls::StartTls))
        }
        _ => emulator.address(protocol, emulator::Tls::Implicit).to_string(),
    }
}

async fn add_generated(
    state: &Path,
    name: &str,
    protocols: &[Protocol],
    networks: &[&str],
) -> String {
    let store = Store::open(state, None).await.unwrap();
    let password = generate().unwrap();
    let hash = Hasher::new(&store).generated(MAILBOX, password.expose());
    add(store, name, Hash::Generated(hash.to_vec()), protocols, networks).await;
    password.expose().clone()
}

async fn add(store: Store, name: &str, hash: Hash, protocols: &[Protocol], networks: &[&str]) {
    let record = PasswordRecord {
        mailbox: MAILBOX.into(),
        name: name.into(),
        hash,
        protocols: protocols.to_vec(),
        networks: networks.iter().map(|network| network.parse().unwrap()).collect(),
        created_at: Clock::system().now(),
    };
    assert!(store.add_password(&record).await.unwrap(), "{name} is taken");
    store.close().await;
}
