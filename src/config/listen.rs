//! A listener's address: `"127.0.0.1:1143"`, `"[::1]:1143"`, or `"localhost:1143"` for both loopbacks.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// One address to listen on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ListenAddress {
    /// The address.
    pub address: SocketAddr,
    /// It may be left out if this machine has no such address: the IPv6 half of `localhost`.
    pub optional: bool,
}

impl ListenAddress {
    /// The addresses that one entry of the configuration means.
    pub fn parse(text: &str) -> Result<Vec<Self>, String> {
        if let Some(port) = text.strip_prefix("localhost:") {
            let port = port.parse().map_err(|_| format!("{port:?} is no port"))?;
            let half = |ip: IpAddr, optional| Self { address: SocketAddr::new(ip, port), optional };
            return Ok(vec![
                half(Ipv4Addr::LOCALHOST.into(), false),
                half(Ipv6Addr::LOCALHOST.into(), true),
            ]);
        }
        let address = text.parse().map_err(|_| format!("{text:?} is no address with a port"))?;
        Ok(vec![Self { address, optional: false }])
    }

    /// Whether only this machine reaches it.
    pub fn is_loopback(&self) -> bool {
        self.address.ip().to_canonical().is_loopback()
    }

    /// Whether the two can't both be listened on.
    pub(super) fn clashes_with(&self, other: &Self) -> bool {
        let (one, two) = (self.address, other.address);
        let same_ip = one.ip() == two.ip()
            || (one.is_ipv4() == two.is_ipv4()
                && (one.ip().is_unspecified() || two.ip().is_unspecified()));
        // Port 0 is a free one each time.
        same_ip && one.port() == two.port() && one.port() != 0
    }
}

impl fmt::Display for ListenAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.address.fmt(f)
    }
}
