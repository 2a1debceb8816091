//! The client's side of a connection before its login: reads, writes, TLS, goodbyes, each with its limit.
//!
//! Invariant: a wait that is over its limit, a seat that is wanted for another client, or a connection that breaks ends
//! the connection; and a client that is waited for holds no buffer.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout, timeout_at};
use tracing::info;

use super::balancer::is_announcement;
use super::{Door, Ending};
use crate::lobby::{Displaced, Seat};
use crate::net::Stream;
use crate::protocol::{
    Closing, Frontend, FrontendStep, LocalTls, Login, Refusal, Welcome, session_refusal,
};
use crate::vocabulary::TlsMode;

/// For writing to a client that does not read.
const WRITE: Duration = Duration::from_secs(30);

/// For a client to read the goodbye and close.
const LINGER: Duration = Duration::from_secs(2);

/// Octets that a client may send behind its login while it waits for its turn: more than a group of commands
/// (RFC 2920), and no message.
const AHEAD: usize = 64 * 1024;

/// A client before its login.
pub(super) struct Client {
    stream: Stream,
    frontend: Frontend,
    seat: Seat,
    /// By when it is let in.
    deadline: Instant,
}

/// How a client asks to be let in.
pub(super) enum Asked {
    /// With these.
    Login(Login),
    /// By MAIL, from a device's address.
    Device,
}

impl Client {
    /// TLS if the listener begins with it, then the greeting. `open`: a device may be here that can't log in.
    pub(super) async fn greet(
        door: &Door,
        socket: TcpStream,
        seat: Seat,
        keywords: Arc<[String]>,
        open: bool,
        deadline: Instant,
    ) -> Result<Self, Ending> {
        let Door { listener, tls, .. } = door;
        let stream = match (listener.tls, tls) {
            (TlsMode::Implicit, Some(tls)) => {
                let begin = async {
                    match is_announcement(&socket).await? {
                        true => Ok(None),
                        false => Stream::accepted(socket).map(Some),
                    }
                };
                let stream = handshake(&seat, deadline, Box::pin(tls.accept(begin))).await?;
                stream.ok_or(Ending::Closed(Closing::ProxyHeader))?
            }
            _ => Stream::accepted(socket)?,
        };
        let mut frontend = Frontend::new(listener.protocol, LocalTls::from(listener.tls), keywords);
        if open {
            frontend = frontend.open_to_device();
        }
        let greeting = frontend.greeting();
        let mut client = Self { stream, frontend, seat, deadline };
        client.write(&greeting).await?;
        Ok(client)
    }

    /// Drives the Frontend up to the next login, or without one up to a device's first command.
    pub(super) async fn read_login(mut self, door: &Door) -> Result<(Self, Asked), Ending> {
        loop {
            match self.frontend.step() {
                FrontendStep::Read => {
                    if let Some(closing) = self.read(door).await? {
                        return Err(self.close(closing).await);
                    }
                }
                FrontendStep::Write(reply) => {
                    tell_if_required(&reply);
                    self.write(&reply).await?;
                }
                FrontendStep::StartTls(reply) => {
                    self.write(&reply).await?;
                    self = self.start_tls(door).await?;
                }
                FrontendStep::Login(login) => return Ok((self, Asked::Login(login))),
                FrontendStep::Device => return Ok((self, Asked::Device)),
                FrontendStep::Close(closing) => return Err(self.close(closing).await),
            }
        }
    }

    /// Reads once; `Some`: the session ends instead.
    async fn read(&mut self, door: &Door) -> Result<Option<Closing>, Ending> {
        let Self { stream, frontend, seat, deadline } = self;
        tokio::select! {
            biased;
            () = seat.wanted() => Ok(Some(Closing::Displaced)),
            () = door.gate.stop.cancelled() => Ok(Some(Closing::ShuttingDown)),
            read = timeout_at(*deadline, stream.receive(|octets| frontend.push(octets))) => match read {
                Err(_) => Ok(Some(Closing::Deadline)),
                Ok(Ok(0)) => Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
                Ok(read) => Ok(read.map(|_| None)?),
            },
        }
    }

    /// Waits for what gatepost does for the client, as long as it may keep its seat. That time is not its delay.
    pub(super) async fn has_done<T>(&mut self, work: impl Future<Output = T>) -> Result<T, Ending> {
        let begun = Instant::now();
        match self.seat.during(work).await {
            Ok(done) => {
                self.deadline += begun.elapsed();
                Ok(done)
            }
            Err(Displaced) => Err(self.close(Closing::Displaced).await),
        }
    }

    /// It is let in: others don't wait because of it any more.
    pub(super) fn leave_lobby(&self) {
        self.seat.give_back();
    }

    /// Waits for `wait` as long as the client is there and may keep its seat; what it sends ahead is kept.
    pub(super) async fn stays_for<T>(
        &mut self,
        wait: impl Future<Output = T>,
    ) -> Result<T, Ending> {
        let begun = Instant::now();
        let mut wait = std::pin::pin!(wait);
        let mut ahead = 0;
        let Self { stream, frontend, seat, deadline } = self;
        loop {
            tokio::select! {
                biased;
                done = &mut wait => {
                    *deadline += begun.elapsed();
                    return Ok(done);
                }
                () = seat.wanted() => break,
                read = stream.receive(|octets| frontend.push(octets)), if ahead < AHEAD => match read? {
                    0 => return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
                    count => ahead += count,
                },
            }
        }
        Err(self.close(Closing::Displaced).await)
    }

    async fn start_tls(mut self, door: &Door) -> Result<Self, Ending> {
        let Some(tls) = &door.tls else {
            return Err(io::Error::from(io::ErrorKind::Unsupported).into());
        };
        let plain = async { Ok(Some(self.stream)) };
        let secured = handshake(&self.seat, self.deadline, Box::pin(tls.accept(plain))).await?;
        self.stream = secured.ok_or(io::Error::from(io::ErrorKind::Unsupported))?;
        self.frontend.tls_started();
        Ok(self)
    }

    /// Answers a login that is not let through. The client may try again, unless it hears that the session ends;
    /// a device has nothing else to try.
    pub(super) async fn refuse(mut self, refusal: &Refusal, device: bool) -> Result<Self, Ending> {
        let reply = match device {
            true => session_refusal(refusal),
            false => self.frontend.refuse(refusal),
        };
        self.write(&reply).await?;
        match device || refusal.ends_session() {
            true => Err(self.close(Closing::Refused).await),
            false => Ok(self),
        }
    }

    /// The connection, the answer to the login, and what the client has sent behind it. A device awaits no answer:
    /// what it has sent begins with its MAIL.
    pub(super) fn accept(self, welcome: &Welcome, device: bool) -> (Stream, Vec<u8>, Vec<u8>) {
        let (reply, ahead) = match device {
            true => (Vec::new(), self.frontend.into_unread()),
            false => self.frontend.accept(welcome),
        };
        (self.stream, reply, ahead)
    }

    async fn write(&mut self, bytes: &[u8]) -> Result<(), Ending> {
        let deadline = self.deadline.min(Instant::now() + WRITE);
        within(&self.seat, deadline, put(&mut self.stream, bytes)).await
    }

    /// Says goodbye and closes. A client that is gone does not hear it.
    async fn close(&mut self, closing: Closing) -> Ending {
        let goodbye = self.frontend.goodbye(closing);
        let farewell = async {
            put(&mut self.stream, &goodbye).await?;
            linger(&mut self.stream).await
        };
        if closing == Closing::Displaced {
            // Only what is done without waiting: somebody else needs the room.
            let _ = farewell.now_or_never();
        } else {
            let _ = self.seat.during(timeout(LINGER, farewell)).await;
        }
        Ending::Closed(closing)
    }
}

/// Lets a client that is still sending read why: closing with its bytes unread would reset the connection (RFC 1122
/// section 4.2.2.13) and take the goodbye with it.
async fn linger(stream: &mut Stream) -> io::Result<()> {
    stream.shutdown().await?;
    while stream.receive(|_| ()).await? > 0 {}
    Ok(())
}

/// Says in the log what a device can't say on its panel: 530 is for a login or TLS that is missing (RFC 4954
/// section 6). The Frontend ends a session that hears it again and again.
fn tell_if_required(reply: &[u8]) {
    if reply.starts_with(b"530 ") {
        info!(reply = %String::from_utf8_lossy(reply).trim_end(), "refused before a login");
    }
}

pub(super) async fn write(stream: &mut Stream, bytes: &[u8]) -> Result<(), Ending> {
    match timeout(WRITE, put(stream, bytes)).await {
        Ok(written) => Ok(written?),
        Err(_) => Err(Ending::Closed(Closing::Deadline)),
    }
}

async fn put(stream: &mut Stream, bytes: &[u8]) -> io::Result<()> {
    stream.write_all(bytes).await?;
    stream.flush().await
}

pub(super) async fn within<T>(
    seat: &Seat,
    deadline: Instant,
    wait: impl Future<Output = io::Result<T>>,
) -> Result<T, Ending> {
    match seat.during(timeout_at(deadline, wait)).await? {
        Ok(done) => Ok(done?),
        Err(_) => Err(Ending::Closed(Closing::Deadline)),
    }
}

/// A client that is set to plain, or that does not trust the certificate. `accept` is boxed: who waits without TLS does
/// not hold the memory of a handshake, four fifths of all that it would hold.
async fn handshake<T>(
    seat: &Seat,
    deadline: Instant,
    accept: Pin<Box<impl Future<Output = io::Result<T>>>>,
) -> Result<T, Ending> {
    within(seat, deadline, accept).await.map_err(|ending| match ending {
        Ending::Lost(error) => Ending::Handshake(error),
        // It waits for a greeting, as a client in plain text does.
        Ending::Closed(Closing::Deadline) => Ending::Handshake(io::ErrorKind::TimedOut.into()),
        other => other,
    })
}
