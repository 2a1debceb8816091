//! Requests to the token endpoint (RFC 6749 sections 4.4 and 6).

use std::error::Error;
use std::time::Duration;

use futures_util::future::BoxFuture;
use serde::Deserialize;
use serde::de::IgnoredAny;

use super::TokenError;
use crate::config::App;
use crate::secret::Secret;

/// Largest answer that is read: a token has a few kilobytes.
const LARGEST_ANSWER: usize = 256 * 1024;

/// A token's life if the answer doesn't tell it (RFC 6749 section 5.1 only recommends it): Entra's shortest.
const DEFAULT_LIFE: Duration = Duration::from_secs(3600);

/// What to ask for.
#[derive(Debug)]
pub enum Request<'a> {
    /// A token for the app itself.
    ClientCredentials,
    /// A token for the person of this refresh token.
    Refresh(&'a Secret<String>),
}

/// A token that was granted.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The access token.
    pub access_token: Secret<String>,
    /// For the next request; none: the old one goes on (RFC 6749 section 6).
    pub refresh_token: Option<Secret<String>>,
    /// The token's life.
    pub expires_in: Duration,
    /// When the endpoint wants it renewed.
    pub refresh_in: Option<Duration>,
}

/// Where tokens come from: the token endpoint, or a script in tests.
pub trait TokenEndpoint: Send + Sync {
    /// Asks once.
    fn request<'a>(
        &'a self,
        app: &'a App,
        request: Request<'a>,
    ) -> BoxFuture<'a, Result<Answer, TokenError>>;
}

/// The token endpoint of an app's configuration, over HTTP.
pub struct HttpEndpoint(reqwest::Client);

impl HttpEndpoint {
    /// Asks with `client`.
    pub fn new(client: reqwest::Client) -> Self {
        Self(client)
    }

    async fn post(&self, app: &App, request: &Request<'_>) -> Result<Answer, TokenError> {
        let scope = app.scopes.join(" ");
        let mut form = vec![("client_id", app.client_id.as_str())];
        match request {
            Request::ClientCredentials => form.push(("grant_type", "client_credentials")),
            Request::Refresh(token) => form.extend([
                ("grant_type", "refresh_token"),
                ("refresh_token", token.expose().as_str()),
            ]),
        }
        if !scope.is_empty() {
            form.push(("scope", &scope));
        }
        if let Some(secret) = &app.client_secret {
            form.push(("client_secret", secret.expose()));
        }
        let response = self.0.post(app.token_url.clone()).form(&form).send().await;
        let mut response = response.map_err(|error| unreachable(app, &error))?;
        let status = response.status();
        let retry_after = response.headers().get(reqwest::header::RETRY_AFTER);
        let retry_after = retry_after.and_then(|value| value.to_str().ok()).map(str::to_owned);
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(|error| unreachable(app, &error))? {
            if body.len() + chunk.len() > LARGEST_ANSWER {
                return Err(TokenError::transient("the token endpoint's answer has no end"));
            }
            body.extend_from_slice(&chunk);
        }
        let body = Secret::new(body);
        match status.is_success() {
            true => parse(body.expose()),
            false => {
                Err(TokenError::of_answer(status.as_u16(), retry_after.as_deref(), body.expose()))
            }
        }
    }
}

impl TokenEndpoint for HttpEndpoint {
    fn request<'a>(
        &'a self,
        app: &'a App,
        request: Request<'a>,
    ) -> BoxFuture<'a, Result<Answer, TokenError>> {
        Box::pin(async move { self.post(app, &request).await })
    }
}

/// reqwest's own words say only that it failed; the cause is behind them. None of them has the request's body.
fn unreachable(app: &App, error: &reqwest::Error) -> TokenError {
    let mut cause: &dyn Error = error;
    while let Some(deeper) = cause.source() {
        cause = deeper;
    }
    let host = app.token_url.host_str().unwrap_or_default();
    TokenError::transient(format!("the token endpoint {host} can't be reached: {cause}"))
}

/// RFC 6749 section 5.1. Some endpoints write the numbers as strings.
#[derive(Deserialize)]
struct Written {
    access_token: Option<String>,
    refresh_token: Option<String>,
    expires_in: Option<Seconds>,
    refresh_in: Option<Seconds>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Seconds {
    Number(f64),
    Text(String),
    Other(IgnoredAny),
}

impl Seconds {
    fn duration(&self) -> Option<Duration> {
        let seconds = match self {
            Self::Number(number) => *number,
            Self::Text(text) => text.trim().parse().ok()?,
            Self::Other(_) => return None,
        };
        Duration::try_from_secs_f64(seconds).ok()
    }
}

fn parse(body: &[u8]) -> Result<Answer, TokenError> {
    let written: Written = serde_json::from_slice(body)
        .map_err(|_| TokenError::transient("the token endpoint's answer is not JSON"))?;
    let access_token = written.access_token.filter(|token| {
        // What can't stand in an XOAUTH2 message is no token.
        !token.is_empty() && !token.chars().any(char::is_control)
    });
    let Some(access_token) = access_token else {
        return Err(TokenError::transient("the token endpoint's answer has no access token"));
    };
    let seconds = |written: Option<Seconds>| written.and_then(|seconds| seconds.duration());
    Ok(Answer {
        access_token: Secret::new(access_token),
        refresh_token: written.refresh_token.filter(|token| !token.is_empty()).map(Secret::new),
        expires_in: seconds(written.expires_in).unwrap_or(DEFAULT_LIFE),
        refresh_in: seconds(written.refresh_in),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers() {
        let answer =
            parse(br#"{"access_token":"a","expires_in":"5","refresh_in":2,"x":[1]}"#).unwrap();
        assert_eq!(answer.access_token.expose(), "a");
        assert_eq!(answer.expires_in, Duration::from_secs(5));
        assert_eq!(answer.refresh_in, Some(Duration::from_secs(2)));
        assert!(answer.refresh_token.is_none());
        assert_eq!(parse(br#"{"access_token":"a"}"#).unwrap().expires_in, DEFAULT_LIFE);
        let negative = parse(br#"{"access_token":"a","expires_in":-1}"#).unwrap();
        assert_eq!(negative.expires_in, DEFAULT_LIFE);
        for wrong in [&b"{}"[..], b"", br#"{"access_token":""}"#, br#"{"access_token":"a\u0001b"}"#]
        {
            assert!(parse(wrong).is_err(), "{wrong:?}");
        }
    }
}
