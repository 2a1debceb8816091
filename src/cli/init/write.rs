//! From answers to files: the configuration, and the secrets that it names.
//!
//! Invariant: no file is overwritten, every file is private from its first moment, and if anything fails before
//! the configuration is in its place, what was made is taken away again.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::answers::{Answers, Proof, SecretAnswer};
use super::document::{AppKey, document, inline, path};
use crate::cli::UsageError;
use crate::config::Config;
use crate::private_file;

/// How an app is called whose mailbox has no domain.
const APP: &str = "mail";

/// Writes all, and gives the configuration as it is read from its place.
pub(super) fn write(file: &Path, answers: &Answers) -> Result<Config> {
    let folder = file.parent().unwrap_or(Path::new(""));
    let app = app_name(&answers.mailbox);
    let mut undo = Undo::default();
    undo.make_folder(folder)?;
    let mut secrets = Secrets { folder, app: &app, undo };
    let proof = answers.proof.as_ref().map(|proof| secrets.keep(proof)).transpose()?;
    let text = document(answers, AppKey { name: &app, proof }, folder)?;
    let refused = "these answers make no good configuration, nothing was written";
    let config = Config::parse(file, &text).context(refused)?;
    crate::app::check_files(&config).context(refused)?;
    if !private_file::create_new(file, text.as_bytes())? {
        return Err(exists(file));
    }
    secrets.undo.forget();
    Ok(Config::load(file)?)
}

pub(super) fn exists(file: &Path) -> anyhow::Error {
    let problem = format!("{} is there already, and is never overwritten", file.display());
    let hint = "edit it (then: gatepost check), or make another one: gatepost init --config OTHER";
    UsageError::new(problem, hint).into()
}

/// `contoso` of `jane@contoso.com`; a key that needs no quotes.
fn app_name(mailbox: &str) -> String {
    let domain = mailbox.rsplit_once('@').map_or("", |(_, domain)| domain);
    let first = domain.split('.').next().unwrap_or_default().to_lowercase();
    let name = first.chars().filter(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_'));
    Some(name.collect::<String>()).filter(|name| !name.is_empty()).unwrap_or(APP.to_owned())
}

/// Keeps secrets in files beside the configuration.
struct Secrets<'a> {
    folder: &'a Path,
    app: &'a str,
    undo: Undo,
}

impl Secrets<'_> {
    /// The key and value that the app's table gets.
    fn keep(&mut self, proof: &Proof) -> Result<(&'static str, toml::Value)> {
        Ok(match proof {
            Proof::Secret(secret) => ("client_secret", self.source(secret, "secret")?),
            Proof::Pem { certificate, private_key, passphrase } => {
                let files = inline([
                    ("certificate", path(certificate, self.folder)?),
                    ("private_key", path(private_key, self.folder)?),
                ]);
                ("client_certificate", self.with_passphrase(files, passphrase.as_ref())?)
            }
            Proof::Pkcs12 { file, passphrase } => {
                let files = inline([("pkcs12", path(file, self.folder)?)]);
                ("client_certificate", self.with_passphrase(files, passphrase.as_ref())?)
            }
            Proof::ServiceAccount(file) => {
                ("service_account", inline([("file", path(file, self.folder)?)]))
            }
        })
    }

    fn with_passphrase(
        &mut self,
        mut files: toml::Value,
        passphrase: Option<&SecretAnswer>,
    ) -> Result<toml::Value> {
        if let (toml::Value::Table(table), Some(passphrase)) = (&mut files, passphrase) {
            table.insert("passphrase".into(), self.source(passphrase, "passphrase")?);
        }
        Ok(files)
    }

    fn source(&mut self, secret: &SecretAnswer, kind: &str) -> Result<toml::Value> {
        Ok(match secret {
            SecretAnswer::Env(name) => inline([("env", name.as_str().into())]),
            SecretAnswer::File(file) => inline([("file", path(file, self.folder)?)]),
            SecretAnswer::Typed(secret) => {
                let (folder, first) = (self.folder, format!("{}-{kind}", self.app));
                let others = (2..).map(|number| folder.join(format!("{first}-{number}")));
                let names = std::iter::once(folder.join(&first)).chain(others);
                let file = self.undo.make_file(names, secret.expose().as_bytes())?;
                inline([("file", path(&file, folder)?)])
            }
        })
    }
}

/// What was made so far, to be taken away again.
#[derive(Default)]
struct Undo {
    files: Vec<PathBuf>,
    /// The deepest first.
    folders: Vec<PathBuf>,
}

impl Undo {
    fn make_folder(&mut self, folder: &Path) -> Result<()> {
        let missing = folder.ancestors().take_while(|folder| !folder.exists());
        self.folders = missing.map(Path::to_owned).collect();
        Ok(private_file::ensure_folder(folder)?)
    }

    /// Under the first of these names that nobody has.
    fn make_file(&mut self, names: impl Iterator<Item = PathBuf>, bytes: &[u8]) -> Result<PathBuf> {
        for file in names {
            if private_file::create_new(&file, bytes)? {
                self.files.push(file.clone());
                return Ok(file);
            }
        }
        anyhow::bail!("no name is left for a secret's file")
    }

    /// All is in its place.
    fn forget(&mut self) {
        self.files.clear();
        self.folders.clear();
    }
}

impl Drop for Undo {
    fn drop(&mut self) {
        // Whatever can't be removed is private, and harms nobody.
        for file in &self.files {
            let _ = std::fs::remove_file(file);
        }
        for folder in &self.folders {
            let _ = std::fs::remove_dir(folder);
        }
    }
}
