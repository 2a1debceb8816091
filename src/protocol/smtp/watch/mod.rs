//! A session between a client and the upstream, behind the login: gatepost looks on, to know where messages
//! begin and what becomes of them, and changes nothing. Only a device without a login is also held to rules
//! of its own, and what it must not do is answered here.
//!
//! [`Watch`] is told what either side has sent, and says how much of it may pass. It holds back commands until
//! their line is whole, and what stands behind DATA until it is answered (RFC 2920 section 3.1: DATA is the last
//! of its group). Answers come in the order of the commands, whoever gives them.
//!
//! Invariant: no octet of a message is kept. For a client that has logged in all that passes is as it came;
//! what is not understood turns its session into a mere pipe, but a device's ends.

mod content;
mod device;
mod replies;
mod rules;

use std::collections::VecDeque;
use std::time::Duration;

use memchr::memchr;

use super::super::frontend::Closing;
use super::super::input::{MAX_LINE, split_word};
use super::super::refusal::Refusal;
use super::super::upstream::backoff_time;
use super::frontend::{goodbye, session_refusal};
use super::parameters;
use content::{Content, Seen};
use replies::{Answer, Replies};
pub use rules::DeviceRules;

/// Commands that may be under way. A client that sends more at once (RFC 2920 sets no bound) waits for the first
/// answers.
const MAX_AWAITED: usize = 128;

/// Octets of the line that ends a message, which do not count as its own.
const END: u64 = 3;

/// What becomes of the client's octets that were shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientStep {
    /// Nothing, until more have come or the upstream has answered.
    Wait,
    /// So many go to the upstream.
    Pass(usize),
    /// So many go nowhere.
    Drop(usize),
    /// They begin a message: [`Watch::let_message_go`] or [`Watch::refuse_message`].
    Message,
}

/// What the upstream's answer tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Noticed {
    /// A message was taken, for so many.
    Sent {
        /// Recipients that were accepted.
        recipients: u32,
    },
    /// Something of a message was refused.
    Refused {
        /// The upstream's words.
        said: String,
        /// Too much at once (432): it wants to be left alone, for this long if it says so.
        busy: Option<Option<Duration>>,
        /// The day's recipients are used up.
        quota: bool,
    },
}

/// A session behind the login. See the module.
pub struct Watch {
    /// Of a device without a login.
    rules: Option<DeviceRules>,
    client: Client,
    awaited: VecDeque<Awaited>,
    replies: Replies,
    /// gatepost's own, whose turn it is.
    answers: Vec<u8>,
    message: Message,
    /// Of the message that the client is sending, as far as it has passed. They are counted as they pass, whatever
    /// the upstream has answered by then: a client may send ahead (RFC 2920).
    octets: u64,
    /// What was decided of the message that is about to begin.
    decision: Option<Decision>,
}

/// What the client sends.
enum Client {
    Commands,
    /// What depends on the answer to the last command.
    Held,
    Content(Content),
    Chunk(u64),
    /// Anything.
    Pipe,
    /// Nothing that counts any more.
    Over,
}

/// An answer that is to come.
enum Awaited {
    Mail,
    Rcpt,
    Data,
    /// To the end of a message's content.
    End,
    Chunk {
        last: bool,
    },
    /// To what ends a message that is being written.
    Reset,
    /// To AUTH or STARTTLS, behind which there may be no commands.
    Odd,
    Other,
    /// gatepost's own.
    Own(String),
}

#[derive(Default)]
struct Message {
    /// MAIL was accepted, and the message has not ended.
    open: bool,
    recipients: u32,
}

/// What the driver has decided of a message.
#[derive(Clone, Copy)]
enum Decision {
    Go,
    TooFast,
}

impl Watch {
    /// A session of a client that has logged in, or of a device with its rules.
    pub fn new(rules: Option<DeviceRules>) -> Self {
        Self {
            rules,
            client: Client::Commands,
            awaited: VecDeque::new(),
            replies: Replies::default(),
            answers: Vec::new(),
            message: Message::default(),
            octets: 0,
            decision: None,
        }
    }

    /// Looks at what the client has sent and what did not pass yet. `closed`: no more will come.
    pub fn client(&mut self, bytes: &[u8], closed: bool) -> ClientStep {
        if bytes.is_empty() {
            return ClientStep::Wait;
        }
        match &mut self.client {
            Client::Pipe => ClientStep::Pass(bytes.len()),
            Client::Over => ClientStep::Drop(bytes.len()),
            Client::Held => ClientStep::Wait,
            Client::Commands => self.commands(bytes, closed),
            Client::Content(_) => self.content(bytes),
            Client::Chunk(left) => {
                let count = usize::try_from(*left).unwrap_or(usize::MAX).min(bytes.len());
                *left -= count as u64;
                if *left == 0 {
                    self.client = Client::Commands;
                }
                ClientStep::Pass(count)
            }
        }
    }

    /// Looks at what the upstream has sent: how many octets of it pass, and what they tell. Then
    /// [`Watch::answers`] come, then the rest.
    pub fn server(&mut self, bytes: &[u8]) -> (usize, Option<Noticed>) {
        if matches!(self.client, Client::Pipe) {
            return (bytes.len(), None);
        }
        let (passed, answer) = self.replies.read(bytes);
        let noticed = match answer {
            None => None,
            Some(Some(answer)) => self.answered(answer),
            Some(None) => self.lost(),
        };
        self.settle();
        (passed, noticed)
    }

    /// gatepost's own answers, which the client gets behind what has passed to it.
    pub fn answers(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.answers)
    }

    /// The message that begins may pass.
    pub fn let_message_go(&mut self) {
        self.decision = Some(Decision::Go);
    }

    /// The message that begins is one too many of this device's.
    pub fn refuse_message(&mut self) {
        self.decision = Some(Decision::TooFast);
    }

    /// Ends the session with this answer to the next command.
    pub fn end(&mut self, refusal: &Refusal) {
        self.over(&String::from_utf8_lossy(&session_refusal(refusal)));
    }

    /// Ends it for a reason that no command has given.
    pub fn close(&mut self, closing: Closing) {
        self.over(&String::from_utf8_lossy(&goodbye(closing)));
    }

    /// The upstream sends no more: nothing of a device's will be answered.
    pub fn server_closed(&mut self) {
        self.client = match self.rules {
            None => Client::Pipe,
            Some(_) => Client::Over,
        };
        self.forget();
    }

    /// Between messages, with nothing under way.
    pub fn is_idle(&self) -> bool {
        matches!(self.client, Client::Commands)
            && !self.message.open
            && self.awaited.is_empty()
            && self.replies.at_boundary()
    }

    /// No answer is awaited that the upstream alone can give, and none is half told. So it is also while the client
    /// sends the content of a message, which is void without its end.
    pub fn is_between_answers(&self) -> bool {
        let listens =
            matches!(self.client, Client::Commands | Client::Content(_) | Client::Chunk(_));
        listens && self.awaited.is_empty() && self.replies.at_boundary()
    }

    /// A message is under way.
    pub fn is_sending(&self) -> bool {
        self.message.open || self.awaited.iter().any(|one| matches!(one, Awaited::Mail))
    }

    /// The session has ended, and the client was told: both sides are to be closed.
    pub fn is_over(&self) -> bool {
        matches!(self.client, Client::Over) && self.awaited.is_empty()
    }

    /// gatepost ends the session, when the upstream has answered what is under way.
    pub fn is_ending(&self) -> bool {
        matches!(self.client, Client::Over)
    }

    fn commands(&mut self, bytes: &[u8], closed: bool) -> ClientStep {
        if self.awaited.len() >= MAX_AWAITED {
            return ClientStep::Wait;
        }
        let count = memchr(b'\n', bytes).map_or(bytes.len(), |end| end + 1);
        let line = bytes.get(..count).unwrap_or_default();
        let whole = line.ends_with(b"\n");
        match (whole, &self.rules) {
            _ if count > MAX_LINE => self.too_long(count),
            (true, None) => self.command(line),
            (true, Some(_)) => self.device_command(line),
            (false, None) if closed => ClientStep::Pass(count),
            (false, Some(_)) if closed => ClientStep::Drop(count),
            (false, _) => ClientStep::Wait,
        }
    }

    fn too_long(&mut self, count: usize) -> ClientStep {
        if self.rules.is_none() {
            self.client = Client::Pipe;
            return ClientStep::Pass(count);
        }
        self.over(&format!("{}\r\n", rules::TOO_LONG));
        ClientStep::Drop(count)
    }

    /// A command that may pass.
    fn command(&mut self, line: &[u8]) -> ClientStep {
        let (name, arguments) = split_word(line.trim_ascii());
        let awaited = match name.to_ascii_uppercase().as_slice() {
            b"MAIL" => match self.decision.take() {
                None => return ClientStep::Message,
                Some(Decision::Go) => Awaited::Mail,
                Some(Decision::TooFast) => return self.answer(rules::TOO_FAST, line.len()),
            },
            b"RCPT" => Awaited::Rcpt,
            b"DATA" => {
                self.client = Client::Held;
                Awaited::Data
            }
            b"BDAT" => match parameters::of_bdat(arguments.trim_ascii()) {
                Some((octets, last)) => {
                    self.client =
                        if octets == 0 { Client::Commands } else { Client::Chunk(octets) };
                    if last {
                        self.octets = 0;
                    }
                    Awaited::Chunk { last }
                }
                None => {
                    self.client = Client::Pipe;
                    Awaited::Other
                }
            },
            b"RSET" | b"EHLO" | b"HELO" => {
                self.octets = 0;
                Awaited::Reset
            }
            b"AUTH" | b"STARTTLS" => {
                self.client = Client::Held;
                Awaited::Odd
            }
            _ => Awaited::Other,
        };
        self.awaited.push_back(awaited);
        ClientStep::Pass(line.len())
    }

    fn content(&mut self, bytes: &[u8]) -> ClientStep {
        let Client::Content(content) = &mut self.client else { return ClientStep::Wait };
        let most = self.rules.as_ref().and_then(|rules| rules.size).unwrap_or(u64::MAX);
        let room = most.saturating_add(END).saturating_sub(self.octets);
        let room = usize::try_from(room).unwrap_or(usize::MAX).min(bytes.len());
        let bytes = bytes.get(..room).unwrap_or_default();
        let (count, ended) = match content.look(bytes, self.rules.is_some()) {
            Seen::More => (bytes.len(), false),
            Seen::End(count) => (count, true),
            Seen::BareLineEnd(before) => (before, false),
        };
        if count == 0 {
            // Its end never gets to the upstream, and so it is void (RFC 5321 section 4.1.1.4).
            let wrong = if room == 0 { rules::TOO_LARGE } else { rules::BARE_LINE_END };
            self.over(&format!("{wrong}\r\n"));
            return ClientStep::Drop(0);
        }
        self.octets += count as u64;
        if ended {
            self.octets = 0;
            self.client = Client::Commands;
            self.awaited.push_back(Awaited::End);
        }
        ClientStep::Pass(count)
    }

    /// Answers a command, which goes nowhere.
    fn answer(&mut self, answer: &str, count: usize) -> ClientStep {
        self.decision = None;
        self.awaited.push_back(Awaited::Own(format!("{answer}\r\n")));
        self.settle();
        ClientStep::Drop(count)
    }

    /// Ends the session with this, when all that was asked before is answered.
    fn over(&mut self, answer: &str) {
        self.client = Client::Over;
        self.awaited.push_back(Awaited::Own(answer.to_owned()));
        self.settle();
    }

    /// gatepost's own answers whose turn has come.
    fn settle(&mut self) {
        while let Some(Awaited::Own(answer)) = self.awaited.front() {
            self.answers.extend_from_slice(answer.as_bytes());
            self.awaited.pop_front();
        }
    }

    /// What a whole reply means.
    fn answered(&mut self, answer: Answer) -> Option<Noticed> {
        let Answer { code, said } = answer;
        let Some(awaited) = self.awaited.pop_front() else {
            // Unasked: the server ends the session (RFC 5321 section 3.8), or it is out of step.
            return if code == 421 { Some(refused(code, said)) } else { self.lost() };
        };
        let positive = (200..300).contains(&code);
        let over = matches!(self.client, Client::Over);
        match (awaited, code) {
            // What the client may send now is of no account any more; what became of its messages is.
            (Awaited::Odd, _) | (_, 300..400) if over => return None,
            (Awaited::Data, _) if over => {}
            (Awaited::Data, 354) => {
                self.client = Client::Content(Content::new());
                return None;
            }
            (Awaited::Odd, 200..400) | (_, 300..400) => return self.lost(),
            (Awaited::Data, _) => self.client = Client::Commands,
            (Awaited::Odd, _) => {
                self.client = Client::Commands;
                return None;
            }
            (Awaited::Mail, _) if positive => {
                self.message = Message { open: true, recipients: 0 };
            }
            (Awaited::Rcpt, _) if positive => self.message.recipients += 1,
            (Awaited::End | Awaited::Chunk { last: true }, _) => {
                let recipients = std::mem::take(&mut self.message).recipients;
                if positive {
                    return Some(Noticed::Sent { recipients });
                }
            }
            (Awaited::Reset, _) if positive => self.message = Message::default(),
            (Awaited::Reset | Awaited::Other, _) if code != 421 => return None,
            _ => {}
        }
        (code >= 400).then(|| refused(code, said))
    }

    /// What comes is not understood.
    fn lost(&mut self) -> Option<Noticed> {
        if self.rules.is_none() {
            self.client = Client::Pipe;
        } else if !matches!(self.client, Client::Over) {
            self.over(&format!("{}\r\n", rules::OUT_OF_STEP));
        }
        self.forget();
        None
    }

    /// No more answers of the upstream's are awaited.
    fn forget(&mut self) {
        self.awaited.retain(|one| matches!(one, Awaited::Own(_)));
        self.settle();
    }
}

fn refused(code: u16, said: String) -> Noticed {
    let lower = said.to_ascii_lowercase();
    // 4.3.2 is also 421's, of Exchange's `maximum number of concurrent server connections`.
    let busy = code == 432 || (code < 500 && lower.contains(" 4.3.2 "));
    Noticed::Refused {
        busy: busy.then(|| backoff_time(&lower)),
        quota: lower.contains("submissionquotaexceeded"),
        said,
    }
}
