//! The token endpoint, `POST /{tenant}/oauth2/v2.0/token`, with Entra's answers and errors.
//!
//! Two grants: `client_credentials` and `refresh_token`. Sign-in in a browser is not emulated;
//! [`super::Emulator::issue_refresh_token`] gives what it would end with.
//!
//! Invariant: every answer under a tenant's path is one that Entra gives; a fault never issues a token.

use std::{
    io,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use axum::{
    Router,
    body::{Body, Bytes},
    extract::State,
    http::{HeaderMap, HeaderValue, Method, StatusCode, Uri, header},
    response::{IntoResponse, Response},
};
use futures_util::stream;
use serde_json::{Value, json};
use tokio::net::TcpListener;

use super::{
    Form, TokenFault, World,
    calendar::{self, Style},
    control_http, locked,
    tokens::{self, DELEGATED, Principal, Wanted},
};

/// Resources that scopes may name. A token for Graph is issued, but opens no mailbox here.
const RESOURCES: [&str; 3] = ["https://outlook.office.com", "https://outlook.office365.com", GRAPH];
const GRAPH: &str = "https://graph.microsoft.com";

/// Scopes of OpenID Connect, which belong to no resource.
const OPENID: [&str; 4] = ["openid", "profile", "email", "offline_access"];

/// From this life on, Entra tells when to refresh: at half of it.
const REFRESH_IN_FROM: u64 = 2 * 3_600;

/// An error: its AADSTS number, and what belongs into the description.
struct Failure(u32, String);

/// Serves the token endpoint and, under `/emulator/`, the control paths.
pub(super) async fn serve(listener: TcpListener, world: Arc<World>) {
    let stop = world.stop.clone();
    let router = Router::new().fallback(answer).with_state(world);
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

async fn answer(
    State(world): State<Arc<World>>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let parts: Vec<&str> = uri.path().trim_start_matches('/').split('/').collect();
    let form: Form = url::form_urlencoded::parse(&body).into_owned().collect();
    match parts.as_slice() {
        ["emulator", action] => control_http::answer(&world, &method, action, &form),
        [_, "oauth2", "v2.0", "token"] if method != Method::POST => {
            StatusCode::METHOD_NOT_ALLOWED.into_response()
        }
        [tenant, "oauth2", "v2.0", "token"] => {
            let id = headers.get("client-request-id").and_then(|id| id.to_str().ok());
            let correlation = id.map_or_else(tokens::guid, str::to_owned);
            token(&world, tenant, &form, &correlation).await
        }
        _ => StatusCode::NOT_FOUND.into_response(),
    }
}

async fn token(world: &World, tenant: &str, form: &Form, correlation: &str) -> Response {
    world.counts.token_requests.fetch_add(1, Ordering::Relaxed);
    let (delay, fault) = {
        let mut faults = locked(&world.faults);
        (faults.token_delay, faults.token_outage.or_else(|| faults.tokens.pop_front()))
    };
    tokio::select! {
        () = tokio::time::sleep(delay) => {}
        () = world.stop.cancelled() => return hang_up(),
    }
    match fault {
        Some(TokenFault::Closed) => hang_up(),
        Some(TokenFault::Status { status, retry_after }) => bare(status, retry_after),
        Some(TokenFault::Aadsts(number)) => refuse(Failure(number, String::new()), correlation),
        None => match grant(world, tenant, form) {
            Ok(issued) => json_answer(StatusCode::OK, &issued, correlation),
            Err(failure) => refuse(failure, correlation),
        },
    }
}

fn grant(world: &World, tenant: &str, form: &Form) -> Result<Value, Failure> {
    let app = &world.options.app;
    if !tenant.eq_ignore_ascii_case(&app.tenant) && !["common", "organizations"].contains(&tenant) {
        return Err(Failure(90_002, tenant.to_owned()));
    }
    let grant_type = field(form, "grant_type")?;
    let client_id = field(form, "client_id")?.to_owned();
    if client_id != app.client_id {
        return Err(Failure(700_016, client_id));
    }
    // a refresh may do without a secret, as a public client
    match (form.get("client_secret"), grant_type) {
        (Some(secret), _) if *secret != app.client_secret => Err(Failure(7_000_215, client_id)),
        (None, "client_credentials") => Err(Failure(7_000_216, client_id)),
        (_, "client_credentials") => client_credentials(world, form),
        (_, "refresh_token") => refresh_token(world, form),
        (_, other) => Err(Failure(70_003, other.to_owned())),
    }
}

fn client_credentials(world: &World, form: &Form) -> Result<Value, Failure> {
    let scope = field(form, "scope")?;
    let resource = scope.strip_suffix("/.default").filter(|resource| RESOURCES.contains(resource));
    // Entra's own number for a scope that is not `/.default` in this grant
    let resource = resource.ok_or_else(|| Failure(1_002_012, scope.to_owned()))?;
    Ok(issue(world, Principal::App, resource, Principal::App.mail_permissions()))
}

fn refresh_token(world: &World, form: &Form) -> Result<Value, Failure> {
    let presented = field(form, "refresh_token")?;
    let user = world.tokens.redeem(presented).map_err(|number| Failure(number, String::new()))?;
    let all = || "https://outlook.office.com/.default".to_owned();
    let scope = form.get("scope").cloned().unwrap_or_else(all);
    let (resource, permissions) = delegated(&scope)?;
    let mut issued = issue(world, Principal::User(user.clone()), resource, permissions);
    if world.options.revoke_used_refresh_tokens {
        world.tokens.revoke_refresh(|token, _| token == presented);
    }
    issued["refresh_token"] = json!(world.tokens.refresh(&user));
    Ok(issued)
}

/// Resource and short names of space-separated delegated scopes; one request, one resource.
fn delegated(scope: &str) -> Result<(&str, Vec<String>), Failure> {
    let invalid = |number| Failure(number, scope.to_owned());
    let (mut resource, mut permissions) = (None, Vec::new());
    for item in scope.split_whitespace().filter(|item| !OPENID.contains(item)) {
        let (own, name) = item.rsplit_once('/').unwrap_or((GRAPH, item));
        match name {
            _ if *resource.get_or_insert(own) != own => return Err(invalid(28_000)),
            _ if !RESOURCES.contains(&own) => return Err(invalid(70_011)),
            ".default" => permissions.extend(DELEGATED.map(String::from)),
            _ if own == GRAPH || DELEGATED.contains(&name) => permissions.push(name.to_owned()),
            _ => return Err(invalid(70_011)),
        }
    }
    Ok((resource.unwrap_or(GRAPH), permissions))
}

fn issue(world: &World, principal: Principal, resource: &str, permissions: Vec<String>) -> Value {
    let life = world.token_life();
    let seconds = life.as_secs();
    let mut issued =
        json!({ "token_type": "Bearer", "expires_in": seconds, "ext_expires_in": seconds });
    if principal != Principal::App {
        let scopes = permissions.iter().map(|name| format!("{resource}/{name}"));
        issued["scope"] = json!(scopes.collect::<Vec<_>>().join(" "));
    }
    if seconds >= REFRESH_IN_FROM {
        issued["refresh_in"] = json!(seconds / 2);
    }
    let wanted = Wanted { principal, audience: resource.to_owned(), permissions, life };
    issued["access_token"] = json!(world.tokens.access(wanted));
    issued
}

fn field<'a>(form: &'a Form, name: &str) -> Result<&'a str, Failure> {
    let value = form.get(name).filter(|value| !value.is_empty());
    value.map(String::as_str).ok_or_else(|| Failure(900_144, name.to_owned()))
}

/// HTTP status, OAuth error and sentence of an AADSTS number; `{}` is the detail.
fn known(number: u32) -> (u16, &'static str, &'static str) {
    match number {
        28_000 => (400, "invalid_scope", "The scope '{}' names more than one resource."),
        50_076 => (400, "interaction_required", "You must use multi-factor authentication."),
        50_173 => (400, "invalid_grant", "The provided grant has expired due to it being revoked."),
        65_001 => (400, "invalid_grant", "The user or administrator has not consented."),
        70_003 => (400, "unsupported_grant_type", "The grant type '{}' is not supported."),
        70_008 => (400, "invalid_grant", "The refresh token has expired or is malformed."),
        70_011 | 1_002_012 => (400, "invalid_scope", "The provided scope '{}' is not valid."),
        90_002 => (400, "invalid_request", "Tenant '{}' not found."),
        90_033 => (503, "temporarily_unavailable", "A transient error has occurred."),
        700_016 => (400, "unauthorized_client", "Application '{}' was not found in the directory."),
        900_144 => (400, "invalid_request", "The request body must contain the parameter '{}'."),
        7_000_215 => (401, "invalid_client", "Invalid client secret provided for app '{}'."),
        7_000_216 => (401, "invalid_client", "A client secret or assertion is needed."),
        7_000_222 => (401, "invalid_client", "The provided client secret keys are expired."),
        _ => (400, "invalid_grant", "The request failed."),
    }
}

fn refuse(Failure(number, detail): Failure, correlation: &str) -> Response {
    let (status, error, sentence) = known(number);
    let (trace, now) = (tokens::guid(), calendar::now(Style::Entra));
    let sentence = sentence.replace("{}", &detail);
    let mut body = json!({
        "error": error,
        "error_description": format!(
            "AADSTS{number}: {sentence} Trace ID: {trace} Correlation ID: {correlation} Timestamp: {now}"
        ),
        "error_codes": [number],
        "timestamp": now,
        "trace_id": trace,
        "correlation_id": correlation,
        "error_uri": format!("https://login.microsoftonline.com/error?code={number}"),
    });
    if number == 50_076 {
        body["suberror"] = json!("basic_action");
    }
    json_answer(StatusCode::from_u16(status).unwrap_or(StatusCode::BAD_REQUEST), &body, correlation)
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

/// What a gateway says: a status, and a page that is not JSON.
fn bare(status: u16, retry_after: Option<u64>) -> Response {
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::SERVICE_UNAVAILABLE);
    let page = "<html><body>The service is unavailable.</body></html>";
    let mut response = (status, [(header::CONTENT_TYPE, "text/html")], page).into_response();
    if let Some(seconds) = retry_after {
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    }
    response
}

/// Closes the connection without an answer: a body that fails at once takes its unsent head with it.
fn hang_up() -> Response {
    let failed = Err::<Bytes, _>(io::Error::from(io::ErrorKind::ConnectionReset));
    Body::from_stream(stream::iter([failed])).into_response()
}
