//! The HTTP client for token endpoints.
//!
//! Invariant: what is on this machine is asked directly, whatever proxy the environment names; that includes the
//! link-local address at which a cloud gives its machines their tokens.

use std::time::Duration;

use url::Url;

use super::{ClientTls, TlsError};
use crate::config::is_local;

/// For one request in all. Entra answers in well under a second; a login waits for it at most this long.
const REQUEST: Duration = Duration::from_secs(15);

/// A client that trusts what its TLS trusts, follows no redirect (a token endpoint has none, and the request
/// holds a secret), and gives up after fifteen seconds.
#[derive(Clone, Debug)]
pub struct HttpClient {
    web: reqwest::Client,
    direct: reqwest::Client,
}

/// A client that trusts what `tls` trusts.
pub fn http_client(tls: &ClientTls) -> Result<HttpClient, TlsError> {
    let builder = || {
        reqwest::Client::builder()
            .tls_backend_preconfigured(tls.config())
            .user_agent(concat!("gatepost/", env!("CARGO_PKG_VERSION")))
            .redirect(reqwest::redirect::Policy::none())
            .timeout(REQUEST)
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
