//! Microsoft Graph over HTTP: one request, one answer.
//!
//! Invariant: of one mailbox at most four requests are under way, a token goes to Graph itself and nowhere else, and
//! no error has a part of what was sent.

use std::collections::HashMap;
use std::error::Error;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use reqwest::header::{ACCEPT, CONTENT_RANGE, CONTENT_TYPE, RETRY_AFTER};
use reqwest::{Method, RequestBuilder};
use serde::Deserialize;
use tokio::sync::Semaphore;
use url::Url;
use uuid::Uuid;

use super::body::{Body, Flow, encode, encoded_length};
use super::fault::{Fault, Said};
use crate::config::{Provider, is_local};
use crate::json::Object;
use crate::net::{ClientTls, HttpClient, HttpLimits, Route, TlsError, http_client_within};
use crate::oauth::retry_after;
use crate::outbox::Outcome;
use crate::secret::Secret;

/// Four megabytes take a minute at half a megabit a second.
const LIMITS: HttpLimits =
    HttpLimits { connect: Duration::from_secs(10), request: Duration::from_secs(120) };

/// Graph's `MailboxConcurrency` (Microsoft Graph throttling limits, Outlook service): more is answered with 429.
const AT_ONCE: usize = 4;

/// Largest answer that is read: the properties of a draft have a few kilobytes.
const LARGEST_ANSWER: usize = 1024 * 1024;

/// A provider's Microsoft Graph.
#[derive(Debug)]
pub struct Graph {
    http: HttpClient,
    base: Url,
    /// Places for requests, by mailbox.
    places: Mutex<HashMap<String, Arc<Semaphore>>>,
}

/// A request, without its token.
#[derive(Clone, Debug)]
pub(super) struct Call {
    pub(super) method: Method,
    pub(super) url: Url,
    pub(super) kind: &'static str,
    pub(super) body: Body,
}

/// An answer that is a success.
#[derive(Debug)]
pub(super) struct Done {
    pub(super) body: Vec<u8>,
    /// Microsoft's name for the request.
    pub(super) request_id: String,
}

impl Graph {
    /// The one of `provider`; none: it has no Graph.
    pub fn of(provider: &Provider, tls: &ClientTls) -> Result<Option<Arc<Self>>, TlsError> {
        let Some(base) = provider.graph.clone() else { return Ok(None) };
        let http = http_client_within(tls, &Route::new(&provider.proxy)?, &LIMITS)?;
        Ok(Some(Arc::new(Self { http, base, places: Mutex::default() })))
    }

    /// `…/users/MAILBOX/` and what stands behind it.
    pub(super) fn url(&self, mailbox: &str, path: &[&str]) -> Url {
        let mut url = self.base.clone();
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.pop_if_empty().extend(["users", mailbox]).extend(path);
        }
        url
    }

    /// Asks, with `token` if there is one.
    pub(super) async fn ask(
        &self,
        mailbox: &str,
        call: Call,
        token: Option<&Secret<String>>,
    ) -> Result<Done, Fault> {
        let place = self.place(mailbox);
        let _place = place.acquire().await;
        let Call { method, url, kind, body } = call;
        let mut request = self.http.of(&url).request(method, url.clone());
        if !kind.is_empty() {
            request = request.header(CONTENT_TYPE, kind);
        }
        if let Some(token) = token {
            request = request.bearer_auth(token.expose());
        }
        match body {
            Body::Octets(octets) => send(&url, request.body(octets)).await,
            Body::Message { header, content, behind } => {
                let (inlet, flow) = Flow::new(encoded_length(&header, &content, behind));
                let request = request.body(reqwest::Body::wrap(flow));
                // An answer may come before all is sent, and is the last word then.
                tokio::select! {
                    answer = send(&url, request) => answer,
                    Err(fault) = encode(inlet, header, content, behind) => Err(fault),
                }
            }
        }
    }

    /// Puts a piece of an attachment to the address of an upload, which is its own permission.
    pub(super) async fn put(
        &self,
        mailbox: &str,
        url: &Url,
        range: String,
        flow: Flow,
    ) -> Result<Done, Fault> {
        let place = self.place(mailbox);
        let _place = place.acquire().await;
        let request = self.http.of(url).put(url.clone());
        let request = request.header(CONTENT_TYPE, "application/octet-stream");
        // RFC 9110 section 14.4.
        let request = request.header(CONTENT_RANGE, range);
        send(url, request.body(reqwest::Body::wrap(flow))).await
    }

    fn place(&self, mailbox: &str) -> Arc<Semaphore> {
        let mut places = self.places.lock().unwrap_or_else(PoisonError::into_inner);
        places.retain(|_, place| Arc::strong_count(place) > 1);
        let place = places.entry(mailbox.to_lowercase());
        Arc::clone(place.or_insert_with(|| Arc::new(Semaphore::new(AT_ONCE))))
    }
}

/// Whether what Graph names as an address for an upload may be given a part of a message.
pub(super) fn is_safe(url: &Url) -> bool {
    url.scheme() == "https" || is_local(url)
}

async fn send(url: &Url, request: RequestBuilder) -> Result<Done, Fault> {
    let ours = Uuid::new_v4().to_string();
    let request = request
        .header(ACCEPT, "application/json")
        .header("client-request-id", &ours)
        .header("return-client-request-id", "true");
    let silent = |error: reqwest::Error| silent(url, &error, &ours);
    let mut response = request.send().await.map_err(silent)?;
    let status = response.status();
    let header = |name: &str| {
        let value = response.headers().get(name)?.to_str().ok()?;
        Some(value.chars().filter(char::is_ascii_graphic).take(64).collect::<String>())
    };
    let request_id = header("request-id");
    let wait = response.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok());
    let wait = wait.and_then(retry_after);
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(silent)? {
        if body.len() + chunk.len() > LARGEST_ANSWER {
            break;
        }
        body.extend_from_slice(&chunk);
    }
    if status.is_success() {
        return Ok(Done { body, request_id: request_id.unwrap_or(ours) });
    }
    let Written { code, message, inner } = written(&body);
    let request_id = request_id.or(inner).unwrap_or(ours);
    Err(Fault::Said(Said { status: status.as_u16(), code, message, request_id, wait }))
}

/// What a refusal of Graph's means for a message of `mailbox` with so many recipients.
pub fn graph_refusal(
    status: u16,
    wait: Option<Duration>,
    body: &[u8],
    mailbox: &str,
    recipients: usize,
) -> Outcome {
    let Written { code, message, inner } = written(body);
    let request_id = inner.unwrap_or_default();
    Fault::Said(Said { status, code, message, request_id, wait }).outcome(mailbox, recipients)
}

/// As in `oauth/endpoint.rs`: reqwest's own words say only that it failed.
fn silent(url: &Url, error: &reqwest::Error, ours: &str) -> Fault {
    let mut cause: &dyn Error = error;
    while let Some(deeper) = cause.source() {
        cause = deeper;
    }
    let what = if error.is_timeout() { "no answer in time".to_owned() } else { cause.to_string() };
    let host = url.host_str().unwrap_or_default();
    Fault::Silent {
        reason: format!("Microsoft Graph at {host}: {what} (client-request-id {ours})"),
        asked: !error.is_connect(),
    }
}

/// What Graph writes of an error.
#[derive(Default)]
struct Written {
    code: String,
    message: String,
    inner: Option<String>,
}

fn written(body: &[u8]) -> Written {
    #[derive(Deserialize)]
    struct Answer {
        error: Object<Named>,
    }
    #[derive(Deserialize)]
    struct Named {
        code: String,
        #[serde(default)]
        message: String,
        #[serde(rename = "innerError", default)]
        inner: Object<Inner>,
    }
    #[derive(Default, Deserialize)]
    struct Inner {
        #[serde(rename = "request-id")]
        request_id: Option<String>,
    }
    let Ok(Object(Answer { error: Object(error) })) = serde_json::from_slice(body) else {
        return Written::default();
    };
    let inner = error.inner.0.request_id.map(|id| words(&id, 64));
    Written { code: words(&error.code, 100), message: words(&error.message, 400), inner }
}

/// A peer's words on one line.
fn words(text: &str, longest: usize) -> String {
    let words = text.split_whitespace().collect::<Vec<_>>().join(" ");
    words.chars().filter(|c| !c.is_control()).take(longest).collect()
}
