//! The HTTP client for token endpoints.

use std::time::Duration;

use super::{ClientTls, TlsError};

/// For one request in all. Entra answers in well under a second; a login waits for it at most this long.
const REQUEST: Duration = Duration::from_secs(15);

/// A client that trusts what `tls` trusts, follows no redirect (a token endpoint has none, and the request
/// holds a secret), and gives up after fifteen seconds.
pub fn http_client(tls: &ClientTls) -> Result<reqwest::Client, TlsError> {
    reqwest::Client::builder()
        .tls_backend_preconfigured(tls.config())
        .user_agent(concat!("gatepost/", env!("CARGO_PKG_VERSION")))
        .redirect(reqwest::redirect::Policy::none())
        .timeout(REQUEST)
        .build()
        .map_err(|error| TlsError::Config(error.to_string()))
}
