//! How the app shows that it is itself, at the token endpoint.
//!
//! Invariant: a request has one way of doing so (RFC 6749 section 2.3), or none as a public client.

use super::{
    Request, assertion,
    failure::{Failure, fail},
};
use crate::World;

/// Checks the app's secret or assertion. A confidential grant has to have one; the others may do
/// without as long as public client flows are allowed.
pub(super) fn authenticate(
    world: &World,
    request: &Request,
    client_id: &str,
    confidential: bool,
) -> Result<(), Failure> {
    let asserted = ["client_assertion", "client_assertion_type"];
    let asserted = asserted.iter().any(|name| request.form.contains_key(*name));
    match (request.form.get("client_secret"), asserted) {
        (Some(_), true) => Err(fail(9_002_313, "").named("invalid_request")),
        (Some(secret), _) if *secret != world.options.app.client_secret => {
            Err(fail(7_000_215, client_id))
        }
        (Some(_), false) => Ok(()),
        (None, true) => assertion::check(world, request, client_id),
        (None, false) if confidential => Err(fail(7_000_216, "")),
        (None, false) if !world.options.registration.public_client => Err(fail(7_000_218, "")),
        (None, false) => Ok(()),
    }
}
