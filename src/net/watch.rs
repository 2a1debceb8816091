//! TLS that remembers what the server showed, for people who look for a fault.
//!
//! Invariant: it checks exactly what [`ClientTls`] checks; remembering changes no verdict.

use std::fmt;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{CertificateError, DigitallySignedStruct, Error, SignatureScheme};
use x509_parser::prelude::{FromDer, X509Certificate};

use super::certificate::names_of;
use super::{ClientTls, TlsError};
use crate::clock::Timestamp;

/// What a server showed.
#[derive(Clone, Debug)]
pub struct Presented {
    /// Whose certificate it is.
    pub subject: String,
    /// Who signed the last certificate of the chain.
    pub issuer: String,
    /// The names that it is for.
    pub names: Vec<String>,
    /// From when on it is valid.
    pub not_before: Option<Timestamp>,
    /// Until when.
    pub not_after: Option<Timestamp>,
    /// What is wrong with it.
    pub fault: Option<CertificateFault>,
}

/// Why a certificate is not believed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CertificateFault {
    /// It has ended.
    Expired,
    /// It has not begun.
    NotYet,
    /// It is for another name.
    OtherName,
    /// Nobody who is trusted has signed it.
    UnknownIssuer,
    /// Anything else.
    Other(String),
}

/// The last certificate that was seen.
#[derive(Clone, Debug, Default)]
pub struct Seen(Arc<Mutex<Option<Presented>>>);

impl Seen {
    /// What a server showed, if one has.
    pub fn last(&self) -> Option<Presented> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl ClientTls {
    /// As [`ClientTls::new`], with an eye on what is shown.
    pub fn watched(ca_file: Option<&Path>) -> Result<(Self, Seen), TlsError> {
        let seen = Seen::default();
        let watch = |inner| Arc::new(Watch { inner, seen: seen.clone() }) as _;
        Ok((Self::with_verifier(ca_file, watch)?, seen))
    }
}

struct Watch {
    inner: Arc<dyn ServerCertVerifier>,
    seen: Seen,
}

impl ServerCertVerifier for Watch {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let verdict = self.inner.verify_server_cert(
            end_entity,
            intermediates,
            server_name,
            ocsp_response,
            now,
        );
        let last = intermediates.last().unwrap_or(end_entity);
        let presented = read(end_entity, last, verdict.as_ref().err());
        *self.seen.0.lock().unwrap_or_else(PoisonError::into_inner) = presented;
        verdict
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.inner.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.inner.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }
}

impl fmt::Debug for Watch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Watch")
    }
}

fn read(leaf: &[u8], last: &[u8], error: Option<&Error>) -> Option<Presented> {
    let (_, leaf) = X509Certificate::from_der(leaf).ok()?;
    let (_, last) = X509Certificate::from_der(last).ok()?;
    let time = |time: x509_parser::time::ASN1Time| Timestamp::of_unix_seconds(time.timestamp());
    Some(Presented {
        subject: leaf.subject().to_string(),
        issuer: last.issuer().to_string(),
        names: names_of(&leaf),
        not_before: time(leaf.validity().not_before),
        not_after: time(leaf.validity().not_after),
        fault: error.map(fault_of),
    })
}

fn fault_of(error: &Error) -> CertificateFault {
    use CertificateFault::{Expired, NotYet, Other, OtherName, UnknownIssuer};
    match error {
        Error::InvalidCertificate(error) => match error {
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => Expired,
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => NotYet,
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
                OtherName
            }
            CertificateError::UnknownIssuer => UnknownIssuer,
            other => Other(other.to_string()),
        },
        other => Other(other.to_string()),
    }
}
