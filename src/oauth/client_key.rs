//! A client certificate and its RSA key, from PEM or PKCS#12 files.
//!
//! Invariant: each error names the file and what to do with it, and none has a part of the key.

use std::path::{Path, PathBuf};

use p12_keystore::{KeyStore, Pkcs12ImportPolicy};
use pkcs8::EncryptedPrivateKeyInfoRef;
use ring::signature::RsaKeyPair;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use x509_parser::prelude::{FromDer, X509Certificate};
use zeroize::Zeroizing;

use crate::clock::Timestamp;
use crate::config::{ClientCertificate, KeyFiles, SecretError, read_named_file};
use crate::private_file::{Limit, PrivateFileError};
use crate::secret::Secret;

/// The label of an encrypted PKCS#8 key (RFC 7468 section 11).
const ENCRYPTED: &str = "ENCRYPTED PRIVATE KEY";

/// A key that can't be used.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// A file can't be read.
    #[error("{path}: {source}", path = .path.display())]
    Unreadable {
        /// Which one.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A file is no file, or far too long.
    #[error(transparent)]
    Refused(PrivateFileError),
    /// The passphrase can't be read.
    #[error(transparent)]
    Passphrase(#[from] SecretError),
    /// A file is not what it should be.
    #[error("{path}: {problem}\nhint: {hint}", path = .path.display())]
    Unusable {
        /// Which one.
        path: PathBuf,
        /// What is wrong with it.
        problem: &'static str,
        /// What to do.
        hint: &'static str,
    },
}

/// A certificate with its key.
#[derive(Debug)]
pub struct ClientKey {
    /// Signs.
    pub(super) pair: RsaKeyPair,
    /// The certificate in DER.
    pub(super) certificate: Vec<u8>,
}

impl ClientKey {
    /// Reads the files.
    pub fn load(written: &ClientCertificate) -> Result<Self, KeyError> {
        let passphrase = written.passphrase.as_ref().map(|source| source.read()).transpose()?;
        match &written.files {
            KeyFiles::Pem { certificate, private_key } => {
                let pair = rsa_key(&read(private_key)?, passphrase.as_ref(), private_key)?;
                let key = Self { pair, certificate: pem_certificate(certificate)? };
                key.belongs_together(certificate)
            }
            KeyFiles::Pkcs12(path) => from_pkcs12(path, passphrase.as_ref()),
        }
    }

    /// When the certificate ends.
    pub fn expires(&self) -> Option<Timestamp> {
        let (_, certificate) = X509Certificate::from_der(&self.certificate).ok()?;
        Timestamp::of_unix_seconds(certificate.validity().not_after.timestamp())
    }

    fn belongs_together(self, path: &Path) -> Result<Self, KeyError> {
        let (_, certificate) = X509Certificate::from_der(&self.certificate)
            .map_err(|_| unusable(path, "it is no certificate", CERTIFICATE_HINT))?;
        let public: &[u8] = &certificate.public_key().subject_public_key.data;
        if public != self.pair.public().as_ref() {
            let hint = "name the key that the certificate was made with";
            return Err(unusable(path, "the certificate is not for this key", hint));
        }
        Ok(self)
    }
}

const CERTIFICATE_HINT: &str = "it must be in PEM (-----BEGIN CERTIFICATE-----)";

fn unusable(path: &Path, problem: &'static str, hint: &'static str) -> KeyError {
    KeyError::Unusable { path: path.to_owned(), problem, hint }
}

fn read(path: &Path) -> Result<Zeroizing<Vec<u8>>, KeyError> {
    let octets = read_named_file(path, Limit::CERTIFICATES).map_err(|error| match error {
        PrivateFileError::Io { path, why } => KeyError::Unreadable { path, source: why },
        refused => KeyError::Refused(refused),
    })?;
    Ok(Zeroizing::new(octets))
}

fn pem_certificate(path: &Path) -> Result<Vec<u8>, KeyError> {
    let certificate = CertificateDer::from_pem_slice(&read(path)?);
    let none = |_| unusable(path, "it has no certificate", CERTIFICATE_HINT);
    certificate.map(|certificate| certificate.to_vec()).map_err(none)
}

/// The RSA key of a PEM text: PKCS#8, encrypted or not, or PKCS#1. `path` is for the errors.
pub(super) fn rsa_key(
    pem: &[u8],
    passphrase: Option<&Secret<String>>,
    path: &Path,
) -> Result<RsaKeyPair, KeyError> {
    if let Some(encrypted) = section(pem, ENCRYPTED) {
        let Some(passphrase) = passphrase else {
            let hint = "add passphrase = { file = \"PATH\" } to client_certificate";
            return Err(unusable(path, "the key is encrypted", hint));
        };
        return decrypt(encrypted, passphrase, path);
    }
    if String::from_utf8_lossy(pem).contains("Proc-Type: 4,ENCRYPTED") {
        let hint = "rewrite it in today's form: openssl pkcs8 -topk8 -in OLD -out NEW";
        return Err(unusable(path, "the key is encrypted in OpenSSL's old form", hint));
    }
    match PrivateKeyDer::from_pem_slice(pem) {
        Ok(PrivateKeyDer::Pkcs8(key)) => from_pkcs8(key.secret_pkcs8_der(), path),
        Ok(PrivateKeyDer::Pkcs1(key)) => {
            RsaKeyPair::from_der(key.secret_pkcs1_der()).map_err(|_| not_rsa(path))
        }
        Ok(_) => Err(not_rsa(path)),
        Err(_) => {
            let hint = "it must be in PEM (-----BEGIN PRIVATE KEY-----)";
            Err(unusable(path, "it has no private key", hint))
        }
    }
}

/// The PEM section of this label, with its first and last line.
fn section<'a>(pem: &'a [u8], label: &str) -> Option<&'a str> {
    let text = std::str::from_utf8(pem).ok()?;
    let end = format!("-----END {label}-----");
    let from = text.find(&format!("-----BEGIN {label}-----"))?;
    let to = text.find(&end)? + end.len();
    text.get(from..to)
}

fn decrypt(pem: &str, passphrase: &Secret<String>, path: &Path) -> Result<RsaKeyPair, KeyError> {
    let unknown = || {
        let hint = "write it anew: openssl pkcs8 -topk8 -v2 aes-256-cbc -in OLD -out NEW";
        unusable(path, "the encrypted key is damaged, or of a kind that is not known", hint)
    };
    let (_, document) = pkcs8::SecretDocument::from_pem(pem).map_err(|_| unknown())?;
    let encrypted = EncryptedPrivateKeyInfoRef::try_from(document.as_bytes());
    let key = encrypted.map_err(|_| unknown())?.decrypt(passphrase.expose());
    let key = key.map_err(|error| match error {
        pkcs8::Error::EncryptedPrivateKey(pkcs8::pkcs5::Error::UnsupportedAlgorithm { .. }) => {
            unknown()
        }
        _ => {
            let hint = "check passphrase in client_certificate: openssl pkey -noout -in FILE";
            unusable(path, "the passphrase does not open the key", hint)
        }
    })?;
    from_pkcs8(key.as_bytes(), path)
}

fn from_pkcs8(key: &[u8], path: &Path) -> Result<RsaKeyPair, KeyError> {
    RsaKeyPair::from_pkcs8(key).map_err(|_| not_rsa(path))
}

fn not_rsa(path: &Path) -> KeyError {
    let hint =
        "make one: openssl req -x509 -newkey rsa:2048 -days 730 -keyout KEY -out CERTIFICATE";
    unusable(path, "the key is no RSA key of 2048 to 4096 bits", hint)
}

fn from_pkcs12(path: &Path, passphrase: Option<&Secret<String>>) -> Result<ClientKey, KeyError> {
    let passphrase = passphrase.map_or("", |passphrase| passphrase.expose().as_str());
    let store = KeyStore::from_pkcs12(&read(path)?, passphrase, Pkcs12ImportPolicy::Relaxed);
    let store = store.map_err(|_| {
        let hint = "check passphrase in client_certificate: openssl pkcs12 -info -noout -in FILE";
        unusable(path, "it is no PKCS#12 file, or its passphrase is another one", hint)
    })?;
    let (_, chain) = store
        .private_key_chain()
        .ok_or_else(|| unusable(path, "it has no private key", "export it with its private key"))?;
    let certificate = chain.certs().first().ok_or_else(|| {
        unusable(path, "it has no certificate for its key", "export both in one file")
    })?;
    let pair = from_pkcs8(chain.key().as_der(), path)?;
    ClientKey { pair, certificate: certificate.as_der().to_vec() }.belongs_together(path)
}
