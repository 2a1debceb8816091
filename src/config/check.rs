//! From the written configuration to the checked one.
//!
//! Invariant: the first thing that is wrong is reported, with its line; nothing is guessed.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Deserialize;
use toml::Spanned;
use url::{Host, Url};

use super::error::{ConfigError, line_at};
use super::{
    Account, App, CertificateFiles, Config, Endpoint, Grant, ListenAddress, Listener, Provider, raw,
};
use crate::secret::Secret;
use crate::vocabulary::TlsMode;

/// The built-in providers, in the form of the configuration.
const BUILT_IN: &str = include_str!("providers.toml");

/// What listeners and apps lead to if they don't say.
const DEFAULT_PROVIDER: &str = "microsoft365";

/// Entra's word for "any work or school account", for sign-ins without a tenant.
const ANY_TENANT: &str = "organizations";

pub(super) fn check(file: &Path, text: &str) -> Result<Config, ConfigError> {
    let checker = Checker { file, text };
    let raw: raw::Raw = checker.parse(text)?;
    if let Some(url) = &raw.store.url {
        return Err(checker.error(
            &url.span(),
            "store.url",
            "this version keeps its store in SQLite alone",
            "leave the key out; the store is then in state_dir",
        ));
    }
    let providers = checker.providers(raw.provider)?;
    let listeners = checker.listeners(raw.listener, &providers)?;
    let apps = checker.apps(raw.app, &providers)?;
    let accounts = checker.accounts(raw.account, &apps)?;
    Ok(Config {
        file: file.to_owned(),
        state_dir: checker.state_dir(raw.state_dir)?,
        key_file: raw.store.key.map(|key| checker.path(&key.file)),
        listeners,
        accounts,
    })
}

type Providers = BTreeMap<String, Arc<Provider>>;
type Apps = BTreeMap<String, Arc<App>>;

/// The file that is checked, for the errors.
struct Checker<'a> {
    file: &'a Path,
    text: &'a str,
}

impl Checker<'_> {
    fn error(
        &self,
        place: &Range<usize>,
        key: impl Into<String>,
        problem: impl Into<String>,
        remedy: impl Into<String>,
    ) -> ConfigError {
        let line = line_at(self.text, place.start);
        ConfigError::new(self.file, Some(line), key, problem, remedy)
    }

    fn parse<T: for<'de> Deserialize<'de>>(&self, text: &str) -> Result<T, ConfigError> {
        let syntax = |error: &toml::de::Error, key: String| {
            let place = error.span().unwrap_or_default();
            let remedy = "see docs/configuration.md for the keys and their values";
            self.error(&place, key, error.message().trim(), remedy)
        };
        let document =
            toml::Deserializer::parse(text).map_err(|error| syntax(&error, String::new()))?;
        serde_path_to_error::deserialize(document)
            .map_err(|error| syntax(error.inner(), key_of(error.path())))
    }

    /// Relative to the folder of the file.
    fn path(&self, path: &Path) -> PathBuf {
        self.file.parent().unwrap_or(Path::new("")).join(path)
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

    fn providers(
        &self,
        written: BTreeMap<String, Spanned<raw::Provider>>,
    ) -> Result<Providers, ConfigError> {
        let built_in: BTreeMap<String, Spanned<raw::Provider>> =
            Checker { file: Path::new("built-in providers"), text: BUILT_IN }.parse(BUILT_IN)?;
        // One of the file's own goes before a built-in one of the same name.
        built_in
            .into_iter()
            .chain(written)
            .map(|(name, provider)| {
                let provider = self.provider(&name, provider.into_inner())?;
                Ok((name, Arc::new(provider)))
            })
            .collect()
    }

    fn provider(&self, name: &str, written: raw::Provider) -> Result<Provider, ConfigError> {
        let key = |key: &str| format!("provider.{name}.{key}");
        let urls = [
            ("authorize_url", written.authorize_url.as_ref()),
            ("token_url", Some(&written.token_url)),
            ("device_url", written.device_url.as_ref()),
        ];
        for (name, url) in urls {
            if let Some(url) = url {
                self.url(&key(name), url, ANY_TENANT)?;
            }
        }
        let endpoint = |name: &str, value: Option<Spanned<String>>| {
            let Some(value) = value else { return Ok(None) };
            let remedy = "write \"HOST:PORT\" (implicit TLS) or \"HOST:PORT starttls\"";
            value.get_ref().parse::<Endpoint>().map(Some).map_err(|problem| {
                let problem = format!("{:?}: {problem}", value.get_ref());
                self.error(&value.span(), key(name), problem, remedy)
            })
        };
        Ok(Provider {
            name: name.to_owned(),
            imap: endpoint("imap", written.imap)?,
            pop3: endpoint("pop3", written.pop3)?,
            smtp: endpoint("smtp", written.smtp)?,
            token_url: written.token_url.into_inner(),
            scopes: written.scopes,
            app_scopes: written.app_scopes,
            ca_file: written.ca_file.map(|path| self.path(&path)),
        })
    }

    /// HTTPS, or HTTP on loopback: a token request over plain HTTP gives the secret away.
    fn url(&self, key: &str, value: &Spanned<String>, tenant: &str) -> Result<Url, ConfigError> {
        let text = value.get_ref().replace("{tenant}", tenant);
        let refused = |problem: String| {
            let remedy = "write an https:// URL (http:// on loopback only)";
            self.error(&value.span(), key, problem, remedy)
        };
        let url = Url::parse(&text).map_err(|error| refused(format!("{text:?}: {error}")))?;
        let loopback = match url.host() {
            Some(Host::Domain(name)) => name == "localhost",
            Some(Host::Ipv4(ip)) => ip.is_loopback(),
            Some(Host::Ipv6(ip)) => ip.is_loopback(),
            None => false,
        };
        match url.scheme() {
            "https" => Ok(url),
            "http" if loopback => Ok(url),
            _ => Err(refused(format!("{text:?} is not secure"))),
        }
    }

    fn listeners(
        &self,
        written: Vec<Spanned<raw::Listener>>,
        providers: &Providers,
    ) -> Result<Vec<Arc<Listener>>, ConfigError> {
        let mut listeners: Vec<Arc<Listener>> = Vec::new();
        for (index, listener) in written.into_iter().enumerate() {
            let (place, key) = (listener.span(), format!("listener[{index}]"));
            let listen = listener.get_ref().listen.span();
            let listener = self.listener(&key, &place, listener.into_inner(), providers)?;
            let clash = listeners.iter().find_map(|other| {
                let mut pairs = listener
                    .addresses
                    .iter()
                    .flat_map(|one| other.addresses.iter().map(move |two| (one, two)));
                pairs.find(|(one, two)| one.clashes_with(two)).map(|(one, _)| (one, other.line))
            });
            if let Some((address, line)) = clash {
                let problem = format!("{address} is taken by the listener of line {line}");
                let remedy = "give each listener an address or port of its own";
                return Err(self.error(&listen, format!("{key}.listen"), problem, remedy));
            }
            listeners.push(Arc::new(listener));
        }
        Ok(listeners)
    }

    fn listener(
        &self,
        key: &str,
        place: &Range<usize>,
        written: raw::Listener,
        providers: &Providers,
    ) -> Result<Listener, ConfigError> {
        let addresses = self.addresses(&format!("{key}.listen"), &written.listen)?;
        let on_lan = addresses.iter().find(|address| !address.is_loopback());
        if let (TlsMode::None, Some(address), false) =
            (written.tls, on_lan, written.allow_plaintext_lan)
        {
            let problem = format!("passwords would cross the network of {address} in plain text");
            let remedy = "set tls = \"starttls\" or \"implicit\" \
                          (or allow_plaintext_lan = true, where a device can't do TLS)";
            return Err(self.error(place, format!("{key}.tls"), problem, remedy));
        }
        let provider =
            self.named(&format!("{key}.provider"), place, written.provider, providers)?;
        let protocol = written.protocol;
        let Some(upstream) = provider.endpoint(protocol).cloned() else {
            let problem = format!("provider {:?} has no {protocol} server", provider.name);
            let remedy = format!("set {protocol} = \"HOST:PORT\" in [provider.{}]", provider.name);
            return Err(self.error(place, format!("{key}.protocol"), problem, remedy));
        };
        let certificate = match (written.certificate, written.private_key) {
            (None, None) => None,
            (Some(certificate), Some(private_key)) => Some(CertificateFiles {
                certificate: self.path(&certificate),
                private_key: self.path(&private_key),
            }),
            _ => {
                let problem = "certificate and private_key go together";
                let remedy = "set both, or neither for a self-signed certificate";
                return Err(self.error(place, format!("{key}.certificate"), problem, remedy));
            }
        };
        let line = line_at(self.text, place.start);
        Ok(Listener {
            protocol,
            addresses,
            tls: written.tls,
            provider,
            upstream,
            certificate,
            line,
        })
    }

    fn addresses(
        &self,
        key: &str,
        listen: &Spanned<raw::OneOrMany>,
    ) -> Result<Vec<ListenAddress>, ConfigError> {
        let remedy = "write an IP address and port (\"127.0.0.1:1143\") or \"localhost:1143\"";
        let error = |problem: String| self.error(&listen.span(), key, problem, remedy);
        let mut addresses: Vec<ListenAddress> = Vec::new();
        for text in listen.get_ref().as_slice() {
            for address in ListenAddress::parse(text).map_err(error)? {
                if addresses.iter().any(|other| other.clashes_with(&address)) {
                    return Err(error(format!("{address} stands twice")));
                }
                addresses.push(address);
            }
        }
        if addresses.is_empty() {
            return Err(error("the list is empty".into()));
        }
        Ok(addresses)
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

    fn apps(
        &self,
        written: BTreeMap<String, Spanned<raw::App>>,
        providers: &Providers,
    ) -> Result<Apps, ConfigError> {
        written
            .into_iter()
            .map(|(name, app)| {
                let place = app.span();
                let app = self.app(&name, &place, app.into_inner(), providers)?;
                Ok((name, Arc::new(app)))
            })
            .collect()
    }

    fn app(
        &self,
        name: &str,
        place: &Range<usize>,
        written: raw::App,
        providers: &Providers,
    ) -> Result<App, ConfigError> {
        let key = |key: &str| format!("app.{name}.{key}");
        let provider = self.named(&key("provider"), place, written.provider, providers)?;
        if let Some(certificate) = &written.client_certificate {
            let problem = "this version authenticates apps by a client secret alone";
            let remedy = "use client_secret = { file = \"…\" }";
            return Err(self.error(
                &certificate.span(),
                key("client_certificate"),
                problem,
                remedy,
            ));
        }
        let app_only = written.grant == Grant::ClientCredentials;
        if app_only && written.client_secret.is_none() {
            let problem = "grant \"client_credentials\" needs a secret";
            let remedy = "add client_secret = { env = \"NAME\" } or { file = \"PATH\" }";
            return Err(self.error(place, key("client_secret"), problem, remedy));
        }
        let tenant = match &written.tenant {
            Some(tenant) => self.clean(&key("tenant"), tenant)?,
            None if app_only && provider.token_url.contains("{tenant}") => {
                let problem = "grant \"client_credentials\" needs the tenant";
                let remedy = "add tenant = \"YOURS.onmicrosoft.com\" or the directory (tenant) id";
                return Err(self.error(place, key("tenant"), problem, remedy));
            }
            None => ANY_TENANT.to_owned(),
        };
        let token_url = Spanned::new(place.clone(), provider.token_url.clone());
        let default_scopes = if app_only { &provider.app_scopes } else { &provider.scopes };
        Ok(App {
            name: name.to_owned(),
            token_url: self.url(&key("tenant"), &token_url, &tenant)?,
            client_id: self.clean(&key("client_id"), &written.client_id)?,
            client_secret: self.secret(&key("client_secret"), written.client_secret)?,
            grant: written.grant,
            scopes: written.scopes.map_or_else(|| default_scopes.clone(), Spanned::into_inner),
            provider,
        })
    }

    fn secret(
        &self,
        key: &str,
        written: Option<Spanned<raw::SecretSource>>,
    ) -> Result<Option<Secret<String>>, ConfigError> {
        let Some(written) = written else { return Ok(None) };
        let place = written.span();
        let remedy = "write { env = \"NAME\" } or { file = \"PATH\" }";
        let error = |problem: String| self.error(&place, key, problem, remedy);
        let source = written.into_inner();
        let secret = match (source.env, source.file) {
            (Some(name), None) => std::env::var(&name)
                .map_err(|_| error(format!("the environment has no variable {name}")))?,
            (None, Some(file)) => {
                let file = self.path(&file);
                std::fs::read_to_string(&file)
                    .map_err(|cause| error(format!("{}: {cause}", file.display())))?
            }
            _ => return Err(error("it takes one of env and file".into())),
        };
        // A file made by an editor or by echo ends with a line end that is not the secret's.
        let secret = Secret::new(secret.trim_end_matches(['\r', '\n']).to_owned());
        if secret.expose().is_empty() {
            return Err(error("the secret is empty".into()));
        }
        Ok(Some(secret))
    }

    fn accounts(
        &self,
        written: Vec<Spanned<raw::Account>>,
        apps: &Apps,
    ) -> Result<Vec<Arc<Account>>, ConfigError> {
        let mut accounts: Vec<Arc<Account>> = Vec::new();
        for (index, account) in written.into_iter().enumerate() {
            let key = |key: &str| format!("account[{index}].{key}");
            let account = account.into_inner();
            let mut names = vec![(key("mailbox"), &account.mailbox)];
            names.extend(account.aliases.iter().map(|alias| (key("aliases"), alias)));
            for (key, name) in names {
                let taken = accounts.iter().find(|other| other.answers_to(name.get_ref()));
                if let Some(other) = taken {
                    let problem = format!("{:?} means {} already", name.get_ref(), other.mailbox);
                    let remedy = "give each account names of its own";
                    return Err(self.error(&name.span(), key, problem, remedy));
                }
            }
            let aliases = account.aliases.iter().map(|alias| self.clean(&key("aliases"), alias));
            let signed_in_as = account.signed_in_as.as_ref();
            accounts.push(Arc::new(Account {
                mailbox: self.clean(&key("mailbox"), &account.mailbox)?,
                aliases: aliases.collect::<Result<_, _>>()?,
                app: self.app_named(&key("app"), &account.app, apps)?,
                signed_in_as: signed_in_as
                    .map(|person| self.clean(&key("signed_in_as"), person))
                    .transpose()?,
            }));
        }
        Ok(accounts)
    }

    fn app_named(
        &self,
        key: &str,
        name: &Spanned<String>,
        apps: &Apps,
    ) -> Result<Arc<App>, ConfigError> {
        apps.get(name.get_ref()).cloned().ok_or_else(|| {
            let problem = format!("there is no app {:?}", name.get_ref());
            let remedy = format!("add a table [app.{}] with its client_id", name.get_ref());
            self.error(&name.span(), key, problem, remedy)
        })
    }

    /// Nothing that could forge a field or a line where it is sent.
    fn clean(&self, key: &str, value: &Spanned<String>) -> Result<String, ConfigError> {
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
        check(Path::new("gatepost.toml"), text).unwrap_err().to_string()
    }

    #[test]
    fn built_in_providers_are_whole() {
        let config = check(Path::new("gatepost.toml"), "").unwrap();
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
        let lan = error("[[listener]]\nprotocol = \"imap\"\nlisten = \"0.0.0.0:1143\"\n");
        assert!(lan.contains("allow_plaintext_lan"), "{lan}");
    }
}
