//! Google's service accounts: a signed assertion is traded for a user's token (RFC 7523 section 2.1).
//!
//! Google is not Entra: its errors have no numbers, and it knows the client by the assertion alone.
//!
//! Invariant: a service account gets access tokens only; it signs the next assertion instead of having a
//! refresh token.

use axum::{http::StatusCode, response::Response};
use serde_json::{Value, json};

use super::{
    Request, json_answer,
    jwt::Jwt,
    scopes::{self, Scopes},
};
use crate::{
    World,
    tokens::{DELEGATED, GMAIL, Principal, folded},
};

/// Google's limit of an assertion's life, in seconds.
const LONGEST_LIFE: i64 = 3_600;

/// Status, OAuth error and description.
type Refusal = (u16, &'static str, &'static str);

/// Answers a token request with the grant type `jwt-bearer`.
pub(super) fn answer(world: &World, request: &Request) -> Response {
    let (status, body) = match grant(world, request) {
        Ok(issued) => (StatusCode::OK, issued),
        Err((status, error, description)) => (
            StatusCode::from_u16(status).unwrap_or(StatusCode::BAD_REQUEST),
            json!({ "error": error, "error_description": description }),
        ),
    };
    json_answer(status, &body, &request.correlation)
}

fn grant(world: &World, request: &Request) -> Result<Value, Refusal> {
    let bad = |reason| (400, "invalid_grant", reason);
    let text = request.form.get("assertion").map_or("", String::as_str);
    let jwt = Jwt::parse(text).ok_or((400, "invalid_request", "The assertion is no JWT."))?;
    let key = world.sign_ins.keys.account(jwt.claim("iss")).ok_or(bad("Account not found."))?;
    // Google signs and takes RS256 alone
    if jwt.header("alg") != "RS256" || !jwt.is_signed_by(key) {
        return Err(bad("Invalid JWT signature."));
    }
    if !jwt.is_for(&request.url()) {
        return Err(bad("Invalid JWT: the audience is not this endpoint."));
    }
    let (begun, until) = (jwt.date("iat"), jwt.date("exp"));
    let short = begun.zip(until).is_some_and(|(begun, until)| until - begun <= LONGEST_LIFE);
    if !short || jwt.is_out_of_date(world.unix_seconds()) {
        return Err(bad("Invalid JWT: it must be short-lived, with an iat and exp around now."));
    }
    let user = folded(jwt.claim("sub"));
    if user.is_empty() {
        return Err((401, "unauthorized_client", "The account has no mailbox of its own."));
    }
    if !world.tokens.is_user(&user) {
        return Err(bad("Invalid email or user ID."));
    }
    let (resource, permissions) = scope(world, jwt.claim("scope"))?;
    let issued = scopes::issue(world, Principal::User(user), &resource, permissions);
    Ok(json!({
        "access_token": issued["access_token"],
        "expires_in": issued["expires_in"],
        "token_type": issued["token_type"],
    }))
}

/// Resource and permissions; Gmail's one scope is for all three protocols.
fn scope(world: &World, scope: &str) -> Result<(String, Vec<String>), Refusal> {
    let invalid = (400, "invalid_scope", "Invalid OAuth scope.");
    match scope {
        "" => Err(invalid),
        GMAIL => Ok((GMAIL.to_owned(), DELEGATED.map(String::from).to_vec())),
        _ => {
            let scopes = Scopes::delegated(world, scope).map_err(|_| invalid)?;
            Ok((scopes.resource, scopes.permissions))
        }
    }
}
