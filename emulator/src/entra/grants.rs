//! The token endpoint, `POST /{tenant}/oauth2/v2.0/token`.
//!
//! Invariant: faults on request come before everything else, and each request is counted once.

use std::{io, sync::atomic::Ordering};

use axum::{
    body::{Body, Bytes},
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use futures_util::stream;
use serde_json::{Value, json};

use super::{
    Request, authorize, client, device,
    failure::{Failure, fail},
    field, issuer, json_answer,
    scopes::{self, Scopes},
    service_account,
    user::SignedIn,
};
use crate::{TokenFault, World, locked};

/// RFC 8628 section 3.4.
const DEVICE_CODE: &str = "urn:ietf:params:oauth:grant-type:device_code";
/// RFC 7523 section 2.1.
const JWT_BEARER: &str = "urn:ietf:params:oauth:grant-type:jwt-bearer";

pub(super) async fn answer(world: &World, request: &Request, tenant: &str) -> Response {
    if let Some(fault) = fault(world, request).await {
        return fault;
    }
    // Google's clients send no client id: the assertion says who asks
    if request.form.get("grant_type").is_some_and(|grant_type| grant_type == JWT_BEARER) {
        return service_account::answer(world, request);
    }
    match grant(world, request, tenant) {
        Ok(issued) => json_answer(StatusCode::OK, &issued, &request.correlation),
        Err(failure) => failure.answer(world, request),
    }
}

/// Counts a token request, and fails it if that was asked for.
pub(super) async fn fault(world: &World, request: &Request) -> Option<Response> {
    world.counts.token_requests.fetch_add(1, Ordering::Relaxed);
    let (delay, fault) = {
        let mut faults = locked(&world.faults);
        (faults.token_delay, faults.token_outage.or_else(|| faults.tokens.pop_front()))
    };
    tokio::select! {
        () = tokio::time::sleep(delay) => {}
        () = world.stop.cancelled() => return Some(hang_up()),
    }
    Some(match fault? {
        TokenFault::Closed => hang_up(),
        TokenFault::Status { status, retry_after } => bare(status, retry_after),
        TokenFault::Aadsts(number) => fail(number, "").answer(world, request),
    })
}

fn grant(world: &World, request: &Request, tenant: &str) -> Result<Value, Failure> {
    request.check(world, tenant)?;
    let grant_type = field(&request.form, "grant_type")?;
    let client_id = request.check_client(world, tenant, &request.form)?;
    let confidential = grant_type == "client_credentials";
    client::authenticate(world, request, &client_id, confidential)?;
    match grant_type {
        "client_credentials" => {
            let resource = scopes::default_of(field(&request.form, "scope")?)?;
            Ok(scopes::issue_app_only(world, resource))
        }
        "refresh_token" => refresh_token(world, request),
        "authorization_code" => signed_in(world, request, authorize::redeem(world, request)?),
        DEVICE_CODE => signed_in(world, request, device::poll(world, request)?),
        other => Err(fail(70_003, other)),
    }
}

fn refresh_token(world: &World, request: &Request) -> Result<Value, Failure> {
    let presented = field(&request.form, "refresh_token")?;
    let user = world.tokens.redeem(presented).map_err(|number| fail(number, ""))?;
    let all = "https://outlook.office.com/.default";
    let scope = request.form.get("scope").map_or(all, String::as_str);
    let mut issued = Scopes::delegated(world, scope)?.consented(world)?.issue(world, &user);
    if world.options.revoke_used_refresh_tokens {
        world.tokens.revoke_refresh(|token, _| token == presented);
    }
    issued["refresh_token"] = json!(world.tokens.refresh(&user));
    Ok(issued)
}

/// What a sign-in ends with: a refresh token only for `offline_access`, an ID token only for `openid`.
fn signed_in(world: &World, request: &Request, signed_in: SignedIn) -> Result<Value, Failure> {
    let SignedIn { user, scope: asked, nonce } = signed_in;
    let first = scopes::by_resource(&asked).into_iter().next().unwrap_or_default();
    let scope = request.form.get("scope").filter(|scope| !scope.trim().is_empty());
    let scopes = Scopes::delegated(world, scope.unwrap_or(&first))?.consented(world)?;
    let Scopes { offline, openid, .. } = Scopes::delegated(world, &first)?;
    let mut issued = scopes.issue(world, &user);
    if offline {
        issued["refresh_token"] = json!(world.tokens.refresh(&user));
    }
    if openid {
        let issuer = issuer(world, &request.base());
        let token = world.tokens.id_token(&user, &issuer, nonce.as_deref(), world.now());
        issued["id_token"] = json!(token);
    }
    Ok(issued)
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
pub(crate) fn hang_up() -> Response {
    let failed = Err::<Bytes, _>(io::Error::from(io::ErrorKind::ConnectionReset));
    Body::from_stream(stream::iter([failed])).into_response()
}
