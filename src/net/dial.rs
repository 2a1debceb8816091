//! Connections to the upstream.

use std::io;
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::{ClientTls, Stream};
use crate::config::Endpoint;

/// For name look-up and TCP. Two SYN retransmissions (RFC 6298: 1 + 2 + 4 seconds) and a bit.
const CONNECT: Duration = Duration::from_secs(10);

/// For the TLS handshake.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// An upstream can't be reached.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    /// Name look-up or TCP failed.
    #[error("no connection to {endpoint}: {source}")]
    Connect {
        /// To where.
        endpoint: String,
        /// How.
        source: io::Error,
    },
    /// The TLS handshake failed: its certificate is not for its name, expired, or of an unknown issuer.
    #[error("no TLS with {endpoint}: {source}")]
    Tls {
        /// With whom.
        endpoint: String,
        /// How.
        source: io::Error,
    },
}

/// Connects by TCP.
pub async fn dial(endpoint: &Endpoint) -> Result<Stream, DialError> {
    let connect = TcpStream::connect((endpoint.host.as_str(), endpoint.port));
    let stream = within(CONNECT, connect)
        .await
        .and_then(|stream| tune(&stream).map(|()| stream))
        .map_err(|source| DialError::Connect { endpoint: endpoint.to_string(), source })?;
    Ok(Stream::Plain(stream))
}

/// Makes a connection TLS; the certificate is checked against the endpoint's name.
pub async fn start_tls(
    stream: Stream,
    endpoint: &Endpoint,
    tls: &ClientTls,
) -> Result<Stream, DialError> {
    within(HANDSHAKE, tls.connect(stream, &endpoint.host))
        .await
        .map_err(|source| DialError::Tls { endpoint: endpoint.to_string(), source })
}

async fn within<T>(limit: Duration, wait: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    timeout(limit, wait).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

/// No delay for small writes, and a way to notice a peer that has vanished without a word: an idle IMAP
/// session has no traffic for half an hour (RFC 2177), and NATs forget it sooner.
pub(super) fn tune(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let keepalive = TcpKeepalive::new()
        .with_time(Duration::from_secs(120))
        .with_interval(Duration::from_secs(30));
    SockRef::from(stream).set_tcp_keepalive(&keepalive)
}
