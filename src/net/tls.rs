//! What both roles of TLS share, and the client's role, on rustls with ring.
//!
//! Invariant: the upstream's certificate and name are always checked; there is no switch against it.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::client::Resumption;
use rustls::client::danger::ServerCertVerifier;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::ServerName;
use rustls::{CipherSuite, ClientConfig};
use socket2::SockRef;
use tokio::net::TcpStream;

use super::dial::tune;
use super::pem_file::{certificates, pem_error};
use super::roots::Roots;
use super::tickets::Tickets;
use super::{Seen, Stream, TlsStream};
use crate::config::SecretError;
use crate::confine;
use crate::private_file::PrivateFileError;

/// TLS that can't be set up.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file that can't be read.
    #[error(transparent)]
    File(#[from] PrivateFileError),
    /// A file that a confined process can't open; what the name leads to in the end.
    #[error("{path} is {outside}", path = .0.display(), outside = confine::OUTSIDE)]
    Outside(PathBuf),
    /// A file that is not what it should be.
    #[error("{path}: {problem}\nhint: it must be in PEM (-----BEGIN …)", path = .path.display())]
    Pem {
        /// Which one.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// A certificate and a key that don't belong together.
    #[error(
        "{private_key} is not the key of the first certificate in {certificate}\n\
         hint: both must be of the same request, and the chain must begin with the server's own certificate",
        private_key = .private_key.display(), certificate = .certificate.display()
    )]
    Mismatch {
        /// The chain.
        certificate: PathBuf,
        /// The key.
        private_key: PathBuf,
    },
    /// Files that are written just now.
    #[error("{path} is being written", path = .0.display())]
    Changing(PathBuf),
    /// The password of the proxy.
    #[error("proxy: {0}\nhint: look at proxy in the configuration")]
    Proxy(#[from] SecretError),
    /// Anything else.
    #[error("TLS can't be set up: {0}")]
    Config(String),
}

impl TlsError {
    /// The file that it is about, if it is one.
    pub fn path(&self) -> Option<&Path> {
        match self {
            Self::File(error) => Some(error.path()),
            Self::Pem { path, .. } | Self::Changing(path) => Some(path),
            Self::Mismatch { private_key, .. } => Some(private_key),
            _ => None,
        }
    }
}

pub(super) fn config_error(error: impl ToString) -> TlsError {
    TlsError::Config(error.to_string())
}

/// With AES-128 first, as browsers have it: servers take what a client names first, and a handshake is cheaper by SHA-256,
/// which processors compute themselves, than by the SHA-384 of the suites with AES-256.
pub(super) fn provider() -> Arc<CryptoProvider> {
    let mut provider = rustls::crypto::ring::default_provider();
    provider.cipher_suites.sort_by_key(|suite| !is_aes_128(suite.suite()));
    Arc::new(provider)
}

fn is_aes_128(suite: CipherSuite) -> bool {
    matches!(
        suite,
        CipherSuite::TLS13_AES_128_GCM_SHA256
            | CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256
            | CipherSuite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256
    )
}

/// The client's role, towards upstream and token endpoint.
#[derive(Clone)]
pub struct ClientTls(Arc<ClientConfig>);

impl ClientTls {
    /// Trusts the system's roots and those of `ca_file`.
    pub fn new(ca_file: Option<&Path>) -> Result<Self, TlsError> {
        Self::trusting(ca_file, None)
    }

    pub(super) fn trusting(ca_file: Option<&Path>, seen: Option<Seen>) -> Result<Self, TlsError> {
        let added = ca_file.map(certificates).transpose()?.unwrap_or_default();
        let roots = Roots::read_with(added, seen).map_err(|error| match ca_file {
            Some(file) => pem_error(file, error),
            None => config_error(error),
        })?;
        Self::with(roots)
    }

    pub(super) fn with(verifier: Arc<dyn ServerCertVerifier>) -> Result<Self, TlsError> {
        let config = ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .map_err(config_error)?
            .dangerous()
            .with_custom_certificate_verifier(verifier)
            .with_no_client_auth();
        Ok(Self(Arc::new(config)))
    }

    /// The same for one mail server, with a memory of its own for what sessions are resumed by: rustls knows servers by
    /// their names alone, and what one of several at a name has given out is of no use to the others. The token is never
    /// sent with a handshake (early data), which whoever records it could send again.
    pub fn for_server(&self) -> Self {
        let mut config = self.config();
        config.resumption = Resumption::store(Arc::new(Tickets::default()));
        Self(Arc::new(config))
    }

    /// A copy of the settings, for the HTTP client.
    pub(super) fn config(&self) -> ClientConfig {
        (*self.0).clone()
    }

    pub(super) async fn connect(&self, stream: Stream, host: &str) -> io::Result<Stream> {
        let name = ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;
        let config = Arc::clone(&self.0);
        Ok(match stream {
            Stream::Plain(stream) => {
                Stream::Tls(Box::new(TlsStream::connect(config, name, stream).await?))
            }
            // In the tunnel of a proxy that is itself spoken to by TLS.
            Stream::Tls(outer) => {
                Stream::Tunnelled(Box::new(TlsStream::connect(config, name, outer).await?))
            }
            Stream::Accepted(_) | Stream::Tunnelled(_) => return Err(tls_inside_tls()),
        })
    }
}

impl Stream {
    /// A connection that was just accepted from a client. On Linux it has the options of the socket that accepts.
    pub fn accepted(stream: TcpStream) -> io::Result<Self> {
        if !cfg!(target_os = "linux") {
            tune(&SockRef::from(&stream))?;
        }
        Ok(Self::Plain(stream))
    }
}

pub(super) fn plain(stream: Stream) -> io::Result<TcpStream> {
    match stream {
        Stream::Plain(stream) => Ok(stream),
        Stream::Accepted(_) | Stream::Tls(_) | Stream::Tunnelled(_) => Err(tls_inside_tls()),
    }
}

fn tls_inside_tls() -> io::Error {
    io::Error::other("TLS inside TLS")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn aes_128_is_named_first_and_nothing_left_out() {
        let (ours, all) = (provider(), rustls::crypto::ring::default_provider().cipher_suites);
        assert_eq!(ours.cipher_suites[0].suite(), CipherSuite::TLS13_AES_128_GCM_SHA256);
        assert_eq!(ours.cipher_suites.iter().filter(|suite| is_aes_128(suite.suite())).count(), 3);
        assert!(all.iter().all(|suite| ours.cipher_suites.contains(suite)));
    }
}
