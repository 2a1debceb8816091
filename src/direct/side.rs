//! One of a session's two connections.
//!
//! Invariant: what is sent on it is what was cleared, in order; what is not cleared yet stays behind it.

use std::cell::RefCell;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Octets that one side may be ahead of the other. One TLS record (RFC 8446 section 5.1), and more than the
/// longest command line.
const BUFFER: usize = 16 * 1024;

thread_local! {
    static SCRATCH: RefCell<Vec<u8>> = RefCell::new(vec![0; BUFFER]);
}

/// A connection, and what is to be sent on it.
pub(super) struct Side<S> {
    pub(super) stream: S,
    /// Octets that were read from it.
    pub(super) read: u64,
    /// It sends no more.
    pub(super) closed: bool,
    /// To be sent on it.
    pub(super) out: Vec<u8>,
    /// Octets at the start of `out` that may be sent.
    pub(super) cleared: usize,
    /// Sent, but perhaps still in a TLS buffer.
    unflushed: bool,
    /// Nothing more can be sent on it.
    shut: bool,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Side<S> {
    pub(super) fn new(stream: S, out: Vec<u8>) -> Self {
        Self { stream, read: 0, closed: false, out, cleared: 0, unflushed: false, shut: false }
    }

    pub(super) fn has_room(&self) -> bool {
        self.out.len() < BUFFER
    }

    pub(super) fn is_written(&self) -> bool {
        self.out.is_empty()
    }

    pub(super) fn is_closed(&self) -> bool {
        self.closed && self.shut
    }

    /// Reads once, as much as there is room for in `into`, which is the other side's.
    pub(super) fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        into: &mut Vec<u8>,
    ) -> io::Result<bool> {
        SCRATCH.with_borrow_mut(|scratch| {
            let room = BUFFER.saturating_sub(into.len());
            let mut read = ReadBuf::new(scratch.get_mut(..room).unwrap_or_default());
            if Pin::new(&mut self.stream).poll_read(cx, &mut read)?.is_pending() {
                return Ok(false);
            }
            self.closed = read.filled().is_empty();
            self.read += read.filled().len() as u64;
            into.extend_from_slice(read.filled());
            Ok(true)
        })
    }

    /// Sends what may be sent.
    pub(super) fn poll_write(&mut self, cx: &mut Context<'_>) -> io::Result<bool> {
        let mut moved = false;
        while let Some(rest) = self.out.get(..self.cleared).filter(|rest| !rest.is_empty()) {
            match Pin::new(&mut self.stream).poll_write(cx, rest)? {
                Poll::Ready(0) => return Err(io::ErrorKind::WriteZero.into()),
                Poll::Ready(written) => {
                    self.out.drain(..written);
                    self.cleared -= written;
                    (moved, self.unflushed) = (true, true);
                }
                Poll::Pending => break,
            }
        }
        Ok(moved)
    }

    pub(super) fn poll_flush(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        if self.unflushed && self.cleared == 0 {
            self.unflushed = Pin::new(&mut self.stream).poll_flush(cx)?.is_pending();
        }
        Ok(())
    }

    pub(super) fn poll_close(&mut self, cx: &mut Context<'_>) -> io::Result<bool> {
        if self.shut || Pin::new(&mut self.stream).poll_shutdown(cx)?.is_pending() {
            return Ok(false);
        }
        self.shut = true;
        Ok(true)
    }

    /// Gives the memory back: the next octet may be long in coming.
    pub(super) fn rest(&mut self) {
        if self.out.is_empty() {
            self.out = Vec::new();
        }
    }
}
