//! One renewal by hand, beside a proxy that may be running: the doctor tries each grant for real.
//!
//! Invariant: as in the background, a refresh token is used by one process at a time, and a new one is on disk before
//! anybody hears of it.

use super::life::access_of;
use super::{Principal, Request, TokenEndpoint, TokenError};
use crate::clock::Clock;
use crate::secret::Secret;
use crate::store::{Saved, Store, StoreError};
use crate::vocabulary::{Cause, Resource};

/// What a renewal brought.
#[derive(Debug)]
pub struct Renewed {
    /// The access token.
    pub access_token: Secret<String>,
    /// Whether it can be renewed without a person: always, for an app's own.
    pub renewable: bool,
}

/// Renews the token of `principal` for `resource` now.
pub async fn renew_once(
    store: &Store,
    endpoint: &dyn TokenEndpoint,
    principal: &Principal,
    resource: Resource,
) -> Result<Renewed, TokenError> {
    let failed = |failure: StoreError| TokenError::transient(failure.to_string());
    let key = principal.key();
    let delegated = principal.app.grant.is_delegated();
    let turn = if delegated { store.turn(&key).await.map_err(failed)? } else { None };
    if delegated && turn.is_none() {
        let reason = "another gatepost process has been asking for this token for long";
        return Err(TokenError::transient(reason));
    }
    let (former, seen) = store.token(&key).await.map_err(failed)?;
    if former.is_none() && delegated {
        return Err(TokenError::permanent("nobody has signed in yet", Cause::SignIn));
    }
    let mut token = former.unwrap_or_default();
    let refresh_token = token.refresh_token.clone();
    let scopes = principal.scopes(resource);
    let request = Request::renewal(principal, resource, refresh_token.as_ref())?;
    let asked_at = Clock::system().now();
    let answer = endpoint.request(&principal.app, &scopes, request).await?;
    *token.access_mut(resource) = Some(access_of(principal, resource, &answer, asked_at));
    token.refresh_token = answer.refresh_token.or(refresh_token);
    let renewable = !delegated || token.refresh_token.is_some();
    if let Saved::Written(_) = store.save_token(&key, seen, &token).await.map_err(failed)? {
        store.clear_fault(&key, resource).await.map_err(failed)?;
    }
    drop(turn);
    Ok(Renewed { access_token: answer.access_token, renewable })
}
