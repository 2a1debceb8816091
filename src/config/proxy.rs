//! `proxy`: how connections leave this machine.
//!
//! Invariant: the password of a proxy is not in its URL: the configuration knows where it is, as with any secret.

use std::path::PathBuf;

use url::Url;

use super::SecretSource;

/// By which proxy the providers' servers are reached.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub enum Proxy {
    /// By the one that the system names, if it does.
    #[default]
    System,
    /// By none, whatever the system names.
    Never,
    /// By this one.
    At(Box<ProxyServer>),
}

/// An HTTP proxy that makes tunnels by CONNECT (RFC 9110 section 9.3.6).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ProxyServer {
    /// `http://HOST:PORT`, or `https://` if the proxy itself is spoken to by TLS.
    pub url: Url,
    /// What it wants to know (RFC 7617).
    pub user: Option<(String, SecretSource)>,
}

impl Proxy {
    /// The variable of the environment that its password is in, which is then a secret.
    pub(super) fn variable(&self) -> Option<&str> {
        let Self::At(server) = self else { return None };
        match &server.user {
            Some((_, SecretSource::Env(name))) => Some(name),
            _ => None,
        }
    }

    /// The file that its password is in.
    pub(super) fn file(&self) -> Option<PathBuf> {
        let Self::At(server) = self else { return None };
        server.user.as_ref().and_then(|(_, password)| password.file())
    }
}
