//! Connections to the upstream: its name's addresses, TCP to the first that answers, a proxy's tunnel, TLS.
//!
//! Invariant: each of these has its limit within the deadline of the whole, and the error says which one failed and
//! with whom.

use std::io;
use std::time::Duration;

use socket2::{SockRef, Socket, TcpKeepalive};
use tokio::net::TcpStream;

use super::deadline::Deadline;
use super::eyeballs;
use super::lookup::{forget, look_up, preferred};
use super::route::Hop;
use super::tunnel;
use super::{ClientTls, Route, Stream};
use crate::config::Endpoint;

/// For a name. The system asks its next name server after 5 s (resolv.conf(5)).
const LOOK_UP: Duration = Duration::from_secs(10);

/// For TCP. Two SYN retransmissions (RFC 6298: 1 + 2 + 4 seconds) and a bit.
const CONNECT: Duration = Duration::from_secs(10);

/// For a proxy, which itself looks up and connects.
const TUNNEL: Duration = Duration::from_secs(15);

/// For the TLS handshake.
pub const HANDSHAKE: Duration = Duration::from_secs(10);

/// How long a peer may leave sent data unacknowledged, or a keepalive unanswered: the "user timeout" that RFC 9293
/// section 3.9.1.1 has as its default.
#[cfg(any(target_os = "linux", target_os = "android"))]
const UNACKNOWLEDGED: Duration = Duration::from_secs(300);

/// An upstream can't be reached.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    /// Name look-up or TCP failed.
    #[error("no connection to {to}: {why}")]
    Connect {
        /// To where: the server, or the proxy that leads to it.
        to: String,
        /// How.
        why: String,
    },
    /// The proxy makes no tunnel.
    #[error("no connection to {to} by the proxy {proxy}: {why}")]
    Proxy {
        /// To where.
        to: String,
        /// By whom.
        proxy: String,
        /// What it says.
        why: String,
    },
    /// The TLS handshake failed: its certificate is not for its name, expired, or of an unknown issuer.
    #[error("no TLS with {with}: {why}")]
    Tls {
        /// With whom.
        with: String,
        /// How.
        why: String,
    },
}

/// Connects, by a proxy if the route says so.
pub async fn dial(
    endpoint: &Endpoint,
    route: &Route,
    tls: &ClientTls,
    deadline: Deadline,
) -> Result<Stream, DialError> {
    let Some(hop) = route.hop_to(endpoint) else {
        let connected = connect(&endpoint.host, endpoint.port, deadline).await;
        return connected.map_err(|why| DialError::Connect { to: endpoint.to_string(), why });
    };
    let refused =
        |why: String| DialError::Proxy { to: endpoint.to_string(), proxy: hop.to_string(), why };
    let mut stream = reach_proxy(&hop, tls, deadline).await?;
    let tunnel = deadline.phase(TUNNEL, tunnel::open(&mut stream, endpoint, &hop)).await;
    tunnel
        .unwrap_or_else(|late| Err(format!("it has not answered CONNECT {late}")))
        .map_err(refused)?;
    Ok(stream)
}

async fn reach_proxy(hop: &Hop, tls: &ClientTls, deadline: Deadline) -> Result<Stream, DialError> {
    let name = || format!("the proxy {hop}");
    let unreachable = |why: String| DialError::Connect { to: name(), why };
    if !matches!(hop.scheme.as_str(), "http" | "https") {
        let why = format!("it is a {} proxy, and mail goes by HTTP proxies alone", hop.scheme);
        return Err(unreachable(why));
    }
    let stream = connect(&hop.host, hop.port, deadline).await.map_err(unreachable)?;
    match hop.scheme == "https" {
        true => encrypt(stream, &hop.host, name(), tls, deadline).await,
        false => Ok(stream),
    }
}

async fn connect(host: &str, port: u16, deadline: Deadline) -> Result<Stream, String> {
    let addresses = deadline.phase(LOOK_UP, look_up(host, port)).await;
    let late = |late| Err(format!("no name server has answered for {host} {late}"));
    let addresses = addresses.unwrap_or_else(late)?;
    let limit = deadline.at_most(CONNECT);
    let attempt = |address| async move { Ok((address, TcpStream::connect(address).await?)) };
    let (address, stream) = match eyeballs::connect(addresses, limit, attempt).await {
        Ok(connected) => connected,
        Err(unreachable) => {
            forget(host, port);
            return Err(unreachable.to_string());
        }
    };
    preferred(host, port, address);
    tune(&SockRef::from(&stream)).map_err(|error| error.to_string())?;
    Ok(Stream::Plain(stream))
}

/// Makes a connection TLS; the certificate is checked against the endpoint's name.
pub async fn start_tls(
    stream: Stream,
    endpoint: &Endpoint,
    tls: &ClientTls,
    deadline: Deadline,
) -> Result<Stream, DialError> {
    encrypt(stream, &endpoint.host, endpoint.to_string(), tls, deadline).await
}

async fn encrypt(
    stream: Stream,
    host: &str,
    with: String,
    tls: &ClientTls,
    deadline: Deadline,
) -> Result<Stream, DialError> {
    let why = match deadline.phase(HANDSHAKE, tls.connect(stream, host)).await {
        Ok(Ok(stream)) => return Ok(stream),
        Ok(Err(error)) if error.kind() == io::ErrorKind::UnexpectedEof => {
            "it has closed the connection".into()
        }
        Ok(Err(error)) => error.to_string(),
        Err(late) => format!("its handshake was not done {late}"),
    };
    Err(DialError::Tls { with, why })
}

/// No delay for small writes, and a way to notice a peer that has vanished without a word: an idle IMAP
/// session has no traffic for half an hour (RFC 2177), and NATs forget it sooner.
pub(super) fn tune(socket: &Socket) -> io::Result<()> {
    socket.set_tcp_nodelay(true)?;
    let keepalive = TcpKeepalive::new()
        .with_time(Duration::from_secs(120))
        .with_interval(Duration::from_secs(30));
    socket.set_tcp_keepalive(&keepalive)?;
    // Elsewhere a peer that vanishes with data under way is noticed when the system gives up sending it again.
    #[cfg(any(target_os = "linux", target_os = "android"))]
    socket.set_tcp_user_timeout(Some(UNACKNOWLEDGED))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_peer_that_vanishes_is_noticed_in_minutes() {
        let listener = super::super::bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let port = listener.local_addr().unwrap().port();
        let deadline = Deadline::within(CONNECT);
        let (server, client) =
            tokio::join!(connect("127.0.0.1", port, deadline), listener.accept());
        let client = Stream::accepted(client.unwrap().0).unwrap();
        for stream in [server.unwrap(), client] {
            let Stream::Plain(stream) = stream else { panic!("{stream:?}") };
            let socket = SockRef::from(&stream);
            assert!(socket.keepalive().unwrap() && socket.tcp_nodelay().unwrap());
            #[cfg(target_os = "linux")]
            {
                assert_eq!(socket.tcp_keepalive_time().unwrap(), Duration::from_secs(120));
                assert_eq!(socket.tcp_keepalive_interval().unwrap(), Duration::from_secs(30));
                assert_eq!(socket.tcp_user_timeout().unwrap(), Some(UNACKNOWLEDGED));
            }
        }
    }
}
