//! Connections that stand ready for the next login: dialled, through TLS, and as far in their protocol as they come
//! without a token. A login that finds one costs the way of its token there and back, and nothing else.
//!
//! One task keeps those of a server: it dials them, watches that they stay silent, and exchanges them before they are
//! too old. A login takes one away without a wait, or dials for itself.
//!
//! Invariant: there are as many as logins have gone well lately, at most as many as the configuration has, and so none
//! before the first one and none for who only knocks. They are no session, hold no turn of the pace, and show nothing
//! but that gatepost is there.

use std::collections::VecDeque;
use std::future::{pending, poll_fn};
use std::pin::Pin;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt, StreamExt};
use tokio::io::{AsyncRead, AsyncWriteExt, ReadBuf};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};
use tracing::debug;

use super::way::{AtRest, Way};
use super::{LOGIN, Session};
use crate::backoff::Backoff;
use crate::clock::{Clock, Timestamp};
use crate::net::Deadline;
use crate::protocol::{Rejection, UpstreamStep, Xoauth2};

/// At this age another one is dialled in its place.
const RENEW: Duration = Duration::from_secs(45);

/// At this age it is not used any more. Exchange closes a connection without a login after 60 s
/// (`PreAuthenticatedConnectionTimeout` of IMAP and POP3), Dovecot after three minutes, SMTP servers after five (RFC 5321
/// section 4.5.3.2.7).
const OLD: Duration = Duration::from_secs(55);

/// For so long a login counts. Clients and devices that poll do so every five minutes at most; the rest is for those
/// that come late. Who comes less often can wait for a connection.
const LATELY: Duration = Duration::from_secs(330);

/// How long the answer to a login is waited for on a connection that has waited itself: a NAT or a machine that slept may
/// have forgotten it, and another one must still fit into [`LOGIN`].
const PATIENCE: Duration = Duration::from_secs(10);

/// Pause after a server could not be reached, or has closed a spare connection at once; the longest one is about as long
/// as the life of a connection that it would not close.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// Those of one server.
pub(super) struct Spares {
    state: Mutex<State>,
    /// The keeper has to look again.
    changed: Notify,
}

struct State {
    /// The oldest first.
    ready: Vec<Spare>,
    /// When the last logins went well, within [`LATELY`]; `most` of them.
    logins: VecDeque<Instant>,
    most: usize,
    /// Who keeps them: a reload has another keeper begin before the former one ends.
    keeper: u64,
    pauses: Backoff,
    /// Since the last fault nothing went well; nothing is dialled before.
    failing: Option<Instant>,
}

/// A connection that stands ready.
pub(super) struct Spare {
    at: AtRest,
    since: Instant,
    /// The same by the wall clock, which goes on while the machine sleeps.
    since_wall: Timestamp,
}

/// Why a login on a spare connection did not work.
pub(super) enum NotIn {
    /// The server does not want it.
    Refused(Rejection),
    /// The connection was of no use any more.
    Stale(Rejection),
}

impl Default for Spares {
    fn default() -> Self {
        let state = State {
            ready: Vec::new(),
            logins: VecDeque::new(),
            most: 0,
            keeper: 0,
            pauses: Backoff::new(FIRST_PAUSE, LONGEST_PAUSE),
            failing: None,
        };
        Self { state: Mutex::new(state), changed: Notify::new() }
    }
}

impl Spares {
    /// Another keeper takes over those that are there, up to `most`; its number.
    pub(super) fn begin(&self, most: usize) -> u64 {
        let mut state = self.lock();
        state.keeper += 1;
        state.most = most;
        state.trim(Instant::now());
        state.keeper
    }

    /// This keeper has gone: without another one there are no more.
    pub(super) fn end(&self, keeper: u64) {
        let mut state = self.lock();
        if state.keeper == keeper {
            state.most = 0;
            state.trim(Instant::now());
        }
    }

    /// The youngest one.
    pub(super) fn take(&self) -> Option<Spare> {
        let mut state = self.lock();
        state.trim(Instant::now());
        while let Some(mut spare) = state.ready.pop() {
            self.changed.notify_one();
            if !spare.is_over() {
                return Some(spare);
            }
            state.fault();
        }
        None
    }

    /// A login went well, on a spare connection or not.
    pub(super) fn note_login(&self, by_spare: bool) {
        let mut state = self.lock();
        if by_spare {
            state.pauses.reset();
        }
        let (now, before) = (Instant::now(), state.logins.len());
        state.logins.push_back(now);
        state.trim(now);
        // Otherwise as many are wanted as before, and the keeper comes when one is forgotten.
        if state.logins.len() > before {
            self.changed.notify_one();
        }
    }

    /// A spare connection was stale when it was used.
    pub(super) fn note_stale(&self) {
        self.lock().fault();
    }

    /// Dials, watches, renews, without end.
    pub(super) async fn keep(&self, way: &Way) {
        let mut dials = FuturesUnordered::new();
        loop {
            let (missing, next) = self.lock().look(Instant::now(), dials.len());
            dials.extend((0..missing).map(|_| way.stand_by(LOGIN)));
            let next = async {
                match next {
                    Some(next) => sleep_until(next).await,
                    None => pending().await,
                }
            };
            tokio::select! {
                () = self.changed.notified() => {}
                () = self.lost() => debug!(endpoint = %way.endpoint, "a spare connection is over"),
                () = next => {}
                Some(dialled) = dials.next() => {
                    if let Err(rejection) = &dialled {
                        debug!(endpoint = %way.endpoint, ?rejection, "no spare connection");
                    }
                    self.lock().add(dialled.ok());
                }
            }
        }
    }

    /// Until the server has closed one, or said anything: nobody has asked it.
    async fn lost(&self) {
        poll_fn(|cx| {
            let mut state = self.lock();
            let before = state.ready.len();
            state.ready.retain_mut(|spare| spare.poll_end(cx).is_pending());
            if state.ready.len() == before {
                return Poll::Pending;
            }
            state.fault();
            Poll::Ready(())
        })
        .await;
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// What is too old goes, and what is too much; the oldest first.
    fn trim(&mut self, now: Instant) {
        let surplus = self.logins.len().saturating_sub(self.most);
        self.logins.drain(..surplus);
        self.logins.retain(|login| now.duration_since(*login) < LATELY);
        let (wall, surplus) =
            (Clock::system().now(), self.ready.len().saturating_sub(self.logins.len()));
        let goes = |(place, spare): (usize, &Spare)| place < surplus || spare.is_old(now, wall);
        if self.ready.iter().enumerate().any(goes) {
            let all = std::mem::take(&mut self.ready).into_iter().enumerate();
            for (place, spare) in all {
                match goes((place, &spare)) {
                    true => spare.close(),
                    false => self.ready.push(spare),
                }
            }
        }
    }

    /// How many are to be dialled now, besides those that are, and when to look again.
    fn look(&mut self, now: Instant, dialling: usize) -> (usize, Option<Instant>) {
        self.trim(now);
        let is_young = |spare: &&Spare| now.duration_since(spare.since) < RENEW;
        let young = self.ready.iter().filter(is_young).count();
        if young < self.ready.len() && self.failing.is_none() {
            // One has lived as long as it should.
            self.pauses.reset();
        }
        let mut missing = self.logins.len().saturating_sub(young + dialling);
        let paused = self.failing.filter(|_| missing > 0);
        if let Some(until) = paused {
            // One tries for all.
            missing = if until > now || dialling > 0 { 0 } else { 1 };
        }
        let ages = self.ready.iter().map(|spare| match is_young(&spare) {
            true => spare.since + RENEW,
            false => spare.since + OLD,
        });
        let forgotten = self.logins.front().map(|login| *login + LATELY);
        let next = ages.chain(forgotten).chain(paused.filter(|until| *until > now)).min();
        (missing, next)
    }

    fn add(&mut self, dialled: Option<AtRest>) {
        let Some(at) = dialled else { return self.fault() };
        self.failing = None;
        let (since, since_wall) = (Instant::now(), Clock::system().now());
        self.ready.push(Spare { at, since, since_wall });
        self.trim(since);
    }

    /// Those that fail together fail once.
    fn fault(&mut self) {
        let now = Instant::now();
        if self.failing.is_none_or(|until| until <= now) {
            self.failing = Some(now + self.pauses.pause());
        }
    }
}

impl Spare {
    /// Logs in. Whatever else than a verdict comes, it is the connection's fault: it may have been given up by the server
    /// at this very moment.
    pub(super) async fn log_in(
        mut self,
        way: &Way,
        login: Xoauth2,
        deadline: Deadline,
    ) -> Result<Session, NotIn> {
        let AtRest { stream, upstream } = &mut self.at;
        upstream.log_in(login, false);
        let answer = deadline.phase(PATIENCE, way.walk(stream, upstream, deadline)).await;
        let rejection = match answer {
            Ok(Ok(UpstreamStep::Ready(welcome))) => return Ok(self.at.session(welcome)),
            Ok(Ok(_)) => way.broken("wants something else than a token"),
            Ok(Err(rejection)) => rejection,
            Err(late) => way.broken(&format!("has not answered the login {late}")),
        };
        let stale = match &rejection {
            Rejection::Broken { .. } => true,
            _ if upstream.has_hung_up() => true,
            // POP3 has one word for a refused login and for a goodbye; behind the latter comes the end.
            Rejection::Token { .. } => self.is_over(),
            Rejection::NotPermitted { .. } | Rejection::Busy { .. } => false,
        };
        Err(if stale { NotIn::Stale(rejection) } else { NotIn::Refused(rejection) })
    }

    /// Comes when the server says anything, or has closed.
    fn poll_end(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let mut octet = [0];
        let mut buffer = ReadBuf::new(&mut octet);
        Pin::new(&mut self.at.stream).poll_read(cx, &mut buffer).map(drop)
    }

    fn is_over(&mut self) -> bool {
        self.poll_end(&mut Context::from_waker(Waker::noop())).is_ready()
    }

    fn is_old(&self, now: Instant, wall: Timestamp) -> bool {
        let age = now.duration_since(self.since).max(wall.saturating_since(self.since_wall));
        age >= OLD
    }

    /// Without a word: within AUTH there is none to leave by, and nothing depends on it.
    fn close(mut self) {
        let _ = self.at.stream.shutdown().now_or_never();
    }
}
