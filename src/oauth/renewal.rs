//! The background task that keeps one principal's token fresh.
//!
//! Every token request of a principal is made here, one after the other: that is what holds them to one at
//! a time, however many logins wait.
//!
//! Invariant: an access token is published only when the sign-in that it came with is on disk.

use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info, warn};

use super::endpoint::{Request, TokenEndpoint};
use super::life::token_of;
use super::{AccessToken, Principal, TokenError};
use crate::backoff::Backoff;
use crate::clock::{Clock, Timestamp};
use crate::config::Grant;
use crate::secret::Secret;
use crate::store::{Saved, Store, StoreError, Token, TokenFault};

/// Longest sleep: the wall clock may jump meanwhile, when a laptop was suspended.
const LONGEST_SLEEP: Duration = Duration::from_secs(30);

/// Pauses after transient failures. The longest is what a healed outage may still cost.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// After a failure a waiting login may have it tried again this soon, so that logins in a row don't
/// become requests in a row.
const DEMAND_PAUSE: Duration = Duration::from_secs(1);

/// What is published to logins.
pub(super) type Current = Arc<RwLock<Option<AccessToken>>>;

/// Why there is no token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Trouble {
    /// It may pass.
    Transient(String),
    /// A person must act.
    SignInNeeded,
}

/// What the task is told.
pub(super) enum Message {
    /// A login has found no fresh token, or the upstream has rejected that of a generation.
    Demand { rejected: Option<u64>, reply: oneshot::Sender<Result<AccessToken, Trouble>> },
    /// Another process has written to the store.
    StoreChanged,
}

pub(super) struct Renewal {
    pub(super) principal: Principal,
    /// One of its mailboxes, to tell people which sign-in it is about.
    pub(super) mailbox: String,
    pub(super) endpoint: Arc<dyn TokenEndpoint>,
    pub(super) store: Store,
    pub(super) clock: Clock,
    pub(super) current: Current,
    state: State,
}

/// What the task knows between its steps.
struct State {
    generation: u64,
    /// Of the store's row that was taken over, once one was looked for.
    revision: Option<i64>,
    refresh_token: Option<Secret<String>>,
    /// Granted, but not on disk yet.
    unsaved: Option<Token>,
    trouble: Option<Trouble>,
    backoff: Backoff,
    /// No background try before.
    retry_at: Option<Timestamp>,
    /// No try at all before.
    hold_until: Option<Timestamp>,
}

impl Renewal {
    pub(super) fn new(
        principal: Principal,
        mailbox: String,
        endpoint: Arc<dyn TokenEndpoint>,
        store: Store,
        clock: Clock,
    ) -> Self {
        let state = State {
            generation: 0,
            revision: None,
            refresh_token: None,
            unsaved: None,
            trouble: None,
            backoff: Backoff::new(FIRST_PAUSE, LONGEST_PAUSE),
            retry_at: None,
            hold_until: None,
        };
        Self { principal, mailbox, endpoint, store, clock, current: Current::default(), state }
    }

    /// Runs until `stop`. A request that is under way is brought to its end: what it brings may be the only
    /// valid refresh token.
    pub(super) async fn run(mut self, mut inbox: mpsc::Receiver<Message>, stop: CancellationToken) {
        self.load_or_note().await;
        while !stop.is_cancelled() {
            let due = self.due_at();
            let now = self.clock.now();
            if due.is_some_and(|due| due <= now) {
                self.renew().await;
                continue;
            }
            let pause = due.map_or(LONGEST_SLEEP, |due| due.saturating_since(now));
            tokio::select! {
                () = stop.cancelled() => {}
                message = inbox.recv() => match message {
                    Some(message) => self.take(message).await,
                    None => return,
                },
                () = tokio::time::sleep(pause.min(LONGEST_SLEEP)) => {}
            }
        }
    }

    async fn take(&mut self, message: Message) {
        match message {
            Message::StoreChanged => {
                let revision = self.store.token_revision(&self.principal.key()).await;
                if revision.is_ok_and(|revision| Some(revision) != self.state.revision) {
                    debug!(principal = %self.principal, "the store has another sign-in");
                    self.load_or_note().await;
                }
            }
            Message::Demand { rejected, reply } => {
                let answer = self.meet_demand(rejected).await;
                // The login may have given up.
                let _ = reply.send(answer);
            }
        }
    }

    async fn meet_demand(&mut self, rejected: Option<u64>) -> Result<AccessToken, Trouble> {
        let current = self.published();
        if rejected.is_some() && current.as_ref().map(|token| token.generation) == rejected {
            debug!(principal = %self.principal, "the upstream rejects the token");
            self.publish(None);
        }
        let fresh = |token: &AccessToken| token.is_fresh(self.clock.now());
        if !self.published().as_ref().is_some_and(fresh) && self.may_try() {
            self.renew().await;
        }
        let now = self.clock.now();
        match self.published().filter(|token| token.is_alive(now)) {
            Some(token) => Ok(token),
            None => Err(self.state.trouble.clone().unwrap_or_else(|| {
                Trouble::Transient("the token endpoint gives tokens without a life".into())
            })),
        }
    }

    fn may_try(&self) -> bool {
        self.state.trouble != Some(Trouble::SignInNeeded)
            && self.state.hold_until.is_none_or(|until| until <= self.clock.now())
    }

    /// When the next renewal is due; `None` if only a person can bring it about.
    fn due_at(&self) -> Option<Timestamp> {
        if self.state.trouble == Some(Trouble::SignInNeeded) {
            return None;
        }
        let now = self.clock.now();
        let wanted = match self.published() {
            Some(token) if self.state.unsaved.is_none() && token.is_alive(now) => token.renew_at(),
            _ => now,
        };
        Some(self.state.retry_at.map_or(wanted, |retry_at| wanted.max(retry_at)))
    }

    async fn renew(&mut self) {
        match self.try_renew().await {
            Ok(()) => self.note_success().await,
            Err(failure) => self.note_failure(failure).await,
        }
    }

    async fn try_renew(&mut self) -> Result<(), TokenError> {
        let token = match self.state.unsaved.take() {
            Some(token) => token,
            None => {
                let former = self.state.revision;
                self.load().await?;
                let now = self.clock.now();
                let adopted = self.published().is_some_and(|token| token.renew_at() > now);
                if self.state.revision != former && adopted {
                    return Ok(());
                }
                self.request().await?
            }
        };
        self.save(token).await
    }

    async fn request(&self) -> Result<Token, TokenError> {
        // From before the request: the life that is told begins at an unknown moment in between.
        let issued_at = self.clock.now();
        let request = match (&self.state.refresh_token, self.principal.app.grant) {
            (_, Grant::ClientCredentials) => Request::ClientCredentials,
            (Some(token), _) => Request::Refresh(token),
            (None, _) => {
                return Err(TokenError::Permanent { reason: "nobody has signed in yet".into() });
            }
        };
        let answer = self.endpoint.request(&self.principal.app, request).await?;
        let former = self.state.refresh_token.clone();
        Ok(token_of(&self.principal, answer, former, issued_at))
    }

    async fn save(&mut self, token: Token) -> Result<(), TokenError> {
        let seen = self.state.revision.unwrap_or_default();
        match self.store.save_token(&self.principal.key(), seen, &token).await {
            Ok(Saved::Written(revision)) => {
                self.state.revision = Some(revision);
                self.adopt(token);
                Ok(())
            }
            // Somebody has signed in or out meanwhile: that counts.
            Ok(Saved::Newer) => self.load().await,
            Err(failure) => {
                self.state.unsaved = Some(token);
                Err(TokenError::transient(failure.to_string()))
            }
        }
    }

    /// Takes over what the store has, if it is new.
    async fn load(&mut self) -> Result<(), TokenError> {
        let failed = |failure: StoreError| TokenError::transient(failure.to_string());
        let (token, revision) = self.store.token(&self.principal.key()).await.map_err(failed)?;
        if self.state.revision == Some(revision) {
            return Ok(());
        }
        self.state.revision = Some(revision);
        self.state.trouble = None;
        self.state.retry_at = None;
        match token {
            Some(token) => self.adopt(token),
            None => {
                self.state.refresh_token = None;
                self.publish(None);
                if self.principal.app.grant != Grant::ClientCredentials {
                    return Err(TokenError::Permanent {
                        reason: "nobody has signed in yet".into(),
                    });
                }
            }
        }
        Ok(())
    }

    async fn load_or_note(&mut self) {
        if let Err(failure) = self.load().await {
            self.note_failure(failure).await;
        }
    }

    fn adopt(&mut self, token: Token) {
        self.state.generation += 1;
        self.state.refresh_token = token.refresh_token;
        let usable =
            token.access.filter(|access| access.fingerprint == self.principal.fingerprint());
        self.publish(usable.map(|access| AccessToken::new(self.state.generation, &access)));
    }

    async fn note_success(&mut self) {
        self.state.backoff.reset();
        self.state.retry_at = None;
        self.state.hold_until = None;
        if self.state.trouble.take().is_some() {
            info!(principal = %self.principal, "tokens are renewed again");
        } else {
            debug!(principal = %self.principal, "token renewed");
        }
        if let Err(failure) = self.store.clear_fault(&self.principal.key()).await {
            warn!(principal = %self.principal, %failure, "the store can't be written");
        }
    }

    async fn note_failure(&mut self, failure: TokenError) {
        let reason = failure.to_string();
        let trouble = match failure {
            TokenError::Transient { retry_after, .. } => {
                let now = self.clock.now();
                let asked = retry_after.unwrap_or_default();
                self.state.retry_at = Some(now.plus(self.state.backoff.pause().max(asked)));
                self.state.hold_until = Some(now.plus(DEMAND_PAUSE.max(asked)));
                Trouble::Transient(reason.clone())
            }
            TokenError::Permanent { .. } => Trouble::SignInNeeded,
        };
        if self.state.trouble.as_ref() == Some(&trouble) {
            return;
        }
        let (principal, mailbox) = (&self.principal, &self.mailbox);
        match trouble {
            Trouble::Transient(_) => warn!(%principal, reason, "no new token; trying again"),
            Trouble::SignInNeeded => {
                error!(%principal, reason, "sign-in needed: run gatepost login {mailbox}");
            }
        }
        let permanent = trouble == Trouble::SignInNeeded;
        self.state.trouble = Some(trouble);
        let fault = TokenFault { error: reason, permanent, at: self.clock.now() };
        if let Err(failure) = self.store.note_fault(&self.principal.key(), &fault).await {
            warn!(principal = %self.principal, %failure, "the store can't be written");
        }
    }

    fn published(&self) -> Option<AccessToken> {
        self.current.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn publish(&self, token: Option<AccessToken>) {
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = token;
    }
}
