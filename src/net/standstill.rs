//! The end of a session in which nothing moves.
//!
//! Invariant: it costs nothing while nothing happens, and nothing but a look at the clock while something does: its
//! timer is set anew when it has run out, not at each octet.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::time::{Instant, Sleep, sleep};

/// How long a session may go on without an octet. An IMAP client in IDLE speaks every 29 minutes (RFC 2177), and the
/// servers' own limits are 30 minutes (RFC 3501 section 5.4) and below: whoever is silent for four times that is gone,
/// and so is the server.
const IDLE: Duration = Duration::from_secs(2 * 60 * 60);

/// The same for one of which one side is closed. Long enough for a slow answer to a client that has closed its half;
/// short enough for a peer that has vanished.
const HALF_CLOSED: Duration = Duration::from_secs(600);

/// Watches one session.
pub struct Standstill {
    moved_at: Instant,
    timer: Pin<Box<Sleep>>,
}

impl Standstill {
    /// From now.
    pub fn watch() -> Self {
        Self { moved_at: Instant::now(), timer: Box::pin(sleep(IDLE)) }
    }

    /// Something has moved.
    pub fn moved(&mut self) {
        self.moved_at = Instant::now();
    }

    /// When something last moved.
    pub fn moved_at(&self) -> Instant {
        self.moved_at
    }

    /// Ready, with the error that ends the session, when nothing has moved for too long.
    pub fn poll(&mut self, cx: &mut Context<'_>, half_closed: bool) -> Poll<io::Error> {
        self.poll_for(cx, if half_closed { HALF_CLOSED } else { IDLE })
    }

    /// The same with another limit.
    pub fn poll_for(&mut self, cx: &mut Context<'_>, limit: Duration) -> Poll<io::Error> {
        let end = self.moved_at + limit;
        // The limit may have become a shorter one.
        if self.timer.deadline() > end {
            self.timer.as_mut().reset(end);
        }
        loop {
            ready!(self.timer.as_mut().poll(cx));
            if self.timer.deadline() >= end {
                let text = format!("not one octet for {} s", limit.as_secs());
                return Poll::Ready(io::Error::new(io::ErrorKind::TimedOut, text));
            }
            self.timer.as_mut().reset(end);
        }
    }
}
