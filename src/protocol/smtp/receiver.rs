//! SMTP's server role behind the login, where gatepost takes the message itself.
//!
//! Invariant: nothing is promised here. A message begins with [`ReceiverStep::Content`] and is either void by
//! [`ReceiverStep::Abort`] or whole by [`ReceiverStep::End`], and only the driver's word, by
//! [`Receiver::finish`], makes a 250 of it. No content is held: what is pushed comes out or is forgotten.

mod content;

use std::collections::VecDeque;

use super::super::frontend::Closing;
use super::super::input::{Input, TooLong, split_word};
use super::content::Decoder;
use super::envelope::{self, AllowedRecipients, Envelope};
use super::frontend::goodbye;
use super::parameters::{self, too_long};
use super::reply::Reply;
use super::transaction::{Open, Transaction, refused};
use crate::vocabulary::BareLf;

/// Wrong commands without a message that was taken in between: Postfix's `smtpd_hard_error_limit`. Refused
/// recipients and messages are none, since a device can't help them.
const MAX_ERRORS: u32 = 20;

/// The EHLO keywords of a listener that takes messages itself, for before the login and behind it.
pub fn spool_keywords(max_size: u64) -> Vec<String> {
    let size = format!("SIZE {max_size}");
    let rest = ["PIPELINING", "8BITMIME", "ENHANCEDSTATUSCODES", "CHUNKING", "DSN", "SMTPUTF8"];
    std::iter::once(size).chain(rest.map(String::from)).collect()
}

/// What is taken of a client.
#[derive(Clone, Debug)]
pub struct ReceiverRules {
    /// Octets of a message.
    pub max_size: u64,
    /// What is done with line feeds of their own.
    pub bare_lf: BareLf,
    /// Whom it may send to; `None`: everybody.
    pub recipients: Option<AllowedRecipients>,
}

/// What the driver of a Receiver does next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ReceiverStep {
    /// Read from the client, then [`Receiver::push`].
    Read,
    /// Send these to the client.
    Write(Vec<u8>),
    /// A message begins: call [`Receiver::go_on`] once there is a place for it, else [`Receiver::refuse`].
    /// With the mends of its envelope, in words.
    Content(Envelope, Vec<String>),
    /// Octets of the message, with CRLF for every line end and no dot doubled.
    Chunk(Vec<u8>),
    /// The message is whole: make it durable, then call [`Receiver::finish`]. With the mends of its content.
    End(Vec<String>),
    /// The message is void for this reason: drop it. The client is told without the driver.
    Abort(String),
    /// Send the goodbye of this kind ([`Receiver::goodbye`]) and close.
    Close(Closing),
}

/// A session behind its login. See the module's invariant.
pub struct Receiver {
    rules: ReceiverRules,
    input: Input,
    /// What is to be done before anything else is read.
    ahead: VecDeque<ReceiverStep>,
    state: State,
    transaction: Transaction,
    errors: u32,
}

/// What is read next.
#[derive(Clone, Debug)]
enum State {
    Command,
    /// Nothing: [`ReceiverStep::Content`] wants its answer.
    Asked(Carrier),
    /// Content of the message.
    Content(Carrier),
    /// Octets of a chunk that nobody wants; then this is the answer.
    Skip(u64, Reply),
    /// Nothing: [`ReceiverStep::End`] wants its answer.
    Ended,
    /// Nothing any more.
    Over(Closing),
}

/// How content comes in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Carrier {
    Data,
    /// RFC 3030: so many octets are to come, and whether they are the message's last ones.
    Bdat {
        left: u64,
        last: bool,
    },
}

impl Receiver {
    /// A session whose client is known.
    pub fn new(rules: ReceiverRules) -> Self {
        Self {
            rules,
            input: Input::default(),
            ahead: VecDeque::new(),
            state: State::Command,
            transaction: Transaction::None,
            errors: 0,
        }
    }

    /// Takes what the client sent, also what came behind its login.
    pub fn push(&mut self, bytes: &[u8]) {
        self.input.push(bytes);
    }

    /// The next thing to do.
    pub fn step(&mut self) -> ReceiverStep {
        loop {
            if let Some(step) = self.ahead.pop_front() {
                return step;
            }
            let goes_on = match &self.state {
                State::Command => self.command(),
                State::Content(Carrier::Data) => self.data(),
                &State::Content(Carrier::Bdat { left, last }) => self.chunk(left, last),
                &State::Skip(left, _) => self.skip(left),
                State::Asked(_) | State::Ended => false,
                &State::Over(closing) => return ReceiverStep::Close(closing),
            };
            if !goes_on {
                return ReceiverStep::Read;
            }
        }
    }

    /// Answers [`ReceiverStep::Content`]: there is a place for the message.
    pub fn go_on(&mut self) {
        let State::Asked(carrier) = self.state else { return };
        if carrier == Carrier::Data {
            self.say(&Reply::new(354, "end with a dot on a line of its own"));
        }
        self.state = State::Content(carrier);
    }

    /// Answers [`ReceiverStep::Content`]: there is none. The reply is for DATA or BDAT.
    pub fn refuse(&mut self, reply: &Reply) {
        match self.state {
            State::Asked(Carrier::Data) => {
                self.transaction = Transaction::None;
                self.state = State::Command;
                self.say(reply);
            }
            State::Asked(Carrier::Bdat { left, .. }) => {
                self.transaction = Transaction::Refused;
                self.state = State::Skip(left, reply.clone());
            }
            _ => {}
        }
    }

    /// Answers [`ReceiverStep::End`]: what has become of the message.
    pub fn finish(&mut self, reply: &Reply) {
        if !matches!(self.state, State::Ended) {
            return;
        }
        if reply.is_positive() {
            self.errors = 0;
        }
        self.transaction = Transaction::None;
        self.state = State::Command;
        self.say(reply);
    }

    /// The client is listened to: nothing that it sent waits for the driver's answer.
    pub fn awaits_client(&self) -> bool {
        matches!(self.state, State::Command | State::Content(_) | State::Skip(..))
    }

    /// The last words.
    pub fn goodbye(&mut self, closing: Closing) -> Vec<u8> {
        goodbye(closing)
    }

    fn say(&mut self, reply: &Reply) {
        self.ahead.push_back(ReceiverStep::Write(reply.line()));
    }

    /// Says it and counts it, if it is an error.
    fn answer(&mut self, reply: &Reply) {
        self.say(reply);
        if reply.is_error() {
            self.errors += 1;
        }
        if self.errors >= MAX_ERRORS {
            self.close(Closing::TooManyErrors);
        }
    }

    fn close(&mut self, closing: Closing) {
        self.reset("the session has ended");
        self.state = State::Over(closing);
    }

    /// Forgets the message that is under way.
    fn reset(&mut self, why: &str) {
        let former = std::mem::replace(&mut self.transaction, Transaction::None);
        if matches!(former, Transaction::Begun(_)) {
            self.ahead.push_back(ReceiverStep::Abort(why.into()));
        }
    }
}

/// Commands.
impl Receiver {
    fn command(&mut self) -> bool {
        match self.input.line() {
            Ok(None) => return false,
            Err(TooLong) => self.close(Closing::TooLong),
            Ok(Some(line)) => self.run(line.trim_ascii()),
        }
        true
    }

    fn run(&mut self, line: &[u8]) {
        let (name, arguments) = split_word(line);
        let reply = match name.to_ascii_uppercase().as_slice() {
            b"EHLO" => return self.ehlo(),
            b"HELO" => {
                self.reset("the client said HELO before its end");
                Reply::new(250, "localhost")
            }
            b"MAIL" => self.mail(arguments),
            b"RCPT" => return self.rcpt(arguments),
            b"DATA" => return self.begin_data(arguments),
            b"BDAT" => return self.begin_chunk(arguments),
            b"RSET" => {
                self.reset("the client said RSET before its end");
                Reply::new(250, "2.0.0 done")
            }
            b"NOOP" => Reply::new(250, "2.0.0 done"),
            b"VRFY" => Reply::new(252, "2.0.0 send a message and see"),
            b"HELP" => Reply::new(214, "2.0.0 see docs/devices.md of gatepost"),
            b"QUIT" => return self.close(Closing::Quit),
            b"AUTH" => Reply::new(503, "5.5.1 this session needs no login any more"),
            b"STARTTLS" => Reply::new(503, "5.5.1 STARTTLS comes before the login and MAIL"),
            b"EXPN" => Reply::new(502, "5.5.1 EXPN is not offered here"),
            _ => Reply::new(500, "5.5.1 command not known"),
        };
        self.answer(&reply);
    }

    fn ehlo(&mut self) {
        self.reset("the client said EHLO before its end");
        let mut answer = String::from("250-localhost");
        let mut keywords = spool_keywords(self.rules.max_size).into_iter().peekable();
        while let Some(keyword) = keywords.next() {
            let mark = if keywords.peek().is_some() { '-' } else { ' ' };
            answer += &format!("\r\n250{mark}{keyword}");
        }
        answer += "\r\n";
        self.ahead.push_back(ReceiverStep::Write(answer.into_bytes()));
    }

    fn mail(&mut self, arguments: &[u8]) -> Reply {
        if let Transaction::Open(_) = self.transaction {
            return Reply::new(503, "5.5.1 a message is under way: RSET comes first");
        }
        self.reset("the client began another message before its end");
        match envelope::mail(arguments, self.rules.max_size) {
            Ok(mail) => {
                self.transaction = Transaction::Open(Box::new(Open::new(mail)));
                Reply::new(250, "2.1.0 sender taken")
            }
            Err(reply) => {
                self.transaction = Transaction::Refused;
                reply
            }
        }
    }

    fn rcpt(&mut self, arguments: &[u8]) {
        let open = match &mut self.transaction {
            Transaction::Open(open) => open,
            Transaction::Refused => return self.say(&refused()),
            Transaction::None => {
                return self.answer(&Reply::new(503, "5.5.1 MAIL comes before RCPT"));
            }
            Transaction::Begun(_) => {
                return self.answer(&Reply::new(503, "5.5.1 RCPT comes before BDAT"));
            }
        };
        let reply = open.add(arguments, self.rules.recipients.as_ref());
        self.answer(&reply);
    }

    fn begin_data(&mut self, arguments: &[u8]) {
        let fault = match &self.transaction {
            _ if !arguments.is_empty() => Some(Reply::new(501, "5.5.4 DATA has no argument")),
            Transaction::Begun(_) => {
                Some(Reply::new(503, "5.5.1 a message begun with BDAT ends with BDAT"))
            }
            _ => None,
        };
        if let Some(reply) = fault {
            return self.answer(&reply);
        }
        match self.transaction.check_ready() {
            Ok(()) => {
                let decoder = Decoder::data(self.rules.bare_lf, self.rules.max_size);
                self.begin(decoder, Carrier::Data);
            }
            Err(reply) => self.unready(&reply),
        }
    }

    fn begin_chunk(&mut self, arguments: &[u8]) {
        let Some((size, last)) = parameters::of_bdat(arguments) else {
            return self.answer(&Reply::new(501, "5.5.4 write BDAT, a size, and LAST if it is"));
        };
        let room = match &self.transaction {
            Transaction::Begun(decoder) => decoder.room(),
            _ => match self.transaction.check_ready() {
                Ok(()) => self.rules.max_size,
                Err(reply) => {
                    // What stands behind it is no command, whatever the answer (RFC 3030 section 2).
                    self.state = State::Skip(size, reply);
                    return;
                }
            },
        };
        if size > room {
            self.reset("too long");
            self.transaction = Transaction::Refused;
            self.state = State::Skip(size, too_long(self.rules.max_size));
            return;
        }
        let carrier = Carrier::Bdat { left: size, last };
        match self.transaction {
            Transaction::Begun(_) => self.state = State::Content(carrier),
            _ => {
                let decoder = Decoder::chunks(self.rules.bare_lf, self.rules.max_size);
                self.begin(decoder, carrier);
            }
        }
    }

    fn begin(&mut self, decoder: Decoder, carrier: Carrier) {
        let former = std::mem::replace(&mut self.transaction, Transaction::Begun(decoder));
        if let Transaction::Open(open) = former {
            self.ahead.push_back(ReceiverStep::Content(open.envelope, open.mends));
            self.state = State::Asked(carrier);
        }
    }

    /// The answer to DATA or BDAT when no message can begin.
    fn unready(&mut self, reply: &Reply) {
        match &self.transaction {
            Transaction::Open(open) if open.refused => {
                self.transaction = Transaction::Refused;
                self.answer(reply);
            }
            Transaction::Refused => self.say(reply),
            _ => self.answer(reply),
        }
    }
}
