//! Azure's endpoint for managed identities, as a virtual machine has it at 169.254.169.254:
//! `GET /metadata/identity/oauth2/token?api-version=2018-02-01&resource=…[&client_id=…]`.
//!
//! Invariant: without `Metadata: true`, or through a proxy, nothing is told: a server that can be talked
//! into fetching a URL sends no such header.

use axum::{
    http::{Method, StatusCode},
    response::{IntoResponse, Response},
};
use serde_json::json;

use super::{Request, grants, json_answer, scopes};
use crate::{World, tokens};

/// The one version that has this endpoint.
const VERSION: &str = "2018-02-01";

/// Answers one request; it counts as a token request, and fails like one if asked to.
pub(super) async fn answer(world: &World, request: &Request) -> Response {
    if request.method != Method::GET {
        return StatusCode::METHOD_NOT_ALLOWED.into_response();
    }
    if let Some(fault) = grants::fault(world, request).await {
        return fault;
    }
    match parameters(world, request) {
        Ok(resource) => token(world, request, resource),
        Err(reason) => {
            let body = json!({ "error": "invalid_request", "error_description": reason });
            json_answer(StatusCode::BAD_REQUEST, &body, &request.correlation)
        }
    }
}

/// The resource that is asked for, or what is wrong with the request.
fn parameters<'a>(world: &World, request: &'a Request) -> Result<&'a str, &'static str> {
    let header = |name| request.headers.get(name).and_then(|value| value.to_str().ok());
    if !header("metadata").is_some_and(|value| value.eq_ignore_ascii_case("true")) {
        return Err("The metadata header is missing");
    }
    if request.headers.contains_key("x-forwarded-for") {
        return Err("The request came through a proxy");
    }
    match request.query.get("api-version") {
        None => return Err("The query variable 'api-version' is missing"),
        Some(version) if version != VERSION => return Err("Invalid 'api-version' requested"),
        Some(_) => {}
    }
    let client_id = request.query.get("client_id");
    if client_id.is_some_and(|id| *id != world.options.app.client_id) {
        return Err("Identity not found");
    }
    let resource = request.query.get("resource").filter(|resource| !resource.is_empty());
    resource.map(String::as_str).ok_or("The query variable 'resource' is missing")
}

fn token(world: &World, request: &Request, resource: &str) -> Response {
    let resource = match scopes::known_resource(resource) {
        Ok(resource) => resource,
        Err(failure) => return failure.answer(world, request),
    };
    let issued = scopes::issue_app_only(world, resource);
    let (now, life) = (tokens::seconds(world.now()), issued["expires_in"].as_u64().unwrap_or(0));
    // its numbers are strings
    let body = json!({
        "access_token": issued["access_token"],
        "client_id": world.options.app.client_id,
        "expires_in": life.to_string(),
        "expires_on": (now + life).to_string(),
        "ext_expires_in": life.to_string(),
        "not_before": now.to_string(),
        "resource": resource,
        "token_type": "Bearer",
    });
    json_answer(StatusCode::OK, &body, &request.correlation)
}
