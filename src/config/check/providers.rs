//! Providers: the built-in ones and the file's own.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use toml::Spanned;
use url::Url;

use super::super::error::ConfigError;
use super::super::{Endpoint, Limits, Provider, Proxy, is_local, raw};
use super::{ANY_TENANT, Checker, Providers};
use crate::private_file::Limit;

/// The built-in providers, in the form of the configuration.
const BUILT_IN: &str = include_str!("../providers.toml");

impl Checker<'_> {
    pub(super) fn providers(
        &self,
        written: BTreeMap<String, Spanned<raw::Provider>>,
        proxy: &Proxy,
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
                let provider = self.provider(&name, provider.into_inner(), proxy)?;
                Ok((name, Arc::new(provider)))
            })
            .collect()
    }

    fn provider(
        &self,
        name: &str,
        written: raw::Provider,
        proxy: &Proxy,
    ) -> Result<Provider, ConfigError> {
        let key = |key: &str| format!("provider.{name}.{key}");
        let urls = [
            ("authorize_url", written.authorize_url.as_ref()),
            ("token_url", Some(&written.token_url)),
            ("device_url", written.device_url.as_ref()),
            ("revoke_url", written.revoke_url.as_ref()),
            ("consent_url", written.consent_url.as_ref()),
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
        let identity_url = written.identity_url.as_ref();
        let identity_url = identity_url.map(|url| self.url(&key("identity_url"), url, ANY_TENANT));
        let graph = written.graph.as_ref();
        let graph = graph.map(|url| self.url(&key("graph"), url, ANY_TENANT)).transpose()?;
        Ok(Provider {
            name: name.to_owned(),
            revoke_url: written.revoke_url.map(Spanned::into_inner),
            identity_url: identity_url.transpose()?,
            authorize_url: written.authorize_url.map(Spanned::into_inner),
            device_url: written.device_url.map(Spanned::into_inner),
            issuer: written.issuer,
            authorize_parameters: written.authorize_parameters,
            consent_url: written.consent_url.map(Spanned::into_inner),
            consent_scope: written.consent_scope,
            portal: written.portal,
            graph_environment: written.graph_environment,
            exchange_environment: written.exchange_environment,
            imap: endpoint("imap", written.imap)?,
            pop3: endpoint("pop3", written.pop3)?,
            smtp: endpoint("smtp", written.smtp)?,
            token_url: written.token_url.into_inner(),
            scopes: written.scopes,
            app_scopes: written.app_scopes,
            graph,
            graph_scopes: written.graph_scopes,
            graph_app_scopes: written.graph_app_scopes,
            limits: self.limits(key("limits"), &written.limits, &Limits::default())?,
            ca_file: self.ca_file(&key("ca_file"), written.ca_file)?,
            proxy: proxy.clone(),
        })
    }

    fn ca_file(
        &self,
        key: &str,
        written: Option<Spanned<PathBuf>>,
    ) -> Result<Option<PathBuf>, ConfigError> {
        let Some(written) = written else { return Ok(None) };
        let file = self.path(written.get_ref());
        self.readable(key, &written.span(), &file, Limit::CERTIFICATES)?;
        Ok(Some(file))
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
        match url.scheme() {
            "https" => Ok(url),
            "http" if is_local(&url) => Ok(url),
            _ => Err(refused(format!("{text:?} is not secure"))),
        }
    }
}
