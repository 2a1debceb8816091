//! A device: it connects, logs in if it can, and sends. What it does not understand is an error to it.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// Patient: a session in direct mode waits for its turn.
const ANSWER: Duration = Duration::from_secs(280);

pub(crate) struct Device {
    stream: BufReader<TcpStream>,
}

impl Device {
    /// Up to its EHLO.
    pub(crate) async fn connect(address: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        let mut device = Self { stream: BufReader::new(stream) };
        device.expect(220).await?;
        device.ask("EHLO device", 250).await?;
        Ok(device)
    }

    pub(crate) async fn log_in(&mut self, user: &str, password: &str) -> io::Result<()> {
        let response = BASE64_STANDARD.encode(format!("\0{user}\0{password}"));
        self.ask(&format!("AUTH PLAIN {response}"), 235).await
    }

    /// Sends a message, CRLF at the end of its lines; it is accepted when this returns.
    pub(crate) async fn send(
        &mut self,
        from: &str,
        to: &str,
        message: &[u8],
    ) -> io::Result<String> {
        self.ask(&format!("MAIL FROM:<{from}>"), 250).await?;
        self.ask(&format!("RCPT TO:<{to}>"), 250).await?;
        self.give(message).await.map(|()| String::new())
    }

    /// The message, behind its envelope.
    pub(crate) async fn give(&mut self, message: &[u8]) -> io::Result<()> {
        self.ask("DATA", 354).await?;
        self.stream.get_mut().write_all(&stuffed(message)).await?;
        self.ask(".", 250).await
    }

    pub(crate) async fn ask(&mut self, command: &str, wanted: u16) -> io::Result<()> {
        self.stream.get_mut().write_all(format!("{command}\r\n").as_bytes()).await?;
        self.expect(wanted).await
    }

    async fn expect(&mut self, wanted: u16) -> io::Result<()> {
        loop {
            let mut line = String::new();
            let read = timeout(ANSWER, self.stream.read_line(&mut line)).await??;
            if read == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            if line.as_bytes().get(3) == Some(&b'-') {
                continue;
            }
            return match line.starts_with(&wanted.to_string()) {
                true => Ok(()),
                false => {
                    Err(io::Error::other(format!("{wanted} was expected: {}", line.trim_end())))
                }
            };
        }
    }
}

/// RFC 5321 section 4.5.2.
fn stuffed(message: &[u8]) -> Vec<u8> {
    let mut stuffed = Vec::with_capacity(message.len() + message.len() / 64);
    for line in message.split_inclusive(|byte| *byte == b'\n') {
        if line.starts_with(b".") {
            stuffed.push(b'.');
        }
        stuffed.extend_from_slice(line);
    }
    stuffed
}
