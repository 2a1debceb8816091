//! Takes one session's messages into the spool.
//!
//! Invariant: 250 is said when the message is on disk, and nothing here waits for the upstream.

use std::fmt;
use std::io;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;
use tracing::{debug, info, warn};

use super::{Incoming, Outbox, Source, Spool, SpoolError, messages};
use crate::config::Device;
use crate::net::Stream;
use crate::pace::Pace;
use crate::protocol::{
    AllowedRecipients, Closing, Envelope, Receiver, ReceiverRules, ReceiverStep, Reply,
};
use crate::sessions::{LAST_WORDS, Leave};
use crate::vocabulary::BareLf;

/// For the next octets of a client: RFC 5321 section 4.5.3.2.7 wants at least five minutes between commands, and
/// three within a message.
const SILENCE: Duration = Duration::from_secs(300);

/// For writing to a client that does not read.
const WRITE: Duration = Duration::from_secs(30);

/// Octets read at a time: a message comes by the megabyte.
const READ: usize = 16 * 1024;

/// Refusals of one session that are told in the log: a device with a wrong address book has some, an attacker many.
const MOST_TOLD: u32 = 10;

/// What a message is answered that is on disk; its id is behind it.
const KEPT: &str = "2.0.0 kept as ";

/// The id in the answer to a message that was spooled.
pub fn kept_as(reply: &Reply) -> Option<&str> {
    reply.text.strip_prefix(KEPT).filter(|_| reply.is_positive())
}

/// What a session's messages are taken with.
pub struct Intake<'a> {
    /// Where they go.
    pub spool: &'a Spool,
    /// Is told of each that is there.
    pub outbox: &'a Outbox,
    /// The device's rate.
    pub pace: &'a Pace,
    /// Octets of the largest message.
    pub largest: u64,
    /// What bare line feeds are.
    pub bare_lf: BareLf,
    /// Whose they are.
    pub source: Source,
    /// Who sends them, if it has not logged in.
    pub device: Option<&'a Device>,
    /// Ends the session, but not in the midst of a message.
    pub leave: &'a Leave,
}

/// What a session has brought.
#[derive(Debug, Default)]
pub struct Taken {
    /// Messages on disk.
    pub messages: u64,
    /// Octets that came in.
    pub octets: u64,
    /// How it ended, if not by QUIT.
    pub end: Option<End>,
}

/// How a session ends without QUIT.
#[derive(Debug)]
pub enum End {
    /// By gatepost.
    Closed(Closing),
    /// By gatepost, whatever was under way.
    Cut(Closing),
    /// The connection broke in the midst of a message.
    Lost(io::Error),
}

impl fmt::Display for Taken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} taken", messages(self.messages))?;
        match &self.end {
            None => Ok(()),
            Some(End::Cut(closing)) => write!(f, ", then cut off: {}", closing.text()),
            Some(End::Closed(closing)) => write!(f, ", then {}", closing.text()),
            Some(End::Lost(error)) => write!(f, ", then broken off within a message: {error}"),
        }
    }
}

impl Intake<'_> {
    /// Takes messages until the client leaves, or until `over`. `ahead` is what it has sent already.
    pub async fn take(
        &self,
        stream: Stream,
        ahead: &[u8],
        over: impl Future<Output = ()>,
    ) -> Taken {
        let device = self.device;
        let recipients = device.and_then(|device| device.recipients.clone());
        let mut receiver = Receiver::new(ReceiverRules {
            max_size: device
                .and_then(|device| device.size)
                .unwrap_or(self.largest)
                .min(self.largest),
            bare_lf: self.bare_lf,
            recipients: recipients.map(AllowedRecipients::new),
        });
        receiver.push(ahead);
        let mut session = Session {
            intake: self,
            stream,
            buffer: vec![0; READ],
            receiver,
            replies: Vec::new(),
            told: 0,
            message: Current::None,
            mends: Vec::new(),
            deaf: false,
            writing: false,
            taken: Taken::default(),
        };
        let end = tokio::select! {
            end = session.run() => end,
            () = over => {
                session.taken.end = Some(End::Cut(session.cut_off().await));
                return session.taken;
            }
        };
        match end {
            Ok(Closing::Quit) => {}
            Ok(closing) => session.taken.end = Some(End::Closed(closing)),
            // Old devices leave without QUIT, with a reset.
            Err(_) if matches!(session.message, Current::None) => {}
            Err(error) => session.taken.end = Some(End::Lost(error)),
        }
        session.taken
    }
}

/// The message that is coming in.
enum Current {
    None,
    Good(Box<Incoming>),
    /// It can't be kept; the client hears it at the end (RFC 5321 section 4.2.5).
    Lost(Reply),
}

struct Session<'a> {
    intake: &'a Intake<'a>,
    stream: Stream,
    buffer: Vec<u8>,
    receiver: Receiver,
    /// Replies that wait until the client is awaited: a pipelining client gets them in one write (RFC 2920).
    replies: Vec<u8>,
    /// Refusals that were told in the log.
    told: u32,
    message: Current,
    /// Of the envelope of the message that is coming in.
    mends: Vec<String>,
    /// The client has closed its ears: nothing can be written to it.
    deaf: bool,
    /// An answer is half written, or was when the session was cut off.
    writing: bool,
    taken: Taken,
}

impl Session<'_> {
    async fn run(&mut self) -> io::Result<Closing> {
        loop {
            match self.receiver.step() {
                ReceiverStep::Read => {
                    if let Some(closing) = self.read().await? {
                        return self.close(closing).await;
                    }
                }
                ReceiverStep::Write(reply) => {
                    self.tell_if_refused(&reply);
                    self.replies.extend_from_slice(&reply);
                }
                ReceiverStep::Content(envelope, mends) => self.begin(envelope, mends).await,
                ReceiverStep::Chunk(octets) => self.keep(&octets).await,
                ReceiverStep::End(mends) => {
                    let reply = self.commit(mends).await;
                    self.receiver.finish(&reply);
                }
                ReceiverStep::Abort(reason) => {
                    debug!(reason, "message dropped");
                    self.message = Current::None;
                }
                ReceiverStep::Close(closing) => return self.close(closing).await,
            }
        }
    }

    /// Says in the log what a device can't say on its panel.
    fn tell_if_refused(&mut self, reply: &[u8]) {
        if matches!(reply.first(), Some(b'4' | b'5')) && self.told < MOST_TOLD {
            self.told += 1;
            info!(reply = %String::from_utf8_lossy(reply).trim_end(), "refused");
        }
    }

    /// A message begins: there is room for it, or the client hears at once that there is none.
    async fn begin(&mut self, envelope: Envelope, mends: Vec<String>) {
        let Intake { spool, source, device, pace, .. } = self.intake;
        if let Some(device) = device.filter(|device| !pace.device_may_send(device)) {
            let rate = device.rate.unwrap_or_default();
            let text =
                format!("4.7.1 {:?} may send {rate} messages a minute; try again", device.name);
            return self.receiver.refuse(&Reply::new(450, text));
        }
        self.mends = mends;
        match spool.receive(source.clone(), envelope).await {
            Ok(incoming) => {
                self.message = Current::Good(Box::new(incoming));
                self.receiver.go_on();
            }
            Err(error) => {
                let reply = self.no_room(&error);
                self.receiver.refuse(&reply);
            }
        }
    }

    async fn keep(&mut self, octets: &[u8]) {
        if let Current::Good(incoming) = &mut self.message
            && let Err(error) = incoming.write(octets).await
        {
            self.message = Current::Lost(self.no_room(&error));
        }
    }

    async fn commit(&mut self, mends: Vec<String>) -> Reply {
        self.mends.extend(mends);
        let mends = std::mem::take(&mut self.mends);
        match std::mem::replace(&mut self.message, Current::None) {
            Current::Good(incoming) => match incoming.commit(mends).await {
                Ok(entry) => {
                    self.taken.messages += 1;
                    let reply = Reply::new(250, format!("{KEPT}{}", entry.id));
                    self.intake.outbox.arrived(entry);
                    reply
                }
                Err(error) => self.no_room(&error),
            },
            Current::Lost(reply) => reply,
            Current::None => Reply::new(451, "4.3.0 there is no message"),
        }
    }

    /// RFC 3463 section 3.4: the mail system is full. Whatever the disk's trouble is, the device shall try again.
    fn no_room(&self, error: &SpoolError) -> Reply {
        self.intake.outbox.not_taken(error);
        warn!(%error, "a message is not taken");
        match error.is_full() {
            true => Reply::new(452, "4.3.1 the spool is full; try again later"),
            false => Reply::new(452, "4.3.1 the spool can't be written; try again later"),
        }
    }

    /// Reads once; `Some`: the session ends instead. A message that is coming in may come to its end at a stop.
    async fn read(&mut self) -> io::Result<Option<Closing>> {
        self.write().await?;
        let within = matches!(self.message, Current::Good(_));
        let leave = self.intake.leave;
        let read = tokio::select! {
            () = leave.asked().cancelled(), if !within => return Ok(Some(leave.why())),
            read = timeout(SILENCE, self.stream.read(&mut self.buffer)) => read,
        };
        let Ok(read) = read else { return Ok(Some(Closing::Idle)) };
        match self.buffer.get(..read?).filter(|octets| !octets.is_empty()) {
            None => Err(io::ErrorKind::UnexpectedEof.into()),
            Some(octets) => {
                self.taken.octets += octets.len() as u64;
                self.receiver.push(octets);
                Ok(None)
            }
        }
    }

    /// What a device has sent before a reset is still to be read, and may be a whole message: it never waits for
    /// answers.
    async fn write(&mut self) -> io::Result<()> {
        let replies = std::mem::take(&mut self.replies);
        if replies.is_empty() || self.deaf {
            return Ok(());
        }
        let write = async {
            self.stream.write_all(&replies).await?;
            self.stream.flush().await
        };
        self.writing = true;
        let written = timeout(WRITE, write).await;
        self.writing = false;
        match written {
            Err(_) => return Err(io::ErrorKind::TimedOut.into()),
            Ok(written) => self.deaf = written.is_err(),
        }
        Ok(())
    }

    /// RFC 5321 section 3.8 wants a line with 421 of a server that is shut down, and has the client read it behind what
    /// it is sending; not where nobody knows what becomes of a message that was sent to its end.
    async fn cut_off(&mut self) -> Closing {
        let closing = self.intake.leave.why();
        if self.receiver.awaits_client() && !self.writing {
            let farewell = async {
                self.close(closing).await?;
                // Closing with octets unread would reset the connection and take the goodbye with it (RFC 1122 section
                // 4.2.2.13).
                while self.stream.read(&mut self.buffer).await? > 0 {}
                io::Result::Ok(())
            };
            let _ = timeout(LAST_WORDS, farewell).await;
        }
        closing
    }

    /// A client that is gone does not hear the goodbye.
    async fn close(&mut self, closing: Closing) -> io::Result<Closing> {
        let goodbye = self.receiver.goodbye(closing);
        self.replies.extend_from_slice(&goodbye);
        let _ = self.write().await;
        let _ = self.stream.shutdown().await;
        Ok(closing)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_taken_is_told_in_words() {
        let told = |messages| Taken { messages, ..Taken::default() }.to_string();
        assert_eq!(
            [0, 1, 2].map(told),
            ["0 messages taken", "1 message taken", "2 messages taken"]
        );
    }
}
