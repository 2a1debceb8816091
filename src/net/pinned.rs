//! Trust in one certificate alone: gatepost's own listener, whatever names its certificate has; and a look at which one
//! a listener has.
//!
//! Invariant: for connections to this machine's own listener; towards a provider names are always checked. Nothing is
//! sent to a server that was only looked at.

use std::io;
use std::path::Path;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{CertificateError, DigitallySignedStruct, Error, SignatureScheme};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use super::pem_file::certificates;
use super::tls::provider;
use super::{Certificate, ClientTls, TlsError, TlsStream};

impl ClientTls {
    /// Trusts the leaf in this PEM file and nothing else.
    pub fn pinned(certificate: &Path) -> Result<Self, TlsError> {
        let Some(leaf) = certificates(certificate)?.into_iter().next() else {
            return Err(TlsError::Config("the certificate file is empty".into()));
        };
        Self::with(Arc::new(Pinned { leaf: Some(leaf), provider: provider() }))
    }
}

/// The certificate that the server at the other end shows, whatever it is; the connection ends with that.
pub async fn look_at_certificate(stream: TcpStream) -> io::Result<Certificate> {
    let any = ClientTls::with(Arc::new(Pinned { leaf: None, provider: provider() }));
    let any = any.map_err(io::Error::other)?.config();
    let name = ServerName::try_from("localhost").map_err(io::Error::other)?;
    let mut stream = TlsStream::connect(Arc::new(any), name, stream).await?;
    let shown = stream.peer_certificates().and_then(Certificate::first_of);
    // Without it the other side takes the end for a client that mistrusts the certificate.
    stream.shutdown().await?;
    shown.ok_or_else(|| io::Error::other("it shows no certificate that can be read"))
}

#[derive(Debug)]
struct Pinned {
    /// None: any one will do, since it is for a look alone.
    leaf: Option<CertificateDer<'static>>,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        match self.leaf.as_ref().is_none_or(|pinned| pinned == leaf) {
            true => Ok(ServerCertVerified::assertion()),
            false => Err(CertificateError::UnknownIssuer.into()),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, leaf, signed, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, leaf, signed, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
