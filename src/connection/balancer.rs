//! Load balancers: for whom a connection of theirs speaks.
//!
//! Invariant: a header is read only from the networks that the listener names, from these always, and of what comes
//! behind it not an octet: TLS may begin in the same segment.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::time::Instant;

use super::client::within;
use super::{Door, Ending};
use crate::lobby::Seat;
use crate::protocol::{Announced, Closing, ProxyHeader};

/// For a load balancer to send its header, which it does before anything else: a retransmission or two (RFC 6298).
const HEADER: Duration = Duration::from_secs(5);

/// Octets looked at together. Longer headers are rare.
const LOOK: usize = 256;

/// Who is at the other end: the client that a load balancer announces, else `peer`. The seat is then its.
pub(super) async fn client(
    door: &Door,
    socket: &mut TcpStream,
    peer: SocketAddr,
    seat: &mut Seat,
) -> Result<SocketAddr, Ending> {
    match door.listener.is_balancer(peer.ip()) {
        // Boxed: others do not hold the memory of a header.
        true => Box::pin(announced(door, socket, peer, seat)).await,
        false => Ok(peer),
    }
}

async fn announced(
    door: &Door,
    socket: &mut TcpStream,
    peer: SocketAddr,
    seat: &mut Seat,
) -> Result<SocketAddr, Ending> {
    let read = within(seat, Instant::now() + HEADER, header(socket));
    let read = tokio::select! {
        read = read => read,
        () = door.gate.stop.cancelled() => return Err(Ending::Closed(Closing::ShuttingDown)),
    };
    let client = match read {
        Ok(Some(Announced::Client(client))) => client,
        Ok(Some(Announced::Itself)) => peer,
        Ok(None) | Err(Ending::Closed(Closing::Deadline)) => {
            return Err(Ending::Closed(Closing::NoProxyHeader));
        }
        Err(ending) => return Err(ending),
    };
    seat.moves_to(client.ip());
    Ok(client)
}

/// Enough of a header to know it by: `PROXY `, or the NUL of version 2. No client begins TLS so.
const ENOUGH: usize = 6;

/// Whether a load balancer that the listener does not name announces a client where TLS must begin. It waits for the
/// first octets, and takes none.
pub(super) async fn is_announcement(socket: &TcpStream) -> io::Result<bool> {
    let mut first = [0; ENOUGH];
    let seen = socket.peek(&mut first).await?;
    Ok(seen == ENOUGH && ProxyHeader::default().push(&first).is_ok())
}

/// Takes the header off the connection; `None`: what comes is none.
async fn header(socket: &mut TcpStream) -> io::Result<Option<Announced>> {
    let mut header = ProxyHeader::default();
    let mut buffer = [0; LOOK];
    loop {
        let seen = socket.peek(&mut buffer).await?;
        if seen == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let Ok((taken, announced)) = header.push(buffer.get(..seen).unwrap_or_default()) else {
            return Ok(None);
        };
        // They are there: this does not wait.
        socket.read_exact(buffer.get_mut(..taken).unwrap_or_default()).await?;
        if announced.is_some() {
            return Ok(announced);
        }
    }
}
