//! The server's role towards the client, from the greeting to the login.
//!
//! [`Frontend`] has what the three protocols share: the unread bytes, the limits, the counts, STARTTLS.
//! A [`Dialect`] has what is its protocol's own: how a command is read and how an answer is spelled.
//!
//! Invariant: gatepost speaks for itself here, nothing of it comes from upstream but SMTP's keywords.
//! After a [`Step::Login`] nothing is read until [`Frontend::accept`] or [`Frontend::refuse`] was called, and
//! of what leads to [`Step::Device`] nothing is read at all.

use std::sync::Arc;

use super::imap::ImapFrontend;
use super::input::{Input, MAX_LINE, TooLong};
use super::pop3::Pop3Frontend;
use super::refusal::Refusal;
use super::sasl::{Exchange, Failure, Login, Mechanism, Progress};
use super::smtp::SmtpFrontend;
use super::upstream::Welcome;
use crate::vocabulary::{Protocol, TlsMode};

/// Commands that are wrong, unknown or not possible before the login, per connection. Real clients that
/// try one mechanism after the other get to four; more is somebody guessing.
const MAX_ERRORS: u32 = 10;

/// Wrong passwords per connection, as in RFC 4954 section 4: a server may end the session after a few.
/// Three let a client try an empty password first, as old Outlook does.
const MAX_WRONG_PASSWORDS: u32 = 3;

/// Commands that are answered without an error, per connection. A client that asks for everything and then tries one
/// mechanism after the other gets to ten; a thousand NOOPs in one segment are a flood.
const MAX_COMMANDS: u32 = 100;

/// What a command of HTTP begins with (RFC 9110 section 9, RFC 5789, WebDAV's commonest, and RFC 9113 section 3.4). No
/// mail protocol has a command of any of these names.
const HTTP_METHODS: [&str; 12] = [
    "GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH", "PROPFIND",
    "REPORT", "PRI",
];

/// First octet of a TLS record with a handshake message (RFC 8446 section 5.1).
const TLS_HANDSHAKE: u8 = 0x16;

/// Empty lines that the signature of a PROXY header of version 2 begins with; then comes a NUL
/// (HAProxy's PROXY protocol, section 2.2).
const PROXY_EMPTY_LINES: u32 = 2;

/// What the driver of a Frontend does next.
#[derive(Debug)]
pub enum Step {
    /// Read from the client, then [`Frontend::push`].
    Read,
    /// Send these to the client.
    Write(Vec<u8>),
    /// Send these, make the connection TLS, then call [`Frontend::tls_started`].
    StartTls(Vec<u8>),
    /// Check these, then call [`Frontend::accept`] or [`Frontend::refuse`].
    Login(Login),
    /// MAIL without a login, of a session that is [`Frontend::open_to_device`]: the rest of the session is
    /// another's, which begins with [`Frontend::into_unread`].
    Device,
    /// Send the goodbye of this kind ([`Frontend::goodbye`]) and close.
    Close(Closing),
}

/// Why a session ends before its login.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Closing {
    /// The client said so.
    Quit,
    /// A line or literal is longer than its limit.
    TooLong,
    /// Too many commands that mean nothing.
    TooManyErrors,
    /// Too many commands that are none of a login.
    TooManyCommands,
    /// Too many wrong passwords.
    TooManyWrongPasswords,
    /// Bytes behind STARTTLS that were sent in plain text (command injection).
    PlaintextBehindStartTls,
    /// TLS on a listener that does not begin with it.
    TlsOnPlainPort,
    /// A web browser or a port scanner.
    Http,
    /// A load balancer that announces its client's address, and is not one of the listener's.
    ProxyHeader,
    /// A load balancer of the listener's that does not announce its client's address as it should.
    NoProxyHeader,
    /// Others came later, and there is no room for so many that have not logged in.
    Displaced,
    /// The login took too long.
    Deadline,
    /// Nothing came for too long, after the login.
    Idle,
    /// The client was told why already.
    Refused,
    /// gatepost is being stopped.
    ShuttingDown,
    /// The mailbox has left the configuration.
    MailboxRemoved,
}

impl Closing {
    /// For people, in the log and in the goodbye.
    pub fn text(self) -> &'static str {
        match self {
            Self::Quit => "closed by the client before a login",
            Self::TooLong => "line or literal too long",
            Self::TooManyErrors => "too many errors",
            Self::TooManyCommands => "too many commands before a login",
            Self::TooManyWrongPasswords => "too many wrong passwords",
            Self::PlaintextBehindStartTls => "plain text behind STARTTLS",
            Self::TlsOnPlainPort => {
                "the client begins with TLS, this listener does not: set one of them to the other"
            }
            Self::Http => "this is a mail port, not HTTP",
            Self::ProxyHeader => {
                "the load balancer sends a PROXY header, this listener takes none from its address: \
                 name that in proxy_protocol, or switch it off there"
            }
            Self::NoProxyHeader => {
                "no PROXY header, or none in time, from an address that proxy_protocol names: \
                 switch it on at the load balancer"
            }
            Self::Displaced => {
                "too many connections that have not logged in; the oldest goes first"
            }
            Self::Deadline => "no login in time",
            Self::Idle => "nothing came for too long",
            Self::Refused => "refused",
            Self::ShuttingDown => "gatepost is being restarted",
            Self::MailboxRemoved => "gatepost does not serve this mailbox any more",
        }
    }
}

/// Where a session stands with TLS on the client's side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LocalTls {
    /// Plain, and it stays so.
    Never,
    /// Plain until STARTTLS; no login before.
    Offered,
    /// On.
    Active,
}

impl From<TlsMode> for LocalTls {
    fn from(mode: TlsMode) -> Self {
        match mode {
            TlsMode::None => Self::Never,
            TlsMode::StartTls => Self::Offered,
            TlsMode::Implicit => Self::Active,
        }
    }
}

/// What a command of the client leads to.
pub(super) enum Action {
    /// Answer it.
    Reply(Vec<u8>),
    /// Answer it, and count it as an error.
    Error(Vec<u8>),
    /// Answer it and start TLS.
    StartTls(Vec<u8>),
    /// Begin a SASL exchange, with the command's initial response if it had one.
    Authenticate(Mechanism, Option<Vec<u8>>),
    /// Have these checked.
    Login(Login),
    /// The client leaves.
    Quit,
}

/// What is a protocol's own.
pub(super) trait Dialect: Send {
    /// The first words of the session.
    fn greeting(&self, tls: LocalTls) -> Vec<u8>;
    /// Takes a command (or a part of one) off `input`; `None`: it is not all there yet.
    fn advance(&mut self, input: &mut Input, tls: LocalTls) -> Result<Option<Action>, TooLong>;
    /// Whether the line is a request of HTTP, and not a part of a command that is under way.
    fn is_http(&self, line: &[u8]) -> bool {
        is_http_method(first_words(line).0)
    }
    /// Whether the line is the command by which a device begins that can't log in.
    fn is_device(&self, _line: &[u8]) -> bool {
        false
    }
    /// Forgets all that was said in plain text.
    fn reset(&mut self);
    /// A challenge of a SASL exchange, in base64.
    fn challenge(&self, challenge: &str) -> Vec<u8>;
    /// The answer to credentials that are none.
    fn malformed(&self, failure: Failure) -> Vec<u8>;
    /// The answer to the login, when it is let through.
    fn accepted(&mut self, welcome: &Welcome) -> Vec<u8>;
    /// The answer to the login, when it is not.
    fn refused(&mut self, refusal: &Refusal) -> Vec<u8>;
    /// The last words.
    fn goodbye(&mut self, closing: Closing) -> Vec<u8>;
}

/// A session before its login. See the module's invariant.
pub struct Frontend {
    dialect: Box<dyn Dialect>,
    input: Input,
    tls: LocalTls,
    /// The SASL exchange that is under way: the next line belongs to it.
    exchange: Option<Exchange>,
    commands: u32,
    errors: u32,
    wrong_passwords: u32,
    /// How many empty lines began the session, until a first command has come: the time to see who
    /// speaks another protocol.
    opening: Option<u32>,
    /// Mail is taken without a login.
    open: bool,
}

impl Frontend {
    /// A new session. `keywords` are the upstream's EHLO keywords, for SMTP alone.
    pub fn new(protocol: Protocol, tls: LocalTls, keywords: Arc<[String]>) -> Self {
        let dialect: Box<dyn Dialect> = match protocol {
            Protocol::Imap => Box::new(ImapFrontend::default()),
            Protocol::Pop3 => Box::new(Pop3Frontend::default()),
            Protocol::Smtp => Box::new(SmtpFrontend::new(keywords)),
        };
        Self {
            dialect,
            input: Input::default(),
            tls,
            exchange: None,
            commands: 0,
            errors: 0,
            wrong_passwords: 0,
            opening: Some(0),
            open: false,
        }
    }

    /// Mail is taken without a login: SMTP's MAIL leads to [`Step::Device`], with or without TLS and HELO.
    /// To log in stays possible.
    pub fn open_to_device(mut self) -> Self {
        self.open = true;
        self
    }

    /// What the server says first.
    pub fn greeting(&self) -> Vec<u8> {
        self.dialect.greeting(self.tls)
    }

    /// Takes what the client sent.
    pub fn push(&mut self, bytes: &[u8]) {
        self.input.push(bytes);
    }

    /// The next thing to do.
    pub fn step(&mut self) -> Step {
        if let Some(closing) = self.overdrawn() {
            return Step::Close(closing);
        }
        if let Some(closing) = self.stranger() {
            return Step::Close(closing);
        }
        if self.begins_device() {
            return Step::Device;
        }
        match self.advance() {
            Err(TooLong) => Step::Close(Closing::TooLong),
            Ok(None) => Step::Read,
            Ok(Some(step)) => step,
        }
    }

    /// Takes a line of the exchange that is under way, else a command.
    fn advance(&mut self) -> Result<Option<Step>, TooLong> {
        if let Some(exchange) = self.exchange.take() {
            let Some(line) = self.input.line()? else {
                self.exchange = Some(exchange);
                return Ok(None);
            };
            return Ok(Some(self.exchange(exchange.respond(&line))));
        }
        let action = self.dialect.advance(&mut self.input, self.tls)?;
        Ok(action.map(|action| self.follow(action)))
    }

    /// A line of a SASL exchange is none, whatever it says, and a line that is too long is none either.
    fn begins_device(&mut self) -> bool {
        if !self.open || self.exchange.is_some() {
            return false;
        }
        let line = self.input.peek_line();
        line.is_some_and(|line| line.len() <= MAX_LINE && self.dialect.is_device(line))
    }

    fn follow(&mut self, action: Action) -> Step {
        match action {
            Action::Reply(reply) => {
                self.commands += 1;
                Step::Write(reply)
            }
            Action::Error(reply) => self.error(reply),
            Action::Authenticate(mechanism, initial) => {
                self.exchange(Exchange::start(mechanism, initial.as_deref()))
            }
            Action::StartTls(_) if !self.input.is_empty() => {
                Step::Close(Closing::PlaintextBehindStartTls)
            }
            Action::StartTls(reply) => Step::StartTls(reply),
            Action::Login(login) => Step::Login(login),
            Action::Quit => Step::Close(Closing::Quit),
        }
    }

    fn exchange(&mut self, progress: Progress) -> Step {
        match progress {
            Progress::Challenge(exchange) => {
                let challenge = self.dialect.challenge(exchange.challenge());
                self.exchange = Some(exchange);
                Step::Write(challenge)
            }
            Progress::Done(login) => Step::Login(login),
            Progress::Failed(failure) => self.error(self.dialect.malformed(failure)),
        }
    }

    fn error(&mut self, reply: Vec<u8>) -> Step {
        self.errors += 1;
        Step::Write(reply)
    }

    /// Sees that the client speaks another protocol: HTTP by any line (a browser's request has its mail commands behind
    /// it), others by the first octet or line.
    fn stranger(&mut self) -> Option<Closing> {
        // A response in base64 has no space; without one it may be any word.
        let words = if self.exchange.is_some() { 2 } else { 1 };
        let line = self.input.peek_line();
        if line.is_some_and(|line| has_words(line, words) && self.dialect.is_http(line)) {
            return Some(Closing::Http);
        }
        let empty_lines = self.opening?;
        match self.input.first()? {
            TLS_HANDSHAKE if empty_lines == 0 => return Some(Closing::TlsOnPlainPort),
            0 if empty_lines == PROXY_EMPTY_LINES => return Some(Closing::ProxyHeader),
            _ => {}
        }
        let line = self.input.peek_line()?.trim_ascii_end();
        self.opening = line.is_empty().then(|| empty_lines.saturating_add(1));
        let mut words = line.split(|&byte| byte == b' ');
        match (words.next()?, words.next(), words.next(), words.next()) {
            // `GET / HTTP/1.1`, but not `a1 LOGIN jane HTTP/1.1`, which is somebody's password.
            (_, Some(_), Some(version), None) if version.starts_with(b"HTTP/") => {
                Some(Closing::Http)
            }
            (b"PROXY", Some(b"TCP4" | b"TCP6" | b"UNKNOWN"), ..) => Some(Closing::ProxyHeader),
            _ => None,
        }
    }

    fn overdrawn(&self) -> Option<Closing> {
        if self.errors >= MAX_ERRORS {
            return Some(Closing::TooManyErrors);
        }
        if self.commands >= MAX_COMMANDS {
            return Some(Closing::TooManyCommands);
        }
        (self.wrong_passwords >= MAX_WRONG_PASSWORDS).then_some(Closing::TooManyWrongPasswords)
    }

    /// The connection is TLS now: what was said before is void (RFC 3207 section 4.2).
    pub fn tls_started(&mut self) {
        self.tls = LocalTls::Active;
        self.exchange = None;
        self.dialect.reset();
    }

    /// Lets the login through: the answer to it, then what the client has already sent behind it, which
    /// belongs to the upstream.
    pub fn accept(mut self, welcome: &Welcome) -> (Vec<u8>, Vec<u8>) {
        (self.dialect.accepted(welcome), self.input.take_rest())
    }

    /// What the client has sent and nobody has read: after [`Step::Device`] it begins with MAIL.
    pub fn into_unread(mut self) -> Vec<u8> {
        self.input.take_rest()
    }

    /// Refuses the login with this answer; the client may try again.
    pub fn refuse(&mut self, refusal: &Refusal) -> Vec<u8> {
        if refusal.is_wrong_password() {
            self.wrong_passwords += 1;
        } else {
            self.errors += 1;
        }
        self.dialect.refused(refusal)
    }

    /// The last words of a session that ends before its login.
    pub fn goodbye(&mut self, closing: Closing) -> Vec<u8> {
        match closing {
            // None of them would understand it.
            Closing::TlsOnPlainPort
            | Closing::Http
            | Closing::ProxyHeader
            | Closing::NoProxyHeader => Vec::new(),
            Closing::Refused => Vec::new(),
            _ => self.dialect.goodbye(closing),
        }
    }
}

/// However it is spelled and spaced: nobody with a mail client does so.
pub(super) fn is_http_method(word: &[u8]) -> bool {
    HTTP_METHODS.iter().any(|method| word.eq_ignore_ascii_case(method.as_bytes()))
}

fn has_words(line: &[u8], count: usize) -> bool {
    let (first, second) = first_words(line);
    [first, second].iter().filter(|word| !word.is_empty()).count() >= count
}

/// The first two words of a line, whatever white space is before and between them.
pub(super) fn first_words(line: &[u8]) -> (&[u8], &[u8]) {
    let mut words = line.split(u8::is_ascii_whitespace).filter(|word| !word.is_empty());
    (words.next().unwrap_or_default(), words.next().unwrap_or_default())
}
