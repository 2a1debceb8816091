//! The clients' side of a running proxy: sockets, and who may connect at all.
//!
//! Invariant: nobody finds a door open that no password closes. An address that stays in the configuration keeps its
//! socket, and no connection to it is refused meanwhile.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Result, bail};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{info, warn};

use super::certificates::Certificates;
use crate::access::Access;
use crate::config::{Config, ListenAddress, Listener};
use crate::connection::{Door, serve};
use crate::lobby::Lobby;
use crate::net::{ServerTls, bind};
use crate::supervisor::Vital;
use crate::vocabulary::Protocol;

/// Pause after a failure to accept that makes no room.
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);

/// Pause after one that does: for those who go to close.
const ROOM_MADE: Duration = Duration::from_millis(10);

/// How many go when there are no more file descriptors: a login needs some, for its upstream and its token.
const ROOM: usize = 16;

/// EAFNOSUPPORT on Linux: IPv6 is switched off in the kernel.
const AF_NOT_SUPPORTED: i32 = 97;

/// The sockets that accept, in the order of the configuration.
#[derive(Default)]
pub(super) struct Doors(Vec<Open>);

/// A socket that accepts.
struct Open {
    /// As the configuration has it: its port may be 0.
    address: SocketAddr,
    /// Where it is.
    at: SocketAddr,
    /// Closes it, when it is dropped.
    door: watch::Sender<Arc<Door>>,
}

/// A listener's socket for another configuration.
pub(super) struct Opening {
    pub(super) listener: Arc<Listener>,
    pub(super) tls: Option<ServerTls>,
    address: SocketAddr,
    socket: Socket,
}

enum Socket {
    /// The one that accepts already, by its place among [`Doors`].
    Kept(usize),
    New(TcpListener, SocketAddr),
}

impl Doors {
    /// A socket for each address of `config` that this machine has: those that are open, and new ones. Nothing is
    /// closed or changed yet.
    pub(super) fn plan(
        &self,
        config: &Config,
        certificates: &Certificates,
    ) -> Result<Vec<Opening>> {
        let mut left: Vec<(usize, SocketAddr)> =
            self.0.iter().enumerate().map(|(place, open)| (place, open.address)).collect();
        let mut plan = Vec::new();
        for listener in &config.listeners {
            let tls = certificates.of(config, listener)?;
            for address in &listener.addresses {
                // Of several with port 0, one after the other.
                let kept = left.iter().position(|(_, open)| *open == address.address);
                let socket = match kept {
                    Some(kept) => Socket::Kept(left.remove(kept).0),
                    None => match self.open(config, listener, address)? {
                        Some(socket) => {
                            let at = socket.local_addr()?;
                            Socket::New(socket, at)
                        }
                        None => continue,
                    },
                };
                let (listener, tls, address) = (Arc::clone(listener), tls.clone(), address.address);
                plan.push(Opening { listener, tls, address, socket });
            }
        }
        Ok(plan)
    }

    /// None: this machine has no such address, and need not have it.
    fn open(
        &self,
        config: &Config,
        listener: &Listener,
        address: &ListenAddress,
    ) -> Result<Option<TcpListener>> {
        let error = match bind(address.address) {
            Ok(socket) => return Ok(Some(socket)),
            Err(error) if address.optional && is_absent(&error) => {
                info!(%address, "left out: this machine has no such address");
                return Ok(None);
            }
            Err(error) => error,
        };
        let port = address.address.port();
        let is_own = self.0.iter().any(|open| open.at.port() == port);
        let hint = hint(&error, address.address, is_own);
        let (file, line) = (config.file.display(), listener.line);
        bail!("{file}, line {line}: can't listen on {address}: {error}\nhint: {hint}")
    }

    /// Puts a plan in force: who connects from now on meets the door that `make` makes of it.
    pub(super) fn apply(
        &mut self,
        plan: Vec<(Opening, Arc<Door>)>,
        tracker: &TaskTracker,
        stop: &CancellationToken,
        ids: &Arc<AtomicU64>,
    ) {
        let mut former: Vec<_> = std::mem::take(&mut self.0).into_iter().map(Some).collect();
        for (Opening { address, socket, .. }, door) in plan {
            match socket {
                Socket::Kept(place) => {
                    let open = former.get_mut(place).and_then(Option::take);
                    self.0.extend(open.inspect(|open| drop(open.door.send_replace(door))));
                }
                Socket::New(socket, at) => {
                    let (sender, receiver) = watch::channel(door);
                    let (tracked, ids) = (tracker.clone(), Arc::clone(ids));
                    let accept = accept(receiver, socket, tracked, ids);
                    let stop = stop.clone();
                    tracker.spawn(async move { stop.run_until_cancelled(accept).await });
                    self.0.push(Open { address, at, door: sender });
                }
            }
        }
    }

    /// Where each one is, and what is spoken there.
    pub(super) fn listening(&self) -> Vec<(Protocol, SocketAddr)> {
        let protocol = |open: &Open| open.door.borrow().listener.protocol;
        self.0.iter().map(|open| (protocol(open), open.at)).collect()
    }
}

/// Takes connections until the listener has left the configuration; each meets the door of its time.
async fn accept(
    mut doors: watch::Receiver<Arc<Door>>,
    socket: TcpListener,
    tracker: TaskTracker,
    ids: Arc<AtomicU64>,
) {
    let _vital = Vital::begin();
    let mut failing = false;
    loop {
        let accepted = tokio::select! {
            changed = doors.changed() => match changed {
                Ok(()) => continue,
                Err(_) => return,
            },
            accepted = socket.accept() => accepted,
        };
        match accepted {
            Ok((stream, peer)) => {
                let id = ids.fetch_add(1, Ordering::Relaxed);
                let door = Arc::clone(&doors.borrow());
                let seat = door.seat(peer.ip());
                tracker.spawn(serve(door, stream, peer, id, seat));
                failing = false;
            }
            Err(error) => {
                if !std::mem::replace(&mut failing, true) {
                    warn!(%error, "no connection can be accepted");
                }
                let lobby = Arc::clone(&doors.borrow().gate.lobby);
                sleep(make_room(&lobby, &error)).await;
            }
        }
    }
}

/// Those who have waited longest go, if it is descriptors that are wanting; how long to wait then.
fn make_room(lobby: &Lobby, error: &std::io::Error) -> Duration {
    // The client has gone before it was taken: nothing is wanting (accept(2)).
    let gone = matches!(
        error.kind(),
        std::io::ErrorKind::ConnectionAborted | std::io::ErrorKind::ConnectionReset
    );
    match gone || lobby.make_room(ROOM) > 0 {
        true => ROOM_MADE,
        false => ACCEPT_AGAIN,
    }
}

/// A file that is empty by mistake, or not written to its end yet.
pub(super) fn refuse_no_listener(config: &Config) -> Result<()> {
    if config.listeners.is_empty() {
        let file = config.file.display();
        bail!("{file}: there is nothing to listen on\nhint: add a [[listener]] to {file}");
    }
    Ok(())
}

/// No login can work, and somebody else could be the first to make it. A device needs no login.
pub(super) fn refuse_open_door(config: &Config, access: &Access) -> Result<()> {
    let is_for_devices =
        |listener: &Listener| listener.protocol == Protocol::Smtp && !config.devices.is_empty();
    let mut listeners = config.listeners.iter().filter(|listener| !is_for_devices(listener));
    let on_lan = listeners.find_map(|listener| {
        listener.addresses.iter().find(|address| !address.is_loopback()).map(|a| (listener, a))
    });
    match on_lan {
        Some((listener, address)) if access.is_empty() => bail!(
            "{}, line {}: {address} is not on loopback, and there is no app password yet\n\
             hint: gatepost password add MAILBOX",
            config.file.display(),
            listener.line
        ),
        _ => Ok(()),
    }
}

/// What to do where nobody can listen. `is_own`: gatepost has the port by another address.
fn hint(error: &std::io::Error, address: SocketAddr, is_own: bool) -> String {
    use std::io::ErrorKind::{AddrInUse, AddrNotAvailable, PermissionDenied};
    let port = address.port();
    match error.kind() {
        AddrInUse if is_own => {
            "gatepost itself has that port by another address: restart it".into()
        }
        AddrInUse => format!(
            "another program has that port; which one: ss -ltnp 'sport = :{port}'; stop it, or choose another port"
        ),
        AddrNotAvailable => {
            let all = if address.is_ipv4() { "0.0.0.0" } else { "[::]" };
            format!(
                "this machine does not have that address: write one that it has (ip address), or {all}:{port} for all"
            )
        }
        PermissionDenied => format!(
            "port {port} takes a privilege: choose one from 1024 on, or in the unit \
             AmbientCapabilities=CAP_NET_BIND_SERVICE, or else setcap cap_net_bind_service=+ep $(command -v gatepost)"
        ),
        _ => "choose another address or port".into(),
    }
}

fn is_absent(error: &std::io::Error) -> bool {
    matches!(error.kind(), std::io::ErrorKind::AddrNotAvailable | std::io::ErrorKind::Unsupported)
        || error.raw_os_error() == Some(AF_NOT_SUPPORTED)
}

#[cfg(test)]
mod tests {
    use std::io::{Error, ErrorKind};

    use super::*;

    #[test]
    fn each_reason_has_its_remedy() {
        let told = |kind: ErrorKind, address: &str, is_own| {
            hint(&Error::from(kind), address.parse().unwrap(), is_own)
        };
        assert!(told(ErrorKind::AddrInUse, "127.0.0.1:1143", true).contains("gatepost itself"));
        assert!(told(ErrorKind::AddrInUse, "127.0.0.1:1143", false).contains("sport = :1143"));
        assert!(told(ErrorKind::PermissionDenied, "127.0.0.1:143", false).contains("setcap"));
        let absent = told(ErrorKind::AddrNotAvailable, "192.0.2.1:1143", false);
        assert!(absent.contains("ip address") && absent.contains("0.0.0.0:1143"), "{absent}");
        let absent = told(ErrorKind::AddrNotAvailable, "[2001:db8::1]:1143", false);
        assert!(absent.contains("[::]:1143"), "{absent}");
    }

    #[tokio::test]
    async fn the_system_says_that_an_address_is_of_another_machine() {
        // RFC 5737: nobody's.
        let address = "192.0.2.1:0".parse().unwrap();
        let error = bind(address).unwrap_err();
        assert!(hint(&error, address, false).contains("does not have that address"), "{error}");
    }
}
