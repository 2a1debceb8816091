//! Entra's HTTP server: it takes requests apart and finds who answers them. Graph's requests come here too,
//! and go on to `graph`.
//!
//! `authorize` and `device` sign people in over `pages`; `grants` is the token endpoint, which lets in
//! the app by `client` (a secret, or an `assertion` whose `jwt` is signed with one of the `keys`), knows
//! `scopes` and, of Google's, `service_account`; `identity` is Azure's endpoint for managed identities;
//! `revoke` takes tokens back; `failure` has all of Entra's errors.
//!
//! Invariant: every answer under a tenant's path is one that Entra gives; a fault never issues a token.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex},
    time::Duration,
};

use axum::{
    Router,
    body::Bytes,
    extract::{DefaultBodyLimit, State},
    http::{HeaderMap, HeaderValue, Method, StatusCode, Uri, header},
    response::{IntoResponse, Response},
};
use serde_json::Value;
use tokio::net::TcpListener;

use self::{
    authorize::Code,
    device::Device,
    failure::{Failure, fail},
    keys::Keys,
};
use super::{Form, Registration, World, control_http, graph, tokens};

pub(super) use grants::hang_up;

mod assertion;
mod authorize;
mod client;
mod device;
mod failure;
mod grants;
mod identity;
mod jwt;
mod keys;
mod pages;
mod revoke;
mod scopes;
mod service_account;
mod user;

/// Room for a body. Graph's own limit is far below, and is told in Graph's words.
const BODY_ROOM: usize = 256 * 1024 * 1024;

/// Sign-ins under way, and what proves who asks.
pub(super) struct SignIns {
    /// Authorization codes, used and unused.
    codes: Mutex<HashMap<String, Code>>,
    devices: Mutex<Vec<Device>>,
    /// The `jti` of assertions so far.
    seen: Mutex<HashSet<String>>,
    keys: Keys,
}

/// A request, as far as an answer depends on it.
struct Request {
    method: Method,
    path: String,
    headers: HeaderMap,
    query: Form,
    form: Form,
    /// A parameter that came twice in one place, which RFC 6749 section 3.1 forbids.
    repeated: Option<String>,
    /// `client-request-id`, or one made here.
    correlation: String,
}

impl SignIns {
    pub(super) fn new(
        registration: &Registration,
    ) -> Result<Self, Box<dyn std::error::Error + Send + Sync>> {
        Ok(Self {
            codes: Mutex::default(),
            devices: Mutex::default(),
            seen: Mutex::default(),
            keys: Keys::new(registration)?,
        })
    }
}

/// Serves Entra's endpoints and, under `/emulator/`, the control paths.
pub(super) async fn serve(listener: TcpListener, world: Arc<World>) {
    let stop = world.stop.clone();
    let room = DefaultBodyLimit::max(BODY_ROOM);
    let router = Router::new().fallback(answer).layer(room).with_state(world);
    // graceful, or connections that a client keeps alive would outlive the emulator
    let stopped = stop.clone().cancelled_owned();
    let serving = axum::serve(listener, router).with_graceful_shutdown(stopped);
    // and a client that does not end its request is waited for no longer than this
    let late = async {
        stop.cancelled().await;
        tokio::time::sleep(Duration::from_secs(1)).await;
    };
    tokio::select! {
        () = late => {}
        _ = serving => {}
    }
}

/// The issuer of ID tokens and of RFC 9207's `iss`.
pub(super) fn issuer(world: &World, base: &str) -> String {
    format!("{base}/{}/v2.0", world.tokens.tenant_id())
}

async fn answer(
    State(world): State<Arc<World>>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let path = uri.path().to_owned();
    let parts: Vec<&str> = path.trim_start_matches('/').split('/').collect();
    let mut response = if let ["graph" | "outlook", ..] = parts.as_slice() {
        graph::answer(&world, &method, &uri, &headers, &body).await
    } else {
        let request = Request::new(method, &uri, headers, &body);
        if let ["emulator", action] = parts.as_slice() {
            return control_http::answer(&world, &request.method, action, &request.form);
        }
        entra_answer(&world, &request, &parts).await
    };
    // hyper would date the answer by the real clock
    if let Ok(date) = HeaderValue::from_str(&httpdate::fmt_http_date(world.now())) {
        response.headers_mut().insert(header::DATE, date);
    }
    response
}

async fn entra_answer(world: &World, request: &Request, parts: &[&str]) -> Response {
    match parts {
        ["metadata", "identity", "oauth2", "token"] => identity::answer(world, request).await,
        [tenant, "oauth2", "v2.0", endpoint] => {
            endpoint_answer(world, request, tenant, endpoint).await
        }
        [tenant, "deviceauth"] => device::page(world, request, tenant),
        _ => StatusCode::NOT_FOUND.into_response(),
    }
}

async fn endpoint_answer(
    world: &World,
    request: &Request,
    tenant: &str,
    endpoint: &str,
) -> Response {
    let post = request.method == Method::POST;
    match endpoint {
        "token" if post => grants::answer(world, request, tenant).await,
        "devicecode" if post => device::start(world, request, tenant),
        "revoke" if post => revoke::answer(world, request, tenant),
        "authorize" if post || request.method == Method::GET => {
            authorize::answer(world, request, tenant)
        }
        "token" | "devicecode" | "revoke" | "authorize" => {
            StatusCode::METHOD_NOT_ALLOWED.into_response()
        }
        _ => StatusCode::NOT_FOUND.into_response(),
    }
}

impl Request {
    fn new(method: Method, uri: &Uri, headers: HeaderMap, body: &[u8]) -> Self {
        let id = headers.get("client-request-id").and_then(|id| id.to_str().ok());
        let correlation = id.map_or_else(tokens::guid, str::to_owned);
        let mut repeated = None;
        let query = fields(uri.query().unwrap_or_default().as_bytes(), &mut repeated);
        let form = fields(body, &mut repeated);
        Self { method, path: uri.path().to_owned(), headers, query, form, repeated, correlation }
    }

    /// This server by the name that the client has for it.
    fn base(&self) -> String {
        let host = self.headers.get(header::HOST).and_then(|host| host.to_str().ok());
        format!("http://{}", host.unwrap_or("localhost"))
    }

    /// The URL that the request was sent to, which a client assertion has as its audience.
    fn url(&self) -> String {
        format!("{}{}", self.base(), self.path)
    }

    /// Refuses what is wrong with every request: a tenant that is none, a parameter that came twice.
    fn check(&self, world: &World, tenant: &str) -> Result<(), Failure> {
        let own = [world.options.app.tenant.as_str(), world.tokens.tenant_id()];
        let known = own.iter().any(|name| name.eq_ignore_ascii_case(tenant));
        if !known && !["common", "organizations"].contains(&tenant) {
            return Err(fail(90_002, tenant));
        }
        match &self.repeated {
            Some(name) => Err(fail(9_000_411, name)),
            None => Ok(()),
        }
    }

    /// The same, and that the request is this app's; the answer is its client id.
    fn check_client(&self, world: &World, tenant: &str, form: &Form) -> Result<String, Failure> {
        self.check(world, tenant)?;
        let client_id = field(form, "client_id")?;
        match client_id == world.options.app.client_id {
            true => Ok(client_id.to_owned()),
            false => Err(fail(700_016, client_id)),
        }
    }
}

fn fields(encoded: &[u8], repeated: &mut Option<String>) -> Form {
    let mut form = Form::new();
    for (name, value) in url::form_urlencoded::parse(encoded).into_owned() {
        if form.contains_key(&name) {
            *repeated = Some(name.clone());
        }
        form.insert(name, value);
    }
    form
}

/// A parameter that must be there.
fn field<'a>(form: &'a Form, name: &str) -> Result<&'a str, Failure> {
    let value = form.get(name).filter(|value| !value.is_empty());
    value.map(String::as_str).ok_or_else(|| fail(900_144, name))
}

/// A JSON answer, not to be stored (RFC 6749 section 5.1).
fn json_answer(status: StatusCode, body: &Value, correlation: &str) -> Response {
    let headers = [
        ("content-type", "application/json; charset=utf-8"),
        ("cache-control", "no-store, no-cache"),
        ("client-request-id", correlation),
    ];
    (status, headers, body.to_string()).into_response()
}
