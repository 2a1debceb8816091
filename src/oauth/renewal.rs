//! What keeps one principal's tokens fresh, step by step.
//!
//! Every token request of a principal is made here, one after the other, for whichever resource: that is what holds
//! them to one at a time, however many logins wait. Each resource has its slot; the sign-in that they come from is
//! one. `desk` tells which step is next.
//!
//! Invariant: no login waits for the store, and none fails because of it while this process lives (`keeping` has what
//! is kept). What is refused to one resource alone ends no sign-in.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, oneshot};
use tracing::{debug, error, info, warn};

use super::keeping::State;
use super::lane::Lane;
use super::life::access_of;
use super::slot::{Current, NoToken, Slot};
use super::{AccessToken, Principal, Request, TokenError, remedy};
use crate::attention::{Attention, Call};
use crate::clock::Clock;
use crate::store::{Store, TokenFault};
use crate::vocabulary::{Cause, Resource};

/// How often it is looked whether what a refused app proves itself with was replaced.
const PROOF: Duration = Duration::from_secs(30);

/// What all renewals work with.
pub(super) struct Means {
    pub(super) store: Store,
    pub(super) clock: Clock,
    pub(super) attention: Attention,
}

/// A login's wish for a token.
pub(super) struct Demand {
    pub(super) resource: Resource,
    /// Another one than that of this generation, which is rejected upstream or has little life left.
    pub(super) other_than: Option<u64>,
    pub(super) reply: oneshot::Sender<Result<AccessToken, NoToken>>,
}

/// What the requests of a principal are made with.
#[derive(Clone)]
pub(super) struct Basis {
    pub(super) principal: Principal,
    /// One of its mailboxes, to tell people which sign-in it is about.
    pub(super) mailbox: String,
    pub(super) lane: Arc<Lane>,
}

impl Basis {
    /// Whether they are the same requests.
    fn asks_as(&self, other: &Self) -> bool {
        self.principal.asks_as(&other.principal) && Arc::ptr_eq(&self.lane, &other.lane)
    }
}

pub(super) struct Renewal {
    pub(super) means: Arc<Means>,
    pub(super) basis: Basis,
    /// Another process has written to the store.
    news: Arc<Notify>,
    pub(super) state: State,
}

impl Renewal {
    pub(super) fn new(means: Arc<Means>, basis: Basis, news: Arc<Notify>) -> Self {
        let state = State::new(&basis.principal, means.clock.now());
        Self { means, basis, news, state }
    }

    /// What logins see of the token for `resource`.
    pub(super) fn current(&self, resource: Resource) -> Current {
        Arc::clone(&self.state.slot(resource).current)
    }

    /// How long there is nothing to do, if nobody comes.
    pub(super) fn rest(&self) -> Duration {
        let due = self.due_in().map_or(Duration::MAX, |(pause, _)| pause);
        let proof = if self.app_is_refused() { PROOF } else { Duration::MAX };
        due.min(proof).min(self.state.unsaved_in())
    }

    /// What is due in the background: a renewal, or a look at what else may have changed.
    pub(super) async fn attend(&mut self) {
        match self.due_in() {
            Some((Duration::ZERO, resource)) => self.renew(resource).await,
            _ => self.look().await,
        }
    }

    /// Whether more is to be done at a look than to take over what the store has.
    pub(super) fn has_errands(&self) -> bool {
        self.app_is_refused() || self.state.unsaved.is_some()
    }

    /// Whether what is in memory alone can be written, and whether there is a new sign-in.
    pub(super) async fn look(&mut self) {
        self.notice_time();
        self.notice_proof();
        match self.save_unsaved().await {
            Ok(()) => self.peek().await,
            Err(failure) => self.note_failure(Resource::Mail, failure).await,
        }
        if self.state.unsaved.is_none() {
            self.state.turn = None;
        }
    }

    /// Looks for a new sign-in.
    async fn peek(&mut self) {
        if let Err(failure) = self.load().await {
            self.note_failure(Resource::Mail, failure).await;
        }
    }

    fn notice_time(&mut self) {
        if self.judge_anew_after_a_jump() {
            info!(principal = %self.basis.principal, "the clock has jumped: tokens are judged anew");
        }
    }

    /// The clock was set, or the machine has slept: pauses of before mean nothing. Whether it is so.
    pub(super) fn judge_anew_after_a_jump(&mut self) -> bool {
        let jumped = self.state.time.has_jumped(self.means.clock.now());
        if jumped {
            self.state.slots().into_iter().for_each(Slot::begin_anew);
        }
        jumped
    }

    /// The app was refused, and what it proves itself with was replaced.
    fn notice_proof(&mut self) {
        if self.app_is_refused() && self.state.proof.is_replaced(&self.basis.principal.app) {
            let principal = &self.basis.principal;
            info!(%principal, "what the app proves itself with was replaced: it is tried again");
            self.try_app_again();
        }
    }

    fn app_is_refused(&self) -> bool {
        self.state.mail.app_is_refused() || self.state.graph.app_is_refused()
    }

    fn try_app_again(&mut self) {
        self.state.slots().into_iter().for_each(Slot::try_app_again);
    }

    /// Goes by another basis from now on. If that asks in another way, what the store has is yet to be looked at, as at
    /// a start; what was published stays until then, and beyond that if it was asked for in the same way.
    pub(super) fn reload(&mut self, basis: Basis) {
        let as_before = basis.asks_as(&self.basis);
        self.basis = basis;
        if as_before {
            return self.try_app_again();
        }
        // Nothing that went wrong counts any more.
        self.state.graph.keep(self.basis.principal.graph);
        self.state.slots().into_iter().for_each(Slot::begin_anew);
        if self.state.unsaved.is_none() {
            self.state.revision = None;
        }
    }

    pub(super) async fn meet(&mut self, Demand { resource, other_than, reply }: Demand) {
        let wanted =
            |task: &Self| task.state.slot(resource).other_than(other_than, task.means.clock.now());
        self.notice_time();
        self.notice_proof();
        if wanted(self).is_none() {
            self.serve(resource);
        }
        if wanted(self).is_none() && self.may_try(resource) {
            self.renew(resource).await;
        }
        if wanted(self).is_none() {
            self.serve(resource);
        }
        let answer = wanted(self).ok_or_else(|| {
            let waiting = || NoToken::ForNow("there is no token yet".into());
            self.state.slot(resource).trouble.clone().unwrap_or_else(waiting)
        });
        // The login may have given up.
        let _ = reply.send(answer);
    }

    fn may_try(&self, resource: Resource) -> bool {
        !self.is_over(resource) && self.state.slot(resource).may_try()
    }

    /// Whether only a new sign-in can bring a token. Mail is what people sign in for; if Graph is refused, the
    /// sign-in has ended only if mail is refused as well.
    fn is_over(&self, resource: Resource) -> bool {
        let (mail, graph) = (&self.state.mail, &self.state.graph);
        mail.is_over() && (resource == Resource::Mail || graph.is_over())
    }

    /// When the next renewal is due, and which; `None` if only a person can bring one about.
    fn due_in(&self) -> Option<(Duration, Resource)> {
        let now = self.means.clock.now();
        let open = Resource::ALL.into_iter().filter(|resource| !self.is_over(*resource));
        let due =
            open.filter_map(|resource| Some((self.state.slot(resource).due_in(now)?, resource)));
        // Of two that are due at once the first: mail.
        due.min_by_key(|(pause, _)| *pause)
    }

    async fn renew(&mut self, resource: Resource) {
        match self.try_renew(resource).await {
            // Somebody has signed out meanwhile, or another process has found that a person must act.
            Ok(()) if self.is_over(resource) => {}
            Ok(()) => self.note_success(resource).await,
            // That nobody has signed in is told once, whichever resource has found it.
            Err(failure) if self.nobody() => {
                self.note_failure(Resource::Mail, failure).await;
            }
            Err(failure) => self.note_failure(resource, failure).await,
        }
        // Now that what has come of it is written: the next process goes by that.
        if self.state.unsaved.is_none() {
            self.state.turn = None;
        }
    }

    async fn try_renew(&mut self, resource: Resource) -> Result<(), TokenError> {
        let former = self.state.slot(resource).generation();
        self.save_unsaved().await?;
        // Of what is not on disk it has the turn already.
        if self.state.turn.is_none() {
            self.take_turn().await?;
        }
        self.load().await?;
        if self.state.slot(resource).is_young_since(former, self.means.clock.now()) {
            return Ok(());
        }
        if let Some(TokenFault { error: reason, trace, .. }) = self.known_end(resource).await {
            let (principal, mailbox) = (&self.basis.principal, &self.basis.mailbox);
            error!(%principal, reason, trace, "sign-in needed: run gatepost login {mailbox}");
            self.state.slot_mut(resource).trouble = Some(NoToken::SignInNeeded(reason));
            return Ok(());
        }
        self.request(resource).await
    }

    /// A refresh token is one process's at a time. App-only grants have none, and need no turn.
    async fn take_turn(&mut self) -> Result<(), TokenError> {
        if !self.basis.principal.app.grant.is_delegated() {
            return Ok(());
        }
        match self.means.store.turn(&self.basis.principal.key()).await {
            Ok(Some(turn)) => self.state.turn = Some(turn),
            Ok(None) => {
                let reason = "another gatepost process has been asking for this token for long";
                return Err(TokenError::transient(reason));
            }
            // Where nothing can be locked, nothing else can be written either: the other one is as stuck.
            Err(failure) => {
                let failure = failure.brief();
                warn!(principal = %self.basis.principal, failure, "renewed without a lock");
            }
        }
        Ok(())
    }

    /// Why this sign-in is at its end, if that is known from a former life or another process.
    async fn known_end(&self, resource: Resource) -> Option<TokenFault> {
        if !self.basis.principal.app.grant.is_delegated() {
            return None;
        }
        let ended = async |resource| {
            let fault =
                self.means.store.fault(&self.basis.principal.key(), resource).await.ok().flatten();
            fault.filter(|fault| fault.cause == Some(Cause::SignIn))
        };
        let end = ended(Resource::Mail).await?;
        match resource {
            Resource::Mail => Some(end),
            Resource::Graph => ended(Resource::Graph).await,
        }
    }

    async fn request(&mut self, resource: Resource) -> Result<(), TokenError> {
        let seen = self.state.revision.unwrap_or_default();
        let (endpoint, principal) =
            (Arc::clone(&self.basis.lane.endpoint), self.basis.principal.clone());
        let mut token = self.state.newest().clone();
        let former = token.refresh_token.clone();
        let scopes = principal.scopes(resource);
        self.state.proof.note(&principal.app);
        let request = Request::renewal(&principal, resource, former.as_ref())?;
        // From before the request: the life that is told begins at an unknown moment in between.
        let issued_at = self.means.clock.now();
        let news = Arc::clone(&self.news);
        let answer = {
            let mut asked = endpoint.request(&principal.app, &scopes, request);
            loop {
                tokio::select! {
                    answer = &mut asked => break answer,
                    // What is written now would make a revision by which the answer seems to be of a former sign-in.
                    () = news.notified() => self.peek().await,
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
        let answer = answer?;
        let access = access_of(&principal, resource, &answer, issued_at);
        let ends_at = access.expires_at;
        *token.access_mut(resource) = Some(access);
        token.refresh_token = answer.refresh_token.or(former);
        self.save(token).await?;
        match ends_at > self.means.clock.now() {
            true => Ok(()),
            false => Err(TokenError::transient("the token endpoint gives tokens without a life")),
        }
    }

    async fn note_success(&mut self, resource: Resource) {
        let principal = &self.basis.principal;
        match self.state.slot_mut(resource).note_success() {
            true => info!(%principal, %resource, "tokens are renewed again"),
            false => debug!(%principal, %resource, "token renewed"),
        }
        if let Err(failure) = self.means.store.clear_fault(&principal.key(), resource).await {
            let failure = failure.brief();
            debug!(%principal, failure, "the store can't be written");
        }
    }

    pub(super) async fn note_failure(&mut self, resource: Resource, failure: TokenError) {
        let trace = failure.trace().map(ToString::to_string).unwrap_or_default();
        let (principal, mailbox, reason) =
            (&self.basis.principal, &self.basis.mailbox, failure.to_string());
        let cause = match failure {
            TokenError::Permanent { cause, .. } => Some(cause),
            TokenError::Transient { .. } => None,
        };
        let remedy = remedy(&principal.app, mailbox, &reason, cause.unwrap_or(Cause::SignIn));
        let remedy = remedy.replace('`', "");
        let slot = self.state.slot_mut(resource);
        let Some(trouble) = slot.note_failure(&failure, &remedy) else { return };
        match (trouble, resource) {
            (NoToken::SignInNeeded(_), Resource::Mail) => {
                error!(%principal, reason, trace, "sign-in needed: run gatepost login {mailbox}");
            }
            (NoToken::AppRefused { .. }, Resource::Mail) => {
                error!(%principal, reason, trace, "the provider refuses the app: {remedy}");
            }
            (NoToken::SignInNeeded(_) | NoToken::AppRefused { .. }, Resource::Graph) => {
                error!(%principal, reason, trace, remedy, "Microsoft Graph is refused, mail goes on");
            }
            _ => warn!(%principal, %resource, reason, trace, "no new token; trying again"),
        }
        let fault = TokenFault { error: reason.clone(), cause, trace, at: self.means.clock.now() };
        let seen = self.state.revision.unwrap_or_default();
        match self.means.store.note_fault(&principal.key(), resource, seen, &fault).await {
            Ok(true) => self.means.attention.call(Call {
                event: "sign_in_needed",
                account: mailbox.clone(),
                remedy,
                reason: match resource {
                    Resource::Mail => reason,
                    Resource::Graph => format!("{resource} is refused: {reason}"),
                },
            }),
            Ok(false) => {}
            Err(failure) => {
                let failure = failure.brief();
                debug!(%principal, failure, "the store can't be written");
            }
        }
    }
}
