//! Lines and literals over a stream that may become TLS.
//!
//! Invariant: reading a line can be abandoned at any await and taken up again without losing an octet
//! (IDLE depends on it), and what is said is on the wire before the emulator waits for the client.

use std::{io, time::Duration};

use tokio::{
    io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader},
    time::timeout,
};
use tokio_rustls::TlsAcceptor;

/// Replies to pipelined commands are gathered up to here, then written (RFC 2920 section 3.2).
const GATHER: usize = 64 * 1024;

pub(super) trait Io: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

/// One connection, as a session reads and writes it.
pub(super) struct Wire {
    stream: BufReader<Box<dyn Io>>,
    encrypted: bool,
    idle: Duration,
    partial: Vec<u8>,
    out: Vec<u8>,
}

impl Wire {
    pub(super) fn new(stream: impl Io + 'static, idle: Duration) -> Self {
        let stream = BufReader::new(Box::new(stream) as Box<dyn Io>);
        Self { stream, encrypted: false, idle, partial: Vec::new(), out: Vec::new() }
    }

    pub(super) fn encrypted(&self) -> bool {
        self.encrypted
    }

    /// The server's side of a handshake. Plain text that came behind STARTTLS ends the connection:
    /// it would be a command injected by someone in the middle (RFC 3501 section 6.2.1).
    pub(super) async fn start_tls(&mut self, acceptor: &TlsAcceptor) -> io::Result<()> {
        self.flush().await?;
        if !self.stream.buffer().is_empty() {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "plain text behind STARTTLS"));
        }
        let nothing = BufReader::new(Box::new(tokio::io::empty()) as Box<dyn Io>);
        let plain = std::mem::replace(&mut self.stream, nothing).into_inner();
        let tls = timeout(self.idle, acceptor.accept(plain)).await??;
        self.stream = BufReader::new(Box::new(tls));
        self.encrypted = true;
        Ok(())
    }

    /// The next line without its end, or `None` for one that was longer than the limit. Only CRLF ends
    /// a line, so that a client that sends less is found out.
    pub(super) async fn line(&mut self, limit: usize) -> io::Result<Option<Vec<u8>>> {
        if !self.stream.buffer().contains(&b'\n') {
            self.flush().await?;
        }
        while !self.partial.ends_with(b"\r\n") {
            let read = self.stream.read_until(b'\n', &mut self.partial);
            if timeout(self.idle, read).await?? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        let mut line = std::mem::take(&mut self.partial);
        line.truncate(line.len().saturating_sub(2));
        Ok(Some(line).filter(|line| line.len() + 2 <= limit))
    }

    /// Exactly so many octets, whatever they are.
    pub(super) async fn exact(&mut self, count: usize) -> io::Result<Vec<u8>> {
        self.flush().await?;
        let mut octets = vec![0; count];
        timeout(self.idle, self.stream.read_exact(&mut octets)).await??;
        Ok(octets)
    }

    /// Queues octets, to be written before the next wait at the latest.
    pub(super) async fn say(&mut self, octets: impl AsRef<[u8]>) -> io::Result<()> {
        self.out.extend_from_slice(octets.as_ref());
        if self.out.len() > GATHER { self.flush().await } else { Ok(()) }
    }

    /// Queues one line.
    pub(super) async fn say_line(&mut self, line: &str) -> io::Result<()> {
        self.say(format!("{line}\r\n")).await
    }

    pub(super) async fn flush(&mut self) -> io::Result<()> {
        if !self.out.is_empty() {
            self.stream.write_all(&self.out).await?;
            self.out.clear();
            self.stream.flush().await?;
        }
        Ok(())
    }

    /// Says what is left and ends the connection in good order.
    pub(super) async fn close(&mut self) -> io::Result<()> {
        self.flush().await?;
        self.stream.shutdown().await
    }
}
