//! What an app authenticates with: at most one thing, and one that its grant can use.

use std::ops::Range;
use std::path::{Path, PathBuf};

use toml::Spanned;
use zeroize::Zeroizing;

use super::super::credential::credential_file;
use super::super::error::ConfigError;
use super::super::{
    ClientCertificate, Credential, Grant, KeyFiles, SecretError, SecretSource, raw, read_named_file,
};
use super::{Checker, Secrets};
use crate::explain::split_hint;
use crate::private_file::{Limit, PrivateFileError};

const SECRET_REMEDY: &str =
    "write { env = \"NAME\" }, { file = \"PATH\" } or { credential = \"NAME\" }";

impl Checker<'_> {
    pub(super) fn credential(
        &self,
        name: &str,
        place: &Range<usize>,
        written: raw::App,
    ) -> Result<Option<Credential>, ConfigError> {
        let key = |key: &str| format!("app.{name}.{key}");
        let mut found = Vec::new();
        if let Some(secret) = written.client_secret {
            let at = key("client_secret");
            found.push((secret.span(), Credential::Secret(self.secret(&at, secret)?), at));
        }
        if let Some(certificate) = written.client_certificate {
            let (at, place) = (key("client_certificate"), certificate.span());
            let certificate = self.certificate(&at, &place, certificate.into_inner())?;
            found.push((place, Credential::Certificate(certificate), at));
        }
        if let Some(token) = written.federated_token {
            let (at, place) = (key("federated_token"), token.span());
            let file = self.path(&token.into_inner().file);
            self.readable(&at, &place, &file, Limit::SECRET)?;
            found.push((place, Credential::FederatedToken(file), at));
        }
        if let Some(service) = written.service_account {
            let (at, place) = (key("service_account"), service.span());
            let file = self.path(&service.into_inner().file);
            self.readable(&at, &place, &file, Limit::SECRET)?;
            found.push((place, Credential::ServiceAccount(file), at));
        }
        let mut found = found.into_iter();
        let first = found.next();
        if let (Some((.., first)), Some((place, _, second))) = (&first, found.next()) {
            let problem = format!("{first} stands there already");
            return Err(self.error(&place, second, problem, "keep one of them"));
        }
        let at = first.as_ref().map_or(key("client_secret"), |(.., key)| key.clone());
        let credential = first.map(|(_, credential, _)| credential);
        self.fits(&at, place, written.grant, credential.as_ref())?;
        Ok(credential)
    }

    /// Whether the grant can use the credential.
    fn fits(
        &self,
        key: &str,
        place: &Range<usize>,
        grant: Grant,
        credential: Option<&Credential>,
    ) -> Result<(), ConfigError> {
        let service = matches!(credential, Some(Credential::ServiceAccount(_)));
        let (problem, remedy) = match (grant, credential) {
            (Grant::ClientCredentials, None) => (
                "grant \"client_credentials\" needs a secret or a certificate",
                "add client_secret = { env = \"NAME\" } or { file = \"PATH\" }, \
                 client_certificate or federated_token",
            ),
            (Grant::JwtBearer, _) if !service => (
                "grant \"jwt_bearer\" needs a service account's key",
                "add service_account = { file = \"PATH\" }: the JSON file from the console",
            ),
            (Grant::ManagedIdentity, Some(_)) => (
                "grant \"managed_identity\" needs no credential",
                "leave it out: the machine is its own proof",
            ),
            (grant, Some(_)) if service && grant != Grant::JwtBearer => {
                ("service_account is for grant \"jwt_bearer\"", "set grant = \"jwt_bearer\"")
            }
            _ => return Ok(()),
        };
        Err(self.error(place, key, problem, remedy))
    }

    fn certificate(
        &self,
        key: &str,
        place: &Range<usize>,
        written: raw::ClientCertificate,
    ) -> Result<ClientCertificate, ConfigError> {
        let files = match (written.certificate, written.private_key, written.pkcs12) {
            (Some(certificate), private_key, None) => {
                let certificate = self.path(&certificate);
                // One file may hold both.
                let private_key = private_key.map_or(certificate.clone(), |key| self.path(&key));
                self.readable(key, place, &certificate, Limit::CERTIFICATES)?;
                self.readable(key, place, &private_key, Limit::CERTIFICATES)?;
                KeyFiles::Pem { certificate, private_key }
            }
            (None, None, Some(pkcs12)) => {
                let pkcs12 = self.path(&pkcs12);
                self.readable(key, place, &pkcs12, Limit::CERTIFICATES)?;
                KeyFiles::Pkcs12(pkcs12)
            }
            _ => {
                let problem = "it takes a certificate with its private_key, or pkcs12";
                let remedy = "write { certificate = \"PEM\", private_key = \"PEM\" } \
                              or { pkcs12 = \"FILE.pfx\" }";
                return Err(self.error(place, key, problem, remedy));
            }
        };
        let passphrase = written.passphrase;
        let passphrase = passphrase.map(|it| self.secret(&format!("{key}.passphrase"), it));
        let algorithm = written.algorithm;
        Ok(ClientCertificate { files, passphrase: passphrase.transpose()?, algorithm })
    }

    pub(super) fn secret(
        &self,
        key: &str,
        written: Spanned<raw::SecretSource>,
    ) -> Result<SecretSource, ConfigError> {
        let place = written.span();
        let error = |problem: String| {
            let (problem, hint) = split_hint(&problem);
            self.error(&place, key, problem, hint.unwrap_or(SECRET_REMEDY))
        };
        let source = written.into_inner();
        let source = match (source.env, source.file, source.credential) {
            (Some(name), None, None) => SecretSource::Env(name),
            (None, Some(file), None) => SecretSource::File(self.path(&file)),
            (None, None, Some(name)) => {
                self.credential_name(key, &place, &name)?;
                SecretSource::Credential(name)
            }
            _ => return Err(error("it takes one of env, file and credential".into())),
        };
        if self.secrets == Secrets::Read {
            source.read().map_err(|problem| match &source {
                SecretSource::Credential(name) => self.no_credential(key, &place, name, &problem),
                _ => error(problem.to_string()),
            })?;
        }
        Ok(source)
    }

    /// What the unit of a service must say, or whoever runs a command beside one.
    fn no_credential(
        &self,
        key: &str,
        place: &Range<usize>,
        name: &str,
        problem: &SecretError,
    ) -> ConfigError {
        let remedy = format!(
            "add LoadCredential={name}:PATH to the service's unit (systemctl edit gatepost) and restart it; beside a \
             running service, name the folder of its credentials: \
             CREDENTIALS_DIRECTORY=/run/credentials/gatepost.service"
        );
        self.error(place, key, problem.to_string(), remedy)
    }

    /// The sealing key's file.
    pub(super) fn key_file(
        &self,
        written: Option<Spanned<raw::StoreKey>>,
    ) -> Result<Option<PathBuf>, ConfigError> {
        const KEY: &str = "store.key";
        let Some(written) = written else { return Ok(None) };
        let place = written.span();
        let key = written.into_inner();
        match (key.file, key.credential) {
            (Some(file), None) => {
                let file = self.path(&file);
                // One that is missing is made at the start. Who may read it is the store's to judge.
                if std::fs::symlink_metadata(&file).is_ok() {
                    self.readable(KEY, &place, &file, Limit::SECRET)?;
                }
                Ok(Some(file))
            }
            (None, Some(name)) => {
                self.credential_name(KEY, &place, &name)?;
                credential_file(&name)
                    .map(Some)
                    .map_err(|error| self.no_credential(KEY, &place, &name, &error))
            }
            _ => {
                let remedy = "write { file = \"PATH\" } or { credential = \"NAME\" }";
                Err(self.error(&place, KEY, "it takes one of file and credential", remedy))
            }
        }
    }

    /// A file's name, which leads nowhere else.
    fn credential_name(
        &self,
        key: &str,
        place: &Range<usize>,
        name: &str,
    ) -> Result<(), ConfigError> {
        let is_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
        match !name.is_empty() && !name.starts_with('.') && name.chars().all(is_name) {
            true => Ok(()),
            false => {
                let problem = format!("{name:?} is no name of a credential");
                let remedy = "write the name that stands in LoadCredential=NAME:PATH";
                Err(self.error(place, key, problem, remedy))
            }
        }
    }

    pub(super) fn readable(
        &self,
        key: &str,
        place: &Range<usize>,
        file: &Path,
        limit: Limit,
    ) -> Result<(), ConfigError> {
        if self.secrets == Secrets::Leave {
            return Ok(());
        }
        read_named_file(file, limit).map(Zeroizing::new).map(drop).map_err(|error| {
            let text = error.to_string();
            let (problem, hint) = split_hint(&text);
            let remedy = match error {
                PrivateFileError::Io { .. } => "name a file that gatepost may read",
                _ => hint.unwrap_or_default(),
            };
            self.error(place, key, problem, remedy)
        })
    }
}
