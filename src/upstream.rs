//! A mail server of the provider: connections to it, up to the login, and what is known of it.
//!
//! Invariant: a connection is opened only for a login that gatepost has checked, except to learn an SMTP
//! server's EHLO keywords: once at start, and at most once at a time while they are not known.

use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::Instant;
use tracing::debug;

use crate::config::{Account, Endpoint};
use crate::net::{ClientTls, Deadline, DialError, Route, Stream, dial, start_tls};
use crate::oauth::{AccessToken, Tokens};
use crate::protocol::{Goal, Phase, Refusal, Rejection, Upstream, UpstreamStep, Welcome, Xoauth2};
use crate::vocabulary::{Protocol, TlsMode};

/// For the whole way to a login: connect, TLS, greeting, authentication. Clients give a login about half
/// a minute.
const LOGIN: Duration = Duration::from_secs(25);

/// How long a client's EHLO waits for the upstream's keywords, when they are not known yet.
const LEARN: Duration = Duration::from_secs(5);

/// After a failure to learn them, clients are told none for this long.
const LEARN_AGAIN: Duration = Duration::from_secs(5);

/// Octets read at a time before the login.
const READ: usize = 4096;

/// How gatepost names itself in EHLO: it has no domain of its own (RFC 5321 section 4.1.3).
const EHLO_NAME: &str = "[127.0.0.1]";

/// A mail server. Listeners that lead to the same one share it.
pub struct Server {
    protocol: Protocol,
    endpoint: Endpoint,
    tls: ClientTls,
    route: Route,
    /// SMTP's EHLO keywords or IMAP's capabilities after a login, as it last told them.
    known: RwLock<Option<Arc<Vec<String>>>>,
    /// Held while the keywords are learned; the time of the last failure.
    learning: tokio::sync::Mutex<Option<Instant>>,
}

/// A connection that is logged in.
pub struct Session {
    /// The connection.
    pub stream: Stream,
    /// What the upstream has sent behind the answer to the login.
    pub unread: Vec<u8>,
    /// What the client is told.
    pub welcome: Welcome,
}

/// Why there is no session.
#[derive(Debug)]
pub enum NoSession {
    /// There is no token.
    NoToken(Refusal),
    /// The server lets nobody in.
    Rejected(Rejection),
}

impl Server {
    /// A server to which no connection was made yet.
    pub fn new(protocol: Protocol, endpoint: Endpoint, tls: ClientTls, route: Route) -> Self {
        Self {
            protocol,
            endpoint,
            tls,
            route,
            known: RwLock::default(),
            learning: tokio::sync::Mutex::default(),
        }
    }

    /// Where it is.
    pub fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// Opens a connection and logs in.
    pub async fn log_in(&self, login: Xoauth2) -> Result<Session, Rejection> {
        let known = self.known();
        let mut session = self.open(Goal::Login(login), known.is_none(), LOGIN).await?;
        match (session.welcome.capabilities.is_empty(), known) {
            (true, Some(known)) => session.welcome.capabilities = known.to_vec(),
            _ => self.remember(&session.welcome),
        }
        Ok(session)
    }

    /// Opens a connection and logs in to the mailbox of `account`. A token that the server rejects may be stale: then
    /// there is one renewal and one more try, on a connection of its own.
    pub async fn log_in_as(
        &self,
        account: &Account,
        tokens: &Tokens,
    ) -> Result<Session, NoSession> {
        let token = tokens.get(account).await.map_err(NoSession::NoToken)?;
        match self.log_in_with(account, &token).await {
            Err(Rejection::Token { said }) => self.log_in_anew(account, tokens, &token, said).await,
            first => first.map_err(NoSession::Rejected),
        }
    }

    async fn log_in_anew(
        &self,
        account: &Account,
        tokens: &Tokens,
        stale: &AccessToken,
        said: String,
    ) -> Result<Session, NoSession> {
        let other = tokens.get_other(account, self.protocol, stale).await;
        let Some(token) = other.transpose().map_err(NoSession::NoToken)? else {
            return Err(NoSession::Rejected(Rejection::NotPermitted { said }));
        };
        let second = self.log_in_with(account, &token).await;
        if let Err(Rejection::Token { .. }) = second {
            tokens.give_up(account, self.protocol);
        }
        second.map_err(NoSession::Rejected)
    }

    async fn log_in_with(
        &self,
        account: &Account,
        token: &AccessToken,
    ) -> Result<Session, Rejection> {
        match Xoauth2::new(account.xoauth2_user(self.protocol), &token.token) {
            Some(login) => self.log_in(login).await,
            None => Err(Rejection::NotPermitted { said: "no user name or no token".into() }),
        }
    }

    /// Opens a connection up to where a login would begin, TLS included.
    pub async fn reach(&self) -> Result<Session, Rejection> {
        self.open(Goal::Learn, false, LOGIN).await
    }

    /// SMTP's EHLO keywords; none if the server can't be asked just now.
    pub async fn keywords(&self) -> Vec<String> {
        if let Some(known) = self.known() {
            return known.to_vec();
        }
        let mut failed_at = self.learning.lock().await;
        if self.known().is_none() && failed_at.is_none_or(|at| at.elapsed() > LEARN_AGAIN) {
            match self.open(Goal::Learn, false, LEARN).await {
                Ok(session) => self.remember(&session.welcome),
                Err(rejection) => {
                    debug!(endpoint = %self.endpoint, ?rejection, "EHLO keywords not learned");
                    *failed_at = Some(Instant::now());
                }
            }
        }
        self.known().map(|known| known.to_vec()).unwrap_or_default()
    }

    fn known(&self) -> Option<Arc<Vec<String>>> {
        self.known.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn remember(&self, welcome: &Welcome) {
        let known = Some(Arc::new(welcome.capabilities.clone()));
        *self.known.write().unwrap_or_else(PoisonError::into_inner) = known;
    }

    async fn open(&self, goal: Goal, learn: bool, limit: Duration) -> Result<Session, Rejection> {
        let deadline = Deadline::within(limit);
        let dialled = dial(&self.endpoint, &self.route, &self.tls, deadline).await;
        let mut stream = dialled.map_err(down)?;
        if self.endpoint.tls == TlsMode::Implicit {
            stream = self.encrypt(stream, deadline).await?;
        }
        let mut upstream = Upstream::new(self.protocol, self.endpoint.tls, goal, EHLO_NAME, learn);
        loop {
            let phase = upstream.phase();
            let (limit, silent) = limit_of(phase);
            let talk = self.talk(&mut stream, &mut upstream);
            match deadline.phase(limit, talk).await {
                Err(late) => return Err(self.broken(&format!("{silent} {late}"))),
                Ok(step) => match step? {
                    Some(UpstreamStep::StartTls) => {
                        stream = self.encrypt(stream, deadline).await?;
                        upstream.tls_started();
                    }
                    Some(UpstreamStep::Ready(welcome)) => {
                        return Ok(Session { stream, unread: upstream.into_unread(), welcome });
                    }
                    Some(UpstreamStep::Failed(rejection)) => return Err(rejection),
                    _ => {}
                },
            }
        }
    }

    /// Reads and writes until something else is to be done (`Some`) or the next phase begins.
    async fn talk(
        &self,
        stream: &mut Stream,
        upstream: &mut Upstream,
    ) -> Result<Option<UpstreamStep>, Rejection> {
        let off = |error| self.broken(&format!("has broken the connection off: {error}"));
        let phase = upstream.phase();
        while upstream.phase() == phase {
            match upstream.step() {
                UpstreamStep::Read => {
                    let mut buffer = [0; READ];
                    match stream.read(&mut buffer).await.map_err(off)? {
                        0 => return Err(self.broken("has closed the connection")),
                        count => upstream.push(buffer.get(..count).unwrap_or_default()),
                    }
                }
                UpstreamStep::Write(bytes) => {
                    stream.write_all(bytes.expose()).await.map_err(off)?;
                    stream.flush().await.map_err(off)?;
                }
                step => return Ok(Some(step)),
            }
        }
        Ok(None)
    }

    async fn encrypt(&self, stream: Stream, deadline: Deadline) -> Result<Stream, Rejection> {
        start_tls(stream, &self.endpoint, &self.tls, deadline).await.map_err(down)
    }

    fn broken(&self, what: &str) -> Rejection {
        Rejection::Broken { said: format!("{} {what}", self.endpoint) }
    }
}

fn down(error: DialError) -> Rejection {
    Rejection::Broken { said: error.to_string() }
}

/// How long an upstream may take for a phase, whatever trickles in, and what it has not done then. Exchange answers in
/// well under a second, and a login after some at most; within [`LOGIN`], in which clients lose their patience.
fn limit_of(phase: Phase) -> (Duration, &'static str) {
    match phase {
        Phase::Greeting => (Duration::from_secs(10), "has sent no greeting"),
        Phase::StartTls => (Duration::from_secs(10), "has not begun TLS"),
        Phase::Command => (Duration::from_secs(10), "has not answered"),
        Phase::Login => (Duration::from_secs(20), "has not answered the login"),
    }
}
