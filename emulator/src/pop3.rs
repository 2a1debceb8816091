//! A POP3 session as Exchange holds it (RFC 1939, RFC 2449, RFC 2595, RFC 5034).
//!
//! Invariant: the maildrop is what the inbox was at the login; messages marked deleted leave the inbox
//! at QUIT and at no other time (RFC 1939 section 6).

use std::{collections::BTreeSet, io};

use super::{LoginFault, Protocol, World, locked, mailbox::Message, sasl, wire::Wire};

/// RFC 2449 section 4 allows commands of 255 octets.
const COMMAND_LIMIT: usize = 255;

struct Session<'a> {
    world: &'a World,
    wire: Wire,
    maildrop: Option<Maildrop>,
}

/// An inbox as it was at the login.
struct Maildrop {
    mailbox: String,
    messages: Vec<Message>,
    deleted: BTreeSet<u32>,
}

/// Holds one session, until QUIT or the connection's end.
pub(super) async fn serve(wire: Wire, world: &World) -> io::Result<()> {
    let mut session = Session { world, wire, maildrop: None };
    session.wire.say_line("+OK The Microsoft Exchange POP3 service is ready. [RQBNAFUA]").await?;
    loop {
        let Some(line) = session.wire.line(COMMAND_LIMIT).await? else {
            session.wire.say_line("-ERR Protocol error. 19").await?;
            continue;
        };
        let line = String::from_utf8_lossy(&line).into_owned();
        let (verb, rest) = line.split_once(' ').unwrap_or((&line, ""));
        match (verb.to_ascii_uppercase().as_str(), &mut session.maildrop) {
            ("QUIT", _) => {
                session.update();
                let bye = "+OK Microsoft Exchange Server POP3 server signing off.";
                session.wire.say_line(bye).await?;
                return session.wire.close().await;
            }
            ("CAPA", _) => session.capabilities().await?,
            (verb, None) => session.authorization(verb, rest.trim()).await?,
            (verb, Some(maildrop)) => {
                let reply = maildrop.transaction(verb, rest.trim());
                let reply = reply.unwrap_or_else(|| b"-ERR Protocol error. 14\r\n".to_vec());
                session.wire.say(reply).await?;
            }
        }
    }
}

impl Session<'_> {
    async fn capabilities(&mut self) -> io::Result<()> {
        let methods =
            if self.wire.encrypted() { "SASL PLAIN XOAUTH2\r\nUSER\r\n" } else { "STLS\r\n" };
        self.wire.say(format!("+OK\r\nTOP\r\nUIDL\r\n{methods}.\r\n")).await
    }

    async fn authorization(&mut self, verb: &str, rest: &str) -> io::Result<()> {
        let reply = match (verb, self.wire.encrypted()) {
            ("STLS", false) => {
                self.wire.say_line("+OK Begin TLS negotiation.").await?;
                return self.wire.start_tls(&self.world.acceptor).await;
            }
            ("AUTH", _) if rest.is_empty() => "+OK\r\nPLAIN\r\nXOAUTH2\r\n.",
            ("AUTH", true) if rest.eq_ignore_ascii_case("XOAUTH2") => return self.login().await,
            // an initial response is refused, as Exchange does: it wants two lines
            ("AUTH", _) => "-ERR Protocol error. 18",
            ("USER", true) => "+OK",
            ("PASS", true) => "-ERR Logon failure: unknown user name or bad password.",
            _ => "-ERR Command is not valid in this state.",
        };
        self.wire.say_line(reply).await
    }

    async fn login(&mut self) -> io::Result<()> {
        let login = sasl::xoauth2(self.world, &mut self.wire, Protocol::Pop3, None).await?;
        let reply = match login {
            Ok(grant) => {
                let (messages, deleted) =
                    (self.world.mail.messages(&grant.mailbox, "INBOX"), BTreeSet::new());
                self.maildrop = Some(Maildrop { mailbox: grant.mailbox, messages, deleted });
                "+OK User successfully authenticated.".to_owned()
            }
            Err(fault) => refusal(fault),
        };
        self.wire.say_line(&reply).await
    }

    /// The UPDATE state: what was marked goes.
    fn update(&mut self) {
        let Some(maildrop) = self.maildrop.take() else { return };
        let mut folders = self.world.mail.open(&maildrop.mailbox).map(locked);
        if let Some(inbox) = folders.as_mut().and_then(|folders| folders.get_mut("INBOX")) {
            inbox.remove(&maildrop.deleted);
            self.world.mail.changed.send_replace(());
        }
    }
}

fn refusal(fault: Option<LoginFault>) -> String {
    let text = match fault {
        None => "The authentication was cancelled.",
        Some(LoginFault::NotConnected) => "User is authenticated but not connected.",
        Some(LoginFault::Throttled { milliseconds }) => {
            &format!("Request is throttled. Suggested Backoff Time: {milliseconds} milliseconds")
        }
        Some(LoginFault::ConnectionLimit) => "Server Unavailable. 21",
        Some(_) => "Authentication failure: unknown user name or bad password.",
    };
    format!("-ERR {text}")
}

impl Maildrop {
    /// The reply to a command, or `None` for one that makes no sense.
    fn transaction(&mut self, verb: &str, rest: &str) -> Option<Vec<u8>> {
        let mut words = rest.split_whitespace();
        let number = words.next();
        match verb {
            "STAT" => {
                let sizes = self.left().map(|(_, message)| message.data.len());
                let (count, size) =
                    sizes.fold((0, 0), |(count, sum), size| (count + 1, sum + size));
                return Some(format!("+OK {count} {size}\r\n").into_bytes());
            }
            "LIST" => return self.listing(number, |message| message.data.len().to_string()),
            "UIDL" => return self.listing(number, |message| message.uid.to_string()),
            "RETR" => return self.get(number).map(|message| multiline(&message.data)),
            "TOP" => {
                let lines = words.next()?.parse().ok()?;
                return self.get(number).map(|message| multiline(top(&message.data, lines)));
            }
            "DELE" => {
                let uid = self.get(number)?.uid;
                self.deleted.insert(uid);
            }
            "RSET" => self.deleted.clear(),
            "NOOP" => {}
            _ => return None,
        }
        Some(b"+OK\r\n".to_vec())
    }

    /// A message by its number, unless it is marked deleted.
    fn get(&self, number: Option<&str>) -> Option<&Message> {
        let number: usize = number?.parse().ok()?;
        self.left().find(|(own, _)| *own == number).map(|(_, message)| message)
    }

    /// Messages that are not marked deleted, with their numbers.
    fn left(&self) -> impl Iterator<Item = (usize, &Message)> {
        let left = |(_, message): &(usize, &Message)| !self.deleted.contains(&message.uid);
        (1..).zip(&self.messages).filter(left)
    }

    fn listing(&self, number: Option<&str>, what: impl Fn(&Message) -> String) -> Option<Vec<u8>> {
        if number.is_some() {
            let message = self.get(number)?;
            return Some(format!("+OK {} {}\r\n", number?, what(message)).into_bytes());
        }
        let lines = self.left().map(|(number, message)| format!("{number} {}\r\n", what(message)));
        Some(format!("+OK {}\r\n{}.\r\n", self.left().count(), lines.collect::<String>()).into())
    }
}

/// A multi-line reply; lines that begin with a dot get one more (RFC 1939 section 3).
fn multiline(data: &[u8]) -> Vec<u8> {
    let mut reply = b"+OK\r\n".to_vec();
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
    let mut all = data.split_inclusive(|octet| *octet == b'\n');
    let header: usize = all.by_ref().take_while(|line| *line != b"\r\n").map(<[u8]>::len).sum();
    let body: usize = all.take(lines).map(<[u8]>::len).sum();
    data.get(..header + 2 + body).unwrap_or(data)
}
