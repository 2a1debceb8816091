//! The part of a device: it logs in and hands over one message, as it would.
//!
//! Invariant: each wait has a limit, and what is said aloud has no password.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::cli::ui;
use crate::config::{Endpoint, Listener};
use crate::net::{ClientTls, Deadline, HANDSHAKE, Stream, start_tls};
use crate::protocol::{OWN_PROXY_HEADER, Reply};
use crate::secret::Secret;
use crate::vocabulary::TlsMode;

/// For one answer. A direct listener may wait for its turn before it answers AUTH (RFC 5321 section 4.5.3.2 has
/// clients wait five minutes).
const ANSWER: Duration = Duration::from_secs(300);

/// Longest reply: gatepost's own have a few lines.
const LONGEST_REPLY: usize = 64 * 1024;

/// Where the device is set to.
pub(super) struct Panel<'a> {
    /// Of the listener.
    pub(super) address: SocketAddr,
    /// How it is spoken to.
    pub(super) listener: &'a Listener,
    /// Its certificate, which a device would not check.
    pub(super) certificate: PathBuf,
}

/// A session with the listener.
pub(super) struct Device {
    stream: Stream,
    unread: Vec<u8>,
}

impl Device {
    /// Connects, with TLS if the listener has it, and says EHLO.
    pub(super) async fn connect(panel: &Panel<'_>) -> Result<Self> {
        let address = panel.address;
        let Ok(Ok(socket)) = timeout(ANSWER, TcpStream::connect(address)).await else {
            bail!("nobody listens on {address}\nhint: gatepost run");
        };
        let local = socket.local_addr()?;
        socket.set_nodelay(true)?;
        let mut device = Self { stream: Stream::Plain(socket), unread: Vec::new() };
        if panel.listener.is_balancer(local.ip()) {
            device.write(OWN_PROXY_HEADER).await?;
        }
        if panel.listener.tls == TlsMode::Implicit {
            device = device.encrypt(panel).await?;
        }
        device.expect(220, "the greeting").await?;
        device.ask("EHLO [127.0.0.1]", 250).await?;
        if panel.listener.tls == TlsMode::StartTls {
            device.ask("STARTTLS", 220).await?;
            device = device.encrypt(panel).await?;
            device.ask("EHLO [127.0.0.1]", 250).await?;
        }
        Ok(device)
    }

    /// Logs in with an app password; the answer is the listener's.
    pub(super) async fn log_in(&mut self, user: &str, password: &Secret<String>) -> Result<Reply> {
        let message = Secret::new(format!("\0{user}\0{}", password.expose()));
        let response = Secret::new(BASE64_STANDARD.encode(message.expose()));
        let line = Secret::new(format!("AUTH PLAIN {}\r\n", response.expose()));
        ui::say(&format!("> AUTH PLAIN (as {user})"));
        self.write(line.expose().as_bytes()).await?;
        self.reply().await
    }

    /// Sends the message; the answer is the one to its end, or to what was refused before.
    pub(super) async fn send(&mut self, from: &str, to: &str, message: &[u8]) -> Result<Reply> {
        for (command, wanted) in [
            (format!("MAIL FROM:<{from}>"), 250),
            (format!("RCPT TO:<{to}>"), 250),
            ("DATA".to_owned(), 354),
        ] {
            let reply = self.say(&command).await?;
            if reply.code != wanted {
                return Ok(reply);
            }
        }
        ui::say(&format!("> (the message, {} octets)", message.len()));
        self.write(message).await?;
        self.write(b".\r\n").await?;
        self.reply().await
    }

    /// Leaves.
    pub(super) async fn quit(mut self) {
        // The answer to the message is what counts.
        let _ = self.say("QUIT").await;
    }

    async fn encrypt(self, panel: &Panel<'_>) -> Result<Self> {
        let Panel { address, certificate, .. } = panel;
        let tls = ClientTls::pinned(certificate)?;
        let (host, port) = (address.ip().to_string(), address.port());
        let endpoint = Endpoint { host, port, tls: TlsMode::Implicit };
        let stream = start_tls(self.stream, &endpoint, &tls, Deadline::within(HANDSHAKE)).await?;
        Ok(Self { stream, unread: Vec::new() })
    }

    async fn ask(&mut self, command: &str, wanted: u16) -> Result<()> {
        ui::say(&format!("> {command}"));
        self.write(format!("{command}\r\n").as_bytes()).await?;
        self.expect(wanted, command).await
    }

    async fn expect(&mut self, wanted: u16, what: &str) -> Result<()> {
        match self.reply().await? {
            reply if reply.code == wanted => Ok(()),
            reply => bail!("{what}: the listener answers {reply}"),
        }
    }

    async fn say(&mut self, command: &str) -> Result<Reply> {
        ui::say(&format!("> {command}"));
        self.write(format!("{command}\r\n").as_bytes()).await?;
        self.reply().await
    }

    async fn write(&mut self, bytes: &[u8]) -> Result<()> {
        let write = async {
            self.stream.write_all(bytes).await?;
            self.stream.flush().await
        };
        timeout(ANSWER, write).await?.context("the listener has closed the connection")
    }

    /// One reply of one or more lines (RFC 5321 section 4.2.1), shown as it comes.
    async fn reply(&mut self) -> Result<Reply> {
        let mut text = Vec::new();
        loop {
            let line = self.line().await.context("no answer from the listener")?;
            ui::say(&format!("< {line}"));
            let code = line.get(..3).and_then(|code| code.parse().ok());
            let code: u16 = code.with_context(|| format!("no SMTP reply: {line}"))?;
            text.push(line.get(4..).unwrap_or_default().to_owned());
            if line.as_bytes().get(3) != Some(&b'-') {
                return Ok(Reply::new(code, text.join(" ")));
            }
        }
    }

    async fn line(&mut self) -> io::Result<String> {
        loop {
            if let Some(end) = self.unread.iter().position(|&byte| byte == b'\n') {
                let line: Vec<u8> = self.unread.drain(..=end).collect();
                return Ok(String::from_utf8_lossy(&line).trim_end().to_owned());
            }
            if self.unread.len() > LONGEST_REPLY {
                return Err(io::ErrorKind::InvalidData.into());
            }
            let receive = self.stream.receive(|octets| self.unread.extend_from_slice(octets));
            if timeout(ANSWER, receive).await?? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }
}
