//! An SMTP submission session as Exchange Online holds it (RFC 5321, RFC 4954, RFC 3030).
//!
//! Invariant: a command line is at most 512 octets (the initial response of a real token does not fit),
//! mail is taken only from a login, and only in the name of an address that the login may send as.

use std::io;

use super::{
    LoginFault, Protocol, World,
    calendar::{self, Style},
    limits::{Excess, Place},
    mailbox::{Envelope, Submission, Way},
    sasl,
    smtp_faults::{Shown, SmtpFault, SmtpStage},
    tokens::{self, Grant},
    wire::Wire,
};

/// RFC 5321 section 4.5.3.1.4, with the line's end.
const COMMAND_LIMIT: usize = 512;

/// MAIL and RCPT grow with their extensions (SIZE, DSN, SMTPUTF8); this is room for all of them.
const ENVELOPE_LIMIT: usize = 2_048;

/// Exchange Online's limit of a message, announced as SIZE.
const MESSAGE_LIMIT: usize = 157_286_400;

/// The name that the emulated server has for itself.
const HOST: &str = "EMUL0P01CA0001.outlook.office365.com";
/// The same at the end of answers to messages.
const HOSTNAME: &str = " [Hostname=EMUL0P01CA0001.outlook.office365.com]";

const BAD_SEQUENCE: &str = "503 5.5.1 Bad sequence of commands";
const SENDER_REFUSED: &str =
    "550 5.7.60 SMTP; Client does not have permissions to send as this sender";
/// Exchange's word for it, inside its store, is `sender thread limit exceeded`.
const RATE_LIMIT: &str = "432 4.3.2 STOREDRV.ClientSubmit; sender thread limit exceeded";
const QUOTA: &str = "554 5.2.0 STOREDRV.Submission.Exception:SubmissionQuotaExceededException; Failed \
    to process message due to a permanent exception with message The message can't be submitted because \
    the sender's submission quota was exceeded.";
const CONNECTION_LIMIT: &str = "432 4.3.2 Concurrent connections limit exceeded. Visit \
    https://aka.ms/concurrent_sending for more information.";

struct Session<'a> {
    world: &'a World,
    wire: Wire,
    greeted: bool,
    login: Option<Login<'a>>,
    sender: Option<Path>,
    recipients: Vec<Path>,
    /// Chunks of BDAT so far.
    chunks: Vec<u8>,
}

struct Login<'a> {
    grant: Grant,
    place: Place<'a>,
}

/// An address of the envelope, and the parameters behind it.
struct Path {
    address: String,
    parameters: Vec<String>,
}

/// Holds one session, until QUIT or the connection's end.
pub(super) async fn serve(wire: Wire, world: &World) -> io::Result<()> {
    let (sender, recipients, chunks) = (None, Vec::new(), Vec::new());
    let mut session =
        Session { world, wire, greeted: false, login: None, sender, recipients, chunks };
    let now = calendar::now(Style::Mail);
    session.say(&format!("220 {HOST} Microsoft ESMTP MAIL Service ready at {now}")).await?;
    loop {
        let line = session.wire.line(ENVELOPE_LIMIT).await?;
        let line = String::from_utf8_lossy(line.as_deref().unwrap_or(&[b'-'; 512])).into_owned();
        let (verb, rest) = line.split_once(' ').unwrap_or((&line, ""));
        let verb = verb.to_ascii_uppercase();
        if line.len() + 2 > COMMAND_LIMIT && !["MAIL", "RCPT"].contains(&verb.as_str()) {
            session.say("500 5.5.2 Command line too long").await?;
            continue;
        }
        session.command(&verb, rest.trim()).await?;
        if verb == "QUIT" {
            return session.wire.close().await;
        }
    }
}

impl Session<'_> {
    async fn say(&mut self, line: &str) -> io::Result<()> {
        if line.starts_with("432") {
            self.world.limits.count_hit();
        }
        self.wire.say_line(line).await?;
        // RFC 5321 section 3.8: the server closes behind it
        if line.starts_with("421") { self.hang_up().await } else { Ok(()) }
    }

    async fn hang_up(&mut self) -> io::Result<()> {
        self.wire.close().await?;
        Err(io::ErrorKind::ConnectionAborted.into())
    }

    /// Shows what faults there are at this stage; whether they were the answer.
    async fn faulty(&mut self, stage: &SmtpStage) -> io::Result<bool> {
        let shown = self.world.take_smtp_faults(stage);
        self.wait(&shown).await?;
        match shown.fault {
            Some(SmtpFault::Reply(line)) => self.say(&line).await.map(|()| true),
            Some(_) => self.hang_up().await.map(|()| true),
            None => Ok(false),
        }
    }

    async fn wait(&mut self, shown: &Shown) -> io::Result<()> {
        if !shown.delay.is_zero() {
            // what was answered before is not late
            self.wire.flush().await?;
            tokio::time::sleep(shown.delay).await;
        }
        Ok(())
    }

    async fn command(&mut self, verb: &str, rest: &str) -> io::Result<()> {
        if matches!(verb, "EHLO" | "HELO" | "RSET" | "STARTTLS") {
            self.reset();
            // RFC 3207 section 4.2: behind STARTTLS, what was learned before is forgotten
            self.greeted = verb == "RSET" && self.greeted || verb.ends_with("LO");
        }
        let reply = match verb {
            "EHLO" => return self.hello().await,
            "HELO" => &format!("250 {HOST} Hello [127.0.0.1]"),
            "STARTTLS" if !self.wire.encrypted() => {
                self.say("220 2.0.0 SMTP server ready").await?;
                return self.wire.start_tls(&self.world.acceptor).await;
            }
            "AUTH" => return self.auth(rest).await,
            "MAIL" if self.faulty(&SmtpStage::Mail).await? => return Ok(()),
            "MAIL" => self.mail(rest),
            "RCPT" => {
                let address = path(rest, "TO:").map(|path| path.address);
                if self.faulty(&SmtpStage::Rcpt(address)).await? {
                    return Ok(());
                }
                self.rcpt(rest)
            }
            "DATA" => return self.data().await,
            "BDAT" => return self.bdat(rest).await,
            "RSET" => "250 2.0.0 Resetting",
            "NOOP" => "250 2.0.0 OK",
            "QUIT" => {
                // before the answer: whoever has it may count on the place
                self.login = None;
                "221 2.0.0 Service closing transmission channel"
            }
            _ => "500 5.3.3 Unrecognized command 'unknown'",
        };
        self.say(reply).await
    }

    async fn hello(&mut self) -> io::Result<()> {
        let security = if self.wire.encrypted() { "AUTH LOGIN XOAUTH2" } else { "STARTTLS" };
        let size = format!("SIZE {MESSAGE_LIMIT}");
        let mut keywords = vec![
            size.as_str(),
            "PIPELINING",
            "DSN",
            "ENHANCEDSTATUSCODES",
            security,
            "8BITMIME",
            "BINARYMIME",
            "CHUNKING",
            "SMTPUTF8",
        ];
        keywords.retain(|keyword| !self.world.options.smtp_without.iter().any(|it| it == keyword));
        let last = keywords.pop().unwrap_or(security);
        let lines: String = keywords.iter().map(|keyword| format!("250-{keyword}\r\n")).collect();
        let reply = format!("250-{HOST} Hello [127.0.0.1]\r\n{lines}250 {last}");
        self.say(&reply).await
    }

    async fn auth(&mut self, rest: &str) -> io::Result<()> {
        let (method, initial) = rest.split_once(' ').unwrap_or((rest, ""));
        let reply = match method.to_ascii_uppercase().as_str() {
            _ if self.login.is_some() || !self.greeted => BAD_SEQUENCE,
            "XOAUTH2" if self.wire.encrypted() => return self.xoauth2(initial).await,
            "LOGIN" => "535 5.7.139 Authentication unsuccessful, basic authentication is disabled.",
            _ => "504 5.7.4 Unrecognized authentication type",
        };
        self.say(reply).await
    }

    async fn xoauth2(&mut self, initial: &str) -> io::Result<()> {
        let initial = Some(initial).filter(|initial| !initial.is_empty());
        let login = sasl::xoauth2(self.world, &mut self.wire, Protocol::Smtp, initial).await?;
        if self.faulty(&SmtpStage::Auth).await? {
            return Ok(());
        }
        let reply = match login {
            Ok(grant) => {
                let place = self.world.limits.log_in(&grant.mailbox);
                self.login = Some(Login { grant, place });
                "235 2.7.0 Authentication successful".to_owned()
            }
            Err(fault) => refusal(fault),
        };
        self.say(&reply).await
    }

    fn mail(&mut self, rest: &str) -> &'static str {
        let Some(Login { grant, .. }) = &self.login else {
            return "530 5.7.57 Client not authenticated to send mail.";
        };
        if self.sender.is_some() {
            return "503 5.5.2 Sender already specified";
        }
        let sender = path(rest, "FROM:");
        let other = |sender: &Path| !sender.address.eq_ignore_ascii_case(&grant.mailbox);
        let strict = grant.fault == Some(LoginFault::SenderRefused);
        if strict && sender.as_ref().is_some_and(other) {
            return SENDER_REFUSED;
        }
        self.sender = sender;
        if self.sender.is_some() { "250 2.1.0 Sender OK" } else { "501 5.1.7 Invalid address" }
    }

    fn rcpt(&mut self, rest: &str) -> &'static str {
        if self.sender.is_none() {
            return BAD_SEQUENCE;
        }
        let recipient = path(rest, "TO:").filter(|recipient| !recipient.address.is_empty());
        let Some(recipient) = recipient else {
            return "501 5.1.3 Invalid address";
        };
        self.recipients.push(recipient);
        "250 2.1.5 Recipient OK"
    }

    async fn data(&mut self) -> io::Result<()> {
        if self.recipients.is_empty() || !self.chunks.is_empty() {
            return self.say(BAD_SEQUENCE).await;
        }
        self.say("354 Start mail input; end with <CRLF>.<CRLF>").await?;
        let mut data = Vec::new();
        loop {
            let line = self.wire.line(MESSAGE_LIMIT).await?.ok_or(io::ErrorKind::InvalidData)?;
            if line == b"." {
                return self.submit(data).await;
            }
            // RFC 5321 section 4.5.2: a dot before more is the client's stuffing
            data.extend_from_slice(line.strip_prefix(b".").unwrap_or(&line));
            data.extend_from_slice(b"\r\n");
        }
    }

    async fn bdat(&mut self, rest: &str) -> io::Result<()> {
        let (count, last) = rest.split_once(' ').unwrap_or((rest, ""));
        let count = count.parse().ok().filter(|count| *count <= MESSAGE_LIMIT);
        // without its size, the chunk cannot be told from the commands behind it
        let chunk = self.wire.exact(count.ok_or(io::ErrorKind::InvalidData)?).await?;
        if self.recipients.is_empty() {
            return self.say(BAD_SEQUENCE).await;
        }
        self.chunks.extend_from_slice(&chunk);
        if last.eq_ignore_ascii_case("LAST") {
            let data = std::mem::take(&mut self.chunks);
            return self.submit(data).await;
        }
        self.say(&format!("250 2.6.0 CHUNK received OK, {} octets", chunk.len())).await
    }

    /// Decides about a whole message, as Exchange's store does: only now it knows who may send it.
    async fn submit(&mut self, data: Vec<u8>) -> io::Result<()> {
        let recipients = std::mem::take(&mut self.recipients);
        let (Some(login), Some(sender)) = (&mut self.login, self.sender.take()) else {
            return self.say(BAD_SEQUENCE).await;
        };
        let shown = self.world.take_smtp_faults(&SmtpStage::EndOfData);
        let reply = match &shown.fault {
            Some(SmtpFault::Reply(line)) => line.clone(),
            Some(SmtpFault::Lost) => String::new(),
            _ => decide(self.world, login, sender, recipients, data) + HOSTNAME,
        };
        self.reset();
        self.wait(&shown).await?;
        match shown.fault {
            Some(SmtpFault::Closed | SmtpFault::Lost) => self.hang_up().await,
            _ => self.say(&reply).await,
        }
    }

    fn reset(&mut self) {
        self.sender = None;
        self.recipients.clear();
        self.chunks.clear();
    }
}

/// The answer to a message's end, within the limits and beyond.
fn decide(
    world: &World,
    login: &mut Login<'_>,
    sender: Path,
    recipients: Vec<Path>,
    data: Vec<u8>,
) -> String {
    if data.len() > MESSAGE_LIMIT {
        return "552 5.3.4 Message size exceeds fixed maximum message size".to_owned();
    }
    match login.place.submit(recipients.len()) {
        Err(Excess::Connections) => CONNECTION_LIMIT.to_owned(),
        Err(Excess::Messages) => RATE_LIMIT.to_owned(),
        Err(Excess::Recipients) => QUOTA.to_owned(),
        Ok(()) => send(world, &login.grant, sender, recipients, data),
    }
}

/// Takes the message, or tells why this login may not send it.
fn send(
    world: &World,
    grant: &Grant,
    sender: Path,
    recipients: Vec<Path>,
    data: Vec<u8>,
) -> String {
    let (mailbox, from) = (&grant.mailbox, &sender.address);
    if world.tokens.may_send_as(grant, from) {
        let (recipients, parameters) =
            recipients.into_iter().map(|path| (path.address, path.parameters)).unzip();
        let envelope = Envelope {
            sender: sender.address,
            sender_parameters: sender.parameters,
            recipients,
            recipient_parameters: parameters,
        };
        world.mail.deliver(Submission {
            way: Way::Smtp,
            mailbox: mailbox.clone(),
            envelope,
            data: data.into(),
            arrives: None,
            kept: None,
            attachments: Vec::new(),
        });
        return format!("250 2.0.0 OK <{}@{HOST}>", tokens::guid());
    }
    if grant.fault != Some(LoginFault::SendAsDenied) && world.mail.open(from).is_none() {
        return SENDER_REFUSED.to_owned();
    }
    format!(
        "554 5.2.252 SendAsDenied; {mailbox} not allowed to send as {from}; \
         STOREDRV.Submission.Exception:SendAsDeniedException.MapiExceptionSendAsDenied"
    )
}

fn refusal(fault: Option<LoginFault>) -> String {
    let text = match fault {
        None => "501 5.7.0 Authentication cancelled",
        Some(LoginFault::SmtpAuthDisabled) => &disabled_for("Tenant"),
        Some(LoginFault::SmtpAuthDisabledMailbox) => &disabled_for("Mailbox"),
        Some(LoginFault::Throttled { milliseconds }) => &format!(
            "451 4.7.0 Temporary server error. Request is throttled. Suggested Backoff Time: \
             {milliseconds} milliseconds"
        ),
        Some(LoginFault::ConnectionLimit) => CONNECTION_LIMIT,
        Some(_) => "535 5.7.3 Authentication unsuccessful",
    };
    format!("{text} [{HOST}]")
}

fn disabled_for(whom: &str) -> String {
    format!(
        "535 5.7.139 Authentication unsuccessful, SmtpClientAuthentication is disabled for the \
         {whom}. Visit https://aka.ms/smtp_auth_disabled for more information."
    )
}

/// Address and parameters of `FROM:<a@b> SIZE=1`; nothing here depends on the parameters.
fn path(rest: &str, keyword: &str) -> Option<Path> {
    let (head, tail) = rest.split_at_checked(keyword.len())?;
    let tail = head.eq_ignore_ascii_case(keyword).then_some(tail)?.trim_start();
    let (address, parameters) = tail.strip_prefix('<')?.split_once('>')?;
    let parameters = parameters.split_ascii_whitespace().map(str::to_owned).collect();
    let address = address.to_owned();
    (address.is_empty() || address.contains('@')).then_some(Path { address, parameters })
}
