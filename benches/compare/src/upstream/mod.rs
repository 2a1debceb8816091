//! The light upstream: IMAP and SMTP of canned answers behind TLS, and a token endpoint. It costs as little as it can,
//! so that what is measured is the proxy.
//!
//! | file | what it holds |
//! | --- | --- |
//! | `mod` | [`Upstream`]: its ports |
//! | `imap`, `smtp` | the answers |
//! | `tokens` | the token endpoint |
//!
//! It lets everybody in. That a proxy does what it should is for the tests to judge.

mod imap;
mod smtp;
mod tokens;

use std::future::Future;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use anyhow::Result;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::sleep;
use tokio_rustls::TlsAcceptor;

use crate::ground::Ground;
use crate::tls::acceptor;
use crate::wire::Wire;

pub(crate) use imap::{MESSAGE, send_lines};
pub(crate) use tokens::token;

/// As many as Linux allows by default.
const BACKLOG: u32 = 4096;

/// A running upstream, which ends when it is dropped.
pub(crate) struct Upstream {
    /// IMAP, implicit TLS.
    pub(crate) imap: u16,
    /// SMTP, STARTTLS.
    pub(crate) smtp: u16,
    /// The token endpoint, plain HTTP.
    pub(crate) tokens: u16,
    /// Its listeners.
    _tasks: JoinSet<()>,
}

impl Upstream {
    pub(crate) async fn start(ground: &Ground) -> Result<Self> {
        let tls = acceptor()?;
        let (imap, smtp, tokens) = (ground.port()?, ground.port()?, ground.port()?);
        let mut tasks = JoinSet::new();
        for (port, kind) in [(imap, Kind::Imap), (smtp, Kind::Smtp), (tokens, Kind::Tokens)] {
            // `localhost` is both.
            for listener in [
                bind((Ipv4Addr::LOCALHOST, port).into())?,
                bind((Ipv6Addr::LOCALHOST, port).into())?,
            ] {
                let tls = tls.clone();
                tasks.spawn(accept(listener, move |socket| serve(kind, socket, tls.clone())));
            }
        }
        Ok(Self { imap, smtp, tokens, _tasks: tasks })
    }
}

#[derive(Clone, Copy)]
enum Kind {
    Imap,
    Smtp,
    Tokens,
}

async fn serve(kind: Kind, socket: TcpStream, tls: TlsAcceptor) -> io::Result<()> {
    match kind {
        Kind::Imap => imap::serve(Wire::new(tls.accept(socket).await?)).await,
        Kind::Smtp => smtp::serve(Wire::new(socket), &tls).await,
        Kind::Tokens => tokens::serve(Wire::new(socket)).await,
    }
}

/// Listens, with room for many who come at once.
pub(crate) fn bind(address: std::net::SocketAddr) -> io::Result<TcpListener> {
    let socket = match address {
        std::net::SocketAddr::V4(_) => tokio::net::TcpSocket::new_v4()?,
        std::net::SocketAddr::V6(_) => tokio::net::TcpSocket::new_v6()?,
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
