//! Where clients connect.
//!
//! Invariant: two are equal if they are served in the same way, wherever they stand in the file.

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;

use ipnet::IpNet;

use super::{Endpoint, ListenAddress, Provider};
use crate::vocabulary::{BareLf, Delivery, Protocol, TlsMode};

/// A `[[listener]]`.
#[derive(Debug)]
pub struct Listener {
    /// What is spoken on it.
    pub protocol: Protocol,
    /// Where it listens.
    pub addresses: Vec<ListenAddress>,
    /// How TLS begins on it.
    pub tls: TlsMode,
    /// Whose servers it leads to.
    pub provider: Arc<Provider>,
    /// Of `provider`, for this protocol.
    pub upstream: Endpoint,
    /// Certificate chain and private key (PEM), if not self-made.
    pub certificate: Option<CertificateFiles>,
    /// Names that the self-made certificate has besides, in lower case.
    pub names: Vec<String>,
    /// From where connections begin with a PROXY header: its load balancers.
    pub proxy_protocol: Vec<IpNet>,
    /// What becomes of the mail that it takes (SMTP).
    pub delivery: Delivery,
    /// What a bare line feed is in that mail, if it is spooled.
    pub bare_lf: BareLf,
    /// The line of the file where it begins.
    pub line: usize,
}

impl Listener {
    /// For people: `imap 127.0.0.1:1143`.
    pub fn name(&self) -> String {
        let addresses = self.addresses.iter().map(ToString::to_string).collect::<Vec<_>>();
        format!("{} {}", self.protocol, addresses.join(", "))
    }

    /// Whether who connects from there speaks for others.
    pub fn is_balancer(&self, peer: IpAddr) -> bool {
        let peer = peer.to_canonical();
        self.proxy_protocol.iter().any(|network| network.contains(&peer))
    }
}

/// Wherever it stands in the file.
impl PartialEq for Listener {
    fn eq(&self, other: &Self) -> bool {
        let Self { protocol, addresses, tls, provider, upstream, .. } = self;
        let Self { certificate, names, proxy_protocol, delivery, bare_lf, .. } = self;
        (protocol, addresses, tls, provider, upstream)
            == (&other.protocol, &other.addresses, &other.tls, &other.provider, &other.upstream)
            && (certificate, names) == (&other.certificate, &other.names)
            && (proxy_protocol, delivery, bare_lf)
                == (&other.proxy_protocol, &other.delivery, &other.bare_lf)
    }
}

/// A certificate of an administrator's own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateFiles {
    /// The chain, leaf first, in PEM.
    pub certificate: PathBuf,
    /// Its private key, in PEM.
    pub private_key: PathBuf,
}
