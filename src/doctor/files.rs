//! What is on this machine: the configuration, the store, secrets and keys, app passwords.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::{Case, Code, Finding, with_hint};
use crate::clock::Clock;
use crate::config::{Config, Credential, KeyFiles, SecretSource};
use crate::oauth::{credential_end, try_credential};
use crate::private_file::{Owners, PrivateFileError, is_open_to_all, owner};
use crate::store::{Store, StoreError};

/// Warn so long before a credential ends. gatepost run warns at the same times by `on_attention`.
const SOON: Duration = Duration::from_secs(30 * 86_400);

/// The configuration; without its secrets if these are what is wrong.
pub(super) fn configuration(file: &Path, findings: &mut Vec<Finding>) -> Option<Config> {
    let subject = file.display().to_string();
    let error = match Config::load(file) {
        Ok(config) => {
            let (listeners, accounts) = (config.listeners.len(), config.accounts.len());
            findings.push(whole(&config, &subject).unwrap_or_else(|| {
                let what = format!("{listeners} listeners, {accounts} accounts");
                Finding::ok(Code::Config, subject.as_str(), what)
            }));
            return Some(config);
        }
        Err(error) => error,
    };
    let (what, remedy) = with_hint(&error.to_string());
    match Config::load_without_secrets(file) {
        Ok(config) => {
            findings.push(Finding::error(Code::Credential, subject, what, remedy));
            Some(config)
        }
        Err(_) => {
            let remedy = match file.exists() {
                true => remedy,
                false => "`gatepost init` writes one; `--config FILE` names another".into(),
            };
            findings.push(Finding::error(Code::Config, subject, what, remedy));
            None
        }
    }
}

/// A configuration by which nobody can log in.
fn whole(config: &Config, subject: &str) -> Option<Finding> {
    let error =
        |what: &str, remedy: &str| Some(Finding::error(Code::Config, subject, what, remedy));
    if config.listeners.is_empty() {
        return error(
            "it has no [[listener]]: no client can connect",
            "add one; `gatepost init` shows how",
        );
    }
    if config.accounts.is_empty() {
        return error(
            "it has no [[account]]: nobody can log in",
            "add one; `gatepost init` shows how",
        );
    }
    let lost = config.listeners.iter().find(|listener| {
        let shares = |account: &std::sync::Arc<crate::config::Account>| {
            listener.provider.shares_tokens_with(&account.app.provider)
        };
        !config.accounts.iter().any(shares)
    })?;
    Some(Finding::error(
        Code::Config,
        lost.name(),
        format!(
            "the listener of line {} leads to provider {}, but no account's app is of it",
            lost.line, lost.provider.name
        ),
        "give the listener the provider of the app, or the app the provider of the listener",
    ))
}

pub(super) async fn store(config: &Config, findings: &mut Vec<Finding>) -> Option<Store> {
    let subject = config.state_dir.display().to_string();
    match Store::open(&config.state_dir, config.key_file.as_deref()).await {
        Ok(store) => {
            findings.push(match store.try_out().await {
                Ok(()) => Finding::ok(
                    Code::Store,
                    subject,
                    "the store opens with its key, and is written",
                ),
                Err(error) => {
                    let (what, remedy) = with_hint(&error.to_string());
                    Finding::error(Code::Store, subject, what, remedy)
                }
            });
            findings.extend(exposed(config));
            Some(store)
        }
        Err(error) => {
            let code = match &error {
                StoreError::File(PrivateFileError::Io { why, .. })
                    if why.kind() != std::io::ErrorKind::PermissionDenied =>
                {
                    Code::Store
                }
                StoreError::File(_) => Code::Permissions,
                _ => Code::Store,
            };
            let (what, remedy) = with_hint(&error.to_string());
            let remedy = match (remedy.is_empty(), code) {
                (false, _) => remedy,
                (true, Code::Permissions) => {
                    "run this command as the user that runs gatepost, or give that user the folder: \
                     `chown -R USER FOLDER`"
                        .into()
                }
                (true, _) => "docs/troubleshooting.md, \"store\"".into(),
            };
            findings.push(Finding::error(code, subject, what, remedy));
            None
        }
    }
}

/// Files with secrets that others can read. The store and its key are refused for that; these are not.
fn exposed(config: &Config) -> Vec<Finding> {
    // And whether systemd can pass it on.
    let mut secrets: Vec<(PathBuf, bool)> = Vec::new();
    let mut add = |path: &PathBuf, passes: bool| {
        if !secrets.iter().any(|(known, _)| known == path) {
            secrets.push((path.clone(), passes));
        }
    };
    for account in &config.accounts {
        let Some(credential) = &account.app.credential else { continue };
        let passes = matches!(credential, Credential::Secret(_));
        secret_files(credential).into_iter().for_each(|path| add(path, passes));
    }
    let listeners = config.listeners.iter();
    for files in listeners.filter_map(|listener| listener.certificate.as_ref()) {
        add(&files.private_key, false);
    }
    let exposed = secrets.iter().filter(|(path, _)| is_open_to_all(path)).map(|(path, passes)| {
        let what = "others on this machine can read this secret";
        let remedy = hidden(config, path, *passes);
        Finding::warning(Code::Permissions, path.display().to_string(), what, remedy)
    });
    exposed.collect()
}

/// The user that runs gatepost is the one whose the state folder is, whoever runs the doctor.
fn hidden(config: &Config, path: &Path, passes: bool) -> String {
    let numbers = owner(path).zip(owner(&config.state_dir));
    let Some((owner, user)) = numbers else { return String::new() };
    let owners = Owners { owner, user };
    let mut remedy = format!("`{}`", owners.to_hide(path));
    if owner != user {
        let path = path.display();
        remedy += " as root: gatepost runs as that user, and this is the file of another one. Or let the service's \
                   group alone read it: ";
        remedy += &format!("`chgrp GROUP {path} && chmod 640 {path}`");
        if passes {
            remedy += &format!(
                ". Or keep it root's (`chmod 600 {path}`), and have systemd pass it on: LoadCredential=NAME:{path} \
                 in the unit, and {{ credential = \"NAME\" }} in the configuration"
            );
        }
    }
    remedy
}

fn secret_files(credential: &Credential) -> Vec<&PathBuf> {
    let of_source = |source: &'_ SecretSource| matches!(source, SecretSource::File(_));
    match credential {
        Credential::Secret(SecretSource::File(path)) | Credential::ServiceAccount(path) => {
            vec![path]
        }
        Credential::Certificate(certificate) => {
            let key = match &certificate.files {
                KeyFiles::Pem { private_key, .. } => private_key,
                KeyFiles::Pkcs12(path) => path,
            };
            let passphrase = certificate.passphrase.as_ref().filter(|source| of_source(source));
            let passphrase = passphrase.and_then(|source| match source {
                SecretSource::File(path) => Some(path),
                SecretSource::Env(_) | SecretSource::Credential(_) => None,
            });
            std::iter::once(key).chain(passphrase).collect()
        }
        Credential::Secret(SecretSource::Env(_) | SecretSource::Credential(_))
        | Credential::FederatedToken(_) => Vec::new(),
    }
}

/// Mailboxes that nobody can log in to.
pub(super) async fn passwords(case: &Case) -> Vec<Finding> {
    let Ok(records) = case.store.passwords().await else { return Vec::new() };
    let without = case
        .accounts
        .iter()
        .filter(|account| !records.iter().any(|record| account.covers(&record.mailbox)));
    let missing = without.map(|account| {
        let mailbox = account.mailbox.as_str();
        let (what, remedy) = match account.pattern() {
            None => (
                "it has no app password: no client can log in",
                format!("`gatepost password add {mailbox}`"),
            ),
            Some(domain) => (
                "no mailbox of this pattern has an app password: no client can log in",
                format!("`gatepost password add NAME@{domain}`"),
            ),
        };
        Finding::error(Code::NoPassword, mailbox, what, remedy)
    });
    missing.collect()
}

/// What the apps authenticate with: whether it can be used, and for how long.
pub(super) fn credentials(case: &Case) -> Vec<Finding> {
    let mut findings = Vec::new();
    for app in case.apps() {
        let subject = format!("app {}", app.name);
        if let Err(error) = try_credential(app) {
            let (what, remedy) = with_hint(&error.to_string());
            let remedy = match remedy.is_empty() {
                true => {
                    format!("mend what [app.{}] names in {}", app.name, case.config.file.display())
                }
                false => remedy,
            };
            findings.push(Finding::error(Code::Credential, subject, what, remedy));
            continue;
        }
        let Some(end) = credential_end(app) else { continue };
        let left = end.saturating_since(Clock::system().now());
        let what = match (left.is_zero(), left < SOON) {
            (true, _) => format!("the secret or certificate has ended on {}", end.text()),
            (false, true) => format!("the secret or certificate ends on {}", end.text()),
            (false, false) => {
                let what = format!("the secret or certificate ends on {}", end.text());
                findings.push(Finding::ok(Code::CredentialExpiry, subject, what));
                continue;
            }
        };
        let portal = app.provider.portal.as_deref().unwrap_or("the provider's portal");
        let remedy = format!(
            "make a new one at {portal} (App registrations, the app, Certificates & secrets) and put it in the \
             place of the old one; gatepost reads it anew by itself"
        );
        findings.push(match left.is_zero() {
            true => Finding::error(Code::CredentialExpiry, subject, what, remedy),
            false => Finding::warning(Code::CredentialExpiry, subject, what, remedy),
        });
    }
    findings
}
