//! Where a principal's sign-in is kept: in the store, and in memory alone while the store fails.
//!
//! Some servers end the former refresh token only when the access token that came with the new one is used. So an
//! access token is held back until its sign-in is on disk: a process that dies before has lost nothing then.
//!
//! Invariant: what is not on disk is tried again until it is, and served only once the former token has little life
//! left or is rejected. What the store has does not replace what is newer in memory, unless a person has signed in or
//! out.

use std::time::Duration;

use tokio::time::Instant;
use tracing::{error, info, warn};

use super::proof::Proof;
use super::renewal::Renewal;
use super::slot::{NoToken, Slot};
use super::{Principal, TokenError};
use crate::backoff::Backoff;
use crate::clock::{Jumps, Timestamp};
use crate::store::{Saved, StoreError, Token, Turn};
use crate::vocabulary::{Cause, Resource};

/// Pauses between tries to write. The store tells when it works again; this is for what it does not see.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// What the task knows between its steps.
pub(super) struct State {
    pub(super) mail: Slot,
    pub(super) graph: Slot,
    /// Of the store's row that was taken over, once one was looked for.
    pub(super) revision: Option<i64>,
    /// That row.
    stored: Token,
    /// What was granted since, but is not on disk yet.
    pub(super) unsaved: Option<Unsaved>,
    /// Held while this is the process that may use the refresh token: until what it brought is on disk.
    pub(super) turn: Option<Turn>,
    pub(super) time: Jumps,
    /// Of the last request.
    pub(super) proof: Proof,
}

/// A sign-in that is in memory alone.
pub(super) struct Unsaved {
    token: Token,
    pauses: Backoff,
    again_at: Instant,
}

impl State {
    pub(super) fn new(principal: &Principal, now: Timestamp) -> Self {
        Self {
            mail: Slot::new(Resource::Mail, true),
            graph: Slot::new(Resource::Graph, principal.graph),
            revision: None,
            stored: Token::default(),
            unsaved: None,
            turn: None,
            time: Jumps::new(now),
            proof: Proof::default(),
        }
    }

    pub(super) fn slot(&self, resource: Resource) -> &Slot {
        match resource {
            Resource::Mail => &self.mail,
            Resource::Graph => &self.graph,
        }
    }

    pub(super) fn slot_mut(&mut self, resource: Resource) -> &mut Slot {
        match resource {
            Resource::Mail => &mut self.mail,
            Resource::Graph => &mut self.graph,
        }
    }

    pub(super) fn slots(&mut self) -> [&mut Slot; 2] {
        [&mut self.mail, &mut self.graph]
    }

    /// The sign-in as it was granted last, wherever it is kept.
    pub(super) fn newest(&self) -> &Token {
        self.unsaved.as_ref().map_or(&self.stored, |unsaved| &unsaved.token)
    }

    /// When it is tried again to write what is not on disk.
    pub(super) fn unsaved_in(&self) -> Duration {
        let left = |unsaved: &Unsaved| unsaved.again_at.saturating_duration_since(Instant::now());
        self.unsaved.as_ref().map_or(Duration::MAX, left)
    }
}

impl Renewal {
    /// Writes what replaces the store's row, then publishes it.
    pub(super) async fn save(&mut self, token: Token) -> Result<(), TokenError> {
        let seen = self.state.revision.unwrap_or_default();
        match self.means.store.save_token(&self.basis.principal.key(), seen, &token).await {
            Ok(Saved::Written(revision)) => {
                self.state.revision = Some(revision);
                self.adopt(token);
            }
            Ok(Saved::Newer) => {
                self.state.unsaved = None;
                return self.load().await;
            }
            Err(failure) if token.refresh_token == self.state.stored.refresh_token => {
                // Nothing that the next request would not bring again.
                let failure = failure.brief();
                warn!(principal = %self.basis.principal, failure, "the token is not stored");
                self.adopt(token);
            }
            Err(failure) => self.hold_back(token, &failure),
        }
        Ok(())
    }

    /// Tries again to write what is not on disk.
    pub(super) async fn save_unsaved(&mut self) -> Result<(), TokenError> {
        // Before: the store may take its time to say no.
        self.serve_needed();
        let Some(unsaved) = &self.state.unsaved else { return Ok(()) };
        let token = unsaved.token.clone();
        let saved = self.save(token).await;
        if self.state.unsaved.is_none() {
            self.state.turn = None;
            info!(principal = %self.basis.principal, "the store has the sign-in again");
        }
        saved
    }

    /// gatepost stops.
    pub(super) async fn save_at_last(&mut self) {
        // A failure other than the store's means that somebody else's counts.
        let _ = self.save_unsaved().await;
        if self.state.unsaved.is_some() {
            let (principal, mailbox) = (&self.basis.principal, &self.basis.mailbox);
            error!(
                %principal,
                "the new refresh token is lost, the store could not be written: if the former one is refused, run \
                 gatepost login {mailbox}"
            );
        }
    }

    /// A login needs what is held back.
    pub(super) fn serve(&mut self, resource: Resource) {
        if self.state.slot_mut(resource).serve() {
            self.tell_served();
        }
    }

    /// Held back no longer than while the former one is of use.
    fn serve_needed(&mut self) {
        for resource in Resource::ALL {
            if self.state.slot_mut(resource).serve_if_needed(self.means.clock.now()) {
                self.tell_served();
            }
        }
    }

    fn tell_served(&self) {
        warn!(principal = %self.basis.principal, "a token is used whose sign-in is in memory alone");
    }

    fn hold_back(&mut self, token: Token, failure: &StoreError) {
        for resource in Resource::ALL {
            let fingerprint = self.basis.principal.fingerprint(resource);
            let access = token.access_to(resource);
            if let Some(access) = access.filter(|access| access.fingerprint == fingerprint) {
                self.state.slot_mut(resource).hold_back(access);
            }
        }
        let mut pauses = match self.state.unsaved.take() {
            Some(unsaved) => unsaved.pauses,
            None => {
                let (principal, failure) = (&self.basis.principal, failure.brief());
                warn!(%principal, failure, "the new refresh token is kept in memory until it can be written");
                Backoff::new(FIRST_PAUSE, LONGEST_PAUSE)
            }
        };
        let again_at = Instant::now() + pauses.pause();
        self.state.unsaved = Some(Unsaved { token, pauses, again_at });
        self.serve_needed();
    }

    /// Takes over what the store has, if it is new. What can't be read is as it was, once it was read.
    pub(super) async fn load(&mut self) -> Result<(), TokenError> {
        match self.means.store.token(&self.basis.principal.key()).await {
            Ok((token, revision)) => self.take_over(token, revision).await,
            Err(_) if self.state.revision.is_some() => Ok(()),
            Err(failure) => Err(TokenError::transient(failure.brief())),
        }
    }

    /// The same of what was read just now.
    pub(super) async fn take_over(
        &mut self,
        token: Option<Token>,
        revision: i64,
    ) -> Result<(), TokenError> {
        if self.state.revision == Some(revision) {
            return Ok(());
        }
        let former = self.state.revision.replace(revision);
        let issued_at = token.as_ref().and_then(Token::issued_at);
        if former.is_some_and(|former| revision < former)
            && issued_at < self.state.newest().issued_at()
        {
            return self.put_back().await;
        }
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

    /// Somebody has restored a backup of the store, whose refresh token may be used up, or has put an empty one there: a
    /// sign-out leaves a row of a higher revision.
    async fn put_back(&mut self) -> Result<(), TokenError> {
        warn!(principal = %self.basis.principal, "the store has an older sign-in than memory, or none: it is replaced");
        let token = self.state.newest().clone();
        // What is stored is no longer what memory has, so that a failure keeps it.
        self.state.stored = Token::default();
        Box::pin(self.save(token)).await
    }

    /// Whether a person has to sign in first.
    pub(super) fn nobody(&self) -> bool {
        self.basis.principal.app.grant.is_delegated() && *self.state.newest() == Token::default()
    }

    fn adopt(&mut self, token: Token) {
        for slot in self.state.slots() {
            let fingerprint = self.basis.principal.fingerprint(slot.resource);
            let access = token.access_to(slot.resource);
            slot.adopt(access.filter(|access| access.fingerprint == fingerprint));
        }
        self.state.unsaved = None;
        self.state.stored = token;
    }
}
