//! One renewal by hand, beside a proxy that may be running: the doctor tries each grant for real.
//!
//! Invariant: as in the background, a refresh token is used by one process at a time, and a new one is on disk before
//! anybody hears of it.

use super::life::token_of;
use super::{Principal, Request, TokenEndpoint, TokenError};
use crate::clock::Clock;
use crate::secret::Secret;
use crate::store::{Saved, Store, StoreError};
use crate::vocabulary::Cause;

/// What a renewal brought.
#[derive(Debug)]
pub struct Renewed {
    /// The access token.
    pub access_token: Secret<String>,
    /// Whether it can be renewed without a person: always, for an app's own.
    pub renewable: bool,
}

/// Renews the token of `principal` now.
pub async fn renew_once(
    store: &Store,
    endpoint: &dyn TokenEndpoint,
    principal: &Principal,
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
    let former = former.and_then(|token| token.refresh_token);
    let request = Request::renewal(principal, former.as_ref())?;
    let asked_at = Clock::system().now();
    let answer = endpoint.request(&principal.app, request).await?;
    let token = token_of(principal, answer, former, asked_at);
    let renewable = !delegated || token.refresh_token.is_some();
    let access_token = token.access.as_ref().map(|access| access.token.clone());
    if let Saved::Written(_) = store.save_token(&key, seen, &token).await.map_err(failed)? {
        store.clear_fault(&key).await.map_err(failed)?;
    }
    drop(turn);
    Ok(Renewed { access_token: access_token.unwrap_or_default(), renewable })
}
