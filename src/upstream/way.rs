//! The way to a mail server: from its name to where a login begins, or through it.
//!
//! Invariant: each phase has its limit within the deadline of the whole.

use std::time::Duration;

use tokio::io::AsyncWriteExt;

use super::Session;
use crate::config::Endpoint;
use crate::net::{ClientTls, Deadline, DialError, Route, Stream, dial, start_tls};
use crate::protocol::{Goal, Phase, Rejection, Upstream, UpstreamStep, Welcome, Xoauth2};
use crate::vocabulary::{Protocol, TlsMode};

/// How gatepost names itself in EHLO: it has no domain of its own (RFC 5321 section 4.1.3).
const EHLO_NAME: &str = "[127.0.0.1]";

/// Where a server is, and how it is reached.
pub(super) struct Way {
    pub(super) protocol: Protocol,
    pub(super) endpoint: Endpoint,
    pub(super) tls: ClientTls,
    pub(super) route: Route,
}

/// A connection whose login is next.
pub(super) struct AtRest {
    pub(super) stream: Stream,
    pub(super) upstream: Upstream,
}

/// How far a connection has come.
enum Reached {
    Rest,
    Ready(Welcome),
}

impl Way {
    /// All the way in; see [`Upstream::new`] for `learn`.
    pub(super) async fn log_in(
        &self,
        login: Xoauth2,
        learn: bool,
        deadline: Deadline,
    ) -> Result<Session, Rejection> {
        self.pass(Goal::Login(login), learn, deadline).await
    }

    /// Up to where a login would begin; SMTP's keywords are learned.
    pub(super) async fn look(&self, limit: Duration) -> Result<Session, Rejection> {
        self.pass(Goal::Learn, false, Deadline::within(limit)).await
    }

    /// As far as it goes without a token.
    pub(super) async fn stand_by(&self, limit: Duration) -> Result<AtRest, Rejection> {
        match self.open(Goal::StandBy, false, Deadline::within(limit)).await? {
            (_, Reached::Ready(_)) => Err(self.broken("lets in without a token")),
            (at_rest, Reached::Rest) if at_rest.upstream.has_more() => {
                Err(self.broken("says more than it was asked"))
            }
            (at_rest, Reached::Rest) => Ok(at_rest),
        }
    }

    async fn pass(
        &self,
        goal: Goal,
        learn: bool,
        deadline: Deadline,
    ) -> Result<Session, Rejection> {
        match self.open(goal, learn, deadline).await? {
            (at, Reached::Ready(welcome)) => Ok(at.session(welcome)),
            (_, Reached::Rest) => Err(self.broken("wants nothing")),
        }
    }

    async fn open(
        &self,
        goal: Goal,
        learn: bool,
        deadline: Deadline,
    ) -> Result<(AtRest, Reached), Rejection> {
        let dialled = dial(&self.endpoint, &self.route, &self.tls, deadline).await;
        let mut stream = dialled.map_err(down)?;
        if self.endpoint.tls == TlsMode::Implicit {
            stream = self.encrypt(stream, deadline).await?;
        }
        let mut upstream = Upstream::new(self.protocol, self.endpoint.tls, goal, EHLO_NAME, learn);
        loop {
            let reached = match self.walk(&mut stream, &mut upstream, deadline).await? {
                UpstreamStep::StartTls => {
                    stream = self.encrypt(stream, deadline).await?;
                    upstream.tls_started();
                    continue;
                }
                UpstreamStep::Ready(welcome) => Reached::Ready(welcome),
                _ => Reached::Rest,
            };
            return Ok((AtRest { stream, upstream }, reached));
        }
    }

    /// Reads and writes, phase by phase, until something else is to be done.
    pub(super) async fn walk(
        &self,
        stream: &mut Stream,
        upstream: &mut Upstream,
        deadline: Deadline,
    ) -> Result<UpstreamStep, Rejection> {
        loop {
            let (limit, silent) = limit_of(upstream.phase());
            match deadline.phase(limit, self.talk(stream, upstream)).await {
                Err(late) => return Err(self.broken(&format!("{silent} {late}"))),
                Ok(step) => match step? {
                    Some(UpstreamStep::Failed(rejection)) => return Err(rejection),
                    Some(step) => return Ok(step),
                    None => {}
                },
            }
        }
    }

    /// Until something else is to be done (`Some`) or the next phase begins.
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
                    if stream.receive(|octets| upstream.push(octets)).await.map_err(off)? == 0 {
                        return Err(self.broken("has closed the connection"));
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

    pub(super) fn broken(&self, what: &str) -> Rejection {
        Rejection::Broken { said: format!("{} {what}", self.endpoint) }
    }
}

impl AtRest {
    /// Its login is through.
    pub(super) fn session(self, welcome: Welcome) -> Session {
        let Self { stream, upstream } = self;
        Session { stream, unread: upstream.into_unread(), welcome }
    }
}

fn down(error: DialError) -> Rejection {
    Rejection::Broken { said: error.to_string() }
}

/// How long an upstream may take for a phase, whatever trickles in, and what it has not done then. Exchange answers in
/// well under a second, and a login after some at most; within [`super::LOGIN`], in which clients lose their patience.
fn limit_of(phase: Phase) -> (Duration, &'static str) {
    match phase {
        Phase::Greeting => (Duration::from_secs(10), "has sent no greeting"),
        Phase::StartTls => (Duration::from_secs(10), "has not begun TLS"),
        Phase::Command => (Duration::from_secs(10), "has not answered"),
        Phase::Login => (Duration::from_secs(20), "has not answered the login"),
    }
}
