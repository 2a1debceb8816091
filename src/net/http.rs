//! The HTTP client for token endpoints, and with other limits for Microsoft Graph.
//!
//! Invariant: what is on this machine is asked directly, whatever proxy there is; that includes the
//! link-local address at which a cloud gives its machines their tokens.

use std::time::Duration;

use url::Url;

use super::{ClientTls, Route, TlsError};
use crate::config::is_local;

/// For one request in all. Entra answers in well under a second; a login waits for it at most this long.
const REQUEST: Duration = Duration::from_secs(15);

/// To connect, TLS and a proxy's tunnel included.
const CONNECT: Duration = Duration::from_secs(10);

/// How long a request may take.
#[derive(Clone, Copy, Debug)]
pub struct HttpLimits {
    /// To connect.
    pub connect: Duration,
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

/// A client that trusts what `tls` trusts and goes the way of `route`, for token requests.
pub fn http_client(tls: &ClientTls, route: &Route) -> Result<HttpClient, TlsError> {
    http_client_within(tls, route, &HttpLimits { connect: CONNECT, request: REQUEST })
}

/// The same with limits of its own.
pub fn http_client_within(
    tls: &ClientTls,
    route: &Route,
    limits: &HttpLimits,
) -> Result<HttpClient, TlsError> {
    let builder = || {
        reqwest::Client::builder()
            .tls_backend_preconfigured(tls.config())
            .user_agent(concat!("gatepost/", env!("CARGO_PKG_VERSION")))
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(limits.connect)
            .timeout(limits.request)
    };
    let failed = |error: reqwest::Error| TlsError::Config(error.to_string());
    let web = route.apply(builder()).build().map_err(failed)?;
    let direct = builder().no_proxy().build().map_err(failed)?;
    Ok(HttpClient { web, direct })
}

impl HttpClient {
    /// The client for this URL.
    pub fn of(&self, url: &Url) -> &reqwest::Client {
        if is_local(url) { &self.direct } else { &self.web }
    }
}
