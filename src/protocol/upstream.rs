//! The client's role towards the upstream, from its greeting to the login.
//!
//! [`Upstream`] has what the three protocols share: the unread bytes, the limits, STARTTLS and its traps.
//! A [`Dialect`] has its protocol's own commands and answers.
//!
//! Invariant: no token leaves before TLS is on, and nothing that the upstream said before its TLS is
//! believed afterwards, or repeated to anybody: of a line that came without TLS only its status is read, since
//! an attacker who can write it must not speak to the client's user, nor tell of tokens and waiting times.

use std::sync::Arc;
use std::time::Duration;

use super::imap::ImapUpstream;
use super::input::{Input, TooLong};
use super::pop3::Pop3Upstream;
use super::refusal::printable;
use super::sasl::Xoauth2;
use super::smtp::SmtpUpstream;
use crate::secret::Secret;
use crate::vocabulary::{Protocol, TlsMode};

/// Lines that an upstream may send before the login is through. Exchange sends about fifteen; without a
/// bound a broken server could keep a login busy until its deadline.
const MAX_LINES: u32 = 200;

/// Octets that an upstream may send in these lines. Exchange sends less than two thousand.
const MAX_OCTETS: usize = 64 * 1024;

/// Longest text of an upstream that goes into a refusal or the log.
pub(super) const MAX_SAID: usize = 240;

/// What the driver of an Upstream does next.
#[derive(Debug)]
pub enum Step {
    /// Read from the upstream, then [`Upstream::push`].
    Read,
    /// Send these.
    Write(Secret<Vec<u8>>),
    /// Make the connection TLS, then call [`Upstream::tls_started`].
    StartTls,
    /// Nothing, until [`Upstream::log_in`].
    Rest,
    /// The goal is reached.
    Ready(Welcome),
    /// It will not be.
    Failed(Rejection),
}

/// Where on the way to its goal an Upstream is; it never goes back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// The greeting is awaited.
    Greeting,
    /// An answer to what is said in plain text, up to that to STARTTLS.
    StartTls,
    /// An answer to what is said behind TLS, without a token.
    Command,
    /// An answer to the token, and what follows it.
    Login,
}

/// What the connection is for.
#[derive(Clone, Debug)]
pub enum Goal {
    /// To log in with this.
    Login(Xoauth2),
    /// To learn the EHLO keywords (SMTP), then leave.
    Learn,
    /// To be ready for a login that comes later: all is said that a login begins with, but for the token. No server
    /// wants to know before it whose it will be.
    StandBy,
}

/// What the upstream said of itself, for the client.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Welcome {
    /// SMTP: EHLO keywords with their parameters. IMAP: capabilities after the login, empty if the
    /// upstream did not tell them and they were known. POP3: none.
    pub capabilities: Arc<[String]>,
}

/// Why an upstream lets nobody in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Rejection {
    /// It does not take the token: it may be stale.
    Token {
        /// The upstream's words.
        said: String,
    },
    /// It takes the token, but not for this mailbox or protocol. A new token does not help.
    NotPermitted {
        /// The upstream's words.
        said: String,
    },
    /// It takes no more for now.
    Busy {
        /// The upstream's words.
        said: String,
        /// How long it wants to be left alone, if it said so.
        wait: Option<Duration>,
    },
    /// It is out of order: closed the session, or spoke nonsense.
    Broken {
        /// The upstream's words, or what is wrong with them.
        said: String,
    },
}

impl Rejection {
    /// The same, told without TLS: by anybody. It ends the connection, and is remembered of no token or mailbox.
    fn without_tls(self) -> Self {
        match self {
            Self::Broken { .. } => self,
            Self::Token { said } | Self::NotPermitted { said } | Self::Busy { said, .. } => {
                broken(&format!("it refuses before TLS: {said}"))
            }
        }
    }

    /// The same, of an upstream that has not seen the token yet: another one would not help.
    fn before_token(self) -> Self {
        match self {
            Self::Token { said } => Self::NotPermitted { said },
            other => other,
        }
    }
}

/// What an answer of the upstream leads to.
pub(super) enum Action {
    /// Keep reading.
    Wait,
    /// Send this line.
    Send(String),
    /// Send this line, which has the token.
    SendToken(Secret<Vec<u8>>),
    /// Start TLS.
    StartTls,
    /// The token is next, by [`Dialect::log_in`].
    Rest,
    /// Done.
    Ready(Welcome),
    /// Given up.
    Reject(Rejection),
}

/// What is a protocol's own.
pub(super) trait Dialect: Send {
    /// Takes a line of the upstream.
    fn line(&mut self, line: &str) -> Action;
    /// What of a line is its status, a code or a `-ERR`, and not its text.
    fn status<'a>(&self, line: &'a str) -> &'a str {
        beginning(line, 4).trim_end()
    }
    /// TLS is on: what to say first (RFC 3501 section 6.2.1, RFC 3207 section 4.2: ask anew).
    fn tls_started(&mut self) -> Action;
    /// Sends the token, at [`Action::Rest`]. `learn` is that of [`Upstream::new`].
    fn log_in(&mut self, login: &Xoauth2, learn: bool) -> Action;
    /// Whether the upstream says with this line that it hangs up, whatever it was asked.
    fn is_goodbye(&self, line: &str) -> bool;
}

/// A connection to the upstream before its login. See the module's invariant.
pub struct Upstream {
    dialect: Box<dyn Dialect>,
    input: Input,
    lines: u32,
    octets: usize,
    encrypted: bool,
    phase: Phase,
    next: Option<Action>,
    /// To log in with at the rest.
    login: Option<Xoauth2>,
    learn: bool,
    hung_up: bool,
}

impl Upstream {
    /// A new connection, of which nothing was read yet. `tls` is how TLS begins on it: with
    /// [`TlsMode::Implicit`] it is on already. `host` is how gatepost names itself in EHLO. `learn`
    /// makes IMAP ask for the capabilities, if the upstream does not tell them by itself.
    pub fn new(protocol: Protocol, tls: TlsMode, goal: Goal, host: &str, learn: bool) -> Self {
        let encrypted = tls == TlsMode::Implicit;
        let looks_only = matches!(goal, Goal::Learn);
        let dialect: Box<dyn Dialect> = match protocol {
            Protocol::Imap => Box::new(ImapUpstream::new(encrypted, looks_only)),
            Protocol::Pop3 => Box::new(Pop3Upstream::new(encrypted, looks_only)),
            Protocol::Smtp => Box::new(SmtpUpstream::new(encrypted, looks_only, host)),
        };
        let login = match goal {
            Goal::Login(login) => Some(login),
            Goal::Learn | Goal::StandBy => None,
        };
        Self {
            dialect,
            input: Input::default(),
            lines: 0,
            octets: 0,
            encrypted,
            phase: Phase::Greeting,
            next: None,
            login,
            learn,
            hung_up: false,
        }
    }

    /// Goes on from [`Step::Rest`]: as if the login had been the goal from the beginning.
    pub fn log_in(&mut self, login: Xoauth2, learn: bool) {
        (self.login, self.learn) = (Some(login), learn);
    }

    /// Whether the upstream has said more than was read of it.
    pub fn has_more(&self) -> bool {
        !self.input.is_empty()
    }

    /// Whether it has said goodbye: what it says then is no answer to the login, but may have crossed it.
    pub fn has_hung_up(&self) -> bool {
        self.hung_up
    }

    /// What is awaited of the upstream.
    pub fn phase(&self) -> Phase {
        self.phase
    }

    /// Takes what the upstream sent.
    pub fn push(&mut self, bytes: &[u8]) {
        self.input.push(bytes);
    }

    /// The next thing to do.
    pub fn step(&mut self) -> Step {
        loop {
            let action = match self.next.take() {
                Some(action) => action,
                None => match self.input.line() {
                    Ok(Some(line)) => self.take_line(&line),
                    Ok(None) => return Step::Read,
                    Err(TooLong) => Action::Reject(broken("an endless line")),
                },
            };
            match action {
                Action::Wait => {}
                Action::Send(line) => {
                    let phase = if self.encrypted { Phase::Command } else { Phase::StartTls };
                    self.phase = self.phase.max(phase);
                    return Step::Write(Secret::new(format!("{line}\r\n").into_bytes()));
                }
                Action::SendToken(line) => {
                    self.phase = Phase::Login;
                    return Step::Write(line);
                }
                Action::StartTls if !self.input.is_empty() => {
                    return Step::Failed(broken("plain text behind its answer to STARTTLS"));
                }
                Action::StartTls => return Step::StartTls,
                Action::Rest => match self.login.take() {
                    Some(login) => self.next = Some(self.dialect.log_in(&login, self.learn)),
                    None => {
                        self.next = Some(Action::Rest);
                        return Step::Rest;
                    }
                },
                Action::Ready(welcome) => return Step::Ready(welcome),
                Action::Reject(rejection) => {
                    return Step::Failed(match self.phase {
                        Phase::Login => rejection,
                        _ if self.encrypted => rejection.before_token(),
                        _ => rejection.without_tls(),
                    });
                }
            }
        }
    }

    fn take_line(&mut self, line: &[u8]) -> Action {
        self.lines += 1;
        self.octets += line.len();
        if self.lines > MAX_LINES || self.octets > MAX_OCTETS {
            return Action::Reject(broken("it has sent too many lines before the login"));
        }
        let line = String::from_utf8_lossy(line);
        let line = if self.encrypted { &line } else { self.dialect.status(&line) };
        self.hung_up |= self.dialect.is_goodbye(line);
        self.dialect.line(line)
    }

    /// The connection is TLS now.
    pub fn tls_started(&mut self) {
        self.encrypted = true;
        self.next = Some(self.dialect.tls_started());
    }

    /// What came behind the answer to the login; it belongs to the client.
    pub fn into_unread(mut self) -> Vec<u8> {
        self.input.take_rest()
    }
}

/// So many characters of a line; all, if it has fewer: `+OK` is a whole answer (RFC 1939 section 3).
pub(super) fn beginning(line: &str, count: usize) -> &str {
    let end = line.char_indices().nth(count).map_or(line.len(), |(at, _)| at);
    line.get(..end).unwrap_or_default()
}

/// A rejection for an upstream that is out of order.
pub(super) fn broken(said: &str) -> Rejection {
    Rejection::Broken { said: printable(said, MAX_SAID) }
}

/// What a failed login means, where the words tell it, whatever the protocol. These are Exchange's.
pub(super) fn known_rejection(text: &str) -> Option<Rejection> {
    let said = printable(text, MAX_SAID);
    let lower = said.to_ascii_lowercase();
    let has = |words: &[&str]| words.iter().any(|word| lower.contains(word));
    if has(&["accesstokenexpired"]) {
        return Some(Rejection::Token { said });
    }
    if has(&[
        "throttled",
        "suggested backoff time",
        "concurrent connections limit",
        "server unavailable",
    ]) {
        return Some(Rejection::Busy { wait: backoff_time(&lower), said });
    }
    if has(&["authenticated but not connected", "smtpclientauthentication is disabled", "5.7.139"])
    {
        return Some(Rejection::NotPermitted { said });
    }
    None
}

/// Of `Suggested Backoff Time: N milliseconds`.
pub(super) fn backoff_time(lower: &str) -> Option<Duration> {
    let (_, behind) = lower.split_once("suggested backoff time:")?;
    let millis = behind.split_whitespace().next()?.parse().ok()?;
    Some(Duration::from_millis(millis))
}

/// A rejection of the token, in the upstream's words.
pub(super) fn token_rejected(text: &str) -> Rejection {
    Rejection::Token { said: printable(text, MAX_SAID) }
}

/// A rejection for good, in the upstream's words.
pub(super) fn not_permitted(text: &str) -> Rejection {
    Rejection::NotPermitted { said: printable(text, MAX_SAID) }
}

/// A rejection for now, in the upstream's words, unless these tell better.
pub(super) fn busy(text: &str) -> Rejection {
    known_rejection(text)
        .unwrap_or_else(|| Rejection::Busy { said: printable(text, MAX_SAID), wait: None })
}
