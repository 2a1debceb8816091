//! The background task that keeps one principal's tokens fresh.
//!
//! Every token request of a principal is made here, one after the other, for whichever resource: that is what holds
//! them to one at a time, however many logins wait. Each resource has its slot; the sign-in that they come from is
//! one.
//!
//! Invariant: an access token is published only when the sign-in that it came with is on disk. What is refused to
//! one resource alone ends no sign-in.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info, warn};

use super::life::access_of;
use super::slot::{Current, NoToken, Slot};
use super::{AccessToken, Principal, Request, TokenEndpoint, TokenError};
use crate::attention::{Attention, Call};
use crate::clock::Clock;
use crate::explain;
use crate::store::{Saved, Store, StoreError, Token, TokenFault, Turn};
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
    pub(super) fn asks_as(&self, other: &Self) -> bool {
        self.principal.asks_as(&other.principal) && Arc::ptr_eq(&self.endpoint, &other.endpoint)
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
    state: State,
}

/// What the task knows between its steps.
struct State {
    mail: Slot,
    graph: Slot,
    /// Of the store's row that was taken over, once one was looked for.
    revision: Option<i64>,
    /// That row.
    stored: Token,
    /// Granted, by which resource's request, but not on disk yet.
    unsaved: Option<(Resource, Token)>,
    /// Held while this is the process that may use the refresh token: until what it brought is on disk.
    turn: Option<Turn>,
}

impl Renewal {
    pub(super) fn new(
        mut basis: watch::Receiver<Basis>,
        store: Store,
        clock: Clock,
        attention: Attention,
    ) -> Self {
        let Basis { principal, mailbox, endpoint } = basis.borrow_and_update().clone();
        let state = State {
            mail: Slot::new(Resource::Mail, true),
            graph: Slot::new(Resource::Graph, principal.graph),
            revision: None,
            stored: Token::default(),
            unsaved: None,
            turn: None,
        };
        let news = Arc::default();
        Self { principal, mailbox, endpoint, store, clock, attention, news, basis, state }
    }

    /// What logins see of the token for `resource`.
    pub(super) fn current(&self, resource: Resource) -> Current {
        Arc::clone(&self.state.slot(resource).current)
    }

    /// Runs until `stop`. A request that is under way is brought to its end: what it brings may be the only
    /// valid refresh token.
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
                    None => return,
                },
                () = news.notified() => self.look().await,
                Ok(()) = self.basis.changed() => self.begin_anew().await,
                // Whatever has kept news of the store away, it keeps them no longer than this.
                () = sleep(pause.min(LONGEST_SLEEP)) => self.look().await,
            }
        }
    }

    /// Under another configuration. What was published stays if it was asked for in the same way; nothing that went
    /// wrong counts any more.
    async fn begin_anew(&mut self) {
        let basis = self.basis.borrow_and_update().clone();
        self.state.graph.keep(basis.principal.graph);
        (self.principal, self.mailbox, self.endpoint) =
            (basis.principal, basis.mailbox, basis.endpoint);
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
        if wanted(self).is_none() && self.may_try(resource) {
            self.renew(resource).await;
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
        mail.is_refused() && (resource == Resource::Mail || graph.is_refused())
    }

    /// When the next renewal is due, and which; `None` if only a person can bring one about.
    fn due_in(&self) -> Option<(Duration, Resource)> {
        if let Some((resource, _)) = self.state.unsaved {
            return Some((self.state.slot(resource).held(), resource));
        }
        let now = self.clock.now();
        let open = Resource::ALL.into_iter().filter(|resource| !self.is_over(*resource));
        let due =
            open.filter_map(|resource| Some((self.state.slot(resource).due_in(now)?, resource)));
        // Of two that are due at once the first: mail.
        due.min_by_key(|(pause, _)| *pause)
    }

    async fn renew(&mut self, resource: Resource) {
        let outcome = self.try_renew(resource).await;
        if self.state.unsaved.is_none() {
            self.state.turn = None;
        }
        match outcome {
            // Somebody has signed out meanwhile, or another process has found that a person must act.
            Ok(()) if self.is_over(resource) => {}
            Ok(()) => self.note_success(resource).await,
            // That nobody has signed in is told once, whichever resource has found it.
            Err(failure) if self.nobody() => {
                self.note_failure(Resource::Mail, failure).await;
            }
            Err(failure) => self.note_failure(resource, failure).await,
        }
    }

    async fn try_renew(&mut self, resource: Resource) -> Result<(), TokenError> {
        let former = self.state.slot(resource).generation();
        if let Some((brought, token)) = self.state.unsaved.take() {
            self.save(brought, self.state.revision.unwrap_or_default(), token).await?;
            if brought == resource {
                return Ok(());
            }
            self.note_success(brought).await;
        } else {
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
            Err(failure) => warn!(principal = %self.principal, %failure, "renewed without a lock"),
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
        let mut token = self.state.stored.clone();
        let former = token.refresh_token.clone();
        let scopes = principal.scopes(resource);
        let request = Request::renewal(&principal, resource, former.as_ref())?;
        // From before the request: the life that is told begins at an unknown moment in between.
        let issued_at = self.clock.now();
        let news = Arc::clone(&self.news);
        let answer = {
            let mut asked = endpoint.request(&principal.app, &scopes, request);
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
        let answer = answer?;
        let access = access_of(&principal, resource, &answer, issued_at);
        let ends_at = access.expires_at;
        *token.access_mut(resource) = Some(access);
        token.refresh_token = answer.refresh_token.or(former);
        self.save(resource, seen, token).await?;
        match ends_at > self.clock.now() {
            true => Ok(()),
            false => Err(TokenError::transient("the token endpoint gives tokens without a life")),
        }
    }

    /// Writes what replaces the store's revision `seen`, then publishes it.
    async fn save(
        &mut self,
        resource: Resource,
        seen: i64,
        token: Token,
    ) -> Result<(), TokenError> {
        match self.store.save_token(&self.principal.key(), seen, &token).await {
            Ok(Saved::Written(revision)) => self.state.revision = Some(revision),
            Ok(Saved::Newer) => return self.load().await,
            Err(failure) if token.refresh_token == self.state.stored.refresh_token => {
                // Nothing that the next request would not bring again.
                warn!(principal = %self.principal, %failure, "the token is not stored");
            }
            Err(failure) => {
                self.state.unsaved = Some((resource, token));
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
        for slot in self.state.slots() {
            slot.forget_trouble();
        }
        self.adopt(token.unwrap_or_default());
        if self.nobody() {
            let reason = "nobody has signed in yet";
            self.state.graph.trouble = Some(NoToken::SignInNeeded(reason.into()));
            return Err(TokenError::permanent(reason, Cause::SignIn));
        }
        Ok(())
    }

    /// Whether a person has to sign in first.
    fn nobody(&self) -> bool {
        self.principal.app.grant.is_delegated() && self.state.stored == Token::default()
    }

    /// Looks for a new sign-in. If the store can't be read just now, the next look is soon enough.
    async fn look(&mut self) {
        match self.load().await {
            Ok(()) => {}
            Err(TokenError::Transient { reason, .. }) => {
                warn!(principal = %self.principal, reason, "the store can't be read");
            }
            Err(failure) => self.note_failure(Resource::Mail, failure).await,
        }
    }

    fn adopt(&mut self, token: Token) {
        for slot in self.state.slots() {
            let fingerprint = self.principal.fingerprint(slot.resource);
            let access = token.access_to(slot.resource);
            slot.adopt(access.filter(|access| access.fingerprint == fingerprint));
        }
        self.state.stored = token;
    }

    async fn note_success(&mut self, resource: Resource) {
        let principal = &self.principal;
        match self.state.slot_mut(resource).note_success() {
            true => info!(%principal, %resource, "tokens are renewed again"),
            false => debug!(%principal, %resource, "token renewed"),
        }
        if let Err(failure) = self.store.clear_fault(&principal.key(), resource).await {
            warn!(%principal, %failure, "the store can't be written");
        }
    }

    async fn note_failure(&mut self, resource: Resource, failure: TokenError) {
        let trace = failure.trace().map(ToString::to_string).unwrap_or_default();
        let Some(trouble) = self.state.slot_mut(resource).note_failure(&failure) else { return };
        let (principal, mailbox, reason) = (&self.principal, &self.mailbox, failure.to_string());
        let remedy = remedy(&reason, mailbox);
        match (trouble, resource) {
            (NoToken::SignInNeeded(_), Resource::Mail) => {
                error!(%principal, reason, trace, "sign-in needed: run gatepost login {mailbox}");
            }
            (NoToken::SignInNeeded(_), Resource::Graph) => {
                error!(%principal, reason, trace, remedy, "Microsoft Graph is refused, mail goes on");
            }
            _ => warn!(%principal, %resource, reason, trace, "no new token; trying again"),
        }
        let cause = match failure {
            TokenError::Permanent { cause, .. } => Some(cause),
            TokenError::Transient { .. } => None,
        };
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
            Err(failure) => warn!(%principal, %failure, "the store can't be written"),
        }
    }
}

impl State {
    fn slot(&self, resource: Resource) -> &Slot {
        match resource {
            Resource::Mail => &self.mail,
            Resource::Graph => &self.graph,
        }
    }

    fn slot_mut(&mut self, resource: Resource) -> &mut Slot {
        match resource {
            Resource::Mail => &mut self.mail,
            Resource::Graph => &mut self.graph,
        }
    }

    fn slots(&mut self) -> [&mut Slot; 2] {
        [&mut self.mail, &mut self.graph]
    }
}

/// What a person does about it.
fn remedy(reason: &str, mailbox: &str) -> String {
    let known = explain::best(reason).map(|entry| entry.remedy_for(mailbox));
    known.unwrap_or_else(|| format!("gatepost login {mailbox}"))
}
