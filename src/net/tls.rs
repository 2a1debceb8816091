//! TLS in both roles, on rustls with ring.
//!
//! Invariant: the upstream's certificate and name are always checked; there is no switch against it.

use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::client::danger::ServerCertVerifier;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ServerConfig};
use rustls_platform_verifier::Verifier;
use tokio::net::TcpStream;
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::Stream;
use super::dial::tune;
use crate::config::{CertificateFiles, SecretError};
use crate::private_file::{self, PrivateFileError};

/// Name of the self-made certificate in the state folder, for people to import into their clients.
const SELF_SIGNED: &str = "listener.pem";
/// Name of its key.
const SELF_SIGNED_KEY: &str = "listener.key";

/// TLS that can't be set up.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file that can't be read.
    #[error(transparent)]
    File(#[from] PrivateFileError),
    /// A file that is not what it should be.
    #[error("{path}: {problem}\nhint: it must be in PEM (-----BEGIN …)", path = .path.display())]
    Pem {
        /// Which one.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// Nobody's certificate could be checked.
    #[error(
        "{0}\nhint: install the system's root certificates (package ca-certificates), or set ca_file"
    )]
    NoRoots(String),
    /// The password of the proxy.
    #[error("proxy: {0}\nhint: look at proxy in the configuration")]
    Proxy(#[from] SecretError),
    /// Anything else.
    #[error("TLS can't be set up: {0}")]
    Config(String),
}

fn config_error(error: impl ToString) -> TlsError {
    TlsError::Config(error.to_string())
}

pub(super) fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// The client's role, towards upstream and token endpoint.
#[derive(Clone)]
pub struct ClientTls(Arc<ClientConfig>);

impl ClientTls {
    /// Trusts the system's roots and those of `ca_file`.
    pub fn new(ca_file: Option<&Path>) -> Result<Self, TlsError> {
        Self::with_verifier(ca_file, |verifier| verifier)
    }

    /// `wrap` may look on, and must not change a verdict.
    pub(super) fn with_verifier(
        ca_file: Option<&Path>,
        wrap: impl FnOnce(Arc<dyn ServerCertVerifier>) -> Arc<dyn ServerCertVerifier>,
    ) -> Result<Self, TlsError> {
        let roots = ca_file.map(certificates).transpose()?.unwrap_or_default();
        let verifier = Verifier::new_with_extra_roots(roots, provider())
            .map_err(|error| TlsError::NoRoots(error.to_string()))?;
        Self::with(wrap(Arc::new(verifier)))
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

    /// A copy of the settings, for the HTTP client.
    pub(super) fn config(&self) -> ClientConfig {
        (*self.0).clone()
    }

    pub(super) async fn connect(&self, stream: Stream, host: &str) -> io::Result<Stream> {
        let name = ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;
        let tls = TlsConnector::from(Arc::clone(&self.0));
        Ok(match stream {
            Stream::Plain(stream) => Stream::Tls(Box::new(tls.connect(name, stream).await?.into())),
            // In the tunnel of a proxy that is itself spoken to by TLS.
            Stream::Tls(outer) => Stream::Tunnelled(Box::new(tls.connect(name, outer).await?)),
            Stream::Tunnelled(_) => return Err(tls_inside_tls()),
        })
    }
}

/// The server's role, towards clients.
#[derive(Clone)]
pub struct ServerTls(TlsAcceptor);

impl ServerTls {
    /// With an administrator's certificate.
    pub fn from_files(files: &CertificateFiles) -> Result<Self, TlsError> {
        let chain = certificates(&files.certificate)?;
        let key = PrivateKeyDer::from_pem_file(&files.private_key)
            .map_err(|error| pem_error(&files.private_key, error))?;
        Self::new(chain, key)
    }

    /// Where [`ServerTls::self_signed`] keeps its certificate.
    pub fn self_signed_file(state_dir: &Path) -> PathBuf {
        state_dir.join(SELF_SIGNED)
    }

    /// With a certificate of gatepost's own, made in `state_dir` the first time.
    pub fn self_signed(state_dir: &Path, addresses: &[IpAddr]) -> Result<Self, TlsError> {
        let (certificate, key) = (state_dir.join(SELF_SIGNED), state_dir.join(SELF_SIGNED_KEY));
        if !certificate.exists() {
            make_certificate(&certificate, &key, addresses)?;
        }
        let chain = certificates(&certificate)?;
        let key_pem = private_file::read(&key)?;
        let key =
            PrivateKeyDer::from_pem_slice(&key_pem).map_err(|error| pem_error(&key, error))?;
        Self::new(chain, key)
    }

    fn new(
        chain: Vec<CertificateDer<'static>>,
        key: PrivateKeyDer<'static>,
    ) -> Result<Self, TlsError> {
        let config = ServerConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .map_err(config_error)?
            .with_no_client_auth()
            .with_single_cert(chain, key)
            .map_err(config_error)?;
        Ok(Self(TlsAcceptor::from(Arc::new(config))))
    }

    /// The handshake with a client.
    pub async fn accept(&self, stream: Stream) -> io::Result<Stream> {
        let stream = self.0.accept(plain(stream)?).await?;
        Ok(Stream::Tls(Box::new(stream.into())))
    }
}

impl Stream {
    /// A connection that was just accepted from a client.
    pub fn accepted(stream: TcpStream) -> io::Result<Self> {
        tune(&stream)?;
        Ok(Self::Plain(stream))
    }
}

fn plain(stream: Stream) -> io::Result<TcpStream> {
    match stream {
        Stream::Plain(stream) => Ok(stream),
        Stream::Tls(_) | Stream::Tunnelled(_) => Err(tls_inside_tls()),
    }
}

fn tls_inside_tls() -> io::Error {
    io::Error::other("TLS inside TLS")
}

pub(super) fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let chain: Result<Vec<_>, _> = CertificateDer::pem_file_iter(path).and_then(Iterator::collect);
    match chain {
        Ok(chain) if chain.is_empty() => Err(pem_error(path, "it has no certificate")),
        Ok(chain) => Ok(chain),
        Err(error) => Err(pem_error(path, error)),
    }
}

fn pem_error(path: &Path, problem: impl ToString) -> TlsError {
    TlsError::Pem { path: path.to_owned(), problem: problem.to_string() }
}

/// For `localhost`, both loopbacks and the listeners' addresses.
fn make_certificate(certificate: &Path, key: &Path, addresses: &[IpAddr]) -> Result<(), TlsError> {
    let mut names: Vec<String> = ["localhost", "127.0.0.1", "::1"].map(String::from).to_vec();
    let given = addresses.iter().filter(|ip| !ip.is_unspecified()).map(IpAddr::to_string);
    for name in given {
        if !names.contains(&name) {
            names.push(name);
        }
    }
    let mut params = rcgen::CertificateParams::new(names).map_err(config_error)?;
    params.distinguished_name.push(rcgen::DnType::CommonName, "gatepost");
    params.key_usages = vec![rcgen::KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ServerAuth];
    // A service that nobody watches must not stop for its own certificate.
    params.not_before = rcgen::date_time_ymd(2026, 1, 1);
    params.not_after = rcgen::date_time_ymd(2045, 1, 1);
    // The key first, and the certificate from the key that is there: another process may do the same.
    let pair = rcgen::KeyPair::generate().map_err(config_error)?;
    private_file::create(key, pair.serialize_pem().as_bytes())?;
    let pem = String::from_utf8(private_file::read(key)?).map_err(config_error)?;
    let pair = rcgen::KeyPair::from_pem(&pem).map_err(config_error)?;
    let made = params.self_signed(&pair).map_err(config_error)?;
    private_file::create(certificate, made.pem().as_bytes())?;
    Ok(())
}
