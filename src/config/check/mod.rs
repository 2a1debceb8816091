//! From the written configuration to the checked one: providers, then what names them.
//!
//! Invariant: the first thing that is wrong is reported, with its line; nothing is guessed.

mod accounts;
mod credentials;
mod guard;
mod listeners;
mod networks;
mod pieces;
mod providers;
mod proxy;
mod submission;

use std::collections::BTreeMap;
use std::fmt::Display;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use pieces::Cut;
use serde::Deserialize;
use toml::Spanned;

use super::directory::Directory;
use super::error::{ConfigError, line_at};
use super::{Account, App, Config, Credential, Lines, Provider, Proxy, raw};

/// What listeners and apps lead to if they don't say.
pub const DEFAULT_PROVIDER: &str = "microsoft365";

/// Entra's word for "any work or school account", for sign-ins without a tenant.
const ANY_TENANT: &str = "organizations";

/// Connections to a mail server that stand ready, if the configuration does not say. A mail client opens one or two at a
/// time.
const SPARE_CONNECTIONS: usize = 2;

/// The most that it may say. They are made anew each minute; a provider may well take more of them for an attack.
const MOST_SPARE_CONNECTIONS: usize = 32;

/// Whether the client secrets are read; without them no token can be asked for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Secrets {
    Read,
    Leave,
}

pub(super) fn check(file: &Path, text: &str, secrets: Secrets) -> Result<Config, ConfigError> {
    let checker = Checker { file, text, secrets };
    if let Some(cut) = Cut::of(text)
        && let Ok(config) = checker.config_in_pieces(&cut)
    {
        return Ok(config);
    }
    let mut raw: raw::Raw = checker.parse(text)?;
    let written = std::mem::take(&mut raw.account);
    checker.config(raw, |apps| checker.accounts(written, apps))
}

pub(super) type Providers = BTreeMap<String, Arc<Provider>>;
/// The providers that need no table of their own.
pub(super) fn built_in() -> Result<Providers, ConfigError> {
    let checker = Checker { file: Path::new(""), text: "", secrets: Secrets::Leave };
    checker.providers(BTreeMap::new(), &Proxy::System)
}

type Apps = BTreeMap<String, Arc<App>>;

/// The file that is checked.
struct Checker<'a> {
    file: &'a Path,
    text: &'a str,
    secrets: Secrets,
}

impl Checker<'_> {
    /// An error is none for people: it does not tell its place.
    fn config_in_pieces(&self, cut: &Cut<'_>) -> Result<Config, ConfigError> {
        let raw: raw::Raw = self.parse(&cut.rest)?;
        if let Some(other) = raw.account.first() {
            let problem = "accounts stand in several places of the file";
            return Err(self.error(&other.span(), "account", problem, "put them together"));
        }
        self.config(raw, |apps| self.accounts_in_pieces(&cut.accounts, apps))
    }

    fn config(
        &self,
        raw: raw::Raw,
        accounts: impl FnOnce(&Apps) -> Result<(Vec<Arc<Account>>, Directory), ConfigError>,
    ) -> Result<Config, ConfigError> {
        if let Some(url) = &raw.store.url {
            return Err(self.error(
                &url.span(),
                "store.url",
                "this version keeps its store in SQLite alone",
                "leave the key out; the store is then in state_dir",
            ));
        }
        let lines = self.lines(&raw);
        let proxy = self.proxy(raw.proxy)?;
        let providers = self.providers(raw.provider, &proxy)?;
        let listeners = self.listeners(raw.listener, &providers)?;
        let apps = self.apps(raw.app, &providers)?;
        let (accounts, directory) = accounts(&apps)?;
        let credentials = apps.values().filter_map(|app| app.credential.as_ref());
        let secret_variables =
            credentials.clone().filter_map(Credential::variable).chain(proxy.variable());
        let secret_variables = secret_variables.map(str::to_owned);
        let mut files: Vec<PathBuf> = credentials.flat_map(Credential::files).collect();
        files.extend(proxy.file());
        files.extend(providers.values().filter_map(|provider| provider.ca_file.clone()));
        let certificates = listeners.iter().filter_map(|listener| listener.certificate.as_ref());
        files.extend(certificates.flat_map(|it| [it.certificate.clone(), it.private_key.clone()]));
        let mut config = Config {
            lines,
            secret_variables: secret_variables.collect(),
            file: self.file.to_owned(),
            state_dir: self.state_dir(raw.state_dir.map(Spanned::into_inner))?,
            key_file: self.key_file(raw.store.key)?,
            listeners,
            apps: apps.into_values().collect(),
            accounts,
            directory,
            devices: Vec::new(),
            spool: self.spool(raw.spool)?,
            guard: self.guard(raw.guard)?,
            on_attention: self.command(raw.on_attention)?,
            proxy,
            confine: raw.confine.unwrap_or(true),
            spare_connections: self.spare_connections(raw.spare_connections)?,
            files,
        };
        config.files.extend(config.key_file.iter().chain([&config.file]).cloned());
        config.devices = self.devices(raw.device, &config)?;
        Ok(config)
    }

    fn error(
        &self,
        place: &Range<usize>,
        key: impl Display,
        problem: impl Into<String>,
        remedy: impl Into<String>,
    ) -> ConfigError {
        let line = line_at(self.text, place.start);
        ConfigError::new(self.file, Some(line), key.to_string(), problem, remedy)
    }

    fn parse<T: for<'de> Deserialize<'de>>(&self, text: &str) -> Result<T, ConfigError> {
        let syntax = |error: &toml::de::Error, key: String| {
            let place = error.span().unwrap_or_default();
            let remedy = "see docs/configuration.md for the keys and their values";
            self.error(&place, key, error.message().trim(), remedy)
        };
        let document =
            || toml::Deserializer::parse(text).map_err(|error| syntax(&error, String::new()));
        // Keeping account of the way to each value takes its time: that is for a file that is wrong.
        match T::deserialize(document()?) {
            Ok(read) => Ok(read),
            Err(_) => serde_path_to_error::deserialize(document()?)
                .map_err(|error| syntax(error.inner(), key_of(error.path()))),
        }
    }

    /// Relative to the folder of the file.
    fn path(&self, path: &Path) -> PathBuf {
        self.file.parent().unwrap_or(Path::new("")).join(path)
    }

    fn lines(&self, raw: &raw::Raw) -> Lines {
        let line = |place: Range<usize>| line_at(self.text, place.start);
        Lines {
            state_dir: raw.state_dir.as_ref().map(|written| line(written.span())),
            key: raw.store.key.as_ref().map(|written| line(written.span())),
        }
    }

    fn state_dir(&self, given: Option<PathBuf>) -> Result<PathBuf, ConfigError> {
        let default = || {
            let folder = dirs::state_dir().or_else(dirs::data_local_dir)?;
            Some(folder.join("gatepost"))
        };
        given.map(|path| self.path(&path)).or_else(default).ok_or_else(|| {
            let problem = "this system has no folder for the state of programs";
            ConfigError::new(self.file, None, "state_dir", problem, "set state_dir to a folder")
        })
    }

    fn command(&self, written: Option<Spanned<Vec<String>>>) -> Result<Vec<String>, ConfigError> {
        let Some(written) = written else { return Ok(Vec::new()) };
        if written.get_ref().first().is_none_or(String::is_empty) {
            let problem = "the command has no name";
            let remedy = "write [\"/path/to/command\", \"its\", \"arguments\"], or leave it out";
            return Err(self.error(&written.span(), "on_attention", problem, remedy));
        }
        let mut command = written.into_inner();
        if let Some(program) = command.first_mut().filter(|program| program.contains(['/', '\\'])) {
            // A name alone is looked for where programs are; a path is a path like the others.
            *program = self.path(Path::new(program)).to_string_lossy().into_owned();
        }
        Ok(command)
    }

    fn spare_connections(&self, written: Option<Spanned<usize>>) -> Result<usize, ConfigError> {
        let Some(written) = written else { return Ok(SPARE_CONNECTIONS) };
        match *written.get_ref() {
            count @ ..=MOST_SPARE_CONNECTIONS => Ok(count),
            count => {
                let problem = format!("{count} are more than {MOST_SPARE_CONNECTIONS}");
                let remedy = "write how many connections to each mail server may stand ready, or 0";
                Err(self.error(&written.span(), "spare_connections", problem, remedy))
            }
        }
    }

    /// The provider that a listener or app names, or the default one.
    fn named(
        &self,
        key: &str,
        place: &Range<usize>,
        name: Option<Spanned<String>>,
        providers: &Providers,
    ) -> Result<Arc<Provider>, ConfigError> {
        let place = name.as_ref().map_or(place.clone(), Spanned::span);
        let name = name.map_or(DEFAULT_PROVIDER.to_owned(), Spanned::into_inner);
        providers.get(&name).cloned().ok_or_else(|| {
            let known = providers.keys().map(String::as_str).collect::<Vec<_>>().join(", ");
            let problem = format!("there is no provider {name:?}; known are {known}");
            self.error(&place, key, problem, format!("add a table [provider.{name}]"))
        })
    }

    /// Nothing that could forge a field or a line where it is sent.
    fn clean(&self, key: impl Display, value: &Spanned<String>) -> Result<String, ConfigError> {
        let text = value.get_ref();
        if text.is_empty() || text.chars().any(|c| c.is_control() || c.is_whitespace()) {
            let problem = format!("{text:?} is empty or has a space or control character");
            return Err(self.error(&value.span(), key, problem, "write it as in the portal"));
        }
        Ok(text.clone())
    }
}

/// `listener[0].listen`, without the steps that only `Spanned` takes.
fn key_of(path: &serde_path_to_error::Path) -> String {
    let path = path.to_string().replace(".$__serde_spanned_private_value", "");
    if path == "." { String::new() } else { path }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(text: &str) -> String {
        check(Path::new("gatepost.toml"), text, Secrets::Read).unwrap_err().to_string()
    }

    #[test]
    fn built_in_providers_are_whole() {
        let config = check(Path::new("gatepost.toml"), "", Secrets::Read).unwrap();
        assert!(config.listeners.is_empty());
    }

    #[test]
    fn errors_name_line_key_and_remedy() {
        let unknown = error(
            "\n[[listener]]\nprotocol = \"imap\"\nlisten = \"127.0.0.1:1143\"\ntsl = \"none\"\n",
        );
        assert!(
            unknown.contains("line 5") && unknown.contains("tsl") && unknown.contains("hint:"),
            "{unknown}"
        );
        let wrong = error("[[listener]]\nprotocol = \"imap\"\nlisten = 1143\n");
        assert!(wrong.contains("line 3") && wrong.contains("listener[0].listen"), "{wrong}");
        let wrong = error("[app.a]\nclient_id = 5\n");
        assert!(wrong.contains("line 2") && wrong.contains("app.a.client_id"), "{wrong}");
        let missing = error("[[account]]\nmailbox = \"a@b\"\napp = \"contoso\"\n");
        assert!(
            missing.contains("line 3")
                && missing.contains("account[0].app")
                && missing.contains("[app.contoso]"),
            "{missing}"
        );
        let twice = error(
            "[[listener]]\nprotocol = \"imap\"\nlisten = \"localhost:1143\"\n[[listener]]\nprotocol = \"pop3\"\nlisten = \"127.0.0.1:1143\"\n",
        );
        assert!(twice.contains("line 6") && twice.contains("line 1"), "{twice}");
        let many = error("\nspare_connections = 33\n");
        assert!(many.contains("line 2") && many.contains("33 are more than 32"), "{many}");
        let lan = error("[[listener]]\nprotocol = \"imap\"\nlisten = \"0.0.0.0:1143\"\n");
        assert!(lan.contains("allow_plaintext_lan"), "{lan}");
    }
    /// More than one piece of them.
    fn many_accounts() -> String {
        let account = |number| {
            format!(
                "[[account]]\nmailbox = \"{number}@contoso.com\"\naliases = [\"{number}\"]\napp = \"a\"\n[account.limits]\nconnections = {number}\n"
            )
        };
        let accounts: String = (1..=4_000).map(account).collect();
        format!("confine = false\n{accounts}[app.a]\nclient_id = \"x\"\n")
    }

    #[test]
    fn many_accounts_are_read_in_pieces_as_they_are_as_a_whole() {
        let text = many_accounts();
        let (file, secrets) = (Path::new("gatepost.toml"), Secrets::Leave);
        let checker = Checker { file, text: &text, secrets };
        let cut = Cut::of(&text).unwrap();
        let pieces = checker.config_in_pieces(&cut).unwrap();
        let mut raw: raw::Raw = checker.parse(&text).unwrap();
        let written = std::mem::take(&mut raw.account);
        let whole = checker.config(raw, |apps| checker.accounts(written, apps)).unwrap();
        assert_eq!(pieces.accounts, whole.accounts);
        assert_eq!(pieces.accounts.len(), 4_000);
        assert!(pieces.account("3999").is_some() && !pieces.confine);
    }

    #[test]
    fn what_is_wrong_with_one_of_many_accounts_is_told_with_its_line() {
        let text = many_accounts();
        let line = 1 + 6 * 2_999 + 2;
        let twice = error(&text.replace("\"3000@contoso.com\"", "\"7@contoso.com\""));
        assert!(twice.contains(&format!("line {line}, account[2999].mailbox")), "{twice}");
        let key = error(&text.replace("mailbox = \"3000@", "mailbx = \"3000@"));
        assert!(key.contains(&format!("line {line}, account[2999]")), "{key}");
        let apart = text + "[[account]]\nmailbox = \"1@contoso.com\"\napp = \"a\"\n";
        let apart = error(&apart);
        assert!(apart.contains("account[4000].mailbox"), "{apart}");
    }
}
