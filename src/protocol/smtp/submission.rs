//! The client's role behind the login: a message is handed over (RFC 5321 section 3.3), by RFC 2920 (PIPELINING)
//! and RFC 3030 (CHUNKING) where the server has them.
//!
//! ```text
//! MAIL ─▶ RCPT … ─▶ DATA ─▶ 354 ─▶ content ─▶ answer
//!           │ none taken     BDAT ─▶ content ─▶ answer
//!           └▶ RSET
//! ```
//!
//! Invariant: a message counts as delivered by nothing but the answer behind its end. Nothing of an envelope can
//! end a command line, and nothing of the content can end the content.

use std::time::Duration;

use super::answers::{Answers, Nonsense};
use super::envelope::Envelope;
use super::judgement::{Judgement, judge};
use super::offers::Offers;
use super::reply::Reply;

/// Commands that are sent before an answer is read. Their answers, of 50 to 100 octets, fit into any socket's
/// buffer, so that neither side waits for the other (RFC 2920 section 3.1).
const BATCH: usize = 100;

/// How long a command is waited for, and the end of a message (RFC 5321 section 4.5.3.2).
const COMMAND: Duration = Duration::from_secs(5 * 60);
const DATA: Duration = Duration::from_secs(2 * 60);
const END: Duration = Duration::from_secs(10 * 60);

/// What the driver of a Submission does next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Read from the server, then [`Submission::push`].
    Read,
    /// Send these.
    Write(Vec<u8>),
    /// Send the whole message so, then [`Submission::content_sent`].
    Content(Encoding),
    /// The server has decided.
    Done(Submitted),
}

/// How the content goes out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encoding {
    /// As it is.
    Plain,
    /// By [`super::dots::Dots`], with its end.
    Dots,
}

/// What became of a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Submitted {
    /// For each recipient of the envelope, in order.
    Answered(Vec<Verdict>),
    /// It is not about this message: nothing of the mailbox goes out for now.
    Held {
        /// The server's words.
        said: String,
        /// How long it wants to be left alone, if it told.
        wait: Option<Duration>,
    },
    /// The server takes nothing of this mailbox by SMTP.
    Closed {
        /// The server's words.
        said: String,
    },
}

/// What became of a message for one recipient, in the provider's words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The provider has it.
    Delivered(String),
    /// To be tried again.
    Later(String),
    /// Never.
    Refused(String),
}

/// What is awaited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Nothing was said.
    Begin,
    /// The answer to MAIL.
    Mail,
    /// The answers to RCPT.
    Rcpt,
    /// 354.
    Data,
    /// That the driver sends the content.
    Content,
    /// The answer behind the content.
    Answer,
    /// The answer to RSET, or that to the last of RCPT that were sent ahead of a refused MAIL.
    Clear,
    /// Nothing.
    Done,
}

/// One message on a session that is logged in.
pub struct Submission {
    answers: Answers,
    state: State,
    mail: String,
    recipients: Vec<String>,
    /// Of the recipients that were answered; none: taken.
    verdicts: Vec<Option<Verdict>>,
    /// How many RCPT were sent.
    sent: usize,
    size: u64,
    pipelining: bool,
    chunking: bool,
    /// Answers that still have to come before the session can go on.
    owed: usize,
    /// Whether the last of them is that to RSET.
    resetting: bool,
    /// The outcome, once it is known.
    outcome: Option<Submitted>,
    /// Whether the session can be used on.
    alive: bool,
    /// Whether the server has answered anything to this message.
    answered: bool,
    /// Whether some, and whether all of the content has gone out.
    begun: bool,
    whole: bool,
    /// What to write next.
    next: Option<Vec<u8>>,
}

impl Submission {
    /// A message of `size` octets, to a server that has told these EHLO keywords.
    pub fn new(envelope: &Envelope, size: u64, keywords: &[String]) -> Self {
        let offers = Offers(keywords);
        let mut submission = Self {
            answers: Answers::default(),
            state: State::Begin,
            mail: String::new(),
            recipients: envelope.recipients.iter().map(|to| offers.rcpt(to)).collect(),
            verdicts: Vec::new(),
            sent: 0,
            size,
            pipelining: offers.has("PIPELINING"),
            chunking: offers.has("CHUNKING"),
            owed: 0,
            resetting: false,
            outcome: None,
            alive: true,
            answered: false,
            begun: false,
            whole: false,
            next: None,
        };
        match offers.mail(envelope, size) {
            Ok(mail) if !envelope.recipients.is_empty() => submission.mail = mail,
            Ok(_) => submission.settle_all(&Verdict::Refused("5.1.3 no recipient".into())),
            Err(why) => submission.settle_all(&Verdict::Refused(why.into())),
        }
        submission
    }

    /// Takes what the server sent.
    pub fn push(&mut self, bytes: &[u8]) {
        self.answers.push(bytes);
    }

    /// The content has gone out as it was told.
    pub fn content_sent(&mut self) {
        self.whole = true;
    }

    /// The next thing to do.
    pub fn step(&mut self) -> Step {
        loop {
            if let Some(bytes) = self.next.take() {
                return Step::Write(bytes);
            }
            match self.state {
                State::Done => return Step::Done(self.outcome()),
                State::Content => {
                    self.begun = true;
                    self.state = State::Answer;
                    let plain = self.chunking;
                    return Step::Content(if plain { Encoding::Plain } else { Encoding::Dots });
                }
                _ => {}
            }
            match self.answers.next() {
                Ok(Some(reply)) => self.take(&reply),
                Ok(None) if self.state == State::Begin => self.begin(),
                Ok(None) => return Step::Read,
                Err(Nonsense(what)) => self.break_off(&what),
            }
        }
    }

    /// The connection has ended, or the server does not answer; [`Self::step`] then tells the outcome.
    pub fn lost(&mut self, how: &str) {
        self.break_off(how);
    }

    /// Whether the session can take another message.
    pub fn is_reusable(&self) -> bool {
        self.alive && self.state == State::Done
    }

    /// Whether the session was over before the server saw anything of this message: one that had been idle.
    pub fn is_untouched(&self) -> bool {
        !self.alive && !self.answered
    }

    /// Whether the server has all of the message and has not told what becomes of it.
    pub fn is_uncertain(&self) -> bool {
        self.whole && self.state == State::Answer
    }

    /// What came behind the last answer: for the next message of the session.
    pub fn into_unread(self) -> Vec<u8> {
        self.answers.into_unread()
    }

    /// How long the server has for what is awaited.
    pub fn patience(&self) -> Duration {
        match self.state {
            State::Data => DATA,
            State::Answer => END,
            _ => COMMAND,
        }
    }

    fn begin(&mut self) {
        self.state = State::Mail;
        self.owed = 1;
        self.say(self.mail.clone());
        if self.pipelining {
            self.say_recipients();
        }
    }

    fn say(&mut self, line: String) {
        let next = self.next.get_or_insert_default();
        next.extend_from_slice(line.as_bytes());
        next.extend_from_slice(b"\r\n");
    }

    fn say_recipients(&mut self) {
        let batch = if self.pipelining { BATCH } else { 1 };
        let batch: Vec<_> = self.recipients.iter().skip(self.sent).take(batch).cloned().collect();
        self.sent += batch.len();
        self.owed += batch.len();
        batch.into_iter().for_each(|line| self.say(line));
    }

    fn take(&mut self, reply: &Reply) {
        if reply.code == 421 {
            // RFC 5321 section 3.8: it closes the connection, at any time. What it says is not about a message.
            let wait = match judge(reply) {
                Judgement::Held(wait) => wait,
                _ => None,
            };
            return self.end(Submitted::Held { said: reply.to_string(), wait });
        }
        self.owed = self.owed.saturating_sub(1);
        match self.state {
            State::Begin => self.break_off(&format!("an answer out of turn: {reply}")),
            State::Mail => self.take_mail(reply),
            State::Rcpt => self.take_rcpt(reply),
            State::Data if reply.code == 354 => self.state = State::Content,
            State::Data => self.refuse_content(reply, true),
            State::Answer => self.take_answer(reply),
            State::Clear if self.owed > 0 => {}
            State::Clear => {
                self.alive &= reply.is_positive() || !self.resetting;
                self.state = State::Done;
            }
            State::Content | State::Done => {
                self.break_off(&format!("an answer out of turn: {reply}"))
            }
        }
    }

    fn take_mail(&mut self, reply: &Reply) {
        // Not logged in: on a session that had been idle, another one is better.
        self.answered = reply.code != 530;
        match judge(reply) {
            Judgement::Done => {
                self.state = State::Rcpt;
                if self.owed == 0 {
                    self.say_recipients();
                }
            }
            judgement => {
                // Nothing was begun, so that nothing is to be undone; RCPT that went ahead are refused as well.
                self.conclude(judgement, reply);
                self.state = if self.owed > 0 { State::Clear } else { State::Done };
            }
        }
    }

    fn take_rcpt(&mut self, reply: &Reply) {
        let verdict = match judge(reply) {
            Judgement::Done => None,
            Judgement::Later => Some(Verdict::Later(reply.to_string())),
            Judgement::Refused => Some(Verdict::Refused(reply.to_string())),
            judgement => {
                self.conclude(judgement, reply);
                return self.reset();
            }
        };
        self.verdicts.push(verdict);
        if self.verdicts.len() < self.sent {
            return;
        }
        if self.sent < self.recipients.len() {
            return self.say_recipients();
        }
        if self.verdicts.iter().all(Option::is_some) {
            self.outcome = Some(self.answered_with(&Verdict::Later(String::new())));
            return self.reset();
        }
        self.owed = 1;
        if self.chunking {
            self.state = State::Content;
            self.say(format!("BDAT {} LAST", self.size));
        } else {
            self.state = State::Data;
            self.say("DATA".into());
        }
    }

    fn take_answer(&mut self, reply: &Reply) {
        if !self.whole && reply.is_positive() {
            return self.break_off(&format!("it took the message before its end: {reply}"));
        }
        match judge(reply) {
            Judgement::Done => {
                let delivered = Verdict::Delivered(reply.to_string());
                self.outcome = Some(self.answered_with(&delivered));
                self.state = State::Done;
            }
            // RFC 3030 section 2: behind a refused chunk only RSET leads to a known state.
            _ => self.refuse_content(reply, self.chunking),
        }
        // What is left of the content would be taken for commands.
        self.alive &= self.whole;
        if !self.whole {
            self.next = None;
            self.state = State::Done;
        }
    }

    fn refuse_content(&mut self, reply: &Reply, reset: bool) {
        self.conclude(judge(reply), reply);
        if reset {
            self.reset();
        } else {
            self.state = State::Done;
        }
    }

    /// No message, for a reason that is not one recipient's.
    fn conclude(&mut self, judgement: Judgement, reply: &Reply) {
        let said = reply.to_string();
        self.outcome = Some(match judgement {
            Judgement::Held(wait) => Submitted::Held { said, wait },
            Judgement::Closed => Submitted::Closed { said },
            Judgement::Refused => self.answered_with(&Verdict::Refused(said)),
            Judgement::Later | Judgement::Done => self.answered_with(&Verdict::Later(said)),
        });
        // Not logged in any more, by whatever way that came.
        self.alive &= reply.code != 530;
    }

    /// The recipients that were taken get this, the others have their own.
    fn answered_with(&self, verdict: &Verdict) -> Submitted {
        let own = self.verdicts.iter().cloned().chain(std::iter::repeat(None));
        let all = self.recipients.iter().zip(own);
        Submitted::Answered(all.map(|(_, own)| own.unwrap_or_else(|| verdict.clone())).collect())
    }

    fn settle_all(&mut self, verdict: &Verdict) {
        self.outcome = Some(self.answered_with(verdict));
        self.state = State::Done;
    }

    fn reset(&mut self) {
        self.owed += 1;
        self.resetting = true;
        self.state = State::Clear;
        self.say("RSET".into());
    }

    /// The session is of no more use. What was begun with the content may be the message's own fault: then only
    /// this message waits, and not the mailbox.
    fn break_off(&mut self, how: &str) {
        let said = how.to_owned();
        let outcome = match self.outcome.take() {
            Some(known) => known,
            None if self.begun => self.answered_with(&Verdict::Later(said)),
            None => Submitted::Held { said, wait: None },
        };
        self.end(outcome);
    }

    fn end(&mut self, outcome: Submitted) {
        self.outcome.get_or_insert(outcome);
        self.alive = false;
        self.next = None;
        self.state = State::Done;
    }

    fn outcome(&self) -> Submitted {
        let nothing = || Submitted::Held { said: "no answer".into(), wait: None };
        self.outcome.clone().unwrap_or_else(nothing)
    }
}
