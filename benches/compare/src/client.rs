//! Mail clients: how one logs in, and what a session of theirs is.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use crate::upstream::{MESSAGE, send_lines, token};
use crate::wire::Wire;

/// For a whole session: about as long as mail clients wait for a login.
const PATIENCE: Duration = Duration::from_secs(30);

/// The mailbox of all measurements.
pub(crate) const MAILBOX: &str = "support@contoso.example";

/// Which protocol.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Protocol {
    Imap,
    Smtp,
}

impl Protocol {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Imap => "IMAP",
            Self::Smtp => "SMTP",
        }
    }
}

/// How a client proves who it is.
#[derive(Clone)]
pub(crate) enum Proof {
    /// To a proxy that logs in upstream by itself.
    Password(String),
    /// To the upstream, directly or through what only relays.
    Token,
}

/// Where clients log in, and how.
#[derive(Clone)]
pub(crate) struct Door {
    pub(crate) address: SocketAddr,
    /// Implicit with IMAP, STARTTLS with SMTP.
    pub(crate) tls: Option<TlsConnector>,
    pub(crate) proof: Proof,
    pub(crate) mailbox: Arc<str>,
}

impl Door {
    /// On loopback.
    pub(crate) fn new(port: u16, tls: Option<TlsConnector>, proof: Proof) -> Self {
        let address = (Ipv4Addr::LOCALHOST, port).into();
        Self { address, tls, proof, mailbox: MAILBOX.into() }
    }

    /// Of another account, whose password is this.
    pub(crate) fn of(&self, mailbox: &str, password: &str) -> Self {
        let proof = Proof::Password(password.to_owned());
        Self { mailbox: mailbox.into(), proof, ..self.clone() }
    }

    /// One whole session: login, LOGOUT, close.
    pub(crate) async fn visit(&self) -> Result<()> {
        let session = async {
            let mut wire = self.log_in(Protocol::Imap).await?;
            wire.send(b"z LOGOUT\r\n").await?;
            wire.closed().await?;
            Ok(())
        };
        timeout(PATIENCE, session).await.context("a session took too long")?
    }

    /// How long it takes from connecting to the answer to the login.
    pub(crate) async fn time_login(&self, protocol: Protocol) -> Result<Duration> {
        let begun = Instant::now();
        let wire =
            timeout(PATIENCE, self.log_in(protocol)).await.context("a login took too long")??;
        let taken = begun.elapsed();
        let _ = wire.close().await;
        Ok(taken)
    }

    /// A session in IDLE.
    pub(crate) async fn idle(&self) -> Result<Wire> {
        let session = async {
            let mut wire = self.log_in(Protocol::Imap).await?;
            wire.send(b"i IDLE\r\n").await?;
            let answer = wire.must().await?;
            ensure!(answer.starts_with('+'), "IDLE: {answer}");
            Ok(wire)
        };
        timeout(PATIENCE, session).await.context("an idle session took too long to begin")?
    }

    /// A logged in connection.
    pub(crate) async fn log_in(&self, protocol: Protocol) -> Result<Wire> {
        let socket = TcpStream::connect(self.address).await?;
        socket.set_nodelay(true)?;
        match protocol {
            Protocol::Imap => self.log_in_to_imap(socket).await,
            Protocol::Smtp => self.log_in_to_smtp(socket).await,
        }
    }

    async fn log_in_to_imap(&self, socket: TcpStream) -> Result<Wire> {
        let mut wire = match &self.tls {
            Some(tls) => Wire::new(tls.connect(localhost()?, socket).await?),
            None => Wire::new(socket),
        };
        let greeting = wire.must().await?;
        ensure!(greeting.starts_with("* OK"), "greeting: {greeting}");
        let command = match &self.proof {
            Proof::Password(password) => format!("a LOGIN {} {password}\r\n", self.mailbox),
            Proof::Token => format!("a AUTHENTICATE XOAUTH2 {}\r\n", self.xoauth2()),
        };
        wire.send(command.as_bytes()).await?;
        let answer = tagged(&mut wire, "a ").await?;
        ensure!(answer.starts_with("a OK"), "login: {answer}");
        Ok(wire)
    }

    async fn log_in_to_smtp(&self, socket: TcpStream) -> Result<Wire> {
        let mut wire = Wire::new(socket);
        reply(&mut wire, "220").await?;
        ask(&mut wire, "EHLO client.example", "250").await?;
        if let Some(tls) = &self.tls {
            ask(&mut wire, "STARTTLS", "220").await?;
            wire = Wire::new(tls.connect(localhost()?, wire.into_stream()?).await?);
            ask(&mut wire, "EHLO client.example", "250").await?;
        }
        match &self.proof {
            Proof::Password(password) => {
                let plain = BASE64_STANDARD.encode(format!("\0{}\0{password}", self.mailbox));
                ask(&mut wire, &format!("AUTH PLAIN {plain}"), "235").await?;
            }
            Proof::Token => {
                // RFC 4954 section 4: a token is too long for a command line.
                ask(&mut wire, "AUTH XOAUTH2", "334").await?;
                ask(&mut wire, &self.xoauth2(), "235").await?;
            }
        }
        Ok(wire)
    }

    fn xoauth2(&self) -> String {
        let token = token();
        BASE64_STANDARD.encode(format!("user={}\x01auth=Bearer {token}\x01\x01", self.mailbox))
    }
}

/// Fetches the large message; its octets.
pub(crate) async fn fetch(wire: &mut Wire) -> Result<usize> {
    wire.send(b"f FETCH 1 BODY[]\r\n").await?;
    let line = wire.must().await?;
    ensure!(line.ends_with(&format!("{{{MESSAGE}}}")), "FETCH: {line}");
    wire.skip(MESSAGE).await?;
    tagged(wire, "f ").await?;
    Ok(MESSAGE)
}

/// Uploads a large message; its octets.
pub(crate) async fn append(wire: &mut Wire) -> Result<usize> {
    wire.send(format!("u APPEND INBOX {{{MESSAGE}}}\r\n").as_bytes()).await?;
    let line = wire.must().await?;
    ensure!(line.starts_with('+'), "APPEND: {line}");
    send_lines(wire, MESSAGE).await?;
    wire.send(b"\r\n").await?;
    tagged(wire, "u ").await?;
    Ok(MESSAGE)
}

/// Reads up to the answer with this tag.
async fn tagged(wire: &mut Wire, tag: &str) -> io::Result<String> {
    loop {
        let line = wire.must().await?;
        if line.starts_with(tag) {
            return Ok(line);
        }
    }
}

async fn ask(wire: &mut Wire, command: &str, code: &str) -> Result<()> {
    wire.send(format!("{command}\r\n").as_bytes()).await?;
    reply(wire, code).await
}

/// Reads a reply of SMTP with all its lines.
async fn reply(wire: &mut Wire, code: &str) -> Result<()> {
    loop {
        let line = wire.must().await?;
        if !line.starts_with(code) {
            bail!("expected {code}: {line}");
        }
        if line.get(3..4) != Some("-") {
            return Ok(());
        }
    }
}

fn localhost() -> Result<ServerName<'static>> {
    Ok(ServerName::try_from("localhost")?)
}
