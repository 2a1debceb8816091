//! Certificates and keys in PEM files (RFC 7468), and in words what is wrong with one.
//!
//! Invariant: each error names the file, and none has octets of it but the name of a section.

use std::fs;
use std::path::Path;

use rustls::pki_types::pem::{Error, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use super::TlsError;
use crate::config::read_named_file;
use crate::confine;
use crate::private_file::{Limit, PrivateFileError};

/// Longest name of a section that is shown; `ENCRYPTED PRIVATE KEY` has 21 octets.
const LONGEST_NAME: usize = 32;

/// The certificates of a file.
pub(super) fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    chain(path, &read(path)?)
}

/// Those of what was read from it.
pub(super) fn chain(path: &Path, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    match chain {
        Ok(chain) if chain.is_empty() => Err(pem_error(path, "it has no certificate")),
        Ok(chain) => Ok(chain),
        Err(error) => Err(pem_error(path, words(&error))),
    }
}

/// The key in what was read from it.
pub(super) fn key(path: &Path, pem: &[u8]) -> Result<PrivateKeyDer<'static>, TlsError> {
    PrivateKeyDer::from_pem_slice(pem).map_err(|error| match error {
        Error::NoItemsFound => {
            pem_error(path, "it has no private key that can be read (one with a passphrase can't)")
        }
        error => pem_error(path, words(&error)),
    })
}

/// Reads a file that the configuration names.
pub(super) fn read(path: &Path) -> Result<Vec<u8>, TlsError> {
    read_named_file(path, Limit::CERTIFICATES).map_err(|error| match error {
        PrivateFileError::Io { .. } if confine::forbids(path) => {
            TlsError::Outside(fs::canonicalize(path).unwrap_or_else(|_| path.to_owned()))
        }
        refused => refused.into(),
    })
}

pub(super) fn pem_error(path: &Path, problem: impl ToString) -> TlsError {
    TlsError::Pem { path: path.to_owned(), problem: problem.to_string() }
}

fn words(error: &Error) -> String {
    match error {
        Error::MissingSectionEnd { end_marker } => {
            let plain = |octet: &u8| octet.is_ascii_uppercase() || *octet == b' ';
            let shown = end_marker.len() <= LONGEST_NAME && end_marker.iter().all(plain);
            let name = if shown { String::from_utf8_lossy(end_marker) } else { "…".into() };
            format!(
                "it is cut off: -----END {name}----- is missing; it was not written to its end, or not copied whole"
            )
        }
        Error::IllegalSectionStart { .. } => {
            "a line that begins with -----BEGIN does not end with -----: it is cut off or damaged"
                .into()
        }
        Error::Base64Decode(_) => {
            "what stands between -----BEGIN and -----END is no base64: it is damaged".into()
        }
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PEM: &str = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";

    #[test]
    fn what_is_missing_is_named_with_its_file() {
        let path = Path::new("/tls/own.pem");
        let of = |pem: &str| chain(path, pem.as_bytes()).map(|all| all.len());
        assert_eq!(of(&PEM.repeat(2)).unwrap(), 2);
        for (pem, told) in [
            (&PEM[..40], "-----END CERTIFICATE----- is missing"),
            (&PEM[..20], "does not end with -----"),
            (&PEM.replace("AAAA", "A?!A"), "no base64"),
            ("", "no certificate"),
        ] {
            let error = of(pem).unwrap_err().to_string();
            assert!(error.starts_with("/tls/own.pem: ") && error.contains(told), "{error}");
        }
        let cut = key(path, b"-----BEGIN PRIVATE KEY-----\nc2VjcmV0\n").unwrap_err().to_string();
        assert!(cut.contains("-----END PRIVATE KEY----- is missing"), "{cut}");
        assert!(!cut.contains("c2VjcmV0"), "{cut}");
        let odd = chain(path, b"-----BEGIN s3cret-----\nAAAA\n").unwrap_err().to_string();
        assert!(odd.contains("-----END …-----"), "{odd}");
        let none = key(path, PEM.as_bytes()).unwrap_err().to_string();
        assert!(none.contains("no private key"), "{none}");
    }
}
