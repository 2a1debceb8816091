//! One resource's access token, beside the one sign-in of its principal: what logins see of it, and when it may be
//! asked for.
//!
//! Invariant: what goes wrong with one resource's token neither hides nor delays another's.

use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use tokio::time::Instant;

use super::{AccessToken, TokenError};
use crate::backoff::Backoff;
use crate::clock::Timestamp;
use crate::store::StoredToken;
use crate::vocabulary::{Cause, Resource};

/// Pauses of the background after transient failures. Nobody waits for it: a login that does has it tried at once.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(300);

/// Least pause between background requests that go well, for tokens whose life is next to nothing and an
/// endpoint that always wants them renewed.
const SHORTEST_PAUSE: Duration = Duration::from_secs(1);

/// After a failure a waiting login may have it tried again this soon, so that logins in a row don't become requests
/// in a row. The longest is what a healed outage may still cost a client that comes all the time.
const FIRST_DEMAND_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_DEMAND_PAUSE: Duration = Duration::from_secs(3);

/// What no new sign-in is needed for is tried again, be it the app or a resource that is refused by itself: a consent or
/// an uploaded certificate comes without a word, and a new secret is not known everywhere at once. In the background,
/// and for who waits.
const REFUSED_PAUSE: Duration = Duration::from_secs(3600);
const REFUSED_DEMAND_PAUSE: Duration = Duration::from_secs(60);

/// What is published to logins.
pub(super) type Current = Arc<RwLock<Option<AccessToken>>>;

/// Why there is no token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NoToken {
    /// It may pass.
    ForNow(String),
    /// A person must sign in.
    SignInNeeded(String),
    /// The app must be mended: its secret or key, its registration, or the configuration.
    AppRefused {
        /// In the token endpoint's words.
        reason: String,
        /// What its administrator does.
        remedy: String,
    },
    /// gatepost stops.
    Stopping,
}

/// See the module.
pub(super) struct Slot {
    pub(super) resource: Resource,
    /// Renewed in the background, also when nobody asks for it.
    kept: bool,
    pub(super) current: Current,
    /// A newer one, whose sign-in is not on disk yet.
    held_back: Option<AccessToken>,
    generation: u64,
    pub(super) trouble: Option<NoToken>,
    backoff: Backoff,
    demand_backoff: Backoff,
    /// No background try before. Like the next not by the wall clock, which may be set.
    retry_at: Option<Instant>,
    /// No try at all before.
    hold_until: Option<Instant>,
}

impl Slot {
    pub(super) fn new(resource: Resource, kept: bool) -> Self {
        Self {
            resource,
            kept,
            current: Current::default(),
            held_back: None,
            generation: 0,
            trouble: None,
            backoff: Backoff::new(FIRST_PAUSE, LONGEST_PAUSE),
            demand_backoff: Backoff::new(FIRST_DEMAND_PAUSE, LONGEST_DEMAND_PAUSE),
            retry_at: None,
            hold_until: None,
        }
    }

    /// Whether it is renewed in the background from now on.
    pub(super) fn keep(&mut self, kept: bool) {
        self.kept = kept;
    }

    /// Whether nothing but a new sign-in helps.
    pub(super) fn is_over(&self) -> bool {
        matches!(self.trouble, Some(NoToken::SignInNeeded(_)))
    }

    pub(super) fn app_is_refused(&self) -> bool {
        matches!(self.trouble, Some(NoToken::AppRefused { .. }))
    }

    /// Whether somebody who waits may have it tried now.
    pub(super) fn may_try(&self) -> bool {
        self.hold_until.is_none_or(|until| until <= Instant::now())
    }

    /// When the next renewal is due, if it is in the background.
    pub(super) fn due_in(&self, now: Timestamp) -> Option<Duration> {
        let wanted = match self.newest() {
            _ if !self.kept => return None,
            Some(token) if token.is_alive(now) => token.renew_at().saturating_since(now),
            _ => Duration::ZERO,
        };
        Some(wanted.max(self.held()))
    }

    /// How long the background waits in any case.
    fn held(&self) -> Duration {
        let held = self.retry_at.map(|at| at.saturating_duration_since(Instant::now()));
        held.unwrap_or_default()
    }

    /// What is published, if it is of use to a login that does not want that generation. It stays with the
    /// others until there is a new one: a rejection may be the fault of the mailbox.
    pub(super) fn other_than(
        &self,
        generation: Option<u64>,
        now: Timestamp,
    ) -> Option<AccessToken> {
        let wanted = |token: &AccessToken| Some(token.generation) != generation;
        self.published().filter(|token| wanted(token) && token.is_alive(now))
    }

    /// Whether somebody else has brought a token since this generation, which need not be renewed yet.
    pub(super) fn is_young_since(&self, generation: u64, now: Timestamp) -> bool {
        let young = |token: AccessToken| token.is_alive(now) && token.renew_at() > now;
        self.generation != generation && self.newest().is_some_and(young)
    }

    pub(super) fn generation(&self) -> u64 {
        self.generation
    }

    /// Publishes what is stored, unless that is what it has: another resource's renewal makes no new generation.
    pub(super) fn adopt(&mut self, stored: Option<&StoredToken>) {
        match stored {
            Some(stored) => {
                self.hold_back(stored);
                self.serve();
            }
            None => {
                self.held_back = None;
                self.generation += u64::from(self.published().is_some());
                self.publish(None);
            }
        }
    }

    /// Keeps one that is newer than what it has until it is on disk, or needed.
    pub(super) fn hold_back(&mut self, newer: &StoredToken) {
        if self.newest().is_none_or(|token| !token.is(newer)) {
            self.generation += 1;
            self.held_back = Some(AccessToken::new(self.generation, newer));
        }
    }

    /// Publishes what is held back; whether there was something.
    pub(super) fn serve(&mut self) -> bool {
        let next = self.held_back.take();
        let some = next.is_some();
        if some {
            self.publish(next);
        }
        some
    }

    /// The same, once what is published has little life left.
    pub(super) fn serve_if_needed(&mut self, now: Timestamp) -> bool {
        let fresh = self.published().is_some_and(|token| token.is_fresh(now));
        !fresh && self.serve()
    }

    /// Whether that ends a trouble.
    pub(super) fn note_success(&mut self) -> bool {
        self.backoff.reset();
        self.demand_backoff.reset();
        self.retry_at = Some(Instant::now() + SHORTEST_PAUSE);
        self.hold_until = None;
        self.trouble.take().is_some()
    }

    /// The trouble, if it is news. `remedy` is for a refusal of the app.
    pub(super) fn note_failure(&mut self, failure: &TokenError, remedy: &str) -> Option<NoToken> {
        let (now, reason) = (Instant::now(), failure.to_string());
        let trouble = match failure {
            TokenError::Transient { retry_after, .. } => {
                let asked = retry_after.unwrap_or_default();
                self.retry_at = Some(now + self.backoff.pause().max(asked));
                self.hold_until = Some(now + self.demand_backoff.pause().max(asked));
                NoToken::ForNow(reason)
            }
            TokenError::Permanent { cause, .. } => {
                self.retry_at = Some(now + REFUSED_PAUSE);
                self.hold_until = Some(now + REFUSED_DEMAND_PAUSE);
                match cause {
                    Cause::SignIn => NoToken::SignInNeeded(reason),
                    Cause::Registration => {
                        NoToken::AppRefused { reason, remedy: remedy.to_owned() }
                    }
                }
            }
        };
        let news = self.trouble.as_ref() != Some(&trouble);
        self.trouble = Some(trouble.clone());
        news.then_some(trouble)
    }

    /// There is a new sign-in, or a renewal by another process.
    pub(super) fn forget_trouble(&mut self) {
        if self.is_over() || self.app_is_refused() {
            (self.retry_at, self.hold_until) = (None, None);
        }
        self.trouble = None;
    }

    /// What was refused of the app may have been mended: it is tried at once, and whatever comes of it is news.
    pub(super) fn try_app_again(&mut self) {
        if self.app_is_refused() {
            (self.retry_at, self.hold_until) = (None, None);
            self.trouble = Some(NoToken::ForNow("the app is tried again".into()));
        }
    }

    /// Forgets what went wrong. Another configuration is in force; or the clock was set, or the machine has slept: what
    /// was out of order may be no more, and a refusal may have been of an assertion with the wrong time.
    pub(super) fn begin_anew(&mut self) {
        self.backoff.reset();
        self.demand_backoff.reset();
        (self.retry_at, self.hold_until, self.trouble) = (None, None, None);
    }

    fn newest(&self) -> Option<AccessToken> {
        self.held_back.clone().or_else(|| self.published())
    }

    fn published(&self) -> Option<AccessToken> {
        self.current.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn publish(&self, token: Option<AccessToken>) {
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = token;
    }
}
