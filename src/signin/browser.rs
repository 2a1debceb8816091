//! The sign-ins that are under way in browsers.
//!
//! Invariant: a state counts once and for a while. Whatever comes with another one changes nothing.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::{Instant, timeout};
use url::Url;

use super::{SignInError, SignedIn, finish};
use crate::clock::Clock;
use crate::oauth::{Authorization, Principal, Redirected, TokenEndpoint};
use crate::store::Store;

/// How long a person may take: as long as Entra's own page waits for them, and codes live (RFC 6749
/// section 4.1.2 recommends ten minutes at most).
const LIFE: Duration = Duration::from_secs(600);

/// Sign-ins by their state.
pub struct SignIns {
    store: Store,
    pending: Mutex<HashMap<String, Pending>>,
}

struct Pending {
    authorization: Authorization,
    mailboxes: Vec<String>,
    endpoint: Arc<dyn TokenEndpoint>,
    until: Instant,
    done: oneshot::Sender<Result<SignedIn, SignInError>>,
}

/// One sign-in, as the one who waits for it sees it.
pub struct Begun {
    /// What the browser opens.
    pub url: Url,
    done: oneshot::Receiver<Result<SignedIn, SignInError>>,
}

impl SignIns {
    /// None yet; what they bring is kept in `store`.
    pub fn new(store: Store) -> Self {
        Self { store, pending: Mutex::default() }
    }

    /// Begins one that ends at `redirect_uri` and opens `mailboxes`.
    pub fn begin(
        &self,
        principal: Principal,
        mailboxes: Vec<String>,
        endpoint: Arc<dyn TokenEndpoint>,
        authorize_url: &Url,
        redirect_uri: &str,
    ) -> Result<Begun, SignInError> {
        let authorization = Authorization::begin(principal, authorize_url, redirect_uri);
        let authorization = authorization.ok_or(SignInError::NoRandom)?;
        let (url, state) = (authorization.url.clone(), authorization.state.expose().clone());
        let (done, waiting) = oneshot::channel();
        let until = Instant::now() + LIFE;
        let pending = Pending { authorization, mailboxes, endpoint, until, done };
        self.pending().insert(state, pending);
        Ok(Begun { url, done: waiting })
    }

    /// Takes what a browser brought back, to its end.
    pub async fn answer(&self, redirected: Redirected) -> Result<SignedIn, SignInError> {
        let state = redirected.state.as_ref().map(|state| state.expose().as_str());
        let pending = self.pending().remove(state.unwrap_or_default());
        let Some(pending) = pending.filter(|pending| Instant::now() < pending.until) else {
            return Err(SignInError::UnknownState);
        };
        let Pending { authorization, mailboxes, endpoint, done, .. } = pending;
        let outcome = self.exchange(&authorization, mailboxes, &*endpoint, redirected).await;
        // Nobody may be waiting any more.
        let _ = done.send(outcome.clone());
        outcome
    }

    async fn exchange(
        &self,
        authorization: &Authorization,
        mailboxes: Vec<String>,
        endpoint: &dyn TokenEndpoint,
        redirected: Redirected,
    ) -> Result<SignedIn, SignInError> {
        let code = authorization.code(redirected)?;
        let principal = &authorization.principal;
        let asked_at = Clock::system().now();
        let (app, request) = (&principal.app, authorization.request(&code));
        let answer = endpoint.request(app, &app.scopes, request).await?;
        finish(&self.store, principal, mailboxes, answer, asked_at).await
    }

    fn pending(&self) -> MutexGuard<'_, HashMap<String, Pending>> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Begun {
    /// Waits until it is done, or it is too late.
    pub async fn done(self) -> Result<SignedIn, SignInError> {
        match timeout(LIFE, self.done).await {
            Ok(Ok(outcome)) => outcome,
            _ => Err(SignInError::Expired),
        }
    }
}
