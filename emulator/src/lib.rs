//! An Exchange-like mail upstream and an Entra-like token endpoint, on loopback.
//!
//! `gatepost demo` shows the product with it and the tests judge the proxy with it. It takes nothing
//! but XOAUTH2 and, at Microsoft Graph, bearer tokens. On request it fails in the ways that the real
//! services fail ([`Control`]).
//!
//! [`Emulator`] starts it with [`Options`]; `control`, `smtp_faults` and `control_http` take the faults on
//! request. `entra` signs people in and issues what `tokens` holds, `sasl` asks for it; `imap`, `pop3` and
//! `smtp` hold one session each over a `wire`, `graph` takes mail by HTTP, and all of them share what is in
//! `mailbox`; `limits` is what a mailbox may send. [`network`] is what lies between, and fails.
//!
//! Invariant: a crate of its own, which does not know the proxy. It shares no parser and no constant with it,
//! so that a mistake there cannot cancel itself out here.
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

use std::{
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::{Arc, Mutex, MutexGuard, PoisonError, atomic::Ordering},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use tokio::net::{TcpListener, TcpStream};
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
mod graph;
mod imap;
mod limits;
mod mailbox;
pub mod network;
mod options;
mod pop3;
mod samples;
mod sasl;
mod smtp;
mod smtp_faults;
mod tokens;
mod wire;

pub use control::{Control, LoginFault, TokenFault};
pub use graph::{GraphFault, GraphStep};
pub use mailbox::{Attachment, SentMail, Way};
pub use options::{App, Federated, Options, Ports, Registration, ServiceAccount, Shared};
pub use smtp_faults::{SmtpFault, SmtpStage};

use control::{Counts, Faults};
use entra::SignIns;
use graph::Graph;
use limits::Limits;
use mailbox::PostOffice;
use tokens::Tokens;
use wire::Wire;

/// Fields of an HTTP form by name.
type Form = std::collections::HashMap<String, String>;

/// A running upstream and token endpoint; they end when this is dropped.
pub struct Emulator {
    control: Control,
    token: SocketAddr,
    https: SocketAddr,
    mail: Vec<(Protocol, Tls, SocketAddr)>,
    listeners: TaskTracker,
    stop: DropGuard,
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

/// What all sessions share.
struct World {
    options: Options,
    tokens: Tokens,
    sign_ins: SignIns,
    mail: PostOffice,
    faults: Mutex<Faults>,
    counts: Counts,
    limits: Limits,
    graph: Graph,
    acceptor: TlsAcceptor,
    ca_pem: String,
    sessions: TaskTracker,
    stop: CancellationToken,
}

impl Emulator {
    /// Binds eight ports on the loopback addresses and serves them until stopped or dropped.
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
        let (https, bound) = bind(0).await?;
        for listener in bound {
            listeners.spawn(unwrap_tls(listener, token, world.clone()));
        }
        Ok(Self { control: Control { world }, token, https, mail, listeners, stop })
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
        self.endpoint("token")
    }

    /// The authorization endpoint, where a browser begins a sign-in.
    pub fn authorize_url(&self) -> String {
        self.endpoint("authorize")
    }

    /// The device authorization endpoint (RFC 8628 section 3.1).
    pub fn device_url(&self) -> String {
        self.endpoint("devicecode")
    }

    /// The revocation endpoint (RFC 7009). Entra has none, other providers do.
    pub fn revoke_url(&self) -> String {
        self.endpoint("revoke")
    }

    /// The token endpoint of managed identities, as a virtual machine in Azure sees it.
    pub fn identity_url(&self) -> String {
        format!("http://{}/metadata/identity/oauth2/token", self.token)
    }

    /// Microsoft Graph v1.0, without a slash at the end.
    pub fn graph_url(&self) -> String {
        format!("http://{}/graph/v1.0", self.token)
    }

    /// The issuer that a sign-in names in `iss` and in its ID token.
    pub fn issuer(&self) -> String {
        let base = format!("http://{}", self.token);
        entra::issuer(&self.control.world, &base)
    }

    /// The token endpoint's and Graph's port by TLS, as the real ones are; the certificate is that of the mail ports.
    pub fn https(&self) -> SocketAddr {
        self.https
    }

    fn endpoint(&self, name: &str) -> String {
        let tenant = &self.control.world.options.app.tenant;
        format!("http://{}/{tenant}/oauth2/v2.0/{name}", self.token)
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
        Ok(Self {
            tokens: Tokens::new(options.clone()),
            sign_ins: SignIns::new(&options.registration)?,
            mail: PostOffice::new(&options.mailboxes),
            faults: Mutex::default(),
            counts: Counts::default(),
            limits: Limits::new(&options),
            graph: Graph::default(),
            acceptor,
            ca_pem,
            sessions: TaskTracker::new(),
            stop: CancellationToken::new(),
            options,
        })
    }

    /// The time by the emulated clock, which may be off on request.
    fn now(&self) -> SystemTime {
        let (offset, now) = (locked(&self.faults).clock_offset, SystemTime::now());
        let shift = Duration::from_secs(offset.unsigned_abs());
        let moved = if offset < 0 { now.checked_sub(shift) } else { now.checked_add(shift) };
        moved.unwrap_or(now)
    }

    /// The same in seconds since 1970, for the dates of assertions.
    fn unix_seconds(&self) -> i64 {
        let since = self.now().duration_since(UNIX_EPOCH).unwrap_or_default();
        i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
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

/// TLS before the port that has none.
async fn unwrap_tls(listener: TcpListener, to: SocketAddr, world: Arc<World>) {
    loop {
        let accepted = tokio::select! {
            () = world.stop.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        let Ok((stream, _)) = accepted else {
            tokio::time::sleep(Duration::from_millis(50)).await;
            continue;
        };
        let (acceptor, stop) = (world.acceptor.clone(), world.stop.clone());
        tokio::spawn(async move {
            let passing = async {
                let mut outside = acceptor.accept(stream).await?;
                let mut inside = TcpStream::connect(to).await?;
                tokio::io::copy_bidirectional(&mut outside, &mut inside).await
            };
            stop.run_until_cancelled(passing).await
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
