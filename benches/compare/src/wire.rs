//! One connection, read by lines: of clients and of the upstream.
//!
//! Invariant: it holds no more than a small buffer, since there are tens of thousands of them in one process.

use std::io;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// Octets read at a time where lines are awaited.
const READ: usize = 2048;

/// Octets read at a time where a message is: four records of TLS.
const BULK: usize = 64 * 1024;

/// A line without an end is a fault of this program.
const LONGEST: usize = 64 * 1024;

/// Plain or TLS.
pub(crate) trait Io: AsyncRead + AsyncWrite + Unpin + Send {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send> Io for T {}

/// A connection and what was read of it too early.
pub(crate) struct Wire {
    stream: Box<dyn Io>,
    unread: Vec<u8>,
}

impl Wire {
    pub(crate) fn new(stream: impl Io + 'static) -> Self {
        Self { stream: Box::new(stream), unread: Vec::new() }
    }

    /// The stream below, for a handshake. Nothing may have been read too early.
    pub(crate) fn into_stream(self) -> io::Result<Box<dyn Io>> {
        match self.unread.is_empty() {
            true => Ok(self.stream),
            false => Err(io::Error::other("plain text behind STARTTLS")),
        }
    }

    pub(crate) async fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes).await?;
        self.stream.flush().await
    }

    /// The next line without its end; none where the other side has closed.
    pub(crate) async fn line(&mut self) -> io::Result<Option<String>> {
        let mut seen = 0;
        loop {
            let fresh = self.unread.get(seen..).unwrap_or_default();
            if let Some(found) = fresh.iter().position(|octet| *octet == b'\n') {
                let line: Vec<u8> = self.unread.drain(..=seen + found).collect();
                return Ok(Some(String::from_utf8_lossy(&line).trim_end().to_owned()));
            }
            seen = self.unread.len();
            if seen > LONGEST {
                return Err(io::Error::other("a line without an end"));
            }
            let mut buffer = [0; READ];
            let count = self.stream.read(&mut buffer).await?;
            if count == 0 {
                return Ok(None);
            }
            self.unread.extend_from_slice(buffer.get(..count).unwrap_or_default());
        }
    }

    /// The next line, where one has to come.
    pub(crate) async fn must(&mut self) -> io::Result<String> {
        self.line().await?.ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
    }

    /// Reads so many octets and forgets them.
    pub(crate) async fn skip(&mut self, count: usize) -> io::Result<()> {
        let ahead = count.min(self.unread.len());
        self.unread.drain(..ahead);
        let mut left = count - ahead;
        let mut buffer = vec![0; BULK.min(left)];
        while left > 0 {
            let room = buffer.len().min(left);
            let read = self.stream.read(buffer.get_mut(..room).unwrap_or_default()).await?;
            if read == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            left -= read;
        }
        Ok(())
    }

    /// Waits until the other side has closed, whatever it still says, then closes.
    pub(crate) async fn closed(mut self) -> io::Result<()> {
        let mut buffer = [0; READ];
        loop {
            match self.stream.read(&mut buffer).await {
                Ok(0) => return Ok(()),
                // Without TLS's goodbye it is closed all the same.
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
                Err(error) => return Err(error),
                Ok(_) => {}
            }
        }
    }

    /// Closes in good order.
    pub(crate) async fn close(mut self) -> io::Result<()> {
        self.stream.shutdown().await
    }
}
