//! The HTTP client for token endpoints, and with other limits for Microsoft Graph.
//!
//! Invariant: what is on this machine is asked directly, whatever proxy the environment names; that includes the
//! link-local address at which a cloud gives its machines their tokens.

use std::time::Duration;

use url::Url;

use super::{ClientTls, TlsError};
use crate::config::is_local;

/// For one request in all. Entra answers in well under a second; a login waits for it at most this long.
const REQUEST: Duration = Duration::from_secs(15);

/// How long a request may take.
#[derive(Clone, Copy, Debug)]
pub struct HttpLimits {
    /// To connect; none: as long as the request.
    pub connect: Option<Duration>,
    /// In all.
    pub request: Duration,
}

/// A client that trusts what its TLS trusts, follows no redirect (a token endpoint has none, and the request
/// holds a secret), and gives up in time.
#[derive(Clone, Debug)]
pub struct HttpClient {
    web: reqwest::Client,
    direct: reqwest::Client,
}

/// A client that trusts what `tls` trusts, for token requests.
pub fn http_client(tls: &ClientTls) -> Result<HttpClient, TlsError> {
    http_client_within(tls, &HttpLimits { connect: None, request: REQUEST })
}

/// The same with limits of its own.
pub fn http_client_within(tls: &ClientTls, limits: &HttpLimits) -> Result<HttpClient, TlsError> {
    let builder = || {
        let builder = match limits.connect {
            Some(limit) => reqwest::Client::builder().connect_timeout(limit),
            None => reqwest::Client::builder(),
        };
        builder
            .tls_backend_preconfigured(tls.config())
            .user_agent(concat!("gatepost/", env!("CARGO_PKG_VERSION")))
            .redirect(reqwest::redirect::Policy::none())
            .timeout(limits.request)
    };
    let failed = |error: reqwest::Error| TlsError::Config(error.to_string());
    let web = builder().build().map_err(failed)?;
    let direct = builder().no_proxy().build().map_err(failed)?;
    Ok(HttpClient { web, direct })
}

impl HttpClient {
    /// The client for this URL.
    pub fn of(&self, url: &Url) -> &reqwest::Client {
        if is_local(url) { &self.direct } else { &self.web }
    }
}
