//! TLS in the server's role, towards clients, with a certificate that can be replaced while it is served.
//!
//! Invariant: a certificate is served together with the key that belongs to it, or not at all; another one changes
//! nothing for handshakes and sessions that have begun.

use std::fs::{self, Metadata};
use std::io;
use std::ops::RangeInclusive;
use std::path::Path;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::SystemTime;

use rustls::crypto::CryptoProvider;
use rustls::server::{Acceptor, ClientHello};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{AlertDescription, Error, InconsistentKeys, PeerIncompatible, ServerConfig};
use tokio::io::AsyncWriteExt;
use tokio_rustls::LazyConfigAcceptor;
use zeroize::Zeroizing;

use super::pem_file::{self, pem_error};
use super::tls::{config_error, plain, provider};
use super::{Certificate, Stream, TlsError};
use crate::config::{CertificateFiles, Listener};
use crate::private_file::{self, Limit, at};

/// The server's role for the listeners of one certificate.
#[derive(Clone)]
pub struct ServerTls(Arc<Shared>);

struct Shared {
    source: CertificateSource,
    served: RwLock<Served>,
}

/// What new connections get.
#[derive(Clone)]
struct Served {
    /// A new one for each certificate, so that no session that is resumed was begun with another one.
    config: Arc<ServerConfig>,
    key: Arc<CertifiedKey>,
    certificate: Arc<Certificate>,
    read_from: Stamps,
}

/// Where a certificate and its key are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateSource {
    /// Both files.
    pub files: CertificateFiles,
    /// gatepost has made them, so that nobody else may read the key.
    pub self_made: bool,
}

impl ServerTls {
    /// With what is in the files now.
    pub fn open(source: CertificateSource) -> Result<Self, TlsError> {
        let served = read(&source)?;
        Ok(Self(Arc::new(Shared { source, served: RwLock::new(served) })))
    }

    /// Where its certificate comes from.
    pub fn source(&self) -> &CertificateSource {
        &self.0.source
    }

    /// The certificate that is served.
    pub fn certificate(&self) -> Arc<Certificate> {
        self.served().certificate
    }

    /// Whether its files are other ones than those that are served. Symbolic links are followed, so that one that
    /// leads elsewhere is seen too.
    pub fn is_outdated(&self) -> bool {
        Stamps::of(&self.0.source.files).ok().as_ref() != Some(&self.served().read_from)
    }

    /// Reads the files anew; `true`: another certificate or key is served from now on. After an error the former one
    /// still is.
    pub fn reload(&self) -> Result<bool, TlsError> {
        let new = read(&self.0.source)?;
        let mut served = self.0.served.write().unwrap_or_else(PoisonError::into_inner);
        let is_other = served.certificate != new.certificate;
        match is_other {
            true => *served = new,
            // The same again: what clients remember of their sessions stays good.
            false => served.read_from = new.read_from,
        }
        Ok(is_other)
    }

    /// Whether a listener has it.
    pub fn is_in_use(&self) -> bool {
        Arc::strong_count(&self.0) > 1
    }

    /// The handshake with a client that connects now: with the certificate that is served at this moment, whenever
    /// its first octet comes. `stream` is when TLS may begin; none: it does not.
    pub fn accept(
        &self,
        stream: impl Future<Output = io::Result<Option<Stream>>>,
    ) -> impl Future<Output = io::Result<Option<Stream>>> {
        let served = self.served();
        async move {
            match stream.await? {
                Some(stream) => served.accept(stream).await.map(Some),
                None => Ok(None),
            }
        }
    }

    fn served(&self) -> Served {
        self.0.served.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Served {
    async fn accept(self, stream: Stream) -> io::Result<Stream> {
        let Self { config, key, .. } = self;
        let mut start = LazyConfigAcceptor::new(Acceptor::default(), plain(stream)?).await?;
        let refused = refusal(&start.client_hello(), &key);
        if let Some((alert, error)) = refused {
            start.io.write_all(&fatal(alert)).await?;
            return Err(io::Error::other(error));
        }
        let stream = start.into_stream(config).await?;
        Ok(Stream::Accepted(Box::new(stream)))
    }
}

impl CertificateSource {
    /// That of a listener: its own, or gatepost's.
    pub fn of(listener: &Listener, state_dir: &Path) -> Self {
        match &listener.certificate {
            Some(files) => Self::given(files),
            None => Self::own(state_dir),
        }
    }

    /// An administrator's own.
    pub fn given(files: &CertificateFiles) -> Self {
        Self { files: files.clone(), self_made: false }
    }

    /// People trust what is shown to them of gatepost's own: nobody else may have put it there.
    fn read_certificate(&self) -> Result<Vec<u8>, TlsError> {
        let path = &self.files.certificate;
        match self.self_made {
            true => Ok(private_file::read_shown(path, Limit::CERTIFICATES)?),
            false => pem_file::read(path),
        }
    }

    /// What its certificate says, without a look at the key.
    pub fn certificate(&self) -> Result<Certificate, TlsError> {
        let path = &self.files.certificate;
        let chain = pem_file::chain(path, &self.read_certificate()?)?;
        Certificate::first_of(&chain).ok_or_else(|| pem_error(path, "it is no X.509 certificate"))
    }
}

/// TLS_FALLBACK_SCSV: the client has failed with a newer version, and tries an older one (RFC 7507 section 4).
const FALLBACK: u16 = 0x5600;

/// The first and last cipher suites of TLS 1.3 (RFC 8446 appendix B.4).
const TLS13_SUITES: RangeInclusive<u16> = 0x1301..=0x1305;

/// What rustls would let pass, or refuse behind its ServerHello alone: somebody on the way has talked the client out of
/// TLS 1.3 (TLS 1.3 has a mark of its own against that, RFC 8446 section 4.1.3, which old clients don't know), or the
/// client takes no signature that this key can make.
fn refusal(hello: &ClientHello<'_>, key: &CertifiedKey) -> Option<(AlertDescription, Error)> {
    let offers =
        |is: &dyn Fn(u16) -> bool| hello.cipher_suites().iter().any(|suite| is(u16::from(*suite)));
    if offers(&|suite| suite == FALLBACK) && !offers(&|suite| TLS13_SUITES.contains(&suite)) {
        let alert = AlertDescription::InappropriateFallback;
        return Some((alert, Error::AlertReceived(alert)));
    }
    let fits = key.key.choose_scheme(hello.signature_schemes()).is_some();
    let error = PeerIncompatible::NoSignatureSchemesInCommon;
    (!fits).then(|| (AlertDescription::HandshakeFailure, Error::PeerIncompatible(error)))
}

/// A fatal alert in a record of its own (RFC 8446 section 6).
fn fatal(alert: AlertDescription) -> [u8; 7] {
    [0x15, 3, 3, 0, 2, 2, u8::from(alert)]
}

/// Both files, if they belong together and nobody has written to them meanwhile: they are two, and are not replaced
/// in one moment.
fn read(source: &CertificateSource) -> Result<Served, TlsError> {
    let CertificateFiles { certificate, private_key } = &source.files;
    let before = Stamps::of(&source.files)?;
    let chain = pem_file::chain(certificate, &source.read_certificate()?)?;
    let about = Certificate::first_of(&chain)
        .ok_or_else(|| pem_error(certificate, "it is no X.509 certificate"))?;
    let key = Zeroizing::new(match source.self_made {
        true => private_file::read(private_key)?,
        false => pem_file::read(private_key)?,
    });
    let key = pem_file::key(private_key, &key)?;
    let provider = provider();
    let key = CertifiedKey::from_der(chain, key, &provider).map_err(|error| match error {
        Error::InconsistentKeys(InconsistentKeys::KeyMismatch) => TlsError::Mismatch {
            certificate: certificate.clone(),
            private_key: private_key.clone(),
        },
        error => pem_error(private_key, error),
    })?;
    if Stamps::of(&source.files)? != before {
        return Err(TlsError::Changing(certificate.clone()));
    }
    let key = Arc::new(key);
    let config = Arc::new(config(provider, Arc::clone(&key))?);
    Ok(Served { config, key, certificate: Arc::new(about), read_from: before })
}

/// TLS 1.2 and 1.3, as rustls has them: forward secrecy and AEAD alone. Sessions are remembered in memory and not in
/// tickets, so that no key that lives long opens what was recorded.
fn config(provider: Arc<CryptoProvider>, key: Arc<CertifiedKey>) -> Result<ServerConfig, TlsError> {
    Ok(ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(config_error)?
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(SingleCertAndKey::from(key))))
}

/// By what a file is told from another one, or from what was in it before.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Stamp {
    modified: Option<SystemTime>,
    length: u64,
    /// Device and number; one that was renamed into the place of another may have the other's time.
    identity: (u64, u64),
}

/// Of the certificate and the key.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Stamps([Stamp; 2]);

impl Stamps {
    fn of(files: &CertificateFiles) -> Result<Self, TlsError> {
        let stamp =
            |path: &Path| fs::metadata(path).map(|about| Stamp::of(&about)).map_err(at(path));
        Ok(Self([stamp(&files.certificate)?, stamp(&files.private_key)?]))
    }
}

impl Stamp {
    fn of(about: &Metadata) -> Self {
        #[cfg(unix)]
        let identity = {
            use std::os::unix::fs::MetadataExt;
            (about.dev(), about.ino())
        };
        #[cfg(not(unix))]
        let identity = (0, 0);
        Self { modified: about.modified().ok(), length: about.len(), identity }
    }
}
