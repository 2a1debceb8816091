//! Requests over HTTP: to the token endpoint (RFC 6749 section 3.2) and its neighbours.
//!
//! Invariant: no redirect is followed, no answer is read without end, and no error has a part of what was sent.

use std::error::Error;
use std::time::Duration;

use futures_util::future::BoxFuture;
use reqwest::header::{ACCEPT, CONTENT_TYPE, RETRY_AFTER};
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::error::Category;
use url::Url;
use uuid::Uuid;

use super::assertion::CredentialError;
use super::device::DeviceCode;
use super::error::{Refused, Trace};
use super::request::{Form, Request};
use super::{Principal, TokenError};
use crate::config::App;
use crate::json::Object;
use crate::net::{ClientTls, HttpClient, Route, TlsError, http_client};
use crate::secret::Secret;
use crate::vocabulary::{Cause, Resource};

/// Largest answer that is read: a token has a few kilobytes.
const LARGEST_ANSWER: usize = 256 * 1024;

/// The version of Azure's metadata service whose answers are read here.
const IDENTITY_VERSION: &str = "2018-02-01";

/// A token's life if the answer doesn't tell it (RFC 6749 section 5.1 only recommends it): Entra's shortest.
const DEFAULT_LIFE: Duration = Duration::from_secs(3600);

/// Longest life that is believed. Entra's tokens live 60 to 90 minutes, a day with a lifetime policy or for a managed
/// identity, 28 hours with continuous access evaluation; Google's an hour. A token that is said to live for years would
/// never be renewed, and what was revoked or misconfigured meanwhile would show at its end. So it is renewed each day.
const LONGEST_LIFE: Duration = Duration::from_secs(2 * 86_400);

/// A token that was granted.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The access token.
    pub access_token: Secret<String>,
    /// For the next request; none: the old one goes on (RFC 6749 section 6).
    pub refresh_token: Option<Secret<String>>,
    /// The token's life, which begins when it is asked for: as the answer tells it, but two days at most, after half of
    /// which it is renewed; an hour if it tells none, or none that is a number from zero on. Zero: it is of no use.
    pub expires_in: Duration,
    /// When the endpoint wants it renewed.
    pub refresh_in: Option<Duration>,
}

/// Where tokens come from: the token endpoint, or a script in tests.
pub trait TokenEndpoint: Send + Sync {
    /// Asks once, for a token with these scopes.
    fn request<'a>(
        &'a self,
        app: &'a App,
        scopes: &'a [String],
        request: Request<'a>,
    ) -> BoxFuture<'a, Result<Answer, TokenError>>;
}

/// The endpoints of an app's configuration, over HTTP.
pub struct HttpEndpoint(HttpClient);

/// What the token endpoint says while a device's code is being typed (RFC 8628 section 3.5).
#[derive(Debug)]
pub enum Poll {
    /// Done.
    Granted(Box<Answer>),
    /// Not yet.
    Pending,
    /// Not yet, and it is asked too often.
    SlowDown,
}

impl HttpEndpoint {
    /// Asks with `client`.
    pub fn new(client: HttpClient) -> Self {
        Self(client)
    }

    /// Asks with a client of its own, which trusts what the app's provider says and goes by its proxy.
    pub fn of(app: &App) -> Result<Self, TlsError> {
        let tls = ClientTls::new(app.provider.ca_file.as_deref())?;
        http_client(&tls, &Route::new(&app.provider.proxy)?).map(Self)
    }

    /// Asks for a code that a person can type elsewhere (RFC 8628 section 3.1).
    pub async fn device_code(&self, principal: &Principal) -> Result<DeviceCode, TokenError> {
        let (mail, all) = (principal.scopes(Resource::Mail), principal.consents());
        match self.device_code_for(&principal.app, &all).await {
            // That a code may be for several resources is documented for browsers alone. Graph can be consented to
            // otherwise.
            Err(TokenError::Permanent { .. }) if all != mail => {
                self.device_code_for(&principal.app, &mail).await
            }
            answer => answer,
        }
    }

    async fn device_code_for(
        &self,
        app: &App,
        scopes: &[String],
    ) -> Result<DeviceCode, TokenError> {
        let Some(url) = &app.device_url else {
            let reason = format!("provider {} has no device_url", app.provider.name);
            return Err(TokenError::permanent(reason, Cause::Registration));
        };
        let mut form = Form::default();
        form.add("client_id", &app.client_id).add("scope", &scopes.join(" "));
        let body = self.post(url, &form).await??;
        let answer = serde_json::from_slice(body.expose());
        answer
            .map(|Object(code)| code)
            .map_err(|error| unreadable("the device endpoint", "a code", &error))
    }

    /// Asks whether the code of `device` was typed.
    pub async fn poll(&self, app: &App, device: &DeviceCode) -> Result<Poll, TokenError> {
        let form = Request::Device(&device.device_code).form(app, &[]).map_err(unproven)?;
        match self.post(&app.token_url, &form).await? {
            Ok(body) => Ok(Poll::Granted(Box::new(parse(body.expose())?))),
            Err(refused) => match refused.oauth.as_ref().map(|oauth| oauth.error.as_str()) {
                Some("authorization_pending") => Ok(Poll::Pending),
                Some("slow_down") => Ok(Poll::SlowDown),
                _ => Err(refused.into()),
            },
        }
    }

    /// Takes a refresh token back (RFC 7009). `false`: the provider has no way to.
    pub async fn revoke(&self, app: &App, token: &Secret<String>) -> Result<bool, TokenError> {
        let Some(url) = &app.revoke_url else { return Ok(false) };
        let mut form = Form::default();
        form.add("token", token.expose()).add("token_type_hint", "refresh_token");
        form.add("client_id", &app.client_id).authenticate(app).map_err(unproven)?;
        self.post(url, &form).await??;
        Ok(true)
    }

    async fn ask(
        &self,
        app: &App,
        scopes: &[String],
        request: &Request<'_>,
    ) -> Result<Answer, TokenError> {
        let body = match (request, &app.provider.identity_url) {
            (Request::ManagedIdentity, Some(url)) => {
                self.get(&identity_url(app, scopes, url)).await?
            }
            _ => {
                let form = request.form(app, scopes).map_err(unproven)?;
                self.post(&app.token_url, &form).await?
            }
        };
        parse(body?.expose())
    }

    async fn post(&self, url: &Url, form: &Form) -> Sent {
        let form_type = "application/x-www-form-urlencoded";
        let request =
            self.0.of(url).post(url.clone()).header(CONTENT_TYPE, form_type).body(form.encode());
        send(url, request).await
    }

    /// Azure's machines answer nobody without this header, so that no URL that a program was made to open brings
    /// out a token.
    async fn get(&self, url: &Url) -> Sent {
        send(url, self.0.of(url).get(url.clone()).header("Metadata", "true")).await
    }
}

impl TokenEndpoint for HttpEndpoint {
    fn request<'a>(
        &'a self,
        app: &'a App,
        scopes: &'a [String],
        request: Request<'a>,
    ) -> BoxFuture<'a, Result<Answer, TokenError>> {
        Box::pin(async move {
            let answer = self.ask(app, scopes, &request).await;
            answer.map_err(|error| error.by_grant(app.grant))
        })
    }
}

/// The body of a success, or what was said instead; or there was no answer at all.
type Sent = Result<Result<Secret<Vec<u8>>, Refused>, TokenError>;

/// Sends one request. Each has an id of its own, by which the provider's support finds it.
async fn send(url: &Url, request: reqwest::RequestBuilder) -> Sent {
    let client_request_id = Uuid::new_v4().to_string();
    let request = request
        .header(ACCEPT, "application/json")
        .header("client-request-id", &client_request_id)
        .header("return-client-request-id", "true");
    let unreachable = |error: reqwest::Error| unreachable(url, &error, &client_request_id);
    let mut response = request.send().await.map_err(unreachable)?;
    let status = response.status();
    let retry_after = response.headers().get(RETRY_AFTER);
    let retry_after = retry_after.and_then(|value| value.to_str().ok()).map(str::to_owned);
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(unreachable)? {
        if body.len() + chunk.len() > LARGEST_ANSWER {
            return Err(TokenError::transient("the token endpoint's answer has no end"));
        }
        body.extend_from_slice(&chunk);
    }
    if status.is_success() {
        return Ok(Ok(Secret::new(body)));
    }
    Ok(Err(refused(status.as_u16(), retry_after, &body, client_request_id)))
}

/// What a token endpoint's answer means: its status, its `Retry-After` and its body.
pub fn read_answer(
    status: u16,
    retry_after: Option<&str>,
    body: &[u8],
) -> Result<Answer, TokenError> {
    match status {
        200..300 => parse(body),
        _ => Err(refused(status, retry_after.map(str::to_owned), body, String::new()).into()),
    }
}

fn refused(
    status: u16,
    retry_after: Option<String>,
    body: &[u8],
    client_request_id: String,
) -> Refused {
    let oauth = serde_json::from_slice(body).ok().map(|Object(oauth)| oauth);
    Refused { status, retry_after, oauth, client_request_id }
}

/// reqwest's own words say only that it failed; the cause is behind them. None of them has the request's body.
fn unreachable(url: &Url, error: &reqwest::Error, client_request_id: &str) -> TokenError {
    let mut cause: &dyn Error = error;
    while let Some(deeper) = cause.source() {
        cause = deeper;
    }
    let host = url.host_str().unwrap_or_default();
    let trace = Trace { client_request_id: client_request_id.to_owned(), ..Trace::default() };
    TokenError::Transient {
        reason: format!("the token endpoint {host} can't be reached: {cause}"),
        retry_after: None,
        trace: Some(Box::new(trace)),
    }
}

/// A secret or key that can't be read may be there again in a minute: somebody is replacing it.
fn unproven(error: CredentialError) -> TokenError {
    TokenError::transient(error.to_string())
}

/// Azure Instance Metadata Service: a resource, not a scope, and whose identity if there are several.
fn identity_url(app: &App, scopes: &[String], url: &Url) -> Url {
    let mut url = url.clone();
    let scope = scopes.first().map_or("", String::as_str);
    let mut query = url.query_pairs_mut();
    query.append_pair("api-version", IDENTITY_VERSION);
    query.append_pair("resource", scope.strip_suffix("/.default").unwrap_or(scope));
    if !app.client_id.is_empty() {
        query.append_pair("client_id", &app.client_id);
    }
    drop(query);
    url
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
    /// Neither negative nor without a bound.
    fn duration(&self) -> Option<Duration> {
        let seconds = match self {
            Self::Number(number) => *number,
            Self::Text(text) => text.trim().parse().ok()?,
            Self::Other(_) => return None,
        };
        match seconds >= LONGEST_LIFE.as_secs_f64() {
            true => Some(LONGEST_LIFE),
            false => Duration::try_from_secs_f64(seconds).ok(),
        }
    }
}

fn parse(body: &[u8]) -> Result<Answer, TokenError> {
    let Object(written): Object<Written> = serde_json::from_slice(body)
        .map_err(|error| unreadable("the token endpoint", "a token", &error))?;
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

/// Without serde's own words: they may have a part of the answer.
fn unreadable(whose: &str, what: &str, error: &serde_json::Error) -> TokenError {
    TokenError::transient(match error.classify() {
        Category::Data => format!("{whose}'s answer is JSON, but not an object with {what}"),
        _ => format!("{whose}'s answer is not JSON"),
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
        for wrong in [&b"{}"[..], b"", br#"{"access_token":""}"#, br#"{"access_token":"a\u0001b"}"#]
        {
            assert!(parse(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn a_life_is_within_bounds() {
        let life = |written: &str| {
            let body =
                format!(r#"{{"access_token":"a","expires_in":{written},"refresh_in":{written}}}"#);
            let answer = parse(body.as_bytes()).unwrap();
            assert_eq!(answer.expires_in, answer.refresh_in.unwrap_or(DEFAULT_LIFE), "{written}");
            answer.expires_in
        };
        for (written, seconds) in [
            ("0", 0.0),
            ("-0", 0.0),
            ("59.5", 59.5),
            ("3599", 3599.0),
            ("100800", 100_800.0),
            ("172799.5", 172_799.5),
        ] {
            let wanted = Duration::from_secs_f64(seconds);
            assert_eq!((life(written), life(&format!("\" {written} \""))), (wanted, wanted));
        }
        for written in ["172800", "315360000", "18446744073709551615", "1e300"] {
            assert_eq!(
                (life(written), life(&format!("\"{written}\""))),
                (LONGEST_LIFE, LONGEST_LIFE)
            );
        }
        assert_eq!(life("\"inf\""), LONGEST_LIFE);
        for written in [
            "-1",
            "-1e300",
            "\"-3600\"",
            "\"-inf\"",
            "\"nan\"",
            "\"an hour\"",
            "\"\"",
            "null",
            "true",
            "[]",
            "{}",
        ] {
            assert_eq!(life(written), DEFAULT_LIFE, "{written}");
        }
        assert_eq!(parse(br#"{"access_token":"a"}"#).unwrap().expires_in, DEFAULT_LIFE);
    }

    #[test]
    fn an_answer_is_an_object() {
        for array in
            [r#"["a","r",3600,60]"#, r#"["a",null,null,null]"#, r#"[{"access_token":"a"}]"#]
        {
            let refused = parse(array.as_bytes()).unwrap_err().to_string();
            assert_eq!(
                refused,
                "the token endpoint's answer is JSON, but not an object with a token"
            );
        }
        let error = r#"["invalid_grant","AADSTS50173: revoked.",[],null,null]"#;
        let refused = read_answer(400, None, error.as_bytes()).unwrap_err();
        assert!(matches!(refused, TokenError::Transient { .. }), "{refused:?}");
        assert!(parse(b"<html>").unwrap_err().to_string().ends_with("is not JSON"));
    }
}
