//! Revocation, `POST /{tenant}/oauth2/v2.0/revoke` (RFC 7009). Entra has no such endpoint; Google and
//! others do.
//!
//! Invariant: a token that nobody knows is as good as revoked (section 2.2).

use axum::{
    http::StatusCode,
    response::{IntoResponse, Response},
};

use super::{Request, failure::Failure, field};
use crate::World;

pub(super) fn answer(world: &World, request: &Request, tenant: &str) -> Response {
    match revoke(world, request, tenant) {
        Ok(()) => StatusCode::OK.into_response(),
        Err(failure) => failure.answer(world, request),
    }
}

/// Google asks for nothing but the token; whoever names a client must name this one.
fn revoke(world: &World, request: &Request, tenant: &str) -> Result<(), Failure> {
    match request.form.contains_key("client_id") {
        true => request.check_client(world, tenant, &request.form).map(drop)?,
        false => request.check(world, tenant)?,
    }
    let presented = field(&request.form, "token")?;
    world.tokens.revoke_refresh(|token, _| token == presented);
    world.tokens.revoke_one_access(presented);
    Ok(())
}
