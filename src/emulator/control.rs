//! Faults on request, and counts of what happened.
//!
//! Invariant: without a request the emulator has no fault, and [`Control::clear_faults`] brings it
//! back to that.

use std::{
    collections::{HashMap, VecDeque},
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;

use super::{
    SentMail, World,
    mailbox::Message,
    tokens::{self, Principal, Wanted, folded},
};

/// A way for the upstream to refuse a login.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LoginFault {
    /// The token is refused: `NO AUTHENTICATE failed.` and its like.
    AuthFailed,
    /// The token is good, the mailbox is not its own. IMAP says so only behind the login:
    /// `BAD User is authenticated but not connected.` to each command.
    NotConnected,
    /// SMTP: `535 5.7.139 … SmtpClientAuthentication is disabled for the Tenant.`
    SmtpAuthDisabled,
    /// `Request is throttled. Suggested Backoff Time: N milliseconds`.
    Throttled {
        /// The N.
        milliseconds: u64,
    },
    /// SMTP: `432 4.3.2 Concurrent connections limit exceeded.`; else the server is unavailable.
    ConnectionLimit,
}

/// A way for the token endpoint to fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenFault {
    /// A bare HTTP status, as a gateway or an overloaded service gives.
    Status {
        /// HTTP status code.
        status: u16,
        /// Seconds for the `Retry-After` header.
        retry_after: Option<u64>,
    },
    /// One of Entra's own errors by its number, 50076 for "multi-factor authentication needed".
    Aadsts(u32),
    /// The connection closes without an answer.
    Closed,
}

/// The handle for faults and counts; clones share the same emulator.
#[derive(Clone)]
pub struct Control {
    world: Arc<World>,
}

/// The state behind [`Control`], as the services see it.
#[derive(Default)]
pub(super) struct Faults {
    state: Mutex<State>,
    token_requests: AtomicU64,
    connections: AtomicU64,
    live: AtomicU64,
    logins: AtomicU64,
    /// Places for concurrent SMTP sessions, by mailbox.
    places: Mutex<HashMap<String, Arc<Semaphore>>>,
}

#[derive(Default)]
struct State {
    tokens: VecDeque<TokenFault>,
    outage: Option<TokenFault>,
    delay: Duration,
    life: Option<Duration>,
    logins: VecDeque<LoginFault>,
    mail_outage: bool,
    challenge: bool,
    sever: CancellationToken,
}

impl Control {
    pub(super) fn new(world: Arc<World>) -> Self {
        Self { world }
    }

    /// Fails the next `count` token requests.
    pub fn fail_token_requests(&self, count: usize, fault: TokenFault) {
        self.state().tokens.extend(std::iter::repeat_n(fault, count));
    }

    /// Fails all token requests until this is called with `None`.
    pub fn set_token_outage(&self, fault: Option<TokenFault>) {
        self.state().outage = fault;
    }

    /// Answers token requests only after this time.
    pub fn set_token_delay(&self, delay: Duration) {
        self.state().delay = delay;
    }

    /// Life of the access tokens issued from now on; `None` is as [`super::Options`] has it.
    pub fn set_token_life(&self, life: Option<Duration>) {
        self.state().life = life;
    }

    /// Makes the upstream refuse every access token issued so far.
    pub fn revoke_access_tokens(&self) {
        self.world.tokens.revoke_access();
    }

    /// Revokes a user's refresh tokens, as a password change does.
    pub fn revoke_refresh_tokens(&self, user: &str) {
        self.world.tokens.revoke_refresh_of(user);
    }

    /// A new refresh token of a user.
    pub fn issue_refresh_token(&self, user: &str) -> String {
        self.world.tokens.refresh(user)
    }

    /// An access token with all mail permissions: a user's, or the app's own for `None`.
    pub fn issue_access_token(&self, user: Option<&str>) -> String {
        let (principal, names) = match user {
            Some(user) => (Principal::User(folded(user)), super::entra::DELEGATED),
            None => (Principal::App, super::entra::ROLES),
        };
        self.world.tokens.access(Wanted {
            principal,
            audience: "https://outlook.office.com".into(),
            permissions: names.iter().map(|name| (*name).to_owned()).collect(),
            life: self.world.life(),
        })
    }

    /// Refuses the next `count` upstream logins, of whatever protocol.
    pub fn fail_logins(&self, count: usize, fault: LoginFault) {
        self.state().logins.extend(std::iter::repeat_n(fault, count));
    }

    /// Whether mail connections are closed as soon as they are made.
    pub fn set_mail_outage(&self, on: bool) {
        self.state().mail_outage = on;
    }

    /// Whether a failed login is told by a base64 JSON challenge first, which wants an empty line.
    pub fn set_challenge(&self, on: bool) {
        self.state().challenge = on;
    }

    /// Cuts all mail sessions that are open now.
    pub fn disconnect_all(&self) {
        std::mem::take(&mut self.state().sever).cancel();
    }

    /// Takes back all faults; tokens stay revoked.
    pub fn clear_faults(&self) {
        let mut state = self.state();
        let sever = state.sever.clone();
        *state = State { sever, ..State::default() };
    }

    /// Token requests so far, failed ones too.
    pub fn token_requests(&self) -> u64 {
        self.world.faults.token_requests.load(Ordering::Relaxed)
    }

    /// Mail connections accepted so far.
    pub fn connections(&self) -> u64 {
        self.world.faults.connections.load(Ordering::Relaxed)
    }

    /// Mail connections open now.
    pub fn live_connections(&self) -> u64 {
        self.world.faults.live.load(Ordering::Relaxed)
    }

    /// Successful mail logins so far.
    pub fn logins(&self) -> u64 {
        self.world.faults.logins.load(Ordering::Relaxed)
    }

    /// Puts a message into a mailbox's inbox; `false` if there is no such mailbox.
    pub fn deliver(&self, mailbox: &str, message: &[u8]) -> bool {
        self.world.mail.store(mailbox, "INBOX", message, Default::default()).is_some()
    }

    /// The messages in a folder of a mailbox, oldest first.
    pub fn messages(&self, mailbox: &str, folder: &str) -> Vec<Vec<u8>> {
        let octets = |message: &Message| message.data.to_vec();
        let read = self.world.mail.read(mailbox, |folders| {
            folders.get(folder).map(|folder| folder.messages.iter().map(octets).collect())
        });
        read.flatten().unwrap_or_default()
    }

    /// Mail sent to addresses that are not emulated, oldest first.
    pub fn sent_elsewhere(&self) -> Vec<SentMail> {
        self.world.mail.sent_elsewhere()
    }

    pub(super) fn tenant(&self) -> &str {
        &self.world.options.app.tenant
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.world.faults.state()
    }
}

impl fmt::Debug for Control {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Control").finish_non_exhaustive()
    }
}

impl World {
    /// The life of an access token issued now.
    pub(super) fn life(&self) -> Duration {
        self.faults.state().life.or(self.options.token_life).unwrap_or_else(tokens::random_life)
    }
}

impl Faults {
    /// Counts a token request; the answer is how long to wait, and how to fail, if at all.
    pub(super) fn token_request(&self) -> (Duration, Option<TokenFault>) {
        self.token_requests.fetch_add(1, Ordering::Relaxed);
        let mut state = self.state();
        let fault = state.outage.or_else(|| state.tokens.pop_front());
        (state.delay, fault)
    }

    pub(super) fn next_login_fault(&self) -> Option<LoginFault> {
        self.state().logins.pop_front()
    }

    pub(super) fn count_login(&self) {
        self.logins.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn mail_outage(&self) -> bool {
        self.state().mail_outage
    }

    pub(super) fn challenge(&self) -> bool {
        self.state().challenge
    }

    pub(super) fn severed(&self) -> CancellationToken {
        self.state().sever.clone()
    }

    /// One of so many places for concurrent SMTP sessions of this mailbox, if one is free.
    pub(super) fn smtp_place(&self, mailbox: &str, places: usize) -> Option<OwnedSemaphorePermit> {
        let mut all = self.places.lock().unwrap_or_else(PoisonError::into_inner);
        let of_mailbox =
            all.entry(mailbox.to_owned()).or_insert_with(|| Arc::new(Semaphore::new(places)));
        of_mailbox.clone().try_acquire_owned().ok()
    }

    /// Counts a connection until the answer is dropped.
    pub(super) fn count_connection(&self) -> Counted<'_> {
        self.connections.fetch_add(1, Ordering::Relaxed);
        self.live.fetch_add(1, Ordering::Relaxed);
        Counted(&self.live)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A connection that is counted as live.
pub(super) struct Counted<'a>(&'a AtomicU64);

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
