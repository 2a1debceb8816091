//! Listening sockets: those that the service manager has opened, else gatepost's own.
//!
//! Invariant: an inherited socket is kept as long as the process lives, so that a listener that is closed and comes
//! back finds it again.

use std::io;
use std::net::SocketAddr;
use std::sync::{Mutex, PoisonError};

use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::TcpListener;

use super::dial::tune;

/// Connections that the kernel holds until they are accepted: as many as Linux allows by default.
const BACKLOG: i32 = 4096;

/// What the service manager has passed (sd_listen_fds(3)).
static INHERITED: Mutex<Vec<Inherited>> = Mutex::new(Vec::new());

struct Inherited {
    address: SocketAddr,
    socket: Socket,
    /// Whether a listener has asked for it.
    wanted: bool,
}

/// Listens on `address`, at once after a former process too.
pub fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    if let Some(socket) = inherited(address)? {
        tune(&socket)?;
        return TcpListener::from_std(socket.into());
    }
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    // On Windows this option would let two processes share a port.
    #[cfg(unix)]
    socket.set_reuse_address(true)?;
    if address.is_ipv6() {
        // `[::]` and `0.0.0.0` are two listeners, as the configuration has them.
        socket.set_only_v6(true)?;
    }
    socket.set_nonblocking(true)?;
    tune(&socket)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

fn inherited(address: SocketAddr) -> io::Result<Option<Socket>> {
    let mut all = INHERITED.lock().unwrap_or_else(PoisonError::into_inner);
    let Some(found) = all.iter_mut().find(|inherited| inherited.address == address) else {
        return Ok(None);
    };
    found.wanted = true;
    found.socket.try_clone().map(Some)
}

/// Takes over what the service manager has passed. To be called before there are threads: it changes the environment.
#[cfg(unix)]
pub fn inherit() -> io::Result<()> {
    let mut passed = listenfd::ListenFd::from_env();
    let mut all = INHERITED.lock().unwrap_or_else(PoisonError::into_inner);
    for index in 0..passed.len() {
        let Some(socket) = passed.take_tcp_listener(index)? else { continue };
        let address = socket.local_addr()?;
        let socket = Socket::from(socket);
        if !socket.is_listener()? {
            let problem = format!("the socket {address} that was passed does not listen");
            return Err(io::Error::other(format!(
                "{problem}\nhint: write Accept=no in the socket unit"
            )));
        }
        socket.set_nonblocking(true)?;
        all.push(Inherited { address, socket, wanted: false });
    }
    Ok(())
}

/// Elsewhere nobody passes any.
#[cfg(not(unix))]
pub fn inherit() -> io::Result<()> {
    Ok(())
}

/// The addresses of passed sockets that no listener has asked for: clients can connect there, and wait for ever.
pub fn unclaimed() -> Vec<SocketAddr> {
    let all = INHERITED.lock().unwrap_or_else(PoisonError::into_inner);
    all.iter().filter(|inherited| !inherited.wanted).map(|inherited| inherited.address).collect()
}
