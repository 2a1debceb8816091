//! A ground for faults: an emulated Exchange, gatepost as a process, and a network that fails on every way between.
//!
//! ```text
//! client ─▶ outside ─▶ gatepost ─▶ inside ─▶ emulator
//! ```
//!
//! It has lanes, which share nothing but the two processes: each has its own mailboxes, listeners, provider, and
//! networks, so that a fault in one is not one in another.
//!
//! Invariant: every wait is bounded, and nothing here judges: it tells what happened.
#![allow(dead_code, unused_imports, reason = "each that includes this uses its own part")]
#![allow(unreachable_pub, reason = "a module of several crates, and `pub` is what they see of it")]

mod client;
#[path = "../support/passwords.rs"]
mod passwords;
mod process;
mod visit;

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use gatepost::emulator::network::Network;
use gatepost::emulator::{self, Emulator, Options, Tls};
use gatepost::store::Store;
use gatepost::vocabulary::Protocol;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};
use tokio_rustls::TlsConnector;

pub use client::{Client, Stop};
use passwords::add_password;
pub use process::Process;
pub use visit::{
    END_OF_DATA, LOGIN, SIZE, Visit, is_temporary, is_wrong_password, log_in, message,
};

/// What a good client waits for the answer to its login: 45 s are what a token and the way upstream may take.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Listeners of a lane.
const LISTENERS: [(&str, &str); 7] = [
    ("imap", "none"),
    ("pop3", "none"),
    ("smtp", "none"),
    ("imap", "implicit"),
    ("pop3", "implicit"),
    ("smtp", "implicit"),
    ("smtp", "none\"\ndelivery = \"spool"),
];

/// All of it.
pub struct Ground {
    pub emulator: Emulator,
    pub process: Process,
    pub lanes: Vec<Arc<Lane>>,
    _folder: tempfile::TempDir,
}

/// One lane.
pub struct Lane {
    pub number: usize,
    /// By SMTP, and by Microsoft Graph alone.
    pub mailboxes: [String; 2],
    pub passwords: [String; 2],
    /// Without TLS, in the order of the protocols.
    pub doors: Vec<SocketAddr>,
    pub spool: SocketAddr,
    /// With TLS, each behind a network.
    pub outside: Vec<Network>,
    /// The ports behind those.
    pub tls_ports: Vec<u16>,
    pub trust: TlsConnector,
    /// To the mail servers, in the order of the protocols.
    pub inside: Vec<Network>,
    pub token: Network,
    pub graph: Network,
    /// The newest message in each inbox.
    pub number_of_newest: usize,
}

impl Ground {
    /// Starts it, with these lines at the top and behind all else of the configuration.
    pub async fn start(program: Command, lanes: usize, options: Options, more: &str) -> Self {
        let names = (0..lanes).flat_map(|n| [by_smtp(n), by_graph(n)]);
        let options = Options { mailboxes: names.collect(), ..options };
        let app = options.app.clone();
        let emulator = Emulator::start(options).await.unwrap();
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        fs::write(path("ca.pem"), emulator.ca_pem()).unwrap();
        fs::write(path("secret"), &app.client_secret).unwrap();
        // No connections that stand ready: a fault is meant for the one connection of a session.
        let mut text = String::from("state_dir = \"state\"\nspare_connections = 0\n");
        let mut networks = Vec::new();
        for lane in 0..lanes {
            let ways = networks_of(&emulator, lane).await;
            text += &configuration(lane, &app, &ways);
            networks.push(ways);
        }
        fs::write(path("gatepost.toml"), text + more).unwrap();
        let mut passwords = Vec::new();
        let store = Store::open(&path("state"), None).await.unwrap();
        for lane in 0..lanes {
            passwords.push([
                add_password(&store, &by_smtp(lane), "device").await,
                add_password(&store, &by_graph(lane), "device").await,
            ]);
        }
        store.close().await;
        let process = Process::start(program, &path("gatepost.toml"));
        let trust = trusting(&path("state/listener.pem"));
        let mut ground = Self { emulator, process, lanes: Vec::new(), _folder: folder };
        for (lane, (ways, passwords)) in networks.into_iter().zip(passwords).enumerate() {
            let lane = ground.lane(lane, ways, passwords, trust.clone()).await;
            ground.lanes.push(Arc::new(lane));
        }
        ground
    }

    async fn lane(
        &self,
        number: usize,
        ways: Ways,
        passwords: [String; 2],
        trust: TlsConnector,
    ) -> Lane {
        let at = number * LISTENERS.len();
        let doors = &self.process.doors[at..at + LISTENERS.len()];
        let mut outside = Vec::new();
        for door in &doors[3..6] {
            outside.push(Network::to(*door).await.unwrap());
        }
        let mailboxes = [by_smtp(number), by_graph(number)];
        let control = self.emulator.control();
        assert!(
            control.deliver(&mailboxes[0], message("x@y.example", "large", 3 * SIZE).as_bytes())
        );
        let Ways { inside, token, graph } = ways;
        Lane {
            number,
            passwords,
            doors: doors[..3].to_vec(),
            spool: doors[6],
            outside,
            tls_ports: doors[3..6].iter().map(SocketAddr::port).collect(),
            trust,
            inside,
            token,
            graph,
            number_of_newest: control.messages(&mailboxes[0], "INBOX").len(),
            mailboxes,
        }
    }
}

impl Lane {
    /// By the listener without TLS, with patience.
    pub fn visit(&self, protocol: Protocol, marker: &str) -> Visit {
        Visit {
            protocol,
            door: self.doors[index(protocol)],
            trust: None,
            mailbox: self.mailboxes[0].clone(),
            password: self.passwords[0].clone(),
            number: self.number_of_newest,
            marker: marker.to_owned(),
            until_login: PATIENCE,
            in_session: PATIENCE,
        }
    }

    /// By TLS and the network outside.
    pub fn visit_from_outside(&self, protocol: Protocol, marker: &str) -> Visit {
        let (door, trust) = (self.outside[index(protocol)].address(), Some(self.trust.clone()));
        Visit { door, trust, ..self.visit(protocol, marker) }
    }

    /// To the spool, whose mail goes by SMTP or by Graph.
    pub fn visit_spool(&self, by_graph: bool, marker: &str) -> Visit {
        let of = usize::from(by_graph);
        let (mailbox, password) = (self.mailboxes[of].clone(), self.passwords[of].clone());
        Visit { door: self.spool, mailbox, password, ..self.visit(Protocol::Smtp, marker) }
    }

    /// The ports at which gatepost has connections for this protocol.
    pub fn ports(&self, protocol: Protocol) -> Vec<u16> {
        let of = index(protocol);
        vec![self.doors[of].port(), self.tls_ports[of], self.inside[of].address().port()]
    }
}

/// In the order of all protocols.
pub fn index(protocol: Protocol) -> usize {
    Protocol::ALL.iter().position(|one| *one == protocol).unwrap()
}

/// The networks between gatepost and what is behind it.
struct Ways {
    inside: Vec<Network>,
    token: Network,
    graph: Network,
}

/// Every other lane has STARTTLS.
fn tls_of(lane: usize) -> Tls {
    if lane.is_multiple_of(2) { Tls::Implicit } else { Tls::StartTls }
}

async fn networks_of(emulator: &Emulator, lane: usize) -> Ways {
    let mut inside = Vec::new();
    for protocol in Protocol::ALL {
        let protocol = match protocol {
            Protocol::Imap => emulator::Protocol::Imap,
            Protocol::Pop3 => emulator::Protocol::Pop3,
            Protocol::Smtp => emulator::Protocol::Smtp,
        };
        inside.push(Network::to(emulator.address(protocol, tls_of(lane))).await.unwrap());
    }
    let [token, graph] = [emulator.https(), emulator.https()].map(Network::to);
    Ways { inside, token: token.await.unwrap(), graph: graph.await.unwrap() }
}

fn by_smtp(lane: usize) -> String {
    format!("lane{lane}@contoso.example")
}

fn by_graph(lane: usize) -> String {
    format!("graph{lane}@contoso.example")
}

fn configuration(lane: usize, app: &emulator::App, ways: &Ways) -> String {
    let mut text = String::new();
    for (protocol, tls) in LISTENERS {
        text += &format!(
            "[[listener]]\nprotocol = \"{protocol}\"\nlisten = \"127.0.0.1:0\"\ntls = \"{tls}\"\nprovider = \"lane{lane}\"\n"
        );
    }
    let emulator::App { tenant, client_id, .. } = app;
    text += &format!(
        "[app.lane{lane}]\nprovider = \"lane{lane}\"\ntenant = \"{tenant}\"\nclient_id = \"{client_id}\"\n\
         client_secret = {{ file = \"secret\" }}\ngrant = \"client_credentials\"\n\
         [[account]]\nmailbox = \"{}\"\napp = \"lane{lane}\"\n\
         [[account]]\nmailbox = \"{}\"\napp = \"lane{lane}\"\nvia = [\"graph\"]\n\
         [provider.lane{lane}]\nca_file = \"ca.pem\"\ntoken_url = \"https://{}/{tenant}/oauth2/v2.0/token\"\n\
         graph = \"https://{}/graph/v1.0\"\n\
         app_scopes = [\"https://outlook.office365.com/.default\"]\n\
         graph_app_scopes = [\"https://graph.microsoft.com/.default\"]\n\
         limits = {{ messages_per_minute = 0, recipients_per_day = 0 }}\n",
        by_smtp(lane),
        by_graph(lane),
        ways.token.address(),
        ways.graph.address(),
    );
    let tls = if tls_of(lane) == Tls::StartTls { " starttls" } else { "" };
    for (protocol, network) in Protocol::ALL.iter().zip(&ways.inside) {
        text += &format!("{protocol} = \"{}{tls}\"\n", network.address());
    }
    text
}

fn trusting(file: &Path) -> TlsConnector {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(&fs::read(file).unwrap()).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    TlsConnector::from(Arc::new(config))
}
