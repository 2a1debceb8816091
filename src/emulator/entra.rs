//! The token endpoint, `POST /{tenant}/oauth2/v2.0/token`, with Entra's answers and errors.
//!
//! Two grants: `client_credentials` and `refresh_token`. Sign-in in a browser is not emulated;
//! [`super::Emulator::issue_refresh_token`] gives what it would end with.
//!
//! Invariant: every answer under a tenant's path is one that Entra gives; a fault never issues a token.

use std::{collections::HashMap, io, sync::Arc, time::Duration};

use axum::{
    Router,
    body::{Body, Bytes},
    extract::State,
    http::{HeaderMap, HeaderValue, Method, StatusCode, Uri, header},
    response::{IntoResponse, Response},
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use futures_util::stream;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tracing::debug;

use super::{
    TokenFault, World,
    calendar::Moment,
    control_http,
    tokens::{self, BadRefresh, Principal, Wanted},
};

/// The delegated permissions for mail.
pub(super) const DELEGATED: &[&str] =
    &["IMAP.AccessAsUser.All", "POP.AccessAsUser.All", "SMTP.Send"];

/// The application permissions for mail, all of them consented to.
pub(super) const ROLES: &[&str] = &["IMAP.AccessAsApp", "POP.AccessAsApp", "SMTP.SendAsApp"];

/// Resources that scopes may name. A token for Graph is issued, but opens no mailbox here.
const RESOURCES: [&str; 3] =
    ["https://outlook.office.com", "https://outlook.office365.com", "https://graph.microsoft.com"];

/// Scopes of OpenID Connect, which belong to no resource.
const OPENID: [&str; 4] = ["openid", "profile", "email", "offline_access"];

/// From this life on, Entra tells when to refresh: at half of it.
const REFRESH_IN_FROM: u64 = 2 * 3_600;

/// How long a client may take to end its request once the emulator stops.
const GRACE: Duration = Duration::from_secs(1);

/// Fields of a form by name.
pub(super) type Form = HashMap<String, String>;

/// An error: its AADSTS number, and what belongs into the description.
struct Failure(u32, String);

/// Serves the token endpoint and, under `/emulator/`, the control paths.
pub(super) async fn serve(listener: TcpListener, world: Arc<World>, stop: CancellationToken) {
    let router = Router::new().fallback(answer).with_state(world);
    // graceful, or connections that a client keeps alive would outlive the emulator
    let serving =
        axum::serve(listener, router).with_graceful_shutdown(stop.clone().cancelled_owned());
    let late = async {
        stop.cancelled().await;
        tokio::time::sleep(GRACE).await;
    };
    tokio::select! {
        () = late => {}
        ended = serving => debug!(?ended, "token endpoint ended"),
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
    match parts.as_slice() {
        ["emulator", action] => {
            let form =
                if method == Method::GET { uri.query().unwrap_or("").as_bytes() } else { &body };
            control_http::answer(&world, &method, action, &parse(form))
        }
        [_, "oauth2", "v2.0", "token"] if method != Method::POST => {
            StatusCode::METHOD_NOT_ALLOWED.into_response()
        }
        [tenant, "oauth2", "v2.0", "token"] => token(&world, tenant, &headers, &parse(&body)).await,
        _ => StatusCode::NOT_FOUND.into_response(),
    }
}

async fn token(world: &World, tenant: &str, headers: &HeaderMap, form: &Form) -> Response {
    let correlation = headers.get("client-request-id").and_then(|id| id.to_str().ok());
    let correlation = correlation.map_or_else(tokens::guid, str::to_owned);
    let (delay, fault) = world.faults.token_request();
    tokio::select! {
        () = tokio::time::sleep(delay) => {}
        () = world.stop.cancelled() => return hang_up(),
    }
    match fault {
        Some(TokenFault::Closed) => hang_up(),
        Some(TokenFault::Status { status, retry_after }) => bare(status, retry_after),
        Some(TokenFault::Aadsts(number)) => refuse(Failure(number, String::new()), &correlation),
        None => match grant(world, tenant, headers, form) {
            Ok(issued) => json_answer(StatusCode::OK, &issued, &correlation),
            Err(failure) => refuse(failure, &correlation),
        },
    }
}

fn grant(world: &World, tenant: &str, headers: &HeaderMap, form: &Form) -> Result<Value, Failure> {
    let app = &world.options.app;
    if !tenant.eq_ignore_ascii_case(&app.tenant) && !["common", "organizations"].contains(&tenant) {
        return Err(Failure(90_002, tenant.to_owned()));
    }
    let grant_type = field(form, "grant_type")?;
    let (client_id, secret) = client(headers, form)?;
    if client_id != app.client_id {
        return Err(Failure(700_016, client_id));
    }
    if secret.as_ref().is_some_and(|secret| *secret != app.client_secret) {
        return Err(Failure(7_000_215, client_id));
    }
    match grant_type {
        "client_credentials" if secret.is_none() => Err(Failure(7_000_216, client_id)),
        "client_credentials" => client_credentials(world, form),
        "refresh_token" => refresh_token(world, form),
        other => Err(Failure(70_003, other.to_owned())),
    }
}

fn client_credentials(world: &World, form: &Form) -> Result<Value, Failure> {
    let scope = field(form, "scope")?;
    let resource = scope.strip_suffix("/.default").filter(|resource| RESOURCES.contains(resource));
    // Entra's own number for a scope that is not `/.default` in this grant
    let resource = resource.ok_or_else(|| Failure(1_002_012, scope.to_owned()))?;
    Ok(issue(
        world,
        Principal::App,
        resource,
        ROLES.iter().map(|role| (*role).to_owned()).collect(),
    ))
}

fn refresh_token(world: &World, form: &Form) -> Result<Value, Failure> {
    let presented = field(form, "refresh_token")?;
    let user = world.tokens.redeem(presented).map_err(|bad| match bad {
        BadRefresh::Unknown => Failure(70_008, String::new()),
        BadRefresh::Revoked => Failure(50_173, String::new()),
    })?;
    let (resource, permissions) = match form.get("scope") {
        Some(scope) => delegated(scope)?,
        None => (RESOURCES[0], DELEGATED.iter().map(|scope| (*scope).to_owned()).collect()),
    };
    let mut issued = issue(world, Principal::User(user.clone()), resource, permissions);
    if world.options.revoke_used_refresh_tokens {
        world.tokens.revoke_refresh(presented);
    }
    issued["refresh_token"] = json!(world.tokens.refresh(&user));
    Ok(issued)
}

/// Resource and short names of space-separated delegated scopes; one request, one resource.
fn delegated(scope: &str) -> Result<(&'static str, Vec<String>), Failure> {
    let mut found: Option<&'static str> = None;
    let mut permissions = Vec::new();
    for item in scope.split_whitespace().filter(|item| !OPENID.contains(item)) {
        let (resource, name) =
            item.rsplit_once('/').unwrap_or(("https://graph.microsoft.com", item));
        let known = RESOURCES.into_iter().find(|known| *known == resource);
        let known = known.ok_or_else(|| Failure(70_011, scope.to_owned()))?;
        if found.is_some_and(|found| found != known) {
            return Err(Failure(28_000, scope.to_owned()));
        }
        found = Some(known);
        match name {
            ".default" => permissions.extend(DELEGATED.iter().map(|name| (*name).to_owned())),
            name if known != RESOURCES[2] && !DELEGATED.contains(&name) => {
                return Err(Failure(70_011, scope.to_owned()));
            }
            name => permissions.push(name.to_owned()),
        }
    }
    Ok((found.unwrap_or(RESOURCES[2]), permissions))
}

fn issue(world: &World, principal: Principal, resource: &str, permissions: Vec<String>) -> Value {
    let life = world.life();
    let seconds = life.as_secs();
    let scopes: Vec<String> = permissions.iter().map(|name| format!("{resource}/{name}")).collect();
    let delegated = matches!(principal, Principal::User(_));
    let wanted = Wanted { principal, audience: resource.to_owned(), permissions, life };
    let token = world.tokens.access(wanted);
    let mut issued = json!({
        "token_type": "Bearer",
        "expires_in": seconds,
        "ext_expires_in": seconds,
        "access_token": token,
    });
    if delegated {
        issued["scope"] = json!(scopes.join(" "));
    }
    if seconds >= REFRESH_IN_FROM {
        issued["refresh_in"] = json!(seconds / 2);
    }
    issued
}

/// Client id and secret, from HTTP Basic (RFC 6749 section 2.3.1) or from the form.
fn client(headers: &HeaderMap, form: &Form) -> Result<(String, Option<String>), Failure> {
    let Some(basic) = headers.get(header::AUTHORIZATION) else {
        return Ok((field(form, "client_id")?.to_owned(), form.get("client_secret").cloned()));
    };
    let read = || {
        let encoded = basic.to_str().ok()?.strip_prefix("Basic ")?;
        let decoded = String::from_utf8(STANDARD.decode(encoded).ok()?).ok()?;
        let (id, secret) = decoded.split_once(':')?;
        // both halves are form-encoded before they are joined
        let plain = |text: &str| parse(format!("v={text}").as_bytes()).remove("v");
        Some((plain(id)?, Some(plain(secret)?)))
    };
    read().ok_or_else(|| Failure(900_144, "client_id".into()))
}

fn field<'a>(form: &'a Form, name: &str) -> Result<&'a str, Failure> {
    let value = form.get(name).filter(|value| !value.is_empty());
    value.map(String::as_str).ok_or_else(|| Failure(900_144, name.to_owned()))
}

fn parse(form: &[u8]) -> Form {
    url::form_urlencoded::parse(form).into_owned().collect()
}

/// HTTP status, OAuth error and sentence of an AADSTS number; `{}` is the detail.
fn known(number: u32) -> (u16, &'static str, &'static str) {
    match number {
        28_000 => (400, "invalid_scope", "The scope '{}' names more than one resource."),
        50_076 => (
            400,
            "interaction_required",
            "Multi-factor authentication is needed to access the resource.",
        ),
        50_173 => (
            400,
            "invalid_grant",
            "The grant was revoked; the user has changed or reset the password.",
        ),
        65_001 => (
            400,
            "invalid_grant",
            "The user or administrator has not consented to use the application.",
        ),
        70_003 => (400, "unsupported_grant_type", "The grant type '{}' is not supported."),
        70_008 => (400, "invalid_grant", "The refresh token has expired or is malformed."),
        70_011 | 1_002_012 => {
            (400, "invalid_scope", "The value '{}' of the parameter scope is not valid.")
        }
        90_002 => (400, "invalid_request", "Tenant '{}' not found."),
        90_033 => {
            (503, "temporarily_unavailable", "A transient error has occurred. Please try again.")
        }
        700_016 => (400, "unauthorized_client", "Application '{}' was not found in the directory."),
        900_144 => (400, "invalid_request", "The request body must contain the parameter '{}'."),
        7_000_215 => (401, "invalid_client", "Invalid client secret provided for app '{}'."),
        7_000_216 => {
            (401, "invalid_client", "A client secret or assertion is needed for app '{}'.")
        }
        7_000_222 => (401, "invalid_client", "The client secret keys provided are expired."),
        _ => (400, "invalid_grant", "The request failed."),
    }
}

fn refuse(failure: Failure, correlation: &str) -> Response {
    let Failure(number, detail) = failure;
    let (status, error, sentence) = known(number);
    let (trace, now) = (tokens::guid(), Moment::from(std::time::SystemTime::now()).entra());
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
        (header::CONTENT_TYPE, "application/json; charset=utf-8"),
        (header::CACHE_CONTROL, "no-store, no-cache"),
    ];
    let mut response = (status, headers, body.to_string()).into_response();
    if let Ok(id) = HeaderValue::from_str(correlation) {
        response.headers_mut().insert("client-request-id", id);
    }
    response
}

/// What a gateway says: a status, and a page that is not JSON.
fn bare(status: u16, retry_after: Option<u64>) -> Response {
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::SERVICE_UNAVAILABLE);
    let mut response =
        (status, "<html><body>The service is unavailable.</body></html>").into_response();
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/html"));
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
