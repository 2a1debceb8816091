//! How an app proves to the token endpoint that it is itself.
//!
//! Invariant: the configuration knows where a secret is, not what it is: it is read for each request, so that
//! a secret or certificate can be replaced while gatepost runs.

use std::io;
use std::path::{Path, PathBuf};

use zeroize::Zeroize;

use super::named::read_named_file;
use crate::private_file::{Limit, PrivateFileError};
use crate::secret::Secret;

/// What an app registration authenticates with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Credential {
    /// A client secret (RFC 6749 section 2.3.1).
    Secret(SecretSource),
    /// A certificate: gatepost signs an assertion with its key (RFC 7523 section 2.2).
    Certificate(ClientCertificate),
    /// An assertion that somebody else renews in a file: a Kubernetes service account's token, for instance.
    FederatedToken(PathBuf),
    /// A Google service account's key file, for [`super::Grant::JwtBearer`].
    ServiceAccount(PathBuf),
}

impl Credential {
    /// The variable of the environment that a part of it is in, which is then a secret.
    pub(super) fn variable(&self) -> Option<&str> {
        let source = match self {
            Self::Secret(source) => Some(source),
            Self::Certificate(certificate) => certificate.passphrase.as_ref(),
            Self::FederatedToken(_) | Self::ServiceAccount(_) => None,
        };
        match source? {
            SecretSource::Env(name) => Some(name),
            SecretSource::File(_) | SecretSource::Credential(_) => None,
        }
    }

    /// The files that it is read from.
    pub fn files(&self) -> Vec<PathBuf> {
        match self {
            Self::Secret(source) => source.file().into_iter().collect(),
            Self::Certificate(certificate) => {
                let passphrase = certificate.passphrase.as_ref().and_then(SecretSource::file);
                let mut files: Vec<_> = passphrase.into_iter().collect();
                match &certificate.files {
                    KeyFiles::Pem { certificate, private_key } => {
                        files.extend([certificate.clone(), private_key.clone()]);
                    }
                    KeyFiles::Pkcs12(path) => files.push(path.clone()),
                }
                files
            }
            Self::FederatedToken(path) | Self::ServiceAccount(path) => vec![path.clone()],
        }
    }
}

/// A client certificate with its key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientCertificate {
    /// Where they are.
    pub files: KeyFiles,
    /// Opens an encrypted key.
    pub passphrase: Option<SecretSource>,
    /// How the assertion is signed.
    pub algorithm: SigningAlgorithm,
}

/// A certificate and its key on disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeyFiles {
    /// Two files in PEM (they may be the same one).
    Pem {
        /// The certificate.
        certificate: PathBuf,
        /// Its RSA key, PKCS#8 (encrypted or not) or PKCS#1.
        private_key: PathBuf,
    },
    /// One PKCS#12 file (`.pfx`, `.p12`).
    Pkcs12(PathBuf),
}

/// RFC 7518 section 3.1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Deserialize)]
pub enum SigningAlgorithm {
    /// RSASSA-PSS with SHA-256: what Entra recommends.
    #[default]
    PS256,
    /// RSASSA-PKCS1-v1_5 with SHA-256, for servers that know nothing newer.
    RS256,
}

/// Where a secret is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum SecretSource {
    /// In this environment variable.
    Env(String),
    /// In this file, whose line end is not the secret's.
    File(PathBuf),
    /// In the credential of this name that the service manager has passed (systemd's `LoadCredential=`).
    Credential(String),
}

/// A secret that can't be had.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    /// No such variable.
    #[error("the environment has no variable {0}")]
    NoVariable(String),
    /// The file can't be read.
    #[error("{path}: {source}", path = .path.display())]
    Unreadable {
        /// Which one.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file is no file, or no secret's.
    #[error(transparent)]
    Refused(PrivateFileError),
    /// There is nothing in it.
    #[error("{0} is empty")]
    Empty(String),
    /// The service manager has passed none, or there is none.
    #[error(
        "credential {0:?}: the environment has no {CREDENTIALS}; systemd sets it for a service with \
         LoadCredential={0}:PATH"
    )]
    NoCredentials(String),
    /// The service manager has passed others, and not this one.
    #[error(
        "credential {name:?}: {folder} has none of that name; systemd puts it there by LoadCredential={name}:PATH",
        folder = .folder.display()
    )]
    NoCredential {
        /// Which one.
        name: String,
        /// Where those are that were passed.
        folder: PathBuf,
    },
}

/// The variable with the folder of a service's credentials (systemd.exec(5)).
const CREDENTIALS: &str = "CREDENTIALS_DIRECTORY";

/// Where the service manager has put the credential of this name.
pub(super) fn credential_file(name: &str) -> Result<PathBuf, SecretError> {
    let folder = std::env::var_os(CREDENTIALS).filter(|folder| !folder.is_empty());
    let folder = folder.ok_or_else(|| SecretError::NoCredentials(name.to_owned()))?;
    let (folder, file) = (PathBuf::from(&folder), Path::new(&folder).join(name));
    // What can't be looked at may be there.
    let looked = std::fs::symlink_metadata(&file);
    match looked.is_err_and(|error| error.kind() == io::ErrorKind::NotFound) {
        true => Err(SecretError::NoCredential { name: name.to_owned(), folder }),
        false => Ok(file),
    }
}

impl SecretSource {
    /// Reads it.
    pub fn read(&self) -> Result<Secret<String>, SecretError> {
        let text = match self {
            Self::Env(name) => std::env::var(name)
                .map(Secret::new)
                .map_err(|_| SecretError::NoVariable(name.clone()))?,
            Self::File(path) => read_secret_file(path)?,
            Self::Credential(name) => read_secret_file(&credential_file(name)?)?,
        };
        // A file made by an editor or by echo ends with a line end that is not the secret's.
        let secret = Secret::new(text.expose().trim_end_matches(['\r', '\n']).to_owned());
        match secret.expose().is_empty() {
            true => Err(SecretError::Empty(match self {
                Self::Env(name) => format!("the variable {name}"),
                Self::File(path) => path.display().to_string(),
                Self::Credential(name) => format!("the credential {name}"),
            })),
            false => Ok(secret),
        }
    }

    /// The file that it is read from, if it is one and is known.
    pub(super) fn file(&self) -> Option<PathBuf> {
        match self {
            Self::Env(_) => None,
            Self::File(path) => Some(path.clone()),
            Self::Credential(name) => credential_file(name).ok(),
        }
    }
}

/// Reads a file that holds a secret, as text.
pub fn read_secret_file(path: &Path) -> Result<Secret<String>, SecretError> {
    let unreadable = |source| SecretError::Unreadable { path: path.to_owned(), source };
    let octets = read_named_file(path, Limit::SECRET).map_err(|error| match error {
        PrivateFileError::Io { why, .. } => unreadable(why),
        refused => SecretError::Refused(refused),
    })?;
    String::from_utf8(octets).map(Secret::new).map_err(|error| {
        error.into_bytes().zeroize();
        unreadable(io::Error::new(io::ErrorKind::InvalidData, "it is no UTF-8 text"))
    })
}
