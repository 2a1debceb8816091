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

use super::Standstill;
use crate::protocol::{Closing, Talk};

/// Size of a worker's scratch buffer. Four TLS records (RFC 8446 section 5.1).
const SCRATCH: usize = 64 * 1024;

/// Reads of one direction before the other sessions of its thread have their turn: half a MiB, some tenths of a
/// millisecond. A new login must not wait for one that floods.
const TURN: usize = 8;

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

/// Relays until both sides are closed, one fails, or nothing has moved for too long; or, once `leave` is cancelled,
/// until `talk` is settled and quiet, which the client hears for the reason of `why`. `talk` has seen what went before.
pub async fn relay<C, U>(
    mut client: C,
    mut upstream: U,
    mut talk: Talk,
    leave: &CancellationToken,
    why: impl Fn() -> Closing,
) -> Relayed
where
    C: AsyncRead + AsyncWrite + Unpin,
    U: AsyncRead + AsyncWrite + Unpin,
{
    let (mut up, mut down) = (Pipe::default(), Pipe::default());
    let (mut standstill, mut seen) = (Standstill::watch(), (0, false));
    let (mut asked, mut quiet) = (pin!(leave.cancelled()), None);
    let mut dismissed = false;
    let end = poll_fn(|cx| {
        let (near, far) = (Pin::new(&mut client), Pin::new(&mut upstream));
        let upwards = up.poll(cx, near, far, &mut |bytes| talk.client(bytes))?;
        let (near, far) = (Pin::new(&mut client), Pin::new(&mut upstream));
        let downwards = down.poll(cx, far, near, &mut |bytes| talk.server(bytes))?;
        if upwards.is_ready() && downwards.is_ready() {
            return Poll::Ready(Ok(()));
        }
        let half_closed = upwards.is_ready() || downwards.is_ready();
        let now = (up.moved + down.moved, half_closed);
        let moved = now != seen;
        if moved {
            seen = now;
            standstill.moved();
        }
        if poll_quiet(cx, asked.as_mut(), &mut quiet, moved).is_ready() {
            dismissed = up.rests() && down.rests() && talk.is_settled();
        }
        if dismissed {
            return Poll::Ready(Ok(()));
        }
        let error = ready!(standstill.poll(cx, half_closed));
        Poll::Ready(Err(error))
    })
    .await;
    if dismissed {
        drop(upstream);
        // A client that is gone does not hear it.
        let _ = Box::pin(timeout(LINGER, dismiss(&mut client, &talk.goodbye(why())))).await;
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
async fn dismiss(
    client: &mut (impl AsyncRead + AsyncWrite + Unpin),
    goodbye: &[u8],
) -> io::Result<()> {
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
        mut source: Pin<&mut impl AsyncRead>,
        mut sink: Pin<&mut impl AsyncWrite>,
        look: &mut dyn FnMut(&[u8]),
    ) -> Poll<io::Result<()>> {
        for _ in 0..TURN {
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
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Reads once and writes as much of it as the sink takes.
    fn poll_move(
        &mut self,
        cx: &mut Context<'_>,
        source: Pin<&mut impl AsyncRead>,
        mut sink: Pin<&mut impl AsyncWrite>,
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
        mut sink: Pin<&mut impl AsyncWrite>,
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

#[cfg(test)]
mod tests {
    use std::mem;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
    use tokio::task::JoinHandle;
    use tokio::time::{Instant, sleep};

    use super::*;
    use crate::vocabulary::Protocol;

    /// Sends so many octets as fast as they are read, and takes what comes.
    struct Side {
        floods: usize,
        taken: Arc<AtomicUsize>,
    }

    impl AsyncRead for Side {
        fn poll_read(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
            buffer: &mut ReadBuf<'_>,
        ) -> Poll<io::Result<()>> {
            let count = buffer.remaining().min(self.floods);
            buffer.initialize_unfilled_to(count).fill(b'x');
            buffer.advance(count);
            self.floods -= count;
            if count == 0 { Poll::Pending } else { Poll::Ready(Ok(())) }
        }
    }

    impl AsyncWrite for Side {
        fn poll_write(
            self: Pin<&mut Self>,
            _: &mut Context<'_>,
            octets: &[u8],
        ) -> Poll<io::Result<usize>> {
            self.taken.fetch_add(octets.len(), Ordering::Relaxed);
            Poll::Ready(Ok(octets.len()))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    /// Once all that is to be run has had its turn. (`yield_now` of tokio waits for some turns of the others.)
    async fn behind_others() {
        let mut begun = false;
        poll_fn(|cx| {
            cx.waker().wake_by_ref();
            if mem::replace(&mut begun, true) { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
    }

    const MINUTE: Duration = Duration::from_secs(60);

    fn session() -> (DuplexStream, DuplexStream, JoinHandle<Relayed>) {
        let ((client, near), (far, upstream)) = (duplex(100), duplex(100));
        let relay = async move {
            let (talk, stays) = (Talk::new(Protocol::Imap), CancellationToken::new());
            relay(near, far, talk, &stays, || Closing::ShuttingDown).await
        };
        (client, upstream, tokio::spawn(relay))
    }

    #[tokio::test(start_paused = true)]
    async fn idle_clients_stay_and_what_is_dead_ends_with_its_reason() {
        let (mut client, mut upstream, relay) = session();
        let mut octets = [0; 6];
        // RFC 2177: an IDLE is renewed every 29 minutes, for a day.
        for _ in 0..50 {
            sleep(29 * MINUTE).await;
            client.write_all(b"DONE\r\n").await.unwrap();
            upstream.read_exact(&mut octets).await.unwrap();
        }
        sleep(119 * MINUTE).await;
        upstream.write_all(b"* BYE\n").await.unwrap();
        client.read_exact(&mut octets).await.unwrap();
        let moved = Instant::now();
        let relayed = relay.await.unwrap();
        assert_eq!(moved.elapsed().as_secs(), 120 * 60);
        assert_eq!((relayed.up, relayed.down), (300, 6));
        assert_eq!(relayed.end.unwrap_err().to_string(), "not one octet for 7200 s");
    }

    #[tokio::test(start_paused = true)]
    async fn a_session_that_is_half_over_has_ten_minutes() {
        let (mut client, mut upstream, relay) = session();
        sleep(100 * MINUTE).await;
        client.shutdown().await.unwrap();
        let closed = Instant::now();
        for _ in 0..3 {
            sleep(9 * MINUTE).await;
            upstream.write_all(b"more").await.unwrap();
        }
        let relayed = relay.await.unwrap();
        assert_eq!(closed.elapsed().as_secs(), 37 * 60);
        assert_eq!(relayed.end.unwrap_err().to_string(), "not one octet for 600 s");
    }
    #[tokio::test]
    async fn others_have_their_turn_beside_one_that_floods() {
        const TURNS: usize = 100;
        const MOST: usize = TURN * SCRATCH;
        let taken = Arc::<AtomicUsize>::default();
        let client = Side { floods: 0, taken: Arc::clone(&taken) };
        let upstream = Side { floods: 2 * TURNS * MOST, taken: Arc::default() };
        let relay = tokio::spawn(async move {
            let (talk, stays) = (Talk::new(Protocol::Imap), CancellationToken::new());
            relay(client, upstream, talk, &stays, || Closing::ShuttingDown).await
        });
        let other = tokio::spawn(async move {
            let mut before = taken.load(Ordering::Relaxed);
            for _ in 0..TURNS {
                behind_others().await;
                let now = taken.load(Ordering::Relaxed);
                assert!((1..=MOST).contains(&(now - before)), "{before} {now}");
                before = now;
            }
        });
        other.await.unwrap();
        relay.abort();
    }
}
