//! What the app proves itself with: a secret, a certificate, a service account's key, or nothing.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::answers::{Proof, ProofArgs, SecretAnswer};
use super::ask::{Asker, Question, Shown};
use super::checks;
use super::portal::Portal;
use crate::cli::{UsageError, ui};
use crate::config::{Grant, read_secret_file};
use crate::secret::Secret;

/// The flags with which an app by itself is proved.
const FLAGS: &str = "--client-secret-stdin (or --client-secret-env NAME, --client-secret-file FILE, \
                     --certificate FILE --private-key FILE, --pkcs12 FILE)";

pub(super) fn proof(
    args: &ProofArgs,
    asker: &mut Asker,
    portal: &Portal,
    grant: Grant,
) -> Result<Option<Proof>> {
    if let Some(given) = given(args, asker, portal)? {
        return Ok(Some(given));
    }
    match grant {
        Grant::ManagedIdentity => Ok(None),
        Grant::JwtBearer => service_account(asker).map(Some),
        Grant::ClientCredentials if asker.person() => choose(asker, portal).map(Some),
        Grant::ClientCredentials => {
            asker.missing(FLAGS);
            Ok(None)
        }
        Grant::AuthorizationCode | Grant::DeviceCode if asker.asks() && portal.asks_secret => {
            let help = format!("{}; Enter if it has none", portal.client_secret);
            let secret = asker.secret("Client secret:", &help, |typed| Ok(typed.trim().into()))?;
            let some = Some(secret).filter(|secret| !secret.expose().is_empty());
            Ok(some.map(|secret| Proof::Secret(SecretAnswer::Typed(secret))))
        }
        Grant::AuthorizationCode | Grant::DeviceCode => Ok(None),
    }
}

/// What the flags say.
fn given(args: &ProofArgs, asker: &mut Asker, portal: &Portal) -> Result<Option<Proof>> {
    let passphrase = || match (&args.passphrase_env, &args.passphrase_file) {
        (Some(name), _) => Some(SecretAnswer::Env(name.clone())),
        (None, file) => file.clone().map(SecretAnswer::File),
    };
    let guids = portal.client_id_is_guid;
    let proof = if args.client_secret_stdin && asker.person() {
        Proof::Secret(SecretAnswer::Typed(typed_secret(asker, portal)?))
    } else if args.client_secret_stdin {
        let line = ui::read_secret_line()?;
        let text = std::str::from_utf8(line.expose()).context("the client secret is not text")?;
        let secret = checks::client_secret(text, guids).map_err(|problem| {
            let problem = format!("--client-secret-stdin: {problem}");
            UsageError::new(problem, "gatepost init … --client-secret-stdin < FILE")
        })?;
        Proof::Secret(SecretAnswer::Typed(Secret::new(secret)))
    } else if let Some(name) = &args.client_secret_env {
        Proof::Secret(SecretAnswer::Env(name.clone()))
    } else if let Some(file) = &args.client_secret_file {
        Proof::Secret(SecretAnswer::File(file.clone()))
    } else if let (Some(certificate), Some(private_key)) = (&args.certificate, &args.private_key) {
        let (certificate, private_key) = (certificate.clone(), private_key.clone());
        Proof::Pem { certificate, private_key, passphrase: passphrase() }
    } else if let Some(file) = &args.pkcs12 {
        Proof::Pkcs12 { file: file.clone(), passphrase: passphrase() }
    } else if let Some(file) = &args.service_account {
        Proof::ServiceAccount(file.clone())
    } else {
        return Ok(None);
    };
    Ok(Some(proof))
}

#[derive(Clone, Copy)]
enum Kind {
    Typed,
    Env,
    File,
    Pem,
    Pkcs12,
}

fn choose(asker: &mut Asker, portal: &Portal) -> Result<Proof> {
    let option = |words: &str, kind| Shown(words.to_owned(), kind);
    let options = vec![
        option("a client secret, which I paste now (kept in a private file)", Kind::Typed),
        option("a client secret in a variable of the environment", Kind::Env),
        option("a client secret in a file", Kind::File),
        option("a certificate and its private key, in PEM", Kind::Pem),
        option("a certificate with its key, in PKCS#12 (.pfx)", Kind::Pkcs12),
    ];
    let help = "made in the portal, at the app registration; Esc ends without a trace";
    Ok(match asker.choice("What does the app prove itself with?", help, options)?.1 {
        Kind::Typed => Proof::Secret(SecretAnswer::Typed(typed_secret(asker, portal)?)),
        Kind::Env => {
            let question = Question {
                flag: "--client-secret-env",
                words: "Name of the variable:",
                help: "gatepost run will need it in its environment too",
            };
            let name = asker.text(question, None, None, checks::variable)?;
            Proof::Secret(SecretAnswer::Env(name))
        }
        Kind::File => Proof::Secret(SecretAnswer::File(file(
            asker,
            "--client-secret-file",
            "File with the client secret:",
        )?)),
        Kind::Pem => Proof::Pem {
            certificate: file(asker, "--certificate", "File with the certificate:")?,
            private_key: file(asker, "--private-key", "File with the private key:")?,
            passphrase: passphrase(asker)?,
        },
        Kind::Pkcs12 => Proof::Pkcs12 {
            file: file(asker, "--pkcs12", "PKCS#12 file:")?,
            passphrase: passphrase(asker)?,
        },
    })
}

fn typed_secret(asker: &mut Asker, portal: &Portal) -> Result<Secret<String>> {
    let guids = portal.client_id_is_guid;
    let check = move |typed: &str| checks::client_secret(typed, guids);
    asker.secret("Client secret:", &portal.client_secret, check)
}

fn passphrase(asker: &mut Asker) -> Result<Option<SecretAnswer>> {
    let help = "it is kept in a private file; Enter if the key has none";
    let typed = asker.secret("Passphrase of the key:", help, |typed| Ok(typed.to_owned()))?;
    Ok(Some(typed).filter(|typed| !typed.expose().is_empty()).map(SecretAnswer::Typed))
}

fn service_account(asker: &mut Asker) -> Result<Proof> {
    file(asker, "--service-account", "Key file of the service account:").map(Proof::ServiceAccount)
}

fn file(asker: &mut Asker, flag: &str, words: &str) -> Result<PathBuf> {
    let help = "a path on this machine; it is left where it is, and read when it is needed";
    let question = Question { flag, words, help };
    asker.text(question, None, None, checks::file).map(PathBuf::from)
}

/// The address in a service account's key file.
pub(super) fn client_email(proof: &Proof) -> Option<String> {
    let Proof::ServiceAccount(file) = proof else { return None };
    address_in(file)
}

fn address_in(file: &Path) -> Option<String> {
    let text = read_secret_file(file).ok()?;
    #[derive(serde::Deserialize)]
    struct Key {
        client_email: String,
    }
    let key: Key = serde_json::from_str(text.expose()).ok()?;
    Some(key.client_email)
}
