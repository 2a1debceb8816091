//! A person signs in: by a browser that comes back to this machine, or by a code that is typed elsewhere.
//!
//! | file | what it holds |
//! | --- | --- |
//! | `browser` | [`SignIns`]: the sign-ins that are under way, by their state |
//! | `listener`, `page` | where the browser comes back to, and what it shows then |
//! | `device` | the wait for a code to be typed |
//!
//! Invariant: a former sign-in is replaced only by a new one that is on disk, and only by one that can be renewed.

mod browser;
mod device;
mod listener;
mod page;

pub use browser::{Begun, SignIns};
pub use device::{Waiting, sign_in_by_device};
pub use listener::Callback;

use crate::clock::Timestamp;
use crate::oauth::{Answer, Claims, Principal, TokenError, token_of};
use crate::store::{Store, StoreError};

/// A sign-in that is done and stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SignedIn {
    /// Whose.
    pub principal: String,
    /// The mailboxes that it opens.
    pub mailboxes: Vec<String>,
    /// Who really signed in, if it is somebody else than the configuration says.
    pub instead: Option<String>,
}

/// A sign-in that was not done; nothing was changed.
#[derive(Clone, Debug, thiserror::Error)]
pub enum SignInError {
    /// An answer without a state, or with one that is not known.
    #[error(
        "the answer belongs to no sign-in that is under way: it has come before, has expired, or is another one's"
    )]
    UnknownState,
    /// Nobody has signed in in time.
    #[error("nobody has signed in in time")]
    Expired,
    /// The provider refused, or could not be asked.
    #[error("{0}")]
    Refused(#[from] TokenError),
    /// Access would end with the first token.
    #[error(
        "the provider gave no refresh token, so that access would end within the hour\n\
         hint: the app's scopes need offline_access (scopes in gatepost.toml, permissions in the portal); some \
         providers also want authorize_parameters = {{ prompt = \"consent\" }}"
    )]
    NoRefreshToken,
    /// The sign-in can't be kept.
    #[error("the sign-in can't be stored: {0}")]
    Store(String),
    /// The system gives no random numbers.
    #[error("the system gives no random numbers")]
    NoRandom,
}

impl From<StoreError> for SignInError {
    fn from(error: StoreError) -> Self {
        Self::Store(error.to_string())
    }
}

/// Stores what a sign-in brought. `asked_at` is from before the token request.
pub async fn finish(
    store: &Store,
    principal: &Principal,
    mailboxes: Vec<String>,
    answer: Answer,
    asked_at: Timestamp,
) -> Result<SignedIn, SignInError> {
    if answer.refresh_token.is_none() && principal.app.grant.is_delegated() {
        return Err(SignInError::NoRefreshToken);
    }
    let claims = Claims::of(&answer.access_token);
    let person = claims.as_ref().and_then(Claims::person);
    let expected = principal.user.as_deref();
    let instead = person
        .filter(|person| expected.is_some_and(|expected| !person.eq_ignore_ascii_case(expected)));
    let instead = instead.map(str::to_owned);
    let token = token_of(principal, answer, None, asked_at);
    store.replace_token(&principal.key(), &token).await?;
    Ok(SignedIn { principal: principal.to_string(), mailboxes, instead })
}
