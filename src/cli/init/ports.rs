//! Ports for listeners: the documents' ones if they are free.

use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};

use anyhow::{Context, Result};

use crate::config::ListenAddress;
use crate::vocabulary::Protocol;

/// How many ports after the usual one are tried.
const TRIES: u16 = 100;

/// Ports that listeners of the same configuration have.
#[derive(Default)]
pub(super) struct Taken(Vec<u16>);

impl Taken {
    /// An address with a free port, and the usual port if it is not that one.
    pub(super) fn free(&mut self, host: &str, protocol: Protocol) -> Result<(String, Option<u16>)> {
        let usual = usual(protocol);
        let mut ports = usual..usual.saturating_add(TRIES);
        let port = ports
            .find(|port| !self.0.contains(port) && is_free(host, *port))
            .with_context(|| format!("no port from {usual} on is free on {host}"))?;
        self.0.push(port);
        let address = match host.contains(':') {
            true => format!("[{host}]:{port}"),
            false => format!("{host}:{port}"),
        };
        Ok((address, (port != usual).then_some(usual)))
    }
}

/// Above 1024, so that it takes no privilege.
fn usual(protocol: Protocol) -> u16 {
    match protocol {
        Protocol::Imap => 1143,
        Protocol::Pop3 => 1110,
        Protocol::Smtp => 1587,
    }
}

fn is_free(host: &str, port: u16) -> bool {
    let addresses = match host.parse::<IpAddr>() {
        Ok(address) => vec![address],
        Err(_) => vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()],
    };
    // An address that this machine doesn't have is another matter, and gatepost run will tell.
    let taken = |address: &IpAddr| {
        TcpListener::bind(SocketAddr::new(*address, port))
            .is_err_and(|error| error.kind() == ErrorKind::AddrInUse)
    };
    !addresses.iter().any(taken)
}

/// Whether only this machine reaches `listen`.
pub(super) fn is_local(listen: &str) -> bool {
    let addresses = ListenAddress::parse(listen).unwrap_or_default();
    addresses.iter().all(ListenAddress::is_loopback)
}
