//! Bytes from one connection to the other, both ways, untouched.
//!
//! Invariant: an idle session holds no buffer: what is read goes through one scratch buffer per worker
//! thread, and only what a slow reader has not taken yet is kept (at most one read of it, then gatepost
//! stops reading from the other side). A side that is closed is closed on the other side, while the
//! opposite direction goes on. gatepost says nothing in between, and one word at the end: where the talk of the
//! two is settled.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::time::{Instant, Sleep, sleep, timeout};
use tokio_util::sync::{CancellationToken, WaitForCancellationFuture};

use super::Stream;
use crate::protocol::Talk;

/// Size of a worker's scratch buffer. Four TLS records (RFC 8446 section 5.1).
const SCRATCH: usize = 64 * 1024;

/// How long a session of which one side is closed may go on without a byte. Long enough for a slow answer to
/// a client that has closed its half; short enough for a peer that has vanished.
const HALF_CLOSED: Duration = Duration::from_secs(600);

/// So long without a byte, a session is quiet. A client that is at work sends its next command sooner, and a person
/// who waits for a restart does not notice it.
const QUIET: Duration = Duration::from_millis(300);

/// For a client to read the goodbye and close.
const LINGER: Duration = Duration::from_secs(1);

thread_local! {
    static BUFFER: RefCell<Vec<u8>> = RefCell::new(vec![0; SCRATCH]);
}

/// What a relay has moved.
#[derive(Debug)]
pub struct Relayed {
    /// Bytes from the client to the upstream.
    pub up: u64,
    /// Bytes from the upstream to the client.
    pub down: u64,
    /// How it ended; `Ok` if both sides closed, or gatepost has ended it between two answers.
    pub end: io::Result<()>,
    /// It was gatepost, which was asked to.
    pub dismissed: bool,
}

/// Relays until both sides are closed or one fails; or, once `leave` is cancelled, until `talk` is settled and quiet.
/// `talk` has seen what went before.
pub async fn relay(
    mut client: Stream,
    mut upstream: Stream,
    mut talk: Talk,
    leave: &CancellationToken,
) -> Relayed {
    let (mut up, mut down) = (Pipe::default(), Pipe::default());
    let mut half_closed: Option<Pin<Box<Sleep>>> = None;
    let (mut asked, mut quiet) = (pin!(leave.cancelled()), None);
    let mut dismissed = false;
    let end = poll_fn(|cx| {
        let before = up.moved + down.moved;
        let (near, far) = (Pin::new(&mut client), Pin::new(&mut upstream));
        let upwards = up.poll(cx, near, far, &mut |bytes| talk.client(bytes))?;
        let (near, far) = (Pin::new(&mut client), Pin::new(&mut upstream));
        let downwards = down.poll(cx, far, near, &mut |bytes| talk.server(bytes))?;
        if upwards.is_ready() && downwards.is_ready() {
            return Poll::Ready(Ok(()));
        }
        let moved = up.moved + down.moved > before;
        if poll_quiet(cx, asked.as_mut(), &mut quiet, moved).is_ready() {
            dismissed = up.rests() && down.rests() && talk.is_settled();
        }
        if dismissed {
            return Poll::Ready(Ok(()));
        }
        if upwards.is_pending() && downwards.is_pending() {
            return Poll::Pending;
        }
        let limit = half_closed.get_or_insert_with(|| Box::pin(sleep(HALF_CLOSED)));
        if moved {
            limit.as_mut().reset(Instant::now() + HALF_CLOSED);
        }
        ready!(limit.as_mut().poll(cx));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    })
    .await;
    if dismissed {
        drop(upstream);
        // A client that is gone does not hear it.
        let _ = timeout(LINGER, dismiss(&mut client, &talk.goodbye())).await;
    }
    Relayed { up: up.moved, down: down.moved, end, dismissed }
}

/// Ready when the session is asked to end, and nothing has `moved` for a while.
fn poll_quiet(
    cx: &mut Context<'_>,
    asked: Pin<&mut WaitForCancellationFuture<'_>>,
    quiet: &mut Option<Pin<Box<Sleep>>>,
    moved: bool,
) -> Poll<()> {
    if quiet.is_none() {
        ready!(asked.poll(cx));
    }
    let limit = quiet.get_or_insert_with(|| Box::pin(sleep(QUIET)));
    if moved {
        limit.as_mut().reset(Instant::now() + QUIET);
    }
    limit.as_mut().poll(cx)
}

/// Closing with bytes unread would reset the connection and take the goodbye with it (RFC 1122 section 4.2.2.13).
async fn dismiss(client: &mut Stream, goodbye: &[u8]) -> io::Result<()> {
    client.write_all(goodbye).await?;
    client.shutdown().await?;
    let mut buffer = [0; 1024];
    while client.read(&mut buffer).await? > 0 {}
    Ok(())
}

/// One direction.
#[derive(Default)]
struct Pipe {
    /// Read and not yet written.
    pending: Vec<u8>,
    /// Octets of `pending` that are written.
    written: usize,
    /// Written, but perhaps still in a TLS buffer.
    unflushed: bool,
    moved: u64,
    state: State,
}

#[derive(Clone, Copy, Default)]
enum State {
    #[default]
    Open,
    /// The source is closed, the sink is to be.
    Closing,
    Closed,
}

impl Pipe {
    /// Open, with nothing on its way.
    fn rests(&self) -> bool {
        matches!(self.state, State::Open) && self.pending.is_empty() && !self.unflushed
    }

    /// Ready when the source was closed and the sink is too.
    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        mut source: Pin<&mut Stream>,
        mut sink: Pin<&mut Stream>,
        look: &mut dyn FnMut(&[u8]),
    ) -> Poll<io::Result<()>> {
        loop {
            ready!(self.poll_write_pending(cx, sink.as_mut()))?;
            match self.state {
                State::Open => match self.poll_move(cx, source.as_mut(), sink.as_mut(), look)? {
                    Poll::Ready(()) => {}
                    Poll::Pending => {
                        if self.unflushed && self.pending.is_empty() {
                            ready!(sink.as_mut().poll_flush(cx))?;
                            self.unflushed = false;
                        }
                        return Poll::Pending;
                    }
                },
                State::Closing => {
                    ready!(sink.as_mut().poll_shutdown(cx))?;
                    self.state = State::Closed;
                }
                State::Closed => return Poll::Ready(Ok(())),
            }
        }
    }

    /// Reads once and writes as much of it as the sink takes.
    fn poll_move(
        &mut self,
        cx: &mut Context<'_>,
        source: Pin<&mut Stream>,
        mut sink: Pin<&mut Stream>,
        look: &mut dyn FnMut(&[u8]),
    ) -> Poll<io::Result<()>> {
        BUFFER.with_borrow_mut(|buffer| {
            let mut read = ReadBuf::new(buffer);
            ready!(source.poll_read(cx, &mut read))?;
            let mut rest = read.filled();
            if rest.is_empty() {
                self.state = State::Closing;
            }
            look(rest);
            self.moved += rest.len() as u64;
            while !rest.is_empty() {
                match sink.as_mut().poll_write(cx, rest)? {
                    Poll::Ready(0) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                    Poll::Ready(written) => rest = rest.get(written..).unwrap_or_default(),
                    Poll::Pending => break,
                }
                self.unflushed = true;
            }
            self.pending.extend_from_slice(rest);
            Poll::Ready(Ok(()))
        })
    }

    fn poll_write_pending(
        &mut self,
        cx: &mut Context<'_>,
        mut sink: Pin<&mut Stream>,
    ) -> Poll<io::Result<()>> {
        while let Some(rest) = self.pending.get(self.written..).filter(|rest| !rest.is_empty()) {
            match ready!(sink.as_mut().poll_write(cx, rest))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                written => self.written += written,
            }
            self.unflushed = true;
        }
        if self.written > 0 {
            // Gives the memory back: the next one who is slow may be long in coming.
            self.pending = Vec::new();
            self.written = 0;
        }
        Poll::Ready(Ok(()))
    }
}
