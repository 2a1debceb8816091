//! Providers: the built-in ones and the file's own.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use toml::Spanned;
use url::{Host, Url};

use super::super::error::ConfigError;
use super::super::{Endpoint, Provider, raw};
use super::{ANY_TENANT, Checker, Providers};

/// The built-in providers, in the form of the configuration.
const BUILT_IN: &str = include_str!("../providers.toml");

impl Checker<'_> {
    pub(super) fn providers(
        &self,
        written: BTreeMap<String, Spanned<raw::Provider>>,
    ) -> Result<Providers, ConfigError> {
        let built_in: BTreeMap<String, Spanned<raw::Provider>> = Checker {
            file: Path::new("built-in providers"),
            text: BUILT_IN,
            secrets: self.secrets,
        }
        .parse(BUILT_IN)?;
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
    pub(super) fn url(
        &self,
        key: &str,
        value: &Spanned<String>,
        tenant: &str,
    ) -> Result<Url, ConfigError> {
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
}
