//! Where a browser comes back to after a sign-in (RFC 6749 section 3.1.2).
//!
//! Invariant: it is sent as it is registered, to the letter: `http://localhost` has no slash at its end, though a
//! parser of URLs gives it one.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use url::{Host, Url};

/// A redirect URI as it is registered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RedirectUri {
    written: String,
    url: Url,
}

impl RedirectUri {
    /// Of a text and what it means.
    pub(super) fn new(written: String, url: Url) -> Self {
        Self { written, url }
    }

    /// As it is registered.
    pub fn as_str(&self) -> &str {
        &self.written
    }

    /// The path that a browser asks for.
    pub fn path(&self) -> &str {
        self.url.path()
    }

    /// The port, if one is registered.
    pub fn port(&self) -> Option<u16> {
        self.url.port()
    }

    /// The same with another port: a loopback address that is registered without one is good with any (RFC 8252
    /// section 7.3, and Entra for `http://localhost`).
    pub fn with_port(&self, port: u16) -> String {
        let mut url = self.url.clone();
        if url.set_port(Some(port)).is_err() {
            return self.written.clone();
        }
        let text = String::from(url);
        match text.strip_suffix('/') {
            Some(bare) if !self.written.ends_with('/') => bare.to_owned(),
            _ => text,
        }
    }

    /// Where it leads to on this machine; nowhere if it leads to another one, or by TLS.
    pub fn loopbacks(&self) -> Vec<IpAddr> {
        match (self.url.scheme(), self.url.host()) {
            ("http", Some(Host::Domain("localhost"))) => {
                vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()]
            }
            ("http", Some(Host::Ipv4(ip))) if ip.is_loopback() => vec![ip.into()],
            ("http", Some(Host::Ipv6(ip))) if ip.is_loopback() => vec![ip.into()],
            _ => Vec::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sent_as_registered() {
        let uri = |text: &str| RedirectUri::new(text.to_owned(), Url::parse(text).unwrap());
        assert_eq!(uri("http://localhost").with_port(5), "http://localhost:5");
        assert_eq!(uri("http://localhost/").with_port(5), "http://localhost:5/");
        assert_eq!(uri("http://127.0.0.1/back").with_port(5), "http://127.0.0.1:5/back");
        assert_eq!(uri("http://localhost").loopbacks().len(), 2);
        assert!(uri("https://localhost").loopbacks().is_empty());
        assert!(uri("http://client.invalid").loopbacks().is_empty());
    }
}
