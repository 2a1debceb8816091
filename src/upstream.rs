//! A mail server of the provider: connections to it, up to the login, and what is known of it.
//!
//! | file | what it holds |
//! | --- | --- |
//! | `upstream` | [`Server`]: logins |
//! | `way` | a connection, from the server's name to where the login begins, and through it |
//! | `spares` | connections that stand ready for the next login |
//!
//! Invariant: a connection is opened only for a login that gatepost has checked, or after some that went well
//! (`spares`); except to learn an SMTP server's EHLO keywords: once at start, and at most once at a time while they are
//! not known.

mod spares;
mod way;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use tokio::time::Instant;
use tracing::debug;

use crate::config::{Account, Endpoint};
use crate::net::{ClientTls, Deadline, Route, Stream};
use crate::oauth::{AccessToken, Tokens};
use crate::protocol::{Refusal, Rejection, Welcome, Xoauth2};
use crate::vocabulary::Protocol;
use spares::{NotIn, Spares};
use way::Way;

/// For the whole way to a login: connect, TLS, greeting, authentication. Clients give a login about half
/// a minute.
const LOGIN: Duration = Duration::from_secs(25);

/// How long a client's EHLO waits for the upstream's keywords, when they are not known yet.
const LEARN: Duration = Duration::from_secs(5);

/// After a failure to learn them, clients are told none for this long.
const LEARN_AGAIN: Duration = Duration::from_secs(5);

/// A mail server. Listeners that lead to the same one share it.
pub struct Server {
    way: Way,
    /// SMTP's EHLO keywords or IMAP's capabilities after a login, as it last told them.
    known: RwLock<Option<Arc<[String]>>>,
    /// Some login has gone well.
    was_logged_in_to: AtomicBool,
    /// Held while the keywords are learned; the time of the last failure.
    learning: tokio::sync::Mutex<Option<Instant>>,
    spares: Spares,
}

/// The one whose task keeps a server's spare connections.
struct Keeper {
    server: Arc<Server>,
    number: u64,
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
            way: Way { protocol, endpoint, tls: tls.for_server(), route },
            known: RwLock::default(),
            was_logged_in_to: AtomicBool::default(),
            learning: tokio::sync::Mutex::default(),
            spares: Spares::default(),
        }
    }

    /// Where it is.
    pub fn endpoint(&self) -> &Endpoint {
        &self.way.endpoint
    }

    /// Has up to `most` spare connections ready, as logins want them, as long as what comes back is polled; with its end
    /// they are closed, unless this was called again before.
    pub fn keep_spares(self: &Arc<Self>, most: usize) -> impl Future<Output = ()> + Send + use<> {
        let keeper = Keeper { number: self.spares.begin(most), server: Arc::clone(self) };
        async move {
            if most > 0 {
                keeper.server.spares.keep(&keeper.server.way).await;
            }
        }
    }

    /// Logs in, on a spare connection if there is one.
    pub async fn log_in(&self, login: Xoauth2) -> Result<Session, Rejection> {
        let (deadline, known) = (Deadline::within(LOGIN), self.known());
        let by_spare = self.log_in_by_spare(&login, deadline).await.transpose()?;
        let is_by_spare = by_spare.is_some();
        // IMAP's capabilities take a round trip of their own where the server does not tell them by itself. Whoever has a
        // spare connection is not to wait for them, nor whoever comes first after a start: their clients ask themselves.
        let learn =
            !is_by_spare && known.is_none() && self.was_logged_in_to.load(Ordering::Relaxed);
        let mut session = match by_spare {
            Some(session) => session,
            None => self.way.log_in(login, learn, deadline).await?,
        };
        self.spares.note_login(is_by_spare);
        self.was_logged_in_to.store(true, Ordering::Relaxed);
        let told = session.welcome.capabilities;
        session.welcome.capabilities = match known {
            // It was not asked.
            None if told.is_empty() && !learn => told,
            known => self.remember(told, known),
        };
        Ok(session)
    }

    /// None: there is none, or it was of no use.
    async fn log_in_by_spare(
        &self,
        login: &Xoauth2,
        deadline: Deadline,
    ) -> Option<Result<Session, Rejection>> {
        let spare = self.spares.take()?;
        match spare.log_in(&self.way, login.clone(), deadline).await {
            Ok(session) => Some(Ok(session)),
            Err(NotIn::Refused(rejection)) => Some(Err(rejection)),
            Err(NotIn::Stale(rejection)) => {
                debug!(endpoint = %self.endpoint(), ?rejection, "a spare connection was stale");
                self.spares.note_stale();
                None
            }
        }
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
        let other = tokens.get_other(account, self.way.protocol, stale).await;
        let Some(token) = other.transpose().map_err(NoSession::NoToken)? else {
            return Err(NoSession::Rejected(Rejection::NotPermitted { said }));
        };
        let second = self.log_in_with(account, &token).await;
        if let Err(Rejection::Token { .. }) = second {
            tokens.give_up(account, self.way.protocol);
        }
        second.map_err(NoSession::Rejected)
    }

    async fn log_in_with(
        &self,
        account: &Account,
        token: &AccessToken,
    ) -> Result<Session, Rejection> {
        match Xoauth2::new(account.xoauth2_user(self.way.protocol), &token.token) {
            Some(login) => self.log_in(login).await,
            None => Err(Rejection::NotPermitted { said: "no user name or no token".into() }),
        }
    }

    /// Opens a connection up to where a login would begin, TLS included.
    pub async fn reach(&self) -> Result<Session, Rejection> {
        self.way.look(LOGIN).await
    }

    /// SMTP's EHLO keywords; none if the server can't be asked just now.
    pub async fn keywords(&self) -> Arc<[String]> {
        if let Some(known) = self.known() {
            return known;
        }
        let mut failed_at = self.learning.lock().await;
        if self.known().is_none() && failed_at.is_none_or(|at| at.elapsed() > LEARN_AGAIN) {
            match self.way.look(LEARN).await {
                Ok(session) => drop(self.remember(session.welcome.capabilities, None)),
                Err(rejection) => {
                    debug!(endpoint = %self.endpoint(), ?rejection, "EHLO keywords not learned");
                    *failed_at = Some(Instant::now());
                }
            }
        }
        self.known().unwrap_or_default()
    }

    fn known(&self) -> Option<Arc<[String]>> {
        self.known.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What the server has told, or what was known of it if it has told nothing. All sessions share one list as long as it
    /// stays the same.
    fn remember(&self, told: Arc<[String]>, known: Option<Arc<[String]>>) -> Arc<[String]> {
        match known {
            Some(known) if told.is_empty() || told == known => known,
            _ => {
                let known = Some(Arc::clone(&told));
                *self.known.write().unwrap_or_else(PoisonError::into_inner) = known;
                told
            }
        }
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.server.spares.end(self.number);
    }
}
