//! The clients' side of a running proxy: sockets, and who may connect at all.
//!
//! Invariant: nobody finds a door open that no password closes.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Result, bail};
use tokio::net::TcpListener;
use tokio::time::sleep;
use tokio_util::task::TaskTracker;
use tracing::{info, warn};

use crate::access::Access;
use crate::config::{Config, Listener};
use crate::connection::{Door, serve};
use crate::net::bind;
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

/// Takes connections until the stop.
pub(super) async fn accept(
    door: Arc<Door>,
    socket: TcpListener,
    tracker: TaskTracker,
    ids: Arc<AtomicU64>,
) {
    let _vital = Vital::begin();
    let mut failing = false;
    loop {
        match socket.accept().await {
            Ok((stream, peer)) => {
                let id = ids.fetch_add(1, Ordering::Relaxed);
                let seat = door.seat(peer.ip());
                tracker.spawn(serve(Arc::clone(&door), stream, peer, id, seat));
                failing = false;
            }
            Err(error) => {
                if !std::mem::replace(&mut failing, true) {
                    warn!(%error, "no connection can be accepted");
                }
                sleep(make_room(&door, &error)).await;
            }
        }
    }
}

/// Those who have waited longest go, if it is descriptors that are wanting; how long to wait then.
fn make_room(door: &Door, error: &std::io::Error) -> Duration {
    // The client has gone before it was taken: nothing is wanting (accept(2)).
    let gone = matches!(
        error.kind(),
        std::io::ErrorKind::ConnectionAborted | std::io::ErrorKind::ConnectionReset
    );
    match gone || door.gate.lobby.make_room(ROOM) > 0 {
        true => ROOM_MADE,
        false => ACCEPT_AGAIN,
    }
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

/// A socket for each address that this machine has.
pub(super) fn bind_all(config: &Config) -> Result<Vec<(Arc<Listener>, TcpListener)>> {
    let mut sockets = Vec::new();
    for listener in &config.listeners {
        for address in &listener.addresses {
            match bind(address.address) {
                Ok(socket) => sockets.push((Arc::clone(listener), socket)),
                Err(error) if address.optional && is_absent(&error) => {
                    info!(%address, "left out: this machine has no such address");
                }
                Err(error) => bail!(
                    "{}, line {}: can't listen on {address}: {error}\n\
                     hint: another program has that port, or it takes root; choose another one",
                    config.file.display(),
                    listener.line
                ),
            }
        }
    }
    Ok(sockets)
}

fn is_absent(error: &std::io::Error) -> bool {
    matches!(error.kind(), std::io::ErrorKind::AddrNotAvailable | std::io::ErrorKind::Unsupported)
        || error.raw_os_error() == Some(AF_NOT_SUPPORTED)
}
