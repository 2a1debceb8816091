//! How connections leave this machine: directly, or by an HTTP proxy.
//!
//! Invariant: what is on this machine is reached directly, whatever proxy is named; and no text has a proxy's
//! password. The rules of the environment are read by the same code for mail as for HTTP requests.

use std::fmt;
use std::sync::Arc;

use hyper_util::client::proxy::matcher::Matcher;
use url::Url;

use crate::config::{Endpoint, Proxy, SecretError, is_local};
use crate::secret::Secret;

/// By which proxy servers are reached, if by any.
#[derive(Clone, Debug)]
pub struct Route(Arc<Rule>);

#[derive(Debug)]
enum Rule {
    Direct,
    /// HTTPS_PROXY, ALL_PROXY and NO_PROXY, or the settings of Windows and macOS.
    System(Box<Matcher>),
    /// The configuration's, but for what NO_PROXY names.
    Given(Box<Matcher>, Box<reqwest::Proxy>),
}

/// A proxy on the way to a server.
#[derive(Clone, Debug)]
pub(super) struct Hop {
    pub(super) scheme: String,
    pub(super) host: String,
    pub(super) port: u16,
    /// The value of `Proxy-Authorization`.
    pub(super) authorization: Option<Secret<Vec<u8>>>,
}

impl Route {
    /// As the configuration says. The environment and the proxy's password are read now.
    pub fn new(proxy: &Proxy) -> Result<Self, SecretError> {
        let rule = match proxy {
            Proxy::Never => Rule::Direct,
            Proxy::System => Rule::System(Box::new(Matcher::from_system())),
            Proxy::At(server) => {
                let mut url = server.url.clone();
                if let Some((user, password)) = &server.user {
                    // Neither fails on a URL that has a host.
                    let _ = url.set_username(user);
                    let _ = url.set_password(Some(password.read()?.expose()));
                }
                let no = ["NO_PROXY", "no_proxy"].into_iter().find_map(|it| std::env::var(it).ok());
                let matcher = Matcher::builder().all(url.as_str()).no(no.unwrap_or_default());
                match reqwest::Proxy::all(url) {
                    Ok(proxy) => {
                        let proxy = proxy.no_proxy(reqwest::NoProxy::from_env());
                        Rule::Given(Box::new(matcher.build()), Box::new(proxy))
                    }
                    Err(_) => Rule::Direct,
                }
            }
        };
        Ok(Self(Arc::new(rule)))
    }

    /// By no proxy.
    pub fn direct() -> Self {
        Self(Arc::new(Rule::Direct))
    }

    /// The address of the proxy by which this URL is reached; none: directly.
    pub fn proxy_for(&self, url: &Url) -> Option<String> {
        self.hop_for(url).map(|hop| hop.to_string())
    }

    /// The same of a mail server.
    pub fn proxy_to(&self, endpoint: &Endpoint) -> Option<String> {
        self.hop_to(endpoint).map(|hop| hop.to_string())
    }

    pub(super) fn hop_to(&self, endpoint: &Endpoint) -> Option<Hop> {
        // A tunnel to any port is what "HTTPS_PROXY" is for.
        self.hop_for(&Url::parse(&format!("https://{endpoint}/")).ok()?)
    }

    fn hop_for(&self, url: &Url) -> Option<Hop> {
        let matcher = match &*self.0 {
            Rule::Direct => return None,
            Rule::System(matcher) | Rule::Given(matcher, _) => matcher,
        };
        if is_local(url) {
            return None;
        }
        let proxy = matcher.intercept(&url.as_str().parse().ok()?)?;
        let scheme = proxy.uri().scheme_str().unwrap_or_default().to_owned();
        let standard = if scheme == "https" { 443 } else { 80 };
        let authorization = proxy.basic_auth().map(|value| Secret::new(value.as_bytes().to_vec()));
        Some(Hop {
            host: proxy.uri().host()?.trim_matches(['[', ']']).to_owned(),
            port: proxy.uri().port_u16().unwrap_or(standard),
            scheme,
            authorization,
        })
    }

    /// Sends an HTTP client's requests this way.
    pub(super) fn apply(&self, client: reqwest::ClientBuilder) -> reqwest::ClientBuilder {
        match &*self.0 {
            Rule::Direct => client.no_proxy(),
            Rule::System(_) => client,
            Rule::Given(_, proxy) => client.proxy(reqwest::Proxy::clone(proxy)),
        }
    }
}

impl fmt::Display for Hop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.host.contains(':') {
            true => write!(f, "[{}]:{}", self.host, self.port),
            false => write!(f, "{}:{}", self.host, self.port),
        }
    }
}
