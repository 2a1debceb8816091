//! Public keys that assertions are checked with.
//!
//! Invariant: a key that is none is found at start, not at the first request.

use std::error::Error;

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use ring::digest::{Algorithm, SHA1_FOR_LEGACY_USE_ONLY, SHA256, digest};
use x509_parser::{
    pem::parse_x509_pem,
    prelude::{FromDer as _, SubjectPublicKeyInfo},
};

use crate::Registration;

/// The keys of a registration.
pub(super) struct Keys {
    certificates: Vec<Certificate>,
    /// E-mail addresses of service accounts and their keys.
    accounts: Vec<(String, Vec<u8>)>,
}

/// A certificate of the app.
pub(super) struct Certificate {
    /// `x5t#S256` and `x5t` (RFC 7515 sections 4.1.8 and 4.1.7).
    thumbprints: [String; 2],
    /// A PKCS #1 `RSAPublicKey`, as ring wants it.
    pub(super) key: Vec<u8>,
    /// Seconds since 1970.
    pub(super) not_after: i64,
}

impl Keys {
    pub(super) fn new(registration: &Registration) -> Result<Self, Box<dyn Error + Send + Sync>> {
        let certificates = registration.certificates.iter().map(|pem| Certificate::new(pem));
        let accounts = registration
            .service_accounts
            .iter()
            .map(|account| Ok((account.email.clone(), public_key(&account.public_key_pem)?)));
        Ok(Self {
            certificates: certificates.collect::<Result<_, _>>()?,
            accounts: accounts.collect::<Result<_, Box<dyn Error + Send + Sync>>>()?,
        })
    }

    /// The certificate that a JWT's header names by one of its two thumbprints.
    pub(super) fn certificate(&self, sha256: &str, sha1: &str) -> Option<&Certificate> {
        self.certificates.iter().find(|certificate| match &certificate.thumbprints {
            [own, _] if !sha256.is_empty() => own == sha256,
            [_, own] => own == sha1,
        })
    }

    /// The key of a service account.
    pub(super) fn account(&self, email: &str) -> Option<&[u8]> {
        let found = self.accounts.iter().find(|(own, _)| own == email);
        found.map(|(_, key)| key.as_slice())
    }
}

impl Certificate {
    fn new(text: &str) -> Result<Self, Box<dyn Error + Send + Sync>> {
        let (_, pem) = parse_x509_pem(text.as_bytes()).map_err(|error| error.to_string())?;
        let certificate = pem.parse_x509().map_err(|error| error.to_string())?;
        let thumbprint = |algorithm: &'static Algorithm| {
            URL_SAFE_NO_PAD.encode(digest(algorithm, &pem.contents))
        };
        Ok(Self {
            thumbprints: [thumbprint(&SHA256), thumbprint(&SHA1_FOR_LEGACY_USE_ONLY)],
            key: certificate.public_key().subject_public_key.data.to_vec(),
            not_after: certificate.validity().not_after.timestamp(),
        })
    }
}

fn public_key(text: &str) -> Result<Vec<u8>, Box<dyn Error + Send + Sync>> {
    let (_, pem) = parse_x509_pem(text.as_bytes()).map_err(|error| error.to_string())?;
    let (_, info) =
        SubjectPublicKeyInfo::from_der(&pem.contents).map_err(|error| error.to_string())?;
    Ok(info.subject_public_key.data.to_vec())
}
