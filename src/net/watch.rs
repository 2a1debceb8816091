//! TLS that remembers what the server showed, for people who look for a fault.
//!
//! Invariant: it checks exactly what [`ClientTls`] checks; remembering changes no verdict.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use rustls::pki_types::CertificateDer;
use rustls::{CertificateError, Error};
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

impl Seen {
    pub(super) fn note(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        fault: Option<&Error>,
    ) {
        let last = intermediates.last().unwrap_or(end_entity);
        let presented = read(end_entity, last, fault);
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = presented;
    }
}

impl ClientTls {
    /// As [`ClientTls::new`], with an eye on what is shown.
    pub fn watched(ca_file: Option<&Path>) -> Result<(Self, Seen), TlsError> {
        let seen = Seen::default();
        Ok((Self::trusting(ca_file, Some(seen.clone()))?, seen))
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
