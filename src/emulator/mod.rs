//! An Exchange-like mail upstream and an Entra-like token endpoint, on loopback.
//!
//! `gatepost demo` shows the product with it and the tests judge the proxy with it. It takes nothing
//! but XOAUTH2, and on request it fails in the ways that the real services fail ([`Control`]).
//!
//! [`Emulator`] starts it; `control` and `control_http` take the faults on request. `entra` issues what
//! `tokens` holds, `sasl` asks for it; `imap`, `pop3` and `smtp` hold one session each over a `wire`, and
//! share what is in `mailbox`.
//!
//! Invariant: nothing here is imported from the rest of the crate. The emulator shares no parser and
//! no constant with the proxy, so that a mistake there cannot cancel itself out here.

use std::{
    collections::HashMap,
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::{Arc, Mutex, MutexGuard, PoisonError, atomic::Ordering},
    time::Duration,
};

use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
};
use tokio_rustls::TlsAcceptor;
use tokio_util::{
    sync::{CancellationToken, DropGuard},
    task::TaskTracker,
};
use tracing::debug;

mod calendar;
mod certificate;
mod control;
mod control_http;
mod entra;
mod imap;
mod mailbox;
mod pop3;
mod samples;
mod sasl;
mod smtp;
mod tokens;
mod wire;

pub use control::{Control, LoginFault, TokenFault};
pub use mailbox::SentMail;

use control::{Counts, Faults};
use mailbox::PostOffice;
use tokens::{Tokens, folded};
use wire::Wire;

/// Fields of an HTTP form by name.
type Form = std::collections::HashMap<String, String>;

/// A running upstream and token endpoint; they end when this is dropped.
pub struct Emulator {
    control: Control,
    token: SocketAddr,
    mail: Vec<(Protocol, Tls, SocketAddr)>,
    listeners: TaskTracker,
    stop: DropGuard,
}

/// What to emulate.
#[derive(Clone, Debug)]
pub struct Options {
    /// Addresses of the mailboxes, each with a few sample messages; their owners are the users.
    pub mailboxes: Vec<String>,
    /// Who else may open a mailbox and send as it, with a delegated token.
    pub shared: Vec<Shared>,
    /// The one app registration.
    pub app: App,
    /// Life of an access token; `None` is as Entra does it, 3,600 to 5,400 s at random.
    pub token_life: Option<Duration>,
    /// About how long an access token is, in octets. Real ones are 1.5 to 2.5 KB.
    pub token_size: usize,
    /// Whether a refresh revokes the refresh token that it used. Entra lets the old one live on.
    pub revoke_used_refresh_tokens: bool,
    /// A mail session with no traffic for so long is closed.
    pub idle_timeout: Duration,
    /// Concurrent SMTP sessions of one mailbox before Exchange answers 432.
    pub smtp_connections: usize,
    /// Fixed ports; 0 is any free one.
    pub ports: Ports,
}

/// An app registration in the emulated tenant.
#[derive(Clone, Debug)]
pub struct App {
    /// Tenant name, the first part of the token endpoint's path.
    pub tenant: String,
    /// Application (client) id.
    pub client_id: String,
    /// Client secret: `client_credentials` needs it; a refresh may do without, as a public client.
    pub client_secret: String,
    /// Mailboxes that an app-only token opens; `None` is all of them.
    pub mailboxes: Option<Vec<String>>,
}

/// A shared mailbox and the users who have full access to it.
#[derive(Clone, Debug)]
pub struct Shared {
    /// The mailbox, one of [`Options::mailboxes`].
    pub mailbox: String,
    /// Users who may open it and send as it.
    pub users: Vec<String>,
}

/// Ports to listen on; 0 is any free one.
#[derive(Clone, Copy, Debug, Default)]
pub struct Ports {
    /// IMAP with STARTTLS.
    pub imap: u16,
    /// IMAP over TLS.
    pub imaps: u16,
    /// POP3 with STLS.
    pub pop3: u16,
    /// POP3 over TLS.
    pub pop3s: u16,
    /// SMTP with STARTTLS.
    pub smtp: u16,
    /// SMTP over TLS; Exchange Online has none, others do.
    pub smtps: u16,
    /// The token endpoint, plain HTTP.
    pub token: u16,
}

/// How a mail port is encrypted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tls {
    /// TLS from the first octet.
    Implicit,
    /// Plain until the client asks for an upgrade.
    StartTls,
}

/// A mail protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// IMAP4rev1, RFC 3501.
    Imap,
    /// POP3, RFC 1939.
    Pop3,
    /// SMTP submission, RFC 6409.
    Smtp,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            mailboxes: vec!["jane@contoso.example".into(), "support@contoso.example".into()],
            shared: Vec::new(),
            app: App {
                tenant: "contoso.example".into(),
                client_id: "5e1f0a3c-6d1b-4f0e-9a57-0c1d5b7e2f44".into(),
                client_secret: "emulated-secret".into(),
                mailboxes: None,
            },
            token_life: None,
            token_size: 1_800,
            revoke_used_refresh_tokens: false,
            // RFC 3501 section 5.4: an autologout timer of at least 30 minutes
            idle_timeout: Duration::from_secs(30 * 60),
            // Exchange Online's documented limit for SMTP client submission
            smtp_connections: 3,
            ports: Ports::default(),
        }
    }
}

/// What all sessions share.
struct World {
    options: Options,
    tokens: Tokens,
    mail: PostOffice,
    faults: Mutex<Faults>,
    counts: Counts,
    /// Places for concurrent SMTP sessions, by mailbox.
    smtp_places: HashMap<String, Arc<Semaphore>>,
    acceptor: TlsAcceptor,
    ca_pem: String,
    sessions: TaskTracker,
    stop: CancellationToken,
}

impl Emulator {
    /// Binds seven ports on the loopback addresses and serves them until stopped or dropped.
    pub async fn start(options: Options) -> io::Result<Self> {
        let ports = options.ports;
        let world = Arc::new(World::new(options).map_err(io::Error::other)?);
        let (listeners, stop) = (TaskTracker::new(), world.stop.clone().drop_guard());
        let mut mail = Vec::new();
        for (protocol, tls, port) in [
            (Protocol::Imap, Tls::StartTls, ports.imap),
            (Protocol::Imap, Tls::Implicit, ports.imaps),
            (Protocol::Pop3, Tls::StartTls, ports.pop3),
            (Protocol::Pop3, Tls::Implicit, ports.pop3s),
            (Protocol::Smtp, Tls::StartTls, ports.smtp),
            (Protocol::Smtp, Tls::Implicit, ports.smtps),
        ] {
            let (address, bound) = bind(port).await?;
            mail.push((protocol, tls, address));
            for listener in bound {
                listeners.spawn(accept(listener, protocol, tls, world.clone()));
            }
        }
        let (token, bound) = bind(ports.token).await?;
        for listener in bound {
            listeners.spawn(entra::serve(listener, world.clone()));
        }
        Ok(Self { control: Control { world }, token, mail, listeners, stop })
    }

    /// Closes all listeners and sessions, and returns when the last one has ended.
    pub async fn stop(self) {
        drop(self.stop);
        for tasks in [&self.listeners, &self.control.world.sessions] {
            tasks.close();
            tasks.wait().await;
        }
    }

    /// The CA that issued the certificate of all mail ports (for `localhost`, `127.0.0.1` and `::1`).
    pub fn ca_pem(&self) -> &str {
        &self.control.world.ca_pem
    }

    /// IPv4 address of a mail port; the same port is open on `::1` where that exists.
    pub fn address(&self, protocol: Protocol, tls: Tls) -> SocketAddr {
        let port = self.mail.iter().find(|(p, t, _)| (*p, *t) == (protocol, tls));
        port.map_or_else(|| SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), |(_, _, address)| *address)
    }

    /// Address of an IMAP port.
    pub fn imap(&self, tls: Tls) -> SocketAddr {
        self.address(Protocol::Imap, tls)
    }

    /// Address of a POP3 port.
    pub fn pop3(&self, tls: Tls) -> SocketAddr {
        self.address(Protocol::Pop3, tls)
    }

    /// Address of an SMTP port.
    pub fn smtp(&self, tls: Tls) -> SocketAddr {
        self.address(Protocol::Smtp, tls)
    }

    /// The v2.0 token endpoint of the app's tenant.
    pub fn token_url(&self) -> String {
        let tenant = &self.control.world.options.app.tenant;
        format!("http://{}/{tenant}/oauth2/v2.0/token", self.token)
    }

    /// Where the faults can be had over HTTP, without a slash at the end.
    pub fn control_url(&self) -> String {
        format!("http://{}/emulator", self.token)
    }

    /// A refresh token of this user, as a delegated sign-in would have given.
    pub fn issue_refresh_token(&self, user: &str) -> String {
        self.control.issue_refresh_token(user)
    }

    /// The handle for faults and counts; clone it to keep it.
    pub fn control(&self) -> &Control {
        &self.control
    }
}

impl World {
    fn new(options: Options) -> Result<Self, Box<dyn std::error::Error + Send + Sync>> {
        let (acceptor, ca_pem) = certificate::make()?;
        let places = |mailbox: &String| {
            (folded(mailbox), Arc::new(Semaphore::new(options.smtp_connections)))
        };
        Ok(Self {
            tokens: Tokens::new(options.clone()),
            mail: PostOffice::new(&options.mailboxes),
            faults: Mutex::default(),
            counts: Counts::default(),
            smtp_places: options.mailboxes.iter().map(places).collect(),
            acceptor,
            ca_pem,
            sessions: TaskTracker::new(),
            stop: CancellationToken::new(),
            options,
        })
    }
}

/// Listens on 127.0.0.1 and, if that works, on the same port of ::1, since `localhost` is both.
async fn bind(port: u16) -> io::Result<(SocketAddr, Vec<TcpListener>)> {
    let first = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await?;
    let address = first.local_addr()?;
    let second = TcpListener::bind((Ipv6Addr::LOCALHOST, address.port())).await;
    Ok((address, [Ok(first), second].into_iter().flatten().collect()))
}

async fn accept(listener: TcpListener, protocol: Protocol, tls: Tls, world: Arc<World>) {
    loop {
        let accepted = tokio::select! {
            () = world.stop.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        let Ok((stream, _)) = accepted else {
            // out of file descriptors, most likely: give others the time to close some
            tokio::time::sleep(Duration::from_millis(50)).await;
            continue;
        };
        world.counts.connections.fetch_add(1, Ordering::Relaxed);
        let severed = locked(&world.faults).sever.clone();
        let session = session(stream, protocol, tls, world.clone());
        let stop = world.stop.clone();
        world.sessions.spawn(async move {
            tokio::select! {
                () = stop.cancelled() => {}
                () = severed.cancelled() => {}
                ended = session => debug!(?protocol, ?ended, "session ended"),
            }
        });
    }
}

async fn session(
    stream: TcpStream,
    protocol: Protocol,
    tls: Tls,
    world: Arc<World>,
) -> io::Result<()> {
    if locked(&world.faults).mail_outage {
        return Ok(());
    }
    stream.set_nodelay(true)?;
    let mut wire = Wire::new(stream, world.options.idle_timeout);
    if tls == Tls::Implicit {
        wire.start_tls(&world.acceptor).await?;
    }
    match protocol {
        Protocol::Imap => imap::serve(wire, &world).await,
        Protocol::Pop3 => pop3::serve(wire, &world).await,
        Protocol::Smtp => smtp::serve(wire, &world).await,
    }
}

/// Locks, also behind a panic: the emulator's state is whole between any two statements.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
