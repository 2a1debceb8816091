//! Faults on request, and counts of what happened.
//!
//! Invariant: without a request the emulator has no fault, and [`Control::clear_faults`] brings it
//! back to that.

use std::{
    collections::VecDeque,
    fmt,
    sync::{
        Arc, MutexGuard,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio_util::sync::CancellationToken;

use super::{
    Protocol, SentMail, World,
    graph::{GraphFault, GraphRule},
    locked,
    smtp_faults::SmtpRule,
    tokens::{GRAPH, Principal, Wanted, folded, random_life},
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
    /// SMTP: the same for the mailbox alone.
    SmtpAuthDisabledMailbox,
    /// SMTP: the login works, but may send as itself only, not as a shared mailbox either. Told behind
    /// the message: `554 5.2.252 SendAsDenied; …`.
    SendAsDenied,
    /// SMTP: as above, told at MAIL FROM: `550 5.7.60 SMTP; Client does not have permissions …`.
    SenderRefused,
    /// The token has come to its end. IMAP takes the login and says `* BYE Session invalidated -
    /// AccessTokenExpired`; POP3 and SMTP refuse it as any other token that is no good.
    AccessTokenExpired,
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
    pub(super) world: Arc<World>,
}

/// The faults that are set.
#[derive(Default)]
pub(super) struct Faults {
    pub(super) tokens: VecDeque<TokenFault>,
    pub(super) token_outage: Option<TokenFault>,
    pub(super) token_delay: Duration,
    pub(super) token_life: Option<Duration>,
    pub(super) logins: VecDeque<LoginFault>,
    pub(super) login_outage: Option<LoginFault>,
    /// Seconds that Entra's clock is ahead.
    pub(super) clock_offset: i64,
    pub(super) smtp: Vec<SmtpRule>,
    pub(super) graph: Vec<GraphRule>,
    pub(super) graph_outage: Option<GraphFault>,
    pub(super) mail_outage: bool,
    pub(super) challenge: bool,
    /// Ends the mail sessions that hold a clone of it.
    pub(super) sever: CancellationToken,
}

impl LoginFault {
    /// Whether it shows only behind a login that works.
    pub(super) fn is_inside(self, protocol: Protocol) -> bool {
        match self {
            Self::SendAsDenied | Self::SenderRefused => true,
            Self::AccessTokenExpired => protocol == Protocol::Imap,
            _ => false,
        }
    }
}

/// What happened so far.
#[derive(Default)]
pub(super) struct Counts {
    pub(super) token_requests: AtomicU64,
    pub(super) connections: AtomicU64,
    pub(super) logins: AtomicU64,
    pub(super) graph_requests: AtomicU64,
    pub(super) graph_limits_hit: AtomicU64,
}

impl Control {
    /// Fails the next `count` token requests.
    pub fn fail_token_requests(&self, count: usize, fault: TokenFault) {
        self.faults().tokens.extend(std::iter::repeat_n(fault, count));
    }

    /// Fails all token requests until this is called with `None`.
    pub fn set_token_outage(&self, fault: Option<TokenFault>) {
        self.faults().token_outage = fault;
    }

    /// Answers token requests only after this time.
    pub fn set_token_delay(&self, delay: Duration) {
        self.faults().token_delay = delay;
    }

    /// Life of the access tokens issued from now on; `None` is as [`super::Options`] has it.
    pub fn set_token_life(&self, life: Option<Duration>) {
        self.faults().token_life = life;
    }

    /// Makes the upstream refuse every access token issued so far.
    pub fn revoke_access_tokens(&self) {
        self.world.tokens.revoke_access();
    }

    /// Revokes a user's refresh tokens, as a password change does.
    pub fn revoke_refresh_tokens(&self, user: &str) {
        self.world.tokens.revoke_refresh(|_, owner| owner == folded(user));
    }

    /// A new refresh token of a user.
    pub fn issue_refresh_token(&self, user: &str) -> String {
        self.world.tokens.refresh(user)
    }

    /// An access token with all mail permissions: a user's, or the app's own for `None`.
    pub fn issue_access_token(&self, user: Option<&str>) -> String {
        let principal = user.map_or(Principal::App, |user| Principal::User(folded(user)));
        let permissions = principal.mail_permissions();
        self.issue(principal, "https://outlook.office.com", permissions)
    }

    /// The same for Graph, with all of its mail permissions.
    pub fn issue_graph_token(&self, user: Option<&str>) -> String {
        let principal = user.map_or(Principal::App, |user| Principal::User(folded(user)));
        let permissions = principal.graph_permissions();
        self.issue(principal, GRAPH, permissions)
    }

    fn issue(&self, principal: Principal, audience: &str, permissions: Vec<String>) -> String {
        let (audience, life) = (audience.to_owned(), self.world.token_life());
        let wanted = Wanted { principal, audience, permissions, life };
        self.world.tokens.access(wanted, self.world.now())
    }

    /// Refuses the next `count` upstream logins, of whatever protocol.
    pub fn fail_logins(&self, count: usize, fault: LoginFault) {
        self.faults().logins.extend(std::iter::repeat_n(fault, count));
    }

    /// Refuses all upstream logins, of whatever protocol, until this is called with `None`.
    pub fn set_login_fault(&self, fault: Option<LoginFault>) {
        self.faults().login_outage = fault;
    }

    /// Puts Entra's clock so many seconds ahead, or behind: the `Date` of its answers, the dates in its
    /// tokens, and what it takes a client assertion's dates for.
    pub fn set_clock_offset(&self, seconds: i64) {
        self.faults().clock_offset = seconds;
    }

    /// The user codes that nobody has entered yet, oldest first.
    pub fn device_codes(&self) -> Vec<String> {
        self.world.sign_ins.device_codes()
    }

    /// Signs this user in on the device that shows the code; `false` if there is no such code or user.
    pub fn approve_device(&self, user_code: &str, user: &str) -> bool {
        self.world.tokens.is_user(user)
            && self.world.sign_ins.decide_device(user_code, Some(user)).is_some()
    }

    /// Declines the sign-in of the device that shows the code; `false` if there is no such code.
    pub fn decline_device(&self, user_code: &str) -> bool {
        self.world.sign_ins.decide_device(user_code, None).is_some()
    }

    /// Whether mail connections are closed as soon as they are made. Those that are open stay so.
    pub fn set_mail_outage(&self, on: bool) {
        self.faults().mail_outage = on;
    }

    /// Whether a failed login is told by a base64 JSON challenge first, which wants an empty line.
    pub fn set_challenge(&self, on: bool) {
        self.faults().challenge = on;
    }

    /// Cuts all mail sessions that are open now.
    pub fn disconnect_all(&self) {
        std::mem::take(&mut self.faults().sever).cancel();
    }

    /// Takes back all faults; tokens stay revoked.
    pub fn clear_faults(&self) {
        let mut faults = self.faults();
        *faults = Faults { sever: faults.sever.clone(), ..Faults::default() };
    }

    /// Token requests so far, failed ones too.
    pub fn token_requests(&self) -> u64 {
        self.world.counts.token_requests.load(Ordering::Relaxed)
    }

    /// Mail connections accepted so far.
    pub fn connections(&self) -> u64 {
        self.world.counts.connections.load(Ordering::Relaxed)
    }

    /// Mail connections open now.
    pub fn live_connections(&self) -> u64 {
        self.world.sessions.len() as u64
    }

    /// Successful mail logins so far.
    pub fn logins(&self) -> u64 {
        self.world.counts.logins.load(Ordering::Relaxed)
    }

    /// Puts a message into a mailbox's inbox; `false` if there is no such mailbox.
    pub fn deliver(&self, mailbox: &str, message: &[u8]) -> bool {
        self.world.mail.store(mailbox, "INBOX", message.into(), &[])
    }

    /// The messages in a folder of a mailbox, oldest first.
    pub fn messages(&self, mailbox: &str, folder: &str) -> Vec<Vec<u8>> {
        let messages = self.world.mail.messages(mailbox, folder);
        messages.iter().map(|message| message.data.to_vec()).collect()
    }

    /// All messages that were accepted for sending, oldest first.
    pub fn sent(&self) -> Vec<SentMail> {
        self.world.mail.sent()
    }

    /// The same, and they are forgotten: what runs for hours does not keep them.
    pub fn take_sent(&self) -> Vec<SentMail> {
        self.world.mail.take_sent()
    }

    /// Removes all messages from a folder of a mailbox but the `keep` oldest.
    pub fn empty(&self, mailbox: &str, folder: &str, keep: usize) {
        self.world.mail.empty(mailbox, folder, keep);
    }

    /// Those with recipients outside the emulated mailboxes, and of their recipients only these.
    pub fn sent_elsewhere(&self) -> Vec<SentMail> {
        let mut sent = self.sent();
        for mail in &mut sent {
            let recipients = std::mem::take(&mut mail.recipients).into_iter();
            let parameters = std::mem::take(&mut mail.recipient_parameters);
            (mail.recipients, mail.recipient_parameters) = recipients
                .zip(parameters)
                .filter(|(recipient, _)| self.world.mail.open(recipient).is_none())
                .unzip();
        }
        sent.retain(|mail| !mail.recipients.is_empty());
        sent
    }

    /// How often a client was told 432, which is what a good one avoids.
    pub fn limits_hit(&self) -> u64 {
        self.world.limits.hit.load(Ordering::Relaxed)
    }

    /// The most SMTP sessions of this mailbox that were logged in at the same time.
    pub fn most_smtp_sessions(&self, mailbox: &str) -> usize {
        self.world.limits.most_sessions(mailbox)
    }

    fn faults(&self) -> MutexGuard<'_, Faults> {
        locked(&self.world.faults)
    }
}

impl fmt::Debug for Control {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Control").finish_non_exhaustive()
    }
}

impl World {
    /// The life of an access token issued now.
    pub(super) fn token_life(&self) -> Duration {
        let asked = locked(&self.faults).token_life.or(self.options.token_life);
        asked.unwrap_or_else(random_life)
    }
}
