//! Whom a server's certificate may come from: the system's roots, and those that the configuration adds.
//!
//! The system's are some hundred files, three quarters of the time that a start would take. They are read beside it, in
//! a thread of their own; a handshake that comes before they are there waits for them.
//!
//! Invariant: no certificate is judged before all roots are read.

use std::sync::{Arc, OnceLock};
use std::thread;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{DigitallySignedStruct, Error, RootCertStore, SignatureScheme};
use rustls_platform_verifier::Verifier;

use super::Seen;
use super::tls::provider;

/// The judge of servers' certificates.
#[derive(Debug)]
pub(super) struct Roots {
    added: Vec<CertificateDer<'static>>,
    verifier: OnceLock<Result<Verifier, Error>>,
    /// Looks on.
    seen: Option<Seen>,
}

impl Roots {
    /// Begins to read the system's; those that are `added` are looked at here.
    pub(super) fn read_with(
        added: Vec<CertificateDer<'static>>,
        seen: Option<Seen>,
    ) -> Result<Arc<Self>, Error> {
        let mut looked_at = RootCertStore::empty();
        added.iter().try_for_each(|root| looked_at.add(root.clone()))?;
        let roots = Arc::new(Self { added, verifier: OnceLock::new(), seen });
        let reader = Arc::clone(&roots);
        // Without another thread the first handshake reads them.
        let _ =
            thread::Builder::new().name("roots".into()).spawn(move || reader.verifier().is_ok());
        Ok(roots)
    }

    /// Waits until they are read.
    fn verifier(&self) -> Result<&Verifier, Error> {
        let read = || {
            Verifier::new_with_extra_roots(self.added.clone(), provider()).map_err(|error| {
                let remedy = "install the system's root certificates (package ca-certificates), or set ca_file";
                Error::General(format!("{error}; {remedy}"))
            })
        };
        self.verifier.get_or_init(read).as_ref().map_err(Clone::clone)
    }
}

impl ServerCertVerifier for Roots {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let verdict = self.verifier().and_then(|verifier| {
            verifier.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
        });
        if let Some(seen) = &self.seen {
            seen.note(end_entity, intermediates, verdict.as_ref().err());
        }
        verdict
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.verifier()?.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.verifier()?.verify_tls13_signature(message, cert, dss)
    }

    /// The provider's, with which all of these verify.
    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        provider().signature_verification_algorithms.supported_schemes()
    }
}
