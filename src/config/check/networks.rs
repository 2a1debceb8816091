//! Networks and addresses, wherever they are written.

use std::net::IpAddr;

use ipnet::IpNet;
use toml::Spanned;

use super::super::error::ConfigError;
use super::Checker;

impl Checker<'_> {
    /// A network, or an address for the network of it alone.
    pub(super) fn network(
        &self,
        key: &str,
        written: &Spanned<String>,
    ) -> Result<IpNet, ConfigError> {
        let text = written.get_ref();
        let network = text.parse().or_else(|_| text.parse().map(|ip: IpAddr| ip.into()));
        // An IPv4 client is known by its own address on every socket, so that one written as IPv6 would never match.
        network.ok().filter(|network| !is_mapped(network)).ok_or_else(|| {
            let problem = format!("{text:?} is no network");
            let remedy = "write an address or a network: \"192.168.10.21\", \"192.168.10.0/24\"";
            self.error(&written.span(), key, problem, remedy)
        })
    }
}

fn is_mapped(network: &IpNet) -> bool {
    matches!(network.addr(), IpAddr::V6(ip) if ip.to_ipv4_mapped().is_some())
}
