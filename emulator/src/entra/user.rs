//! The user who fills in a form of the sign-in.

use super::{
    Request,
    failure::{Failure, fail},
    scopes::Scopes,
};
use crate::World;

/// A user who signed in, and what for.
pub(super) struct SignedIn {
    pub(super) user: String,
    pub(super) scope: String,
    /// OpenID Connect's `nonce`, back into the ID token.
    pub(super) nonce: Option<String>,
}

/// Why whoever filled in the form is not signed in; the device's form is the same.
pub(super) fn refused(world: &World, request: &Request, scopes: &[Scopes]) -> Option<Failure> {
    let user = request.form.get("user").map_or("", |user| user.trim());
    if !world.tokens.is_user(user) {
        return Some(fail(50_034, user));
    }
    if request.form.get("password").is_none_or(String::is_empty) {
        return Some(fail(50_126, ""));
    }
    // Entra shows "Need admin approval" here, which only an administrator gets past
    let missing = scopes.iter().find_map(|scopes| scopes.unconsented(world));
    missing.map(|permission| fail(90_094, permission))
}
