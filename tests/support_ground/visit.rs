//! A client's whole visit, phase by phase.

use std::net::SocketAddr;
use std::time::Duration;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use gatepost::vocabulary::Protocol;
use tokio_rustls::TlsConnector;

use super::{Client, Stop};

/// Up to here a visit has no session.
pub const LOGIN: &str = "login";

/// Behind this phase of SMTP the message was taken.
pub const END_OF_DATA: &str = "end of DATA";

/// Octets of a message that is sent, about.
pub const SIZE: usize = 40_000;

/// Who visits where, and how long they wait.
#[derive(Clone)]
pub struct Visit {
    pub protocol: Protocol,
    pub door: SocketAddr,
    pub trust: Option<TlsConnector>,
    pub mailbox: String,
    pub password: String,
    /// The number of the message that is fetched.
    pub number: usize,
    /// In the subject of what is sent, and at its end.
    pub marker: String,
    /// For each answer up to that to the login.
    pub until_login: Duration,
    /// For each behind it.
    pub in_session: Duration,
}

impl Visit {
    /// From connect to goodbye. `mark` hears of each phase that is over.
    pub async fn pay(&self, mut mark: impl FnMut(&'static str)) -> Result<(), Stop> {
        let to = (None, self.door);
        let mut client =
            Client::connect(to, self.trust.as_ref(), self.protocol, self.until_login).await?;
        let done = async {
            log_in(&mut client, &self.mailbox, &self.password).await?;
            mark(LOGIN);
            client.wait_at_most(self.in_session);
            match self.protocol {
                Protocol::Imap => self.imap(&mut client, &mut mark).await,
                Protocol::Pop3 => self.pop3(&mut client, &mut mark).await,
                Protocol::Smtp => self.smtp(&mut client, &mut mark).await,
            }
        };
        let done = done.await;
        if let Err(Stop::Hung(_)) = done {
            client.reset();
        }
        done
    }

    async fn imap(
        &self,
        client: &mut Client,
        mark: &mut impl FnMut(&'static str),
    ) -> Result<(), Stop> {
        client.phase = "SELECT";
        client.send("2 SELECT INBOX\r\n").await?;
        client.expect("2 OK").await?;
        mark("SELECT");
        client.phase = "FETCH";
        client.send(format!("3 FETCH {} BODY.PEEK[]\r\n", self.number)).await?;
        let line = client.line().await?;
        let size =
            line.rsplit_once('{').and_then(|(_, size)| size.trim_end_matches('}').parse().ok());
        client.exact(size.ok_or(Stop::Odd("FETCH", line))?).await?;
        client.expect(")").await?;
        client.expect("3 OK").await?;
        mark("FETCH");
        client.phase = "APPEND";
        let message = message(&self.mailbox, &self.marker, SIZE);
        client.send(format!("4 APPEND Drafts {{{}}}\r\n", message.len())).await?;
        client.expect("+ ").await?;
        client.send(message + "\r\n").await?;
        client.expect("4 OK").await?;
        mark("APPEND");
        client.phase = "IDLE";
        client.send("5 IDLE\r\n").await?;
        client.expect("+ ").await?;
        client.send("DONE\r\n").await?;
        client.expect("5 OK").await?;
        mark("IDLE");
        client.phase = "LOGOUT";
        client.send("6 LOGOUT\r\n").await?;
        client.expect("* BYE").await?;
        client.expect("6 OK").await?;
        mark("LOGOUT");
        Ok(())
    }

    async fn pop3(
        &self,
        client: &mut Client,
        mark: &mut impl FnMut(&'static str),
    ) -> Result<(), Stop> {
        client.phase = "LIST";
        client.send("LIST\r\n").await?;
        client.until(".").await?;
        mark("LIST");
        client.phase = "RETR";
        client.send(format!("RETR {}\r\n", self.number)).await?;
        client.until(".").await?;
        mark("RETR");
        client.phase = "QUIT";
        client.send("QUIT\r\n").await?;
        client.expect("+OK").await?;
        mark("QUIT");
        Ok(())
    }

    async fn smtp(
        &self,
        client: &mut Client,
        mark: &mut impl FnMut(&'static str),
    ) -> Result<(), Stop> {
        client.phase = "MAIL";
        client.send(format!("MAIL FROM:<{}>\r\n", self.mailbox)).await?;
        client.expect("250").await?;
        client.send("RCPT TO:<post@fabrikam.example>\r\n").await?;
        client.expect("250").await?;
        mark("MAIL");
        client.phase = "DATA";
        client.send("DATA\r\n").await?;
        client.expect("354").await?;
        client.send(message(&self.mailbox, &self.marker, SIZE)).await?;
        mark("DATA");
        client.phase = END_OF_DATA;
        client.send(".\r\n").await?;
        client.expect("250").await?;
        mark(END_OF_DATA);
        client.phase = "QUIT";
        client.send("QUIT\r\n").await?;
        client.expect("221").await?;
        mark("QUIT");
        Ok(())
    }
}

/// From the greeting to the answer to the login.
pub async fn log_in(client: &mut Client, mailbox: &str, password: &str) -> Result<(), Stop> {
    client.phase = "greeting";
    client.greeting().await?;
    client.phase = LOGIN;
    let plain = BASE64_STANDARD.encode(format!("\0{mailbox}\0{password}"));
    let (command, welcome) = match client.protocol() {
        Protocol::Imap => (format!("1 LOGIN \"{mailbox}\" \"{password}\"\r\n"), "1 OK"),
        Protocol::Pop3 => (format!("USER {mailbox}\r\nPASS {password}\r\n"), "+OK"),
        Protocol::Smtp => (format!("EHLO client\r\nAUTH PLAIN {plain}\r\n"), "235"),
    };
    client.send(command).await?;
    if client.protocol() != Protocol::Imap {
        client.answer().await?;
    }
    let answer = client.answer().await?;
    if answer.starts_with(welcome) { Ok(()) } else { Err(Stop::Refused(answer)) }
}

/// A message that needs no mending, with its marker in the subject and as its last line.
pub fn message(from: &str, marker: &str, octets: usize) -> String {
    let mut message = format!(
        "Date: Mon, 3 Mar 2025 08:00:00 +0000\r\nMessage-ID: <{marker}@contoso.example>\r\nFrom: {from}\r\n\
         To: post@fabrikam.example\r\nSubject: {marker}\r\n\r\n"
    );
    while message.len() < octets {
        message += "seventy-six letters are not in this line, but there are many of them\r\n";
    }
    message + marker + "\r\n"
}

/// Whether this answer makes a client throw its password away.
pub fn is_wrong_password(answer: &str) -> bool {
    answer.contains("[AUTHENTICATIONFAILED]")
        || answer.contains("[AUTH]")
        || answer.starts_with("535")
}

/// Whether this answer asks the client to try again later, in its protocol's own terms.
pub fn is_temporary(answer: &str) -> bool {
    let imap = answer.contains(" NO [UNAVAILABLE]") || answer.contains(" NO [LIMIT]");
    imap || answer.starts_with("-ERR [SYS/TEMP]") || answer.starts_with('4')
}
