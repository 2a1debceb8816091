//! An IMAP4rev1 session as Exchange holds it (RFC 3501): this file speaks until the login and in IDLE,
//! `view` obeys the commands behind it, `fetch` shows messages, `syntax` reads words.
//!
//! Invariant: a session ends with its access token, with the BYE that Exchange sends.

use std::io;

use tokio::{
    sync::watch,
    time::{Instant, sleep_until},
};

use self::{
    syntax::{Command, Words},
    view::View,
};
use super::{LoginFault, Protocol, World, sasl, tokens::Grant, wire::Wire};

mod fetch;
mod syntax;
mod view;

/// RFC 7162 section 4 asks for 8,192 octets; a set of many UIDs and a token need more.
const COMMAND_LIMIT: usize = 64 * 1024;

/// A message of the size that SMTP takes too.
const LITERAL_LIMIT: usize = 157_286_400;

/// Commands that a session without a mailbox may try before it is closed.
const PATIENCE: u8 = 2;

/// The tagged answer to a command: `Ok` is a response code, if any, for "… completed.".
type Answer = Result<String, Failure>;

/// Why a command failed.
#[derive(Debug)]
enum Failure {
    /// The client's syntax.
    Bad,
    /// Not possible now.
    No(&'static str),
}

struct Session<'a> {
    world: &'a World,
    wire: Wire,
    logged_in: bool,
}

/// How the time before the login ends.
enum Login {
    Mailbox(Grant),
    /// A good token, but of nobody's mailbox.
    Nobody,
    Logout,
}

/// Holds one session, until LOGOUT or the connection's end.
pub(super) async fn serve(wire: Wire, world: &World) -> io::Result<()> {
    let mut session = Session { world, wire, logged_in: false };
    session.wire.say_line("* OK The Microsoft Exchange IMAP4 service is ready. [RQBNAFUA]").await?;
    match session.login().await? {
        // a timer is a millisecond late, and the first command may be faster
        Login::Mailbox(grant) if grant.expires <= Instant::now() => session.expired().await?,
        Login::Mailbox(grant) => tokio::select! {
            () = sleep_until(grant.expires) => session.expired().await?,
            ended = session.obey(grant.mailbox) => ended?,
        },
        Login::Nobody => session.refuse_all().await?,
        Login::Logout => {}
    }
    session.wire.close().await
}

impl Session<'_> {
    async fn expired(&mut self) -> io::Result<()> {
        self.wire.say_line("* BYE Session invalidated - AccessTokenExpired").await
    }

    /// Commands before the login.
    async fn login(&mut self) -> io::Result<Login> {
        while let Some(mut command) = self.command().await? {
            let tag = command.tag.clone();
            let reply = match (command.name.as_str(), self.wire.encrypted()) {
                ("NOOP", _) => "OK NOOP completed.",
                ("STARTTLS", false) => {
                    self.wire.say_line(&format!("{tag} OK Begin TLS negotiation now.")).await?;
                    self.wire.start_tls(&self.world.acceptor).await?;
                    continue;
                }
                ("AUTHENTICATE", true) => match self.authenticate(&mut command).await? {
                    Some(login) => return Ok(login),
                    None => continue,
                },
                ("LOGIN", true) => "NO LOGIN failed.",
                _ => "BAD Command received in Invalid state.",
            };
            self.wire.say_line(&format!("{tag} {reply}")).await?;
        }
        Ok(Login::Logout)
    }

    async fn authenticate(&mut self, command: &mut Command) -> io::Result<Option<Login>> {
        let xoauth2 = command.words.keyword().is_ok_and(|method| method == "XOAUTH2");
        let initial = command.words.atom().ok();
        let (world, wire) = (self.world, &mut self.wire);
        let decided = match xoauth2 {
            true => sasl::xoauth2(world, wire, Protocol::Imap, initial.as_deref()).await?,
            false => Err(None),
        };
        let (reply, login) = match decided {
            Ok(grant) => ("OK AUTHENTICATE completed.", Some(Login::Mailbox(grant))),
            // Exchange says OK, and the truth only to the commands behind it
            Err(Some(LoginFault::NotConnected)) => {
                ("OK AUTHENTICATE completed.", Some(Login::Nobody))
            }
            Err(Some(LoginFault::Throttled { milliseconds: n })) => (
                &*format!("NO Request is throttled. Suggested Backoff Time: {n} milliseconds"),
                None,
            ),
            Err(Some(LoginFault::ConnectionLimit)) => ("NO Server Unavailable. 15", None),
            Err(_) => ("NO AUTHENTICATE failed.", None),
        };
        self.logged_in = login.is_some();
        self.wire.say_line(&format!("{} {reply}", command.tag)).await?;
        Ok(login)
    }

    /// Commands behind the login.
    async fn obey(&mut self, mailbox: String) -> io::Result<()> {
        let mut changes = self.world.mail.changed.subscribe();
        let Some(folders) = self.world.mail.open(&mailbox) else { return Ok(()) };
        let mut view = View::new(folders);
        while let Some(mut command) = self.command().await? {
            let answer = match command.name.as_str() {
                "IDLE" => self.idle(&mut view, &mut changes).await?,
                _ => view.command(&mut command),
            };
            self.world.mail.changed.send_replace(());
            self.wire.say(std::mem::take(&mut view.out)).await?;
            let (tag, name) = (command.tag, command.name);
            let uid = if command.by_uid { "UID " } else { "" };
            let reply = match answer {
                Ok(code) if code.is_empty() => format!("{tag} OK {uid}{name} completed."),
                Ok(code) => format!("{tag} OK [{code}] {uid}{name} completed."),
                Err(Failure::No(text)) => format!("{tag} NO {text}"),
                Err(Failure::Bad) => format!("{tag} BAD Command Argument Error. 11"),
            };
            self.wire.say_line(&reply).await?;
        }
        Ok(())
    }

    /// RFC 2177: reports changes until the client's DONE.
    async fn idle(
        &mut self,
        view: &mut View<'_>,
        changes: &mut watch::Receiver<()>,
    ) -> io::Result<Answer> {
        self.wire.say_line("+ IDLE accepted, awaiting DONE command.").await?;
        loop {
            changes.mark_unchanged();
            view.report_changes();
            self.wire.say(std::mem::take(&mut view.out)).await?;
            self.wire.flush().await?;
            tokio::select! {
                line = self.wire.line(COMMAND_LIMIT) => {
                    let done = line?.is_some_and(|line| line.eq_ignore_ascii_case(b"DONE"));
                    return Ok(if done { Ok(String::new()) } else { Err(Failure::Bad) });
                }
                _ = changes.changed() => {}
            }
        }
    }

    /// What Exchange does with a good token for a mailbox that is not its own.
    async fn refuse_all(&mut self) -> io::Result<()> {
        for _ in 0..PATIENCE {
            let Some(Command { tag, .. }) = self.command().await? else { return Ok(()) };
            let refusal = format!("{tag} BAD User is authenticated but not connected.");
            self.wire.say_line(&refusal).await?;
        }
        self.wire.say_line("* BYE Connection closed. 14").await
    }

    /// The next command, once those that are the same in every state are answered; `None` at LOGOUT.
    async fn command(&mut self) -> io::Result<Option<Command>> {
        loop {
            let (tag, command) = self.read().await?;
            let name = command.as_ref().map_or("", |command| command.name.as_str());
            let untagged = match name {
                "" => {
                    self.wire.say_line(&format!("{tag} BAD Command Error. 12")).await?;
                    continue;
                }
                "CAPABILITY" => self.capabilities(),
                "ID" => {
                    "* ID (\"name\" \"Microsoft.Exchange.Imap4.Imap4Server\" \"version\" \"15.20\")"
                }
                "LOGOUT" => "* BYE Microsoft Exchange Server IMAP4 server signing off.",
                _ => return Ok(command),
            };
            self.wire.say_line(&format!("{untagged}\r\n{tag} OK {name} completed.")).await?;
            if name == "LOGOUT" {
                return Ok(None);
            }
        }
    }

    fn capabilities(&self) -> &'static str {
        match (self.logged_in, self.wire.encrypted()) {
            (true, _) => concat!(
                "* CAPABILITY IMAP4 IMAP4rev1 AUTH=PLAIN AUTH=XOAUTH2 SASL-IR UIDPLUS MOVE ID UNSELECT ",
                "CLIENTACCESSRULES CLIENTNETWORKPRESENCELOCATION BACKENDAUTHENTICATE CHILDREN IDLE ",
                "NAMESPACE LITERAL+"
            ),
            (false, true) => concat!(
                "* CAPABILITY IMAP4 IMAP4rev1 AUTH=PLAIN AUTH=XOAUTH2 SASL-IR UIDPLUS MOVE ID UNSELECT ",
                "CHILDREN IDLE NAMESPACE LITERAL+"
            ),
            (false, false) => concat!(
                "* CAPABILITY IMAP4 IMAP4rev1 LOGINDISABLED STARTTLS SASL-IR UIDPLUS MOVE ID UNSELECT ",
                "CHILDREN IDLE NAMESPACE LITERAL+"
            ),
        }
    }

    /// Reads lines and literals until a command is whole; the tag alone is what is none.
    async fn read(&mut self) -> io::Result<(String, Option<Command>)> {
        let mut words = Words::default();
        loop {
            let line = self.wire.line(COMMAND_LIMIT).await?;
            let Some(literal) = line.and_then(|line| words.add_line(&line)) else {
                return Ok((words.tag(), None));
            };
            match literal {
                None => return Ok((words.tag(), words.into_command())),
                Some((size, _)) if size > LITERAL_LIMIT => {
                    return Err(io::ErrorKind::InvalidData.into());
                }
                Some((size, synchronizing)) => {
                    if synchronizing {
                        self.wire.say_line("+ Ready for additional command text.").await?;
                    }
                    words.add_literal(self.wire.exact(size).await?);
                }
            }
        }
    }
}
