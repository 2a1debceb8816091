//! An SMTP session behind its login, in direct mode: bytes from one connection to the other as in any session,
//! but each message waits for its turn at the provider, and a device is held to its rules.
//!
//! Invariant: what passes is not changed. A session holds at most two buffers, and none while it is idle. Its
//! place at the provider is given back when the provider has closed the connection, not before: it counts
//! connections, and knows nothing of ours.

mod side;

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::{Instant, Sleep, sleep, timeout};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tracing::{debug, info};

use crate::config::{Account, Device};
use crate::net::{Relayed, Standstill};
use crate::pace::{Pace, Turn};
use crate::protocol::{
    AllowedRecipients, ClientStep, Closing, DeviceRules, Noticed, Refusal, Watch,
};
use crate::sessions::{LAST_WORDS, Leave};
use crate::vocabulary::Protocol;
use side::Side;

/// After so long without a byte between two messages, a connection is taken away when others wait for it. A
/// device sends its next message within seconds; those who wait give up after `limits.wait`, 270 s unless set,
/// and three of them may stand behind one that was forgotten.
const IDLE: Duration = Duration::from_secs(60);

/// How often it is looked at whether others wait, from then on.
const LOOK_AGAIN: Duration = Duration::from_secs(5);

/// For the provider to answer what was under way, when gatepost ends a session.
const ENDING: Duration = Duration::from_secs(30);

/// For the provider to close its side, when the client is gone.
const LEAVE: Duration = Duration::from_secs(2);

/// What is said in the log of a session that had something under way.
const CUT: &str = "gatepost stops, or its mailbox is gone";

/// For a client that is still sending to read why the session has ended.
const LINGER: Duration = Duration::from_secs(30);

/// Whose session it is, and its turn.
pub struct Submission {
    /// The limits of all.
    pub pace: Arc<Pace>,
    /// The place of this connection.
    pub turn: Turn,
    /// Whose mailbox.
    pub account: Arc<Account>,
    /// Who sends, if it has not logged in.
    pub device: Option<Arc<Device>>,
    /// Asks the session to leave, when no message is under way.
    pub leave: Leave,
    /// Ends it whatever is under way.
    pub cut: CancellationToken,
}

/// Relays until both sides are closed, one fails, or gatepost ends the session. `ahead` is what the client has
/// sent behind its login already, `unread` what the upstream has.
pub async fn relay_submission<C, U>(
    client: C,
    upstream: U,
    ahead: Vec<u8>,
    unread: Vec<u8>,
    submission: Submission,
) -> Relayed
where
    C: AsyncRead + AsyncWrite + Unpin,
    U: AsyncRead + AsyncWrite + Unpin,
{
    let rules = submission.device.as_deref().map(rules_of);
    let mut relay = Relay {
        client: Side::new(client, unread),
        upstream: Side::new(upstream, ahead),
        watch: Watch::new(rules),
        asking: None,
        turn: Some(Arc::new(submission.turn)),
        pace: submission.pace,
        account: submission.account,
        device: submission.device,
        standstill: Standstill::watch(),
        idle: Box::pin(sleep(IDLE)),
        leaving: Box::pin(submission.leave.asked().clone().cancelled_owned()),
        over: Some(Box::pin(submission.leave.over(&submission.cut))),
        leave: submission.leave,
        idled: false,
        dismissed: false,
        cut: false,
    };
    let end = poll_fn(|cx| relay.poll(cx)).await;
    relay.finish(end).await
}

fn rules_of(device: &Device) -> DeviceRules {
    DeviceRules {
        recipients: device.recipients.clone().map(AllowedRecipients::new),
        size: device.size,
    }
}

struct Relay<C, U> {
    client: Side<C>,
    upstream: Side<U>,
    watch: Watch,
    /// The wait of the message that begins; whether its turn has come.
    asking: Option<Pin<Box<dyn Future<Output = bool> + Send>>>,
    turn: Option<Arc<Turn>>,
    pace: Arc<Pace>,
    account: Arc<Account>,
    device: Option<Arc<Device>>,
    /// How long a session may go on in which nothing moves.
    standstill: Standstill,
    idle: Pin<Box<Sleep>>,
    leave: Leave,
    /// Comes to its end when `leave` is cancelled.
    leaving: Pin<Box<WaitForCancellationFutureOwned>>,
    /// gatepost has ended it between two messages.
    idled: bool,
    /// It was asked to.
    dismissed: bool,
    /// Comes to its end when it has not left in time; none: it has come.
    over: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
    /// gatepost has ended it within a message.
    cut: bool,
}

/// Which side has failed.
enum Broken {
    Client(io::Error),
    Upstream(io::Error),
}

impl<C, U> Relay<C, U>
where
    C: AsyncRead + AsyncWrite + Unpin,
    U: AsyncRead + AsyncWrite + Unpin,
{
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Broken>> {
        loop {
            while self.step(cx)? {
                self.standstill.moved();
            }
            if self.is_done() {
                return Poll::Ready(Ok(()));
            }
            self.client.poll_flush(cx).map_err(Broken::Client)?;
            self.upstream.poll_flush(cx).map_err(Broken::Upstream)?;
            if let Poll::Ready(error) = self.poll_standstill(cx) {
                return Poll::Ready(Err(Broken::Client(error)));
            }
            let over = self.over.as_mut().is_some_and(|over| over.as_mut().poll(cx).is_ready());
            if over && !self.cut_off() {
                return Poll::Ready(Err(Broken::Client(io::Error::other(CUT))));
            }
            let goes_on = self.poll_leave(cx).is_pending() && self.poll_idle(cx).is_pending();
            if goes_on && !over {
                self.client.rest();
                self.upstream.rest();
                return Poll::Pending;
            }
        }
    }

    /// Moves what can be moved; whether anything was.
    fn step(&mut self, cx: &mut Context<'_>) -> Result<bool, Broken> {
        let mut moved = self.client.poll_write(cx).map_err(Broken::Client)?;
        moved |= self.upstream.poll_write(cx).map_err(Broken::Upstream)?;
        if self.watch.is_over() {
            return Ok(moved);
        }
        moved |= self.hear_upstream(cx).map_err(Broken::Upstream)?;
        moved |= self.hear_client(cx).map_err(Broken::Client)?;
        moved |= self.look_at_client(cx);
        if self.client.closed && self.upstream.is_written() {
            moved |= self.upstream.poll_close(cx).map_err(Broken::Upstream)?;
        }
        if self.upstream.closed && self.client.is_written() {
            moved |= self.client.poll_close(cx).map_err(Broken::Client)?;
        }
        Ok(moved)
    }

    fn is_done(&self) -> bool {
        let both_closed = self.client.is_closed() && self.upstream.is_closed();
        both_closed || self.watch.is_over() && self.client.is_written()
    }

    /// Reads from the upstream, and lets it pass.
    fn hear_upstream(&mut self, cx: &mut Context<'_>) -> io::Result<bool> {
        // What it has sent together with the answer to the login was not looked at yet.
        let mut moved = self.look_at_upstream();
        if self.client.has_room() && !self.upstream.closed {
            moved |= self.upstream.poll_read(cx, &mut self.client.out)?;
            if self.upstream.closed {
                // Its place is free, and it answers no more.
                (self.asking, self.turn) = (None, None);
                self.watch.server_closed();
                self.say();
            }
            self.look_at_upstream();
        }
        Ok(moved)
    }

    fn look_at_upstream(&mut self) -> bool {
        let mut looked = false;
        loop {
            let (passed, noticed) = match self.client.out.get(self.client.cleared..) {
                None | Some([]) => return looked,
                Some(bytes) => self.watch.server(bytes),
            };
            looked = true;
            self.client.cleared += passed;
            if let Some(noticed) = noticed {
                self.note(noticed);
            }
            if let (Some(turn), false) = (&self.turn, self.watch.is_sending()) {
                turn.message_done();
            }
            self.say();
        }
    }

    /// Puts gatepost's own answers behind what has passed.
    fn say(&mut self) {
        let answers = self.watch.answers();
        let (at, count) = (self.client.cleared, answers.len());
        self.client.out.splice(at..at, answers);
        self.client.cleared += count;
    }

    fn hear_client(&mut self, cx: &mut Context<'_>) -> io::Result<bool> {
        if !self.upstream.has_room() || self.client.closed {
            return Ok(false);
        }
        self.client.poll_read(cx, &mut self.upstream.out)
    }

    /// Lets pass what may.
    fn look_at_client(&mut self, cx: &mut Context<'_>) -> bool {
        let mut looked = false;
        loop {
            let at = self.upstream.cleared;
            let bytes = self.upstream.out.get(at..).unwrap_or_default();
            match self.watch.client(bytes, self.client.closed) {
                ClientStep::Wait => return looked,
                ClientStep::Pass(count) => self.upstream.cleared += count,
                ClientStep::Drop(count) => drop(self.upstream.out.drain(at..at + count)),
                ClientStep::Message => {
                    if self.poll_message(cx).is_pending() {
                        return looked;
                    }
                }
            }
            self.say();
            looked = true;
        }
    }

    /// Waits for the turn of the message that begins.
    fn poll_message(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let bytes = self.upstream.out.get(self.upstream.cleared..).unwrap_or_default();
        if self.client.closed && bytes.iter().filter(|byte| **byte == b'\n').count() < 2 {
            // The client has gone away while it waited, and the message will have no content.
            self.asking = None;
            self.upstream.out.truncate(self.upstream.cleared);
            return Poll::Ready(());
        }
        let Some(turn) = &self.turn else { return Poll::Pending };
        let asking = match &mut self.asking {
            Some(asking) => asking,
            None => {
                let device = self.device.as_deref();
                if device.is_some_and(|device| !self.pace.device_may_send(device)) {
                    self.watch.refuse_message();
                    return Poll::Ready(());
                }
                let (turn, wait) = (Arc::clone(turn), self.account.limits.wait);
                let wait = async move { timeout(wait, turn.message()).await.is_ok() };
                self.asking.insert(Box::pin(wait))
            }
        };
        let Poll::Ready(come) = asking.as_mut().poll(cx) else { return Poll::Pending };
        self.asking = None;
        match come {
            true => self.watch.let_message_go(),
            false => {
                let reason = "the messages that the mailbox may send in a minute are on their way";
                self.watch.end(&Refusal::NoTurn { reason: reason.into() });
            }
        }
        Poll::Ready(())
    }

    fn note(&mut self, noticed: Noticed) {
        match noticed {
            Noticed::Sent { recipients } => {
                debug!(recipients, "message sent");
                if let Some(turn) = &self.turn {
                    turn.recipients(recipients);
                }
            }
            Noticed::Refused { said, busy, quota } => {
                info!(said, "refused by the mail server");
                if let Some(wait) = busy {
                    self.pace.hold(&self.account, Protocol::Smtp, wait);
                }
                if quota {
                    self.pace.recipients_used_up(&self.account, &said);
                }
            }
        }
    }

    /// Ready when the session has stood still for too long.
    fn poll_standstill(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        match self.watch.is_ending() {
            true => self.standstill.poll_for(cx, ENDING),
            false => self.standstill.poll(cx, self.client.closed || self.upstream.closed),
        }
    }

    /// Ready when it has ended a session that is asked to leave: between two messages (RFC 5321 section 3.8), or at a
    /// MAIL that waits for its turn. What was sent of a message is answered first.
    fn poll_leave(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let asked = self.leave.asked().is_cancelled();
        if !asked {
            // For its wake-up alone.
            let _ = self.leaving.as_mut().poll(cx);
        }
        let between = self.watch.is_idle() || self.asking.is_some();
        if !asked || !between || self.client.closed || self.upstream.closed {
            return Poll::Pending;
        }
        self.asking = None;
        (self.idled, self.dismissed) = (true, true);
        self.watch.close(self.leave.why());
        self.say();
        Poll::Ready(())
    }

    /// Ends it within a message: RFC 5321 section 3.8 wants a line with 421 of a server that is shut down, and has the
    /// client read it behind what it is sending. `false`: it awaits an answer that is the upstream's to give.
    fn cut_off(&mut self) -> bool {
        self.over = None;
        self.cut = self.watch.is_between_answers() && !self.client.closed && !self.upstream.closed;
        if self.cut {
            self.watch.close(self.leave.why());
            self.say();
        }
        self.cut
    }

    /// Ready when it has ended a session that stands in others' way.
    fn poll_idle(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(turn) = &self.turn else { return Poll::Pending };
        // A client whose MAIL waits for its turn is not the one who does nothing.
        if !self.watch.is_idle() || self.asking.is_some() || self.client.closed {
            return Poll::Pending;
        }
        while self.idle.as_mut().poll(cx).is_ready() {
            let end = self.standstill.moved_at() + IDLE;
            if end > Instant::now() {
                self.idle.as_mut().reset(end);
            } else if turn.wanted() {
                debug!("others wait for this connection, which is not used");
                self.idled = true;
                self.watch.close(Closing::Idle);
                self.say();
                return Poll::Ready(());
            } else {
                self.idle.as_mut().reset(Instant::now() + LOOK_AGAIN);
            }
        }
        Poll::Pending
    }

    /// Closes what is open: the provider's side first, so that its place is free.
    async fn finish(mut self, end: Result<(), Broken>) -> Relayed {
        let ended_here = end.is_ok() && self.watch.is_over();
        if ended_here {
            // What it is told goes out before anything else is waited for.
            let _ = timeout(LEAVE, self.client.stream.shutdown()).await;
        }
        if ended_here || matches!(end, Err(Broken::Client(_))) {
            let _ = timeout(LEAVE, leave(&mut self.upstream.stream, self.idled)).await;
        }
        drop((self.upstream.stream, self.asking, self.turn));
        if ended_here {
            // Closing with bytes unread would reset the connection and take the answer with it (RFC 1122
            // section 4.2.2.13).
            let limit = match (self.cut, self.dismissed) {
                (true, _) => LAST_WORDS,
                (_, true) => LEAVE,
                _ => LINGER,
            };
            let _ = timeout(limit, drain(&mut self.client.stream)).await;
        }
        let end = match end {
            Ok(()) if self.cut => Err(io::Error::other(CUT)),
            Ok(()) => Ok(()),
            Err(Broken::Client(error) | Broken::Upstream(error)) => Err(error),
        };
        let dismissed = ended_here && self.dismissed && !self.cut;
        Relayed { up: self.client.read, down: self.upstream.read, end, dismissed }
    }
}

/// A message that is under way is void: its end was not sent.
async fn leave<S: AsyncRead + AsyncWrite + Unpin>(stream: &mut S, quit: bool) -> io::Result<()> {
    if quit {
        stream.write_all(b"QUIT\r\n").await?;
    }
    stream.shutdown().await?;
    drain(stream).await
}

async fn drain<S: AsyncRead + Unpin>(stream: &mut S) -> io::Result<()> {
    let mut buffer = [0; 1024];
    while stream.read(&mut buffer).await? > 0 {}
    Ok(())
}

#[cfg(test)]
mod tests;
