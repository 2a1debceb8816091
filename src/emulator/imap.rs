//! An IMAP4rev1 session as Exchange holds it (RFC 3501).
//!
//! | file | what it holds |
//! | --- | --- |
//! | `imap` | the connection: greeting, TLS, login, IDLE, the token's end |
//! | `syntax` | a command's words, sequence sets |
//! | `desk` | commands on folders, once logged in |
//! | `messages` | FETCH, STORE, COPY, MOVE, EXPUNGE |
//! | `search` | SEARCH |
//! | `content` | parts of a message, ENVELOPE, BODYSTRUCTURE |
//!
//! Invariant: before the login only this file speaks, and when the access token expires the session
//! ends with the BYE that Exchange sends.

use std::io;

use tokio::{sync::watch, time::Instant};

use self::{
    desk::Desk,
    syntax::{Command, Words},
};
use super::{
    LoginFault, Protocol, World,
    sasl::{self, RESPONSE_LIMIT},
    wire::{Line, Wire},
};

mod content;
mod desk;
mod messages;
mod search;
mod syntax;

/// RFC 7162 section 4 asks for 8,192 octets; a set of many UIDs and a token need more.
const COMMAND_LIMIT: usize = 64 * 1024;

/// Literals before the login, enough for a user name, a password and some.
const EARLY_LITERAL_LIMIT: usize = 8 * 1024;

/// Literals behind the login: a message of the size that SMTP takes too.
const LITERAL_LIMIT: usize = 157_286_400;

/// Commands that a session without a mailbox may try before it is closed.
const PATIENCE: u8 = 2;

/// The tagged answer to a command: `Ok` goes before "… completed.", `Err` is the whole.
type Answer = Result<String, Failure>;

/// Why a command failed.
#[derive(Debug, PartialEq, Eq)]
enum Failure {
    /// The client's syntax.
    Bad,
    /// Not possible now.
    No(&'static str),
}

struct Session<'a> {
    world: &'a World,
    wire: Wire,
    desk: Option<Desk<'a>>,
    /// Logged in, but to nobody's mailbox: so many commands until the end.
    unconnected: Option<u8>,
    changes: watch::Receiver<()>,
}

/// Whether the session goes on.
#[derive(PartialEq, Eq)]
enum Next {
    Command,
    Close,
}

/// Holds one session, until LOGOUT or the connection's end.
pub(super) async fn serve(wire: Wire, world: &World) -> io::Result<()> {
    let changes = world.mail.subscribe();
    let mut session = Session { world, wire, desk: None, unconnected: None, changes };
    session.wire.say_line("* OK The Microsoft Exchange IMAP4 service is ready. [RQBNAFUA]").await?;
    loop {
        let limit = if session.desk.is_some() { LITERAL_LIMIT } else { EARLY_LITERAL_LIMIT };
        let end = session.end_of_token();
        let read = tokio::select! {
            read = read_command(&mut session.wire, limit) => read?,
            () = sleep_until(end) => return session.expire().await,
        };
        let next = match read {
            Ok(command) => session.command(command).await?,
            Err(tag) => {
                session.wire.say_line(&format!("{tag} BAD Command Error. 12")).await?;
                Next::Command
            }
        };
        if next == Next::Close {
            return session.wire.close().await;
        }
    }
}

/// Reads lines and literals until the command is whole; `Err` is the tag of what is none.
async fn read_command(
    wire: &mut Wire,
    literal_limit: usize,
) -> io::Result<Result<Command, String>> {
    let mut words = Words::default();
    loop {
        let Line::Complete(line) = wire.line(COMMAND_LIMIT).await? else {
            return Ok(Err("*".into()));
        };
        match words.add_line(&line) {
            Err(Failure::Bad | Failure::No(_)) => return Ok(Err(words.tag())),
            Ok(None) => return Ok(words.into_command()),
            Ok(Some(literal)) if literal.size > literal_limit => {
                wire.say_line("* BYE Connection is closed. 13").await?;
                wire.flush().await?;
                return Err(io::Error::new(io::ErrorKind::InvalidData, "literal too large"));
            }
            Ok(Some(literal)) => {
                if !literal.non_synchronizing {
                    wire.say_line("+ Ready for additional command text.").await?;
                }
                words.add_literal(wire.exact(literal.size).await?);
            }
        }
    }
}

async fn sleep_until(end: Option<Instant>) {
    match end {
        Some(end) => tokio::time::sleep_until(end).await,
        None => std::future::pending().await,
    }
}

impl Session<'_> {
    fn end_of_token(&self) -> Option<Instant> {
        self.desk.as_ref().map(|desk| desk.grant.expires)
    }

    async fn expire(mut self) -> io::Result<()> {
        self.wire.say_line("* BYE Session invalidated - AccessTokenExpired").await?;
        self.wire.close().await
    }

    async fn command(&mut self, mut command: Command) -> io::Result<Next> {
        let (tag, name) = (command.tag.clone(), command.name.clone());
        let answer = match name.as_str() {
            "LOGOUT" => {
                self.wire
                    .say_line("* BYE Microsoft Exchange Server IMAP4 server signing off.")
                    .await?;
                self.wire.say_line(&format!("{tag} OK LOGOUT completed.")).await?;
                return Ok(Next::Close);
            }
            "CAPABILITY" => {
                self.wire.say_line(self.capabilities()).await?;
                Ok(String::new())
            }
            "ID" => {
                self.wire.say_line("* ID (\"name\" \"Microsoft.Exchange.Imap4.Imap4Server\" \"version\" \"15.20\")").await?;
                Ok(String::new())
            }
            _ if self.unconnected.is_some() => return self.not_connected(&tag).await,
            "IDLE" if self.desk.is_some() => return self.idle(&tag).await,
            _ => match &mut self.desk {
                Some(desk) => {
                    let mut out = Vec::new();
                    let answer = desk.command(&mut command, &mut out);
                    self.wire.say(out).await?;
                    answer
                }
                None => return self.early(&mut command).await,
            },
        };
        self.wire.say_line(&tagged(&tag, &name, answer)).await?;
        Ok(Next::Command)
    }

    fn capabilities(&self) -> &'static str {
        if self.desk.is_some() || self.unconnected.is_some() {
            "* CAPABILITY IMAP4 IMAP4rev1 AUTH=PLAIN AUTH=XOAUTH2 SASL-IR UIDPLUS MOVE ID UNSELECT CLIENTACCESSRULES \
             CLIENTNETWORKPRESENCELOCATION BACKENDAUTHENTICATE CHILDREN IDLE NAMESPACE LITERAL+"
        } else if self.wire.encrypted() {
            "* CAPABILITY IMAP4 IMAP4rev1 AUTH=PLAIN AUTH=XOAUTH2 SASL-IR UIDPLUS MOVE ID UNSELECT CHILDREN IDLE \
             NAMESPACE LITERAL+"
        } else {
            "* CAPABILITY IMAP4 IMAP4rev1 LOGINDISABLED STARTTLS SASL-IR UIDPLUS MOVE ID UNSELECT CHILDREN IDLE \
             NAMESPACE LITERAL+"
        }
    }

    /// Commands before the login.
    async fn early(&mut self, command: &mut Command) -> io::Result<Next> {
        let tag = &command.tag;
        let encrypted = self.wire.encrypted();
        match command.name.as_str() {
            "NOOP" => self.wire.say_line(&format!("{tag} OK NOOP completed.")).await?,
            "STARTTLS" if !encrypted => {
                self.wire.say_line(&format!("{tag} OK Begin TLS negotiation now.")).await?;
                self.wire.start_tls(&self.world.acceptor).await?;
            }
            "AUTHENTICATE" if encrypted => return self.authenticate(command).await,
            "LOGIN" if encrypted => self.wire.say_line(&format!("{tag} NO LOGIN failed.")).await?,
            _ => {
                self.wire.say_line(&format!("{tag} BAD Command received in Invalid state.")).await?
            }
        }
        Ok(Next::Command)
    }

    async fn authenticate(&mut self, command: &mut Command) -> io::Result<Next> {
        let tag = command.tag.clone();
        let method = command.args.atom().unwrap_or_default();
        let response = match command.args.atom() {
            Ok(initial) => initial.into_bytes(),
            Err(_) => {
                self.wire.say_line("+ ").await?;
                match self.wire.line(RESPONSE_LIMIT).await? {
                    Line::Complete(line) => line,
                    Line::TooLong => Vec::new(),
                }
            }
        };
        if !method.eq_ignore_ascii_case("XOAUTH2") || response == b"*" {
            self.wire.say_line(&format!("{tag} NO AUTHENTICATE failed.")).await?;
            return Ok(Next::Command);
        }
        let fault = match sasl::login(self.world, Protocol::Imap, &response) {
            Ok(grant) => {
                self.desk = Some(Desk::new(self.world, grant));
                self.wire.say_line(&format!("{tag} OK AUTHENTICATE completed.")).await?;
                return Ok(Next::Command);
            }
            Err(fault) => fault,
        };
        if let Some(challenge) = sasl::challenge(self.world, fault) {
            self.wire.say_line(&format!("+ {challenge}")).await?;
            self.wire.line(COMMAND_LIMIT).await?;
        }
        let reply = match fault {
            LoginFault::AuthFailed | LoginFault::SmtpAuthDisabled => {
                "NO AUTHENTICATE failed.".to_owned()
            }
            // Exchange says OK, and the truth only to the commands behind it
            LoginFault::NotConnected => {
                self.unconnected = Some(PATIENCE);
                "OK AUTHENTICATE completed.".to_owned()
            }
            LoginFault::Throttled { milliseconds } => {
                format!(
                    "NO Request is throttled. Suggested Backoff Time: {milliseconds} milliseconds"
                )
            }
            LoginFault::ConnectionLimit => "NO Server Unavailable. 15".to_owned(),
        };
        self.wire.say_line(&format!("{tag} {reply}")).await?;
        Ok(Next::Command)
    }

    async fn not_connected(&mut self, tag: &str) -> io::Result<Next> {
        let left = self.unconnected.map_or(0, |left| left.saturating_sub(1));
        self.unconnected = Some(left);
        self.wire.say_line(&format!("{tag} BAD User is authenticated but not connected.")).await?;
        if left > 0 {
            return Ok(Next::Command);
        }
        self.wire.say_line("* BYE Connection closed. 14").await?;
        Ok(Next::Close)
    }

    /// RFC 2177: reports changes until the client's DONE.
    async fn idle(&mut self, tag: &str) -> io::Result<Next> {
        self.wire.say_line("+ IDLE accepted, awaiting DONE command.").await?;
        let end = self.end_of_token();
        loop {
            let mut news = Vec::new();
            self.changes.mark_unchanged();
            if let Some(desk) = &mut self.desk {
                desk.report_changes(&mut news);
            }
            self.wire.say(news).await?;
            self.wire.flush().await?;
            let line = tokio::select! {
                line = self.wire.line(COMMAND_LIMIT) => line?,
                _ = self.changes.changed() => continue,
                () = sleep_until(end) => {
                    self.wire.say_line("* BYE Session invalidated - AccessTokenExpired").await?;
                    return Ok(Next::Close);
                }
            };
            let done = matches!(line, Line::Complete(line) if line.eq_ignore_ascii_case(b"DONE"));
            let reply = if done { "OK IDLE completed." } else { "BAD Command Error. 12" };
            self.wire.say_line(&format!("{tag} {reply}")).await?;
            return Ok(Next::Command);
        }
    }
}

fn tagged(tag: &str, name: &str, answer: Answer) -> String {
    match answer {
        Ok(code) if code.is_empty() => format!("{tag} OK {name} completed."),
        Ok(code) => format!("{tag} OK [{code}] {name} completed."),
        Err(Failure::No(text)) => format!("{tag} NO {text}"),
        Err(Failure::Bad) => format!("{tag} BAD Command Argument Error. 11"),
    }
}
