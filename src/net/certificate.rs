//! What a certificate says of itself, for people.
//!
//! Invariant: nothing here judges a certificate.

use std::net::{Ipv4Addr, Ipv6Addr};

use ring::digest::{SHA1_FOR_LEGACY_USE_ONLY, SHA256, digest};
use rustls::pki_types::CertificateDer;
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};
use x509_parser::time::ASN1Time;

use crate::clock::Timestamp;

/// A listener's certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Certificate {
    /// Whose it is.
    pub subject: String,
    /// Who signed it.
    pub issuer: String,
    /// The names that it is for.
    pub names: Vec<String>,
    /// From when on it is valid.
    pub not_before: Option<Timestamp>,
    /// Until when.
    pub not_after: Option<Timestamp>,
    /// It, and those that lead from it to an authority, in DER.
    chain: Vec<CertificateDer<'static>>,
}

impl Certificate {
    /// The first one of a chain; `None`: it is none that can be read.
    pub(super) fn first_of(chain: &[CertificateDer<'static>]) -> Option<Self> {
        let (_, leaf) = X509Certificate::from_der(chain.first()?).ok()?;
        let time = |time: ASN1Time| Timestamp::of_unix_seconds(time.timestamp());
        Some(Self {
            subject: leaf.subject().to_string(),
            issuer: leaf.issuer().to_string(),
            names: names_of(&leaf),
            not_before: time(leaf.validity().not_before),
            not_after: time(leaf.validity().not_after),
            chain: chain.to_vec(),
        })
    }

    /// Whether it stands for itself, so that a client must trust it by itself.
    pub fn is_self_signed(&self) -> bool {
        self.subject == self.issuer
    }

    /// In DER, alone.
    pub fn der(&self) -> &[u8] {
        self.chain.first().map(|leaf| leaf.as_ref()).unwrap_or_default()
    }

    /// With its chain, in PEM.
    pub fn pem(&self) -> String {
        let config = pem::EncodeConfig::new().set_line_ending(pem::LineEnding::LF);
        let each = self.chain.iter().map(|der| pem::Pem::new("CERTIFICATE", der.as_ref()));
        pem::encode_many_config(&each.collect::<Vec<_>>(), config)
    }

    /// As clients show it: `AB:CD:…`.
    pub fn sha256(&self) -> String {
        fingerprint(digest(&SHA256, self.der()).as_ref())
    }

    /// The same by SHA-1, which some clients still show.
    pub fn sha1(&self) -> String {
        fingerprint(digest(&SHA1_FOR_LEGACY_USE_ONLY, self.der()).as_ref())
    }
}

fn fingerprint(digest: &[u8]) -> String {
    digest.iter().map(|octet| format!("{octet:02X}")).collect::<Vec<_>>().join(":")
}

/// The names that a certificate is for.
pub(super) fn names_of(certificate: &X509Certificate<'_>) -> Vec<String> {
    let names = certificate.subject_alternative_name().ok().flatten();
    let names = names.map(|names| names.value.general_names.iter().filter_map(name_of).collect());
    names.unwrap_or_default()
}

fn name_of(name: &GeneralName<'_>) -> Option<String> {
    match name {
        GeneralName::DNSName(name) => Some((*name).to_owned()),
        GeneralName::IPAddress(octets) => match **octets {
            [a, b, c, d] => Some(Ipv4Addr::new(a, b, c, d).to_string()),
            _ => {
                let octets: [u8; 16] = (*octets).try_into().ok()?;
                Some(Ipv6Addr::from(octets).to_string())
            }
        },
        _ => None,
    }
}
