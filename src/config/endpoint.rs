//! An upstream's address: `"HOST:PORT"` for implicit TLS, `"HOST:PORT starttls"`.
//!
//! Invariant: no endpoint is without TLS.

use std::fmt;
use std::str::FromStr;

use crate::vocabulary::TlsMode;

/// A mail server. See the module for how it is written.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Endpoint {
    /// A name or an address; the certificate must be for it.
    pub host: String,
    /// The TCP port.
    pub port: u16,
    /// Never [`TlsMode::None`].
    pub tls: TlsMode,
}

impl FromStr for Endpoint {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (address, tls) = match text.split_once(' ') {
            None => (text, TlsMode::Implicit),
            Some((address, "starttls")) => (address, TlsMode::StartTls),
            Some((_, word)) => return Err(format!("{word:?} behind the port means nothing")),
        };
        let (host, port) = address.rsplit_once(':').ok_or("it has no port")?;
        let port = port.parse().ok().filter(|&port| port != 0).ok_or("its port is no number")?;
        let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        let odd =
            |c: char| c.is_whitespace() || c.is_control() || matches!(c, '/' | '@' | '[' | ']');
        if host.is_empty() || host.chars().any(odd) {
            return Err(format!("{host:?} is no host name"));
        }
        Ok(Self { host: host.to_owned(), port, tls })
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.host.contains(':') {
            true => write!(f, "[{}]:{}", self.host, self.port),
            false => write!(f, "{}:{}", self.host, self.port),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints() {
        let endpoint: Endpoint = "smtp.office365.com:587 starttls".parse().unwrap();
        assert_eq!(
            (endpoint.host.as_str(), endpoint.port, endpoint.tls),
            ("smtp.office365.com", 587, TlsMode::StartTls)
        );
        assert_eq!("[::1]:993".parse::<Endpoint>().unwrap().host, "::1");
        for wrong in
            ["localhost", "localhost:", "localhost:0", ":993", "a b:993", "localhost:993 none"]
        {
            assert!(wrong.parse::<Endpoint>().is_err(), "{wrong}");
        }
    }
}
