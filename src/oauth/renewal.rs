//! The background task that keeps one principal's tokens fresh.
//!
//! Every token request of a principal is made here, one after the other, for whichever resource: that is what holds
//! them to one at a time, however many logins wait. Each resource has its slot; the sign-in that they come from is
//! one.
//!
//! Invariant: no login waits for the store, and none fails because of it while this process lives (`keeping` has what
//! is kept). What is refused to one resource alone ends no sign-in.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info, warn};

use super::keeping::State;
use super::life::access_of;
use super::slot::{Current, NoToken, Slot};
use super::{AccessToken, Principal, Request, TokenEndpoint, TokenError, remedy};
use crate::attention::{Attention, Call};
use crate::clock::Clock;
use crate::store::{Store, TokenFault};
use crate::vocabulary::{Cause, Resource};

/// Longest sleep: the wall clock may jump meanwhile, when a laptop was suspended.
const LONGEST_SLEEP: Duration = Duration::from_secs(30);

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
    pub(super) endpoint: Arc<dyn TokenEndpoint>,
}

impl Basis {
    /// Whether they are the same requests.
    fn asks_as(&self, principal: &Principal, endpoint: &Arc<dyn TokenEndpoint>) -> bool {
        self.principal.asks_as(principal) && Arc::ptr_eq(&self.endpoint, endpoint)
    }
}

pub(super) struct Renewal {
    pub(super) principal: Principal,
    /// One of its mailboxes, to tell people which sign-in it is about.
    pub(super) mailbox: String,
    pub(super) endpoint: Arc<dyn TokenEndpoint>,
    pub(super) store: Store,
    pub(super) clock: Clock,
    pub(super) attention: Attention,
    /// Another process has written to the store.
    pub(super) news: Arc<Notify>,
    /// Another configuration is in force.
    basis: watch::Receiver<Basis>,
    pub(super) state: State,
}

impl Renewal {
    pub(super) fn new(
        mut basis: watch::Receiver<Basis>,
        store: Store,
        clock: Clock,
        attention: Attention,
    ) -> Self {
        let Basis { principal, mailbox, endpoint } = basis.borrow_and_update().clone();
        let state = State::new(&principal, clock.now());
        let news = Arc::default();
        Self { principal, mailbox, endpoint, store, clock, attention, news, basis, state }
    }

    /// What logins see of the token for `resource`.
    pub(super) fn current(&self, resource: Resource) -> Current {
        Arc::clone(&self.state.slot(resource).current)
    }

    /// Runs until `stop`. A request that is under way is brought to its end, and what is not on disk is tried once
    /// more: it may be the only valid refresh token.
    pub(super) async fn run(mut self, mut inbox: mpsc::Receiver<Demand>, stop: CancellationToken) {
        let news = Arc::clone(&self.news);
        self.look().await;
        while !stop.is_cancelled() {
            let (pause, resource) = self.due_in().unwrap_or((LONGEST_SLEEP, Resource::Mail));
            if pause.is_zero() {
                self.renew(resource).await;
                continue;
            }
            tokio::select! {
                () = stop.cancelled() => {}
                demand = inbox.recv() => match demand {
                    Some(demand) => self.meet(demand).await,
                    None => break,
                },
                () = news.notified() => self.look().await,
                Ok(()) = self.basis.changed() => self.reload().await,
                // Whatever has kept news of the store away, it keeps them no longer than this.
                () = sleep(pause.min(LONGEST_SLEEP).min(self.state.unsaved_in())) => self.look().await,
            }
        }
        self.save_at_last().await;
    }

    /// Whether what is in memory alone can be written, and whether there is a new sign-in.
    async fn look(&mut self) {
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

    /// The clock was set, or the machine has slept: pauses of before mean nothing.
    fn notice_time(&mut self) {
        if self.state.time.has_jumped(self.clock.now()) {
            info!(principal = %self.principal, "the clock has jumped: tokens are judged anew");
            self.state.slots().into_iter().for_each(Slot::begin_anew);
        }
    }

    /// The app was refused, and what it proves itself with was replaced.
    fn notice_proof(&mut self) {
        let State { mail, graph, proof, .. } = &mut self.state;
        let refused = mail.app_is_refused() || graph.app_is_refused();
        if refused && proof.is_replaced(&self.principal.app) {
            let principal = &self.principal;
            info!(%principal, "what the app proves itself with was replaced: it is tried again");
            self.try_app_again();
        }
    }

    fn try_app_again(&mut self) {
        self.state.slots().into_iter().for_each(Slot::try_app_again);
    }

    /// The configuration was read again.
    async fn reload(&mut self) {
        let basis = self.basis.borrow_and_update().clone();
        let as_before = basis.asks_as(&self.principal, &self.endpoint);
        (self.principal, self.mailbox, self.endpoint) =
            (basis.principal, basis.mailbox, basis.endpoint);
        match as_before {
            true => self.try_app_again(),
            false => self.begin_anew().await,
        }
    }

    /// Under another configuration. What was published stays if it was asked for in the same way; nothing that went
    /// wrong counts any more.
    async fn begin_anew(&mut self) {
        self.state.graph.keep(self.principal.graph);
        for slot in self.state.slots() {
            slot.begin_anew();
        }
        if self.state.unsaved.is_none() {
            // As at a start.
            self.state.revision = None;
            self.look().await;
        }
    }

    async fn meet(&mut self, Demand { resource, other_than, reply }: Demand) {
        let wanted =
            |task: &Self| task.state.slot(resource).other_than(other_than, task.clock.now());
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
        let now = self.clock.now();
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
        if self.state.slot(resource).is_young_since(former, self.clock.now()) {
            return Ok(());
        }
        if let Some(TokenFault { error: reason, trace, .. }) = self.known_end(resource).await {
            let (principal, mailbox) = (&self.principal, &self.mailbox);
            error!(%principal, reason, trace, "sign-in needed: run gatepost login {mailbox}");
            self.state.slot_mut(resource).trouble = Some(NoToken::SignInNeeded(reason));
            return Ok(());
        }
        self.request(resource).await
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
            Err(failure) => {
                let failure = failure.brief();
                warn!(principal = %self.principal, failure, "renewed without a lock");
            }
        }
        Ok(())
    }

    /// Why this sign-in is at its end, if that is known from a former life or another process.
    async fn known_end(&self, resource: Resource) -> Option<TokenFault> {
        if !self.principal.app.grant.is_delegated() {
            return None;
        }
        let ended = async |resource| {
            let fault = self.store.fault(&self.principal.key(), resource).await.ok().flatten();
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
        let (endpoint, principal) = (Arc::clone(&self.endpoint), self.principal.clone());
        let mut token = self.state.newest().clone();
        let former = token.refresh_token.clone();
        let scopes = principal.scopes(resource);
        self.state.proof.note(&principal.app);
        let request = Request::renewal(&principal, resource, former.as_ref())?;
        // From before the request: the life that is told begins at an unknown moment in between.
        let issued_at = self.clock.now();
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
        match ends_at > self.clock.now() {
            true => Ok(()),
            false => Err(TokenError::transient("the token endpoint gives tokens without a life")),
        }
    }

    async fn note_success(&mut self, resource: Resource) {
        let principal = &self.principal;
        match self.state.slot_mut(resource).note_success() {
            true => info!(%principal, %resource, "tokens are renewed again"),
            false => debug!(%principal, %resource, "token renewed"),
        }
        if let Err(failure) = self.store.clear_fault(&principal.key(), resource).await {
            let failure = failure.brief();
            debug!(%principal, failure, "the store can't be written");
        }
    }

    async fn note_failure(&mut self, resource: Resource, failure: TokenError) {
        let trace = failure.trace().map(ToString::to_string).unwrap_or_default();
        let (principal, mailbox, reason) = (&self.principal, &self.mailbox, failure.to_string());
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
        let fault = TokenFault { error: reason.clone(), cause, trace, at: self.clock.now() };
        let seen = self.state.revision.unwrap_or_default();
        match self.store.note_fault(&principal.key(), resource, seen, &fault).await {
            Ok(true) => self.attention.call(Call {
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
