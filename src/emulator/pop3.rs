//! A POP3 session as Exchange holds it (RFC 1939, RFC 2449, RFC 2595, RFC 5034).
//!
//! Invariant: the maildrop is what the inbox was at the login; messages marked deleted leave the inbox
//! at QUIT and at no other time (RFC 1939 section 6).

use std::{collections::BTreeSet, io};

use super::{
    LoginFault, Protocol, World,
    mailbox::Message,
    sasl::{self, RESPONSE_LIMIT},
    tokens::Grant,
    wire::{Line, Wire},
};

/// RFC 2449 section 4 allows commands of 255 octets.
const COMMAND_LIMIT: usize = 255;

/// What Exchange says to a login that it does not like.
const REFUSED: &str = "-ERR Authentication failure: unknown user name or bad password.";

struct Session<'a> {
    world: &'a World,
    wire: Wire,
    maildrop: Option<Maildrop>,
}

/// An inbox as it was at the login.
struct Maildrop {
    grant: Grant,
    messages: Vec<Message>,
    deleted: BTreeSet<u32>,
}

/// Holds one session, until QUIT or the connection's end.
pub(super) async fn serve(wire: Wire, world: &World) -> io::Result<()> {
    let mut session = Session { world, wire, maildrop: None };
    session.wire.say_line("+OK The Microsoft Exchange POP3 service is ready. [RQBNAFUA]").await?;
    loop {
        let Line::Complete(line) = session.wire.line(COMMAND_LIMIT).await? else {
            session.wire.say_line("-ERR Protocol error. 19").await?;
            continue;
        };
        let line = String::from_utf8_lossy(&line).into_owned();
        let (verb, rest) = line.split_once(' ').unwrap_or((&line, ""));
        let verb = verb.to_ascii_uppercase();
        if verb == "QUIT" {
            session.update();
            session.wire.say_line("+OK Microsoft Exchange Server POP3 server signing off.").await?;
            return session.wire.close().await;
        }
        match session.maildrop.is_some() {
            false => session.authorization(&verb, rest.trim()).await?,
            true => session.transaction(&verb, rest.trim()).await?,
        }
    }
}

impl Session<'_> {
    async fn authorization(&mut self, verb: &str, rest: &str) -> io::Result<()> {
        match verb {
            "CAPA" => self.capabilities().await,
            "STLS" if !self.wire.encrypted() => {
                self.wire.say_line("+OK Begin TLS negotiation.").await?;
                self.wire.start_tls(&self.world.acceptor).await
            }
            "AUTH" if rest.is_empty() => self.wire.say("+OK\r\nPLAIN\r\nXOAUTH2\r\n.\r\n").await,
            "AUTH" if self.wire.encrypted() && rest.eq_ignore_ascii_case("XOAUTH2") => {
                self.authenticate().await
            }
            // an initial response is refused, as Exchange does: it wants two lines
            "AUTH" => self.wire.say_line("-ERR Protocol error. 18").await,
            "USER" if self.wire.encrypted() => self.wire.say_line("+OK").await,
            "PASS" if self.wire.encrypted() => {
                self.wire.say_line("-ERR Logon failure: unknown user name or bad password.").await
            }
            _ => self.wire.say_line("-ERR Command is not valid in this state.").await,
        }
    }

    async fn capabilities(&mut self) -> io::Result<()> {
        let methods =
            if self.wire.encrypted() { "SASL PLAIN XOAUTH2\r\nUSER\r\n" } else { "STLS\r\n" };
        self.wire.say(format!("+OK\r\nTOP\r\nUIDL\r\n{methods}.\r\n")).await
    }

    async fn authenticate(&mut self) -> io::Result<()> {
        self.wire.say_line("+ ").await?;
        let Line::Complete(response) = self.wire.line(RESPONSE_LIMIT).await? else {
            return self.wire.say_line("-ERR Protocol error. 19").await;
        };
        if response == b"*" {
            return self.wire.say_line("-ERR The authentication was cancelled.").await;
        }
        let fault = match sasl::login(self.world, Protocol::Pop3, &response) {
            Ok(grant) => {
                let inbox = self.world.mail.read(&grant.mailbox, |folders| {
                    folders.get("INBOX").map(|inbox| inbox.messages.clone()).unwrap_or_default()
                });
                let messages = inbox.unwrap_or_default();
                self.maildrop = Some(Maildrop { grant, messages, deleted: BTreeSet::new() });
                return self.wire.say_line("+OK User successfully authenticated.").await;
            }
            Err(fault) => fault,
        };
        if let Some(challenge) = sasl::challenge(self.world, fault) {
            self.wire.say_line(&format!("+ {challenge}")).await?;
            self.wire.line(COMMAND_LIMIT).await?;
        }
        let reply = match fault {
            LoginFault::AuthFailed | LoginFault::SmtpAuthDisabled => REFUSED.to_owned(),
            LoginFault::NotConnected => "-ERR User is authenticated but not connected.".to_owned(),
            LoginFault::Throttled { milliseconds } => {
                format!(
                    "-ERR Request is throttled. Suggested Backoff Time: {milliseconds} milliseconds"
                )
            }
            LoginFault::ConnectionLimit => "-ERR Server Unavailable. 21".to_owned(),
        };
        self.wire.say_line(&reply).await
    }

    async fn transaction(&mut self, verb: &str, rest: &str) -> io::Result<()> {
        if verb == "CAPA" {
            return self.capabilities().await;
        }
        let Some(maildrop) = &mut self.maildrop else { return Ok(()) };
        let mut words = rest.split_whitespace();
        let number = words.next();
        let reply = match verb {
            "STAT" => {
                let (count, size) = maildrop.statistics();
                Some(format!("+OK {count} {size}\r\n").into_bytes())
            }
            "LIST" => maildrop.listing(number, |message| message.data.len().to_string()),
            "UIDL" => maildrop.listing(number, |message| message.uid.to_string()),
            "RETR" => maildrop.get(number).map(|message| multiline("+OK", &message.data)),
            "TOP" => maildrop.get(number).and_then(|message| {
                let lines: usize = words.next()?.parse().ok()?;
                Some(multiline("+OK", top(&message.data, lines)))
            }),
            "DELE" => maildrop.get(number).map(|message| message.uid).map(|uid| {
                maildrop.deleted.insert(uid);
                b"+OK\r\n".to_vec()
            }),
            "RSET" => {
                maildrop.deleted.clear();
                Some(b"+OK\r\n".to_vec())
            }
            "NOOP" => Some(b"+OK\r\n".to_vec()),
            _ => None,
        };
        self.wire.say(reply.unwrap_or_else(|| b"-ERR Protocol error. 14\r\n".to_vec())).await
    }

    /// The UPDATE state: what was marked goes.
    fn update(&mut self) {
        if let Some(maildrop) = self.maildrop.take().filter(|maildrop| !maildrop.deleted.is_empty())
        {
            self.world.mail.write(&maildrop.grant.mailbox, |folders| {
                if let Some(inbox) = folders.get_mut("INBOX") {
                    inbox.remove(&maildrop.deleted);
                }
            });
        }
    }
}

impl Maildrop {
    /// A message by its number, unless it is marked deleted.
    fn get(&self, number: Option<&str>) -> Option<&Message> {
        let number: usize = number?.parse().ok()?;
        let message = self.messages.get(number.checked_sub(1)?)?;
        (!self.deleted.contains(&message.uid)).then_some(message)
    }

    /// Messages that are not marked deleted, with their numbers.
    fn left(&self) -> impl Iterator<Item = (usize, &Message)> {
        let numbered =
            self.messages.iter().enumerate().map(|(index, message)| (index + 1, message));
        numbered.filter(|(_, message)| !self.deleted.contains(&message.uid))
    }

    fn statistics(&self) -> (usize, usize) {
        self.left()
            .fold((0, 0), |(count, size), (_, message)| (count + 1, size + message.data.len()))
    }

    fn listing(&self, number: Option<&str>, what: impl Fn(&Message) -> String) -> Option<Vec<u8>> {
        if let Some(number) = number {
            return self
                .get(Some(number))
                .map(|message| format!("+OK {number} {}\r\n", what(message)).into_bytes());
        }
        let (count, size) = self.statistics();
        let mut reply = format!("+OK {count} {size}\r\n");
        for (number, message) in self.left() {
            reply.push_str(&format!("{number} {}\r\n", what(message)));
        }
        reply.push_str(".\r\n");
        Some(reply.into_bytes())
    }
}

/// A multi-line reply; lines that begin with a dot get one more (RFC 1939 section 3).
fn multiline(first: &str, data: &[u8]) -> Vec<u8> {
    let mut reply = format!("{first}\r\n").into_bytes();
    for line in data.split_inclusive(|octet| *octet == b'\n') {
        if line.starts_with(b".") {
            reply.push(b'.');
        }
        reply.extend_from_slice(line);
    }
    if !reply.ends_with(b"\r\n") {
        reply.extend_from_slice(b"\r\n");
    }
    reply.extend_from_slice(b".\r\n");
    reply
}

/// The header, the empty line and so many lines of the body.
fn top(data: &[u8], lines: usize) -> &[u8] {
    let mut length = 0;
    let mut body = None;
    for line in data.split_inclusive(|octet| *octet == b'\n') {
        match &mut body {
            Some(count) if *count == lines => break,
            Some(count) => *count += 1,
            None if line == b"\r\n" => body = Some(0),
            None => {}
        }
        length += line.len();
    }
    data.get(..length).unwrap_or(data)
}
