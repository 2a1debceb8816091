//! The light upstream: IMAP and SMTP of canned answers behind TLS, and a token endpoint. It costs as little as it can,
//! so that what is measured is the proxy.
//!
//! | file | what it holds |
//! | --- | --- |
//! | `mod` | [`Upstream`]: its ports |
//! | `imap`, `smtp` | the answers |
//! | `tokens` | the token endpoint |
//! | `apart` | [`Apart`]: all of it in a process of its own |
//!
//! It lets everybody in. That a proxy does what it should is for the tests to judge.

mod apart;
mod imap;
mod smtp;
mod tokens;

use std::future::Future;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use anyhow::Result;
use rustls::HandshakeKind;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::task::JoinSet;
use tokio::time::sleep;
use tokio_rustls::TlsAcceptor;

use crate::ground::Ground;
use crate::tls::acceptor;
use crate::wire::Wire;

pub(crate) use apart::{Apart, COMMAND};
pub(crate) use imap::{MESSAGE, send_lines};
pub(crate) use tokens::token;

/// As many as Linux allows by default.
const BACKLOG: u32 = 4096;

/// Where it listens.
#[derive(Clone, Copy)]
pub(crate) struct Ports {
    /// IMAP, implicit TLS.
    pub(crate) imap: u16,
    /// SMTP, STARTTLS.
    pub(crate) smtp: u16,
    /// The token endpoint, plain HTTP.
    pub(crate) tokens: u16,
}

impl Ports {
    pub(crate) fn new(ground: &Ground) -> Result<Self> {
        Ok(Self { imap: ground.port()?, smtp: ground.port()?, tokens: ground.port()? })
    }
}

/// A running upstream, which ends when it is dropped.
pub(crate) struct Upstream {
    pub(crate) ports: Ports,
    handshakes: Arc<Handshakes>,
    /// Its listeners.
    _tasks: JoinSet<()>,
}

/// How many there were. What is resumed costs both sides less.
#[derive(Default)]
struct Handshakes {
    all: AtomicUsize,
    resumed: AtomicUsize,
}

impl Upstream {
    pub(crate) fn start(ports: Ports) -> Result<Self> {
        let tls = acceptor()?;
        let handshakes = Arc::new(Handshakes::default());
        let Ports { imap, smtp, tokens } = ports;
        let mut tasks = JoinSet::new();
        for (port, kind) in [(imap, Kind::Imap), (smtp, Kind::Smtp), (tokens, Kind::Tokens)] {
            // `localhost` is both.
            for host in [IpAddr::from(Ipv4Addr::LOCALHOST), Ipv6Addr::LOCALHOST.into()] {
                let listener = bind((host, port).into())?;
                let (tls, handshakes) = (tls.clone(), Arc::clone(&handshakes));
                tasks.spawn(accept(listener, move |socket| {
                    serve(kind, socket, tls.clone(), Arc::clone(&handshakes))
                }));
            }
        }
        Ok(Self { ports, handshakes, _tasks: tasks })
    }

    /// The share of resumed handshakes of IMAP since the last question.
    pub(crate) fn resumed(&self) -> String {
        let (all, resumed) = (&self.handshakes.all, &self.handshakes.resumed);
        format!("{} of {} TLS sessions resumed", resumed.swap(0, Relaxed), all.swap(0, Relaxed))
    }
}

#[derive(Clone, Copy)]
enum Kind {
    Imap,
    Smtp,
    Tokens,
}

async fn serve(
    kind: Kind,
    socket: TcpStream,
    tls: TlsAcceptor,
    handshakes: Arc<Handshakes>,
) -> io::Result<()> {
    match kind {
        Kind::Imap => {
            let stream = tls.accept(socket).await?;
            handshakes.all.fetch_add(1, Relaxed);
            if stream.get_ref().1.handshake_kind() == Some(HandshakeKind::Resumed) {
                handshakes.resumed.fetch_add(1, Relaxed);
            }
            imap::serve(Wire::new(stream)).await
        }
        Kind::Smtp => smtp::serve(Wire::new(socket), &tls).await,
        Kind::Tokens => tokens::serve(Wire::new(socket)).await,
    }
}

/// Listens, with room for many who come at once.
pub(crate) fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4()?,
        SocketAddr::V6(_) => TcpSocket::new_v6()?,
    };
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// Serves each connection in a task of its own.
pub(crate) async fn accept<F>(listener: TcpListener, serve: impl Fn(TcpStream) -> F)
where
    F: Future<Output = io::Result<()>> + Send + 'static,
{
    let mut sessions = JoinSet::new();
    loop {
        match listener.accept().await {
            Ok((socket, _)) => {
                let _ = socket.set_nodelay(true);
                // How a session ends is its client's to notice.
                sessions.spawn(serve(socket));
                while sessions.try_join_next().is_some() {}
            }
            // Out of files, most likely.
            Err(_) => sleep(Duration::from_millis(50)).await,
        }
    }
}
