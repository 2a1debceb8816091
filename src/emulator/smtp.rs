//! An SMTP submission session as Exchange Online holds it (RFC 5321, RFC 4954, RFC 3030).
//!
//! Invariant: a command line is at most 512 octets (the initial response of a real token does not fit),
//! mail is taken only from a login, and only in the name of an address that the login may send as.

use std::{io, sync::Arc, time::SystemTime};

use tokio::sync::OwnedSemaphorePermit;

use super::{
    LoginFault, Protocol, World,
    calendar::Moment,
    sasl::{self, RESPONSE_LIMIT},
    tokens::{self, Grant},
    wire::{Line, Wire},
};

/// RFC 5321 section 4.5.3.1.4, with the line's end.
const COMMAND_LIMIT: usize = 512;

/// MAIL and RCPT grow with their extensions (SIZE, DSN, SMTPUTF8); this is room for all of them.
const ENVELOPE_LIMIT: usize = 2_048;

/// Exchange Online's limit of a message, announced as SIZE.
const MESSAGE_LIMIT: usize = 157_286_400;

/// Exchange Online's limit of recipients of one message.
const RECIPIENT_LIMIT: usize = 1_000;

/// The name that the emulated server has for itself.
const HOST: &str = "EMUL0P01CA0001.outlook.office365.com";

struct Session<'a> {
    world: &'a Arc<World>,
    wire: Wire,
    greeted: bool,
    login: Option<Login>,
    sender: Option<String>,
    recipients: Vec<String>,
    /// Chunks of BDAT so far.
    chunks: Vec<u8>,
}

struct Login {
    grant: Grant,
    /// One of the few concurrent connections of the mailbox; `None` while they are all taken.
    place: Option<OwnedSemaphorePermit>,
}

/// Holds one session, until QUIT or the connection's end.
pub(super) async fn serve(wire: Wire, world: &Arc<World>) -> io::Result<()> {
    let (greeted, chunks) = (false, Vec::new());
    let mut session =
        Session { world, wire, greeted, login: None, sender: None, recipients: Vec::new(), chunks };
    let now = Moment::from(SystemTime::now()).mail();
    session.say(&format!("220 {HOST} Microsoft ESMTP MAIL Service ready at {now}")).await?;
    loop {
        let line = match session.wire.line(ENVELOPE_LIMIT).await? {
            Line::Complete(line) => String::from_utf8_lossy(&line).into_owned(),
            Line::TooLong => {
                session.say("500 5.5.2 Command line too long").await?;
                continue;
            }
        };
        let (verb, rest) = line.split_once(' ').unwrap_or((&line, ""));
        let verb = verb.to_ascii_uppercase();
        if line.len() + 2 > COMMAND_LIMIT && !matches!(verb.as_str(), "MAIL" | "RCPT") {
            session.say("500 5.5.2 Command line too long").await?;
            continue;
        }
        if verb == "QUIT" {
            session.say("221 2.0.0 Service closing transmission channel").await?;
            return session.wire.close().await;
        }
        session.command(&verb, rest.trim()).await?;
    }
}

impl Session<'_> {
    async fn say(&mut self, line: &str) -> io::Result<()> {
        self.wire.say_line(line).await
    }

    async fn command(&mut self, verb: &str, rest: &str) -> io::Result<()> {
        match verb {
            "EHLO" => self.ehlo().await,
            "HELO" => {
                self.greeted = true;
                self.reset();
                self.say(&format!("250 {HOST} Hello [127.0.0.1]")).await
            }
            "STARTTLS" if !self.wire.encrypted() => {
                self.say("220 2.0.0 SMTP server ready").await?;
                self.greeted = false; // RFC 3207 section 4.2: what was learned before is forgotten
                self.reset();
                self.wire.start_tls(&self.world.acceptor).await
            }
            "AUTH" => self.auth(rest).await,
            "MAIL" => {
                let reply = self.mail(rest);
                self.say(reply).await
            }
            "RCPT" => {
                let reply = self.rcpt(rest);
                self.say(reply).await
            }
            "DATA" => self.data().await,
            "BDAT" => self.bdat(rest).await,
            "RSET" => {
                self.reset();
                self.say("250 2.0.0 Resetting").await
            }
            "NOOP" => self.say("250 2.0.0 OK").await,
            "VRFY" => self.say("252 2.1.5 Cannot VRFY user").await,
            _ => self.say("500 5.3.3 Unrecognized command 'unknown'").await,
        }
    }

    async fn ehlo(&mut self) -> io::Result<()> {
        self.greeted = true;
        self.reset();
        let security = if self.wire.encrypted() { "AUTH LOGIN XOAUTH2" } else { "STARTTLS" };
        let reply = format!(
            "250-{HOST} Hello [127.0.0.1]\r\n250-SIZE {MESSAGE_LIMIT}\r\n250-PIPELINING\r\n250-DSN\r\n\
             250-ENHANCEDSTATUSCODES\r\n250-{security}\r\n250-8BITMIME\r\n250-BINARYMIME\r\n250-CHUNKING\r\n\
             250 SMTPUTF8\r\n"
        );
        self.wire.say(reply).await
    }

    async fn auth(&mut self, rest: &str) -> io::Result<()> {
        let (method, initial) = rest.split_once(' ').unwrap_or((rest, ""));
        if self.login.is_some() || !self.greeted {
            return self.say("503 5.5.1 Bad sequence of commands").await;
        }
        match method.to_ascii_uppercase().as_str() {
            "XOAUTH2" if self.wire.encrypted() => self.xoauth2(initial).await,
            "LOGIN" if self.wire.encrypted() => {
                if initial.is_empty() {
                    self.say("334 VXNlcm5hbWU6").await?;
                    self.wire.line(RESPONSE_LIMIT).await?;
                }
                self.say("334 UGFzc3dvcmQ6").await?;
                self.wire.line(RESPONSE_LIMIT).await?;
                let reply =
                    "535 5.7.139 Authentication unsuccessful, basic authentication is disabled.";
                self.say(&format!("{reply} [{HOST}]")).await
            }
            _ => self.say("504 5.7.4 Unrecognized authentication type").await,
        }
    }

    async fn xoauth2(&mut self, initial: &str) -> io::Result<()> {
        let mut response = initial.as_bytes().to_vec();
        if initial.is_empty() {
            self.say("334 ").await?;
            let Line::Complete(line) = self.wire.line(RESPONSE_LIMIT).await? else {
                return self.say("500 5.5.6 Authentication exchange line is too long").await; // RFC 4954 section 6
            };
            response = line;
        }
        if response == b"*" {
            return self.say("501 5.7.0 Authentication cancelled").await;
        }
        let fault = match sasl::login(self.world, Protocol::Smtp, &response) {
            Ok(grant) => {
                let place = self
                    .world
                    .faults
                    .smtp_place(&grant.mailbox, self.world.options.smtp_connections);
                self.login = Some(Login { grant, place });
                return self.say("235 2.7.0 Authentication successful").await;
            }
            Err(fault) => fault,
        };
        if let Some(challenge) = sasl::challenge(self.world, fault) {
            self.say(&format!("334 {challenge}")).await?;
            self.wire.line(COMMAND_LIMIT).await?;
        }
        let reply = match fault {
            LoginFault::AuthFailed | LoginFault::NotConnected => "535 5.7.3 Authentication unsuccessful".to_owned(),
            LoginFault::SmtpAuthDisabled => "535 5.7.139 Authentication unsuccessful, SmtpClientAuthentication is \
                disabled for the Tenant. Visit https://aka.ms/smtp_auth_disabled for more information."
                .to_owned(),
            LoginFault::Throttled { milliseconds } => format!(
                "451 4.7.0 Temporary server error. Request is throttled. Suggested Backoff Time: {milliseconds} milliseconds"
            ),
            LoginFault::ConnectionLimit => CONNECTION_LIMIT.to_owned(),
        };
        self.say(&format!("{reply} [{HOST}]")).await
    }

    fn mail(&mut self, rest: &str) -> &'static str {
        if self.login.is_none() {
            return "530 5.7.57 Client not authenticated to send mail.";
        }
        if self.sender.is_some() {
            return "503 5.5.2 Sender already specified";
        }
        let Some((sender, params)) = path(rest, "FROM:") else {
            return "501 5.1.7 Invalid address";
        };
        for param in params.split_whitespace() {
            let (name, value) = param.split_once('=').unwrap_or((param, ""));
            match name.to_ascii_uppercase().as_str() {
                "SIZE" if value.parse().is_ok_and(|size: usize| size <= MESSAGE_LIMIT) => {}
                "SIZE" => return "552 5.3.4 Message size exceeds fixed maximum message size",
                "BODY"
                    if ["7BIT", "8BITMIME", "BINARYMIME"]
                        .iter()
                        .any(|b| b.eq_ignore_ascii_case(value)) => {}
                "SMTPUTF8" | "AUTH" | "RET" | "ENVID" => {}
                _ => return "501 5.5.4 Invalid arguments",
            }
        }
        self.sender = Some(sender);
        "250 2.1.0 Sender OK"
    }

    fn rcpt(&mut self, rest: &str) -> &'static str {
        if self.sender.is_none() {
            return "503 5.5.1 Bad sequence of commands";
        }
        match path(rest, "TO:") {
            _ if self.recipients.len() >= RECIPIENT_LIMIT => "452 4.5.3 Too many recipients",
            Some((recipient, _)) if !recipient.is_empty() => {
                self.recipients.push(recipient);
                "250 2.1.5 Recipient OK"
            }
            _ => "501 5.1.3 Invalid address",
        }
    }

    async fn data(&mut self) -> io::Result<()> {
        if self.recipients.is_empty() || !self.chunks.is_empty() {
            return self.say("503 5.5.1 Bad sequence of commands").await;
        }
        self.say("354 Start mail input; end with <CRLF>.<CRLF>").await?;
        let mut data = Vec::new();
        let mut fits = true;
        loop {
            let Line::Complete(line) = self.wire.line(MESSAGE_LIMIT).await? else {
                fits = false;
                continue;
            };
            if line == b"." {
                break;
            }
            fits &= data.len() + line.len() + 2 <= MESSAGE_LIMIT;
            if fits {
                data.extend_from_slice(line.strip_prefix(b".").unwrap_or(&line)); // RFC 5321 section 4.5.2
                data.extend_from_slice(b"\r\n");
            }
        }
        let reply = if fits { self.submit(&data) } else { TOO_LARGE.to_owned() };
        self.reset();
        self.say(&reply).await
    }

    async fn bdat(&mut self, rest: &str) -> io::Result<()> {
        let mut words = rest.split_whitespace();
        let Some(count) = words.next().and_then(|count| count.parse::<usize>().ok()) else {
            return self.say("501 5.5.4 Invalid arguments").await;
        };
        let last = words.next().is_some_and(|word| word.eq_ignore_ascii_case("LAST"));
        if self.chunks.len().saturating_add(count) > MESSAGE_LIMIT {
            // the chunk follows at once, and so much of it is not worth reading
            self.say(TOO_LARGE).await?;
            self.wire.flush().await?;
            return Err(io::ErrorKind::InvalidData.into());
        }
        let chunk = self.wire.exact(count).await?;
        if self.recipients.is_empty() {
            return self.say("503 5.5.1 Bad sequence of commands").await;
        }
        self.chunks.extend_from_slice(&chunk);
        if !last {
            return self.say(&format!("250 2.6.0 CHUNK received OK, {count} octets")).await;
        }
        let data = std::mem::take(&mut self.chunks);
        let reply = self.submit(&data);
        self.reset();
        self.say(&reply).await
    }

    /// Decides about a whole message, as Exchange's store does: only now it knows who may send it.
    fn submit(&mut self, data: &[u8]) -> String {
        let (Some(login), Some(sender)) = (&mut self.login, &self.sender) else {
            return "503 5.5.1 Bad sequence of commands".to_owned();
        };
        let mailbox = &login.grant.mailbox;
        if login.place.is_none() {
            login.place =
                self.world.faults.smtp_place(mailbox, self.world.options.smtp_connections);
        }
        if login.place.is_none() {
            return format!("{CONNECTION_LIMIT} [Hostname={HOST}]");
        }
        if !self.world.tokens.may_send_as(&login.grant, sender) {
            if self.world.mail.read(sender, |_| ()).is_some() {
                return format!(
                    "554 5.2.252 SendAsDenied; {mailbox} not allowed to send as {sender}; \
                     STOREDRV.Submission.Exception:SendAsDeniedException.MapiExceptionSendAsDenied [Hostname={HOST}]"
                );
            }
            return "550 5.7.60 SMTP; Client does not have permissions to send as this sender"
                .to_owned();
        }
        self.world.mail.deliver(mailbox, sender, &self.recipients, data);
        format!("250 2.0.0 OK <{}@{HOST}> [Hostname={HOST}]", tokens::guid())
    }

    fn reset(&mut self) {
        self.sender = None;
        self.recipients.clear();
        self.chunks.clear();
    }
}

const CONNECTION_LIMIT: &str = "432 4.3.2 Concurrent connections limit exceeded. Visit \
    https://aka.ms/concurrent_sending for more information.";

const TOO_LARGE: &str = "552 5.3.4 Message size exceeds fixed maximum message size";

/// The address and the parameters of `FROM:<a@b> SIZE=1`.
fn path<'a>(rest: &'a str, keyword: &str) -> Option<(String, &'a str)> {
    let (head, tail) = rest.split_at_checked(keyword.len())?;
    let tail = head.eq_ignore_ascii_case(keyword).then_some(tail)?.trim_start();
    let (address, params) = tail.strip_prefix('<')?.split_once('>')?;
    let well_formed =
        address.is_empty() || address.contains('@') && !address.contains(char::is_whitespace);
    well_formed.then(|| (address.to_owned(), params))
}
