//! The background task that keeps one principal's token fresh.
//!
//! Every token request of a principal is made here, one after the other: that is what holds them to one at
//! a time, however many logins wait.
//!
//! Invariant: an access token is published only when the sign-in that it came with is on disk.

use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use tokio::sync::{Notify, mpsc, oneshot};
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info, warn};

use super::life::token_of;
use super::{AccessToken, Principal, Request, TokenEndpoint, TokenError};
use crate::attention::{Attention, Call};
use crate::backoff::Backoff;
use crate::clock::Clock;
use crate::explain;
use crate::secret::Secret;
use crate::store::{Saved, Store, StoreError, Token, TokenFault, Turn};
use crate::vocabulary::Cause;

/// Longest sleep: the wall clock may jump meanwhile, when a laptop was suspended.
const LONGEST_SLEEP: Duration = Duration::from_secs(30);

/// Pauses after transient failures. The longest is what a healed outage may still cost.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// Least pause between background requests that go well, for tokens whose life is next to nothing and an
/// endpoint that always wants them renewed.
const SHORTEST_PAUSE: Duration = Duration::from_secs(1);

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

/// A login's wish for a token.
pub(super) struct Demand {
    /// Another one than that of this generation, which is rejected upstream or has little life left.
    pub(super) other_than: Option<u64>,
    pub(super) reply: oneshot::Sender<Result<AccessToken, Trouble>>,
}

pub(super) struct Renewal {
    pub(super) principal: Principal,
    /// One of its mailboxes, to tell people which sign-in it is about.
    pub(super) mailbox: String,
    pub(super) endpoint: Arc<dyn TokenEndpoint>,
    pub(super) store: Store,
    pub(super) clock: Clock,
    pub(super) attention: Attention,
    pub(super) current: Current,
    /// Another process has written to the store.
    pub(super) news: Arc<Notify>,
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
    /// Held while this is the process that may use the refresh token: until what it brought is on disk.
    turn: Option<Turn>,
    trouble: Option<Trouble>,
    backoff: Backoff,
    /// No background try before. Like the next not by the wall clock, which may be set.
    retry_at: Option<Instant>,
    /// No try at all before.
    hold_until: Option<Instant>,
}

impl Renewal {
    pub(super) fn new(
        principal: Principal,
        mailbox: String,
        endpoint: Arc<dyn TokenEndpoint>,
        store: Store,
        clock: Clock,
        attention: Attention,
    ) -> Self {
        let state = State {
            generation: 0,
            revision: None,
            refresh_token: None,
            unsaved: None,
            turn: None,
            trouble: None,
            backoff: Backoff::new(FIRST_PAUSE, LONGEST_PAUSE),
            retry_at: None,
            hold_until: None,
        };
        let (current, news) = (Current::default(), Arc::default());
        Self { principal, mailbox, endpoint, store, clock, attention, current, news, state }
    }

    /// Runs until `stop`. A request that is under way is brought to its end: what it brings may be the only
    /// valid refresh token.
    pub(super) async fn run(mut self, mut inbox: mpsc::Receiver<Demand>, stop: CancellationToken) {
        let news = Arc::clone(&self.news);
        self.look().await;
        while !stop.is_cancelled() {
            let pause = self.due_in().unwrap_or(LONGEST_SLEEP);
            if pause.is_zero() {
                self.renew().await;
                continue;
            }
            tokio::select! {
                () = stop.cancelled() => {}
                demand = inbox.recv() => match demand {
                    Some(demand) => self.meet(demand).await,
                    None => return,
                },
                () = news.notified() => self.look().await,
                // Whatever has kept news of the store away, it keeps them no longer than this.
                () = sleep(pause.min(LONGEST_SLEEP)) => self.look().await,
            }
        }
    }

    async fn meet(&mut self, Demand { other_than, reply }: Demand) {
        if self.other_than(other_than).is_none() && self.may_try() {
            self.renew().await;
        }
        let answer = self.other_than(other_than).ok_or_else(|| {
            let waiting = || Trouble::Transient("there is no token yet".into());
            self.state.trouble.clone().unwrap_or_else(waiting)
        });
        // The login may have given up.
        let _ = reply.send(answer);
    }

    /// What is published, if it is of use to a login that does not want that generation. It stays with the
    /// others until there is a new one: a rejection may be the fault of the mailbox.
    fn other_than(&self, generation: Option<u64>) -> Option<AccessToken> {
        let wanted = |token: &AccessToken| Some(token.generation) != generation;
        self.published().filter(|token| wanted(token) && token.is_alive(self.clock.now()))
    }

    fn may_try(&self) -> bool {
        self.state.trouble != Some(Trouble::SignInNeeded)
            && self.state.hold_until.is_none_or(|until| until <= Instant::now())
    }

    /// When the next renewal is due; `None` if only a person can bring it about.
    fn due_in(&self) -> Option<Duration> {
        if self.state.trouble == Some(Trouble::SignInNeeded) {
            return None;
        }
        let now = self.clock.now();
        let wanted = match self.published() {
            Some(token) if self.state.unsaved.is_none() && token.is_alive(now) => {
                token.renew_at().saturating_since(now)
            }
            _ => Duration::ZERO,
        };
        let held = self.state.retry_at.map(|at| at.saturating_duration_since(Instant::now()));
        Some(wanted.max(held.unwrap_or_default()))
    }

    async fn renew(&mut self) {
        let outcome = self.try_renew().await;
        if self.state.unsaved.is_none() {
            self.state.turn = None;
        }
        match outcome {
            // Somebody has signed out meanwhile, or another process has found that a person must act.
            Ok(()) if self.state.trouble == Some(Trouble::SignInNeeded) => {}
            Ok(()) => self.note_success().await,
            Err(failure) => self.note_failure(failure).await,
        }
    }

    async fn try_renew(&mut self) -> Result<(), TokenError> {
        let former = self.state.revision;
        if let Some(token) = self.state.unsaved.take() {
            return self.save(former.unwrap_or_default(), token).await;
        }
        self.take_turn().await?;
        self.load().await?;
        let now = self.clock.now();
        let young = |token: &AccessToken| token.is_alive(now) && token.renew_at() > now;
        if self.state.revision != former && self.published().as_ref().is_some_and(young) {
            return Ok(());
        }
        if let Some(TokenFault { error: reason, trace, .. }) = self.known_end().await {
            let (principal, mailbox) = (&self.principal, &self.mailbox);
            error!(%principal, reason, trace, "sign-in needed: run gatepost login {mailbox}");
            self.state.trouble = Some(Trouble::SignInNeeded);
            return Ok(());
        }
        self.request().await
    }

    /// A refresh token is one process's at a time. App-only grants have none, and need no turn.
    async fn take_turn(&mut self) -> Result<(), TokenError> {
        if !self.principal.app.grant.is_delegated() {
            return Ok(());
        }
        match self.store.turn(&self.principal.key()).await {
            Ok(Some(turn)) => self.state.turn = Some(turn),
            Ok(None) => {
                let reason = "another gatepost process has been asking for this token for long";
                return Err(TokenError::transient(reason));
            }
            // Where nothing can be locked, nothing else can be written either: the other one is as stuck.
            Err(failure) => warn!(principal = %self.principal, %failure, "renewed without a lock"),
        }
        Ok(())
    }

    /// Why this sign-in is at its end, if that is known from a former life or another process.
    async fn known_end(&self) -> Option<TokenFault> {
        let fault = self.store.fault(&self.principal.key()).await.ok().flatten();
        let delegated = self.principal.app.grant.is_delegated();
        fault.filter(|fault| delegated && fault.cause == Some(Cause::SignIn))
    }

    async fn request(&mut self) -> Result<(), TokenError> {
        let seen = self.state.revision.unwrap_or_default();
        let (endpoint, principal) = (Arc::clone(&self.endpoint), self.principal.clone());
        let former = self.state.refresh_token.clone();
        let request = Request::renewal(&principal, former.as_ref())?;
        // From before the request: the life that is told begins at an unknown moment in between.
        let issued_at = self.clock.now();
        let news = Arc::clone(&self.news);
        let answer = {
            let mut asked = endpoint.request(&principal.app, request);
            loop {
                tokio::select! {
                    answer = &mut asked => break answer,
                    () = news.notified() => self.look().await,
                }
            }
        };
        if answer.is_err() {
            self.load().await?;
        }
        if self.state.revision != Some(seen) {
            // Somebody has signed in or out meanwhile: that counts, not what came of the former sign-in.
            return Ok(());
        }
        let token = token_of(&principal, answer?, former, issued_at);
        let ends_at = token.access.as_ref().map(|access| access.expires_at);
        self.save(seen, token).await?;
        match ends_at > Some(self.clock.now()) {
            true => Ok(()),
            false => Err(TokenError::transient("the token endpoint gives tokens without a life")),
        }
    }

    /// Writes what replaces the store's revision `seen`, then publishes it.
    async fn save(&mut self, seen: i64, token: Token) -> Result<(), TokenError> {
        match self.store.save_token(&self.principal.key(), seen, &token).await {
            Ok(Saved::Written(revision)) => self.state.revision = Some(revision),
            Ok(Saved::Newer) => return self.load().await,
            Err(failure) if token.refresh_token == self.state.refresh_token => {
                // Nothing that the next request would not bring again.
                warn!(principal = %self.principal, %failure, "the token is not stored");
            }
            Err(failure) => {
                self.state.unsaved = Some(token);
                return Err(TokenError::transient(failure.to_string()));
            }
        }
        self.adopt(token);
        Ok(())
    }

    /// Takes over what the store has, if it is new.
    async fn load(&mut self) -> Result<(), TokenError> {
        let failed = |failure: StoreError| TokenError::transient(failure.to_string());
        let (token, revision) = self.store.token(&self.principal.key()).await.map_err(failed)?;
        if self.state.revision == Some(revision) {
            return Ok(());
        }
        self.state.revision = Some(revision);
        self.state.unsaved = None;
        self.state.trouble = None;
        match token {
            Some(token) => self.adopt(token),
            None => {
                self.state.refresh_token = None;
                self.publish(None);
                if self.principal.app.grant.is_delegated() {
                    return Err(TokenError::permanent("nobody has signed in yet", Cause::SignIn));
                }
            }
        }
        Ok(())
    }

    /// Looks for a new sign-in. If the store can't be read just now, the next look is soon enough.
    async fn look(&mut self) {
        match self.load().await {
            Ok(()) => {}
            Err(TokenError::Transient { reason, .. }) => {
                warn!(principal = %self.principal, reason, "the store can't be read");
            }
            Err(failure) => self.note_failure(failure).await,
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
        self.state.retry_at = Some(Instant::now() + SHORTEST_PAUSE);
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
        let trace = failure.trace().map(ToString::to_string).unwrap_or_default();
        let (trouble, cause) = match failure {
            TokenError::Transient { retry_after, .. } => {
                let now = Instant::now();
                let asked = retry_after.unwrap_or_default();
                self.state.retry_at = Some(now + self.state.backoff.pause().max(asked));
                self.state.hold_until = Some(now + DEMAND_PAUSE.max(asked));
                (Trouble::Transient(reason.clone()), None)
            }
            TokenError::Permanent { cause, .. } => (Trouble::SignInNeeded, Some(cause)),
        };
        if self.state.trouble.as_ref() == Some(&trouble) {
            return;
        }
        let (principal, mailbox) = (&self.principal, &self.mailbox);
        match trouble {
            Trouble::Transient(_) => warn!(%principal, reason, trace, "no new token; trying again"),
            Trouble::SignInNeeded => {
                error!(%principal, reason, trace, "sign-in needed: run gatepost login {mailbox}");
            }
        }
        self.state.trouble = Some(trouble);
        let fault = TokenFault { error: reason.clone(), cause, trace, at: self.clock.now() };
        let seen = self.state.revision.unwrap_or_default();
        match self.store.note_fault(&principal.key(), seen, &fault).await {
            Ok(true) => self.attention.call(Call {
                event: "sign_in_needed",
                account: mailbox.clone(),
                remedy: remedy(&reason, mailbox),
                reason,
            }),
            Ok(false) => {}
            Err(failure) => warn!(%principal, %failure, "the store can't be written"),
        }
    }

    fn published(&self) -> Option<AccessToken> {
        self.current.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn publish(&self, token: Option<AccessToken>) {
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = token;
    }
}

/// What a person does about it.
fn remedy(reason: &str, mailbox: &str) -> String {
    let known = explain::best(reason).map(|entry| entry.remedy_for(mailbox));
    known.unwrap_or_else(|| format!("gatepost login {mailbox}"))
}
