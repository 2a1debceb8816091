//! The client's side of a connection before its login: reads, writes, TLS, goodbyes, each with its limit.
//!
//! Invariant: a wait that is over its limit, or a connection that breaks, ends the connection.

use std::io;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout, timeout_at};
use tracing::info;

use super::{Door, Ending};
use crate::net::Stream;
use crate::protocol::{
    Closing, Frontend, FrontendStep, LocalTls, Login, Refusal, Welcome, session_refusal,
};
use crate::vocabulary::TlsMode;

/// For writing to a client that does not read.
const WRITE: Duration = Duration::from_secs(30);

/// For a client to read the goodbye and close.
const LINGER: Duration = Duration::from_secs(2);

/// Octets read at a time before the login.
const READ: usize = 4096;

/// Octets that a client may send behind its login while it waits for its turn: more than a group of commands
/// (RFC 2920), and no message.
const AHEAD: usize = 64 * 1024;

/// A client before its login.
pub(super) struct Client {
    stream: Stream,
    frontend: Frontend,
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
        keywords: Vec<String>,
        open: bool,
        deadline: Instant,
    ) -> Result<Self, Ending> {
        let Door { listener, tls, .. } = door;
        let mut stream = Stream::accepted(socket)?;
        if let (TlsMode::Implicit, Some(tls)) = (listener.tls, tls) {
            stream = handshake(deadline, tls.accept(stream)).await?;
        }
        let mut frontend = Frontend::new(listener.protocol, LocalTls::from(listener.tls), keywords);
        if open {
            frontend = frontend.open_to_device();
        }
        let greeting = frontend.greeting();
        let mut client = Self { stream, frontend };
        client.write(&greeting).await?;
        Ok(client)
    }

    /// Drives the Frontend up to the next login, or without one up to a device's first command.
    pub(super) async fn read_login(
        mut self,
        door: &Door,
        deadline: Instant,
    ) -> Result<(Self, Asked), Ending> {
        loop {
            match self.frontend.step() {
                FrontendStep::Read => {
                    if let Some(closing) = self.read(door, deadline).await? {
                        return Err(self.close(closing).await);
                    }
                }
                FrontendStep::Write(reply) => {
                    tell_if_required(&reply);
                    self.write(&reply).await?;
                }
                FrontendStep::StartTls(reply) => {
                    self.write(&reply).await?;
                    self = self.start_tls(door, deadline).await?;
                }
                FrontendStep::Login(login) => return Ok((self, Asked::Login(login))),
                FrontendStep::Device => return Ok((self, Asked::Device)),
                FrontendStep::Close(closing) => return Err(self.close(closing).await),
            }
        }
    }

    /// Reads once; `Some`: the session ends instead.
    async fn read(&mut self, door: &Door, deadline: Instant) -> Result<Option<Closing>, Ending> {
        let mut buffer = [0; READ];
        let count = tokio::select! {
            () = door.gate.stop.cancelled() => return Ok(Some(Closing::ShuttingDown)),
            read = timeout_at(deadline, self.stream.read(&mut buffer)) => match read {
                Err(_) => return Ok(Some(Closing::Deadline)),
                Ok(read) => read?,
            },
        };
        if count == 0 {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
        }
        self.frontend.push(buffer.get(..count).unwrap_or_default());
        Ok(None)
    }

    /// Waits for `wait` as long as the client is there; what it sends ahead is kept.
    pub(super) async fn stays_for<T>(
        &mut self,
        wait: impl Future<Output = T>,
    ) -> Result<T, Ending> {
        let mut wait = std::pin::pin!(wait);
        let mut ahead = 0;
        let mut buffer = [0; READ];
        loop {
            tokio::select! {
                biased;
                done = &mut wait => return Ok(done),
                read = self.stream.read(&mut buffer), if ahead < AHEAD => match read? {
                    0 => return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
                    count => {
                        self.frontend.push(buffer.get(..count).unwrap_or_default());
                        ahead += count;
                    }
                },
            }
        }
    }

    async fn start_tls(mut self, door: &Door, deadline: Instant) -> Result<Self, Ending> {
        let Some(tls) = &door.tls else {
            return Err(io::Error::from(io::ErrorKind::Unsupported).into());
        };
        self.stream = handshake(deadline, tls.accept(self.stream)).await?;
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
        write(&mut self.stream, bytes).await
    }

    /// Says goodbye and closes.
    async fn close(&mut self, closing: Closing) -> Ending {
        let goodbye = self.frontend.goodbye(closing);
        // A client that is gone does not hear it.
        let _ = self.write(&goodbye).await;
        let _ = timeout(LINGER, self.linger()).await;
        Ending::Closed(closing)
    }

    /// Lets a client that is still sending read why: closing with its bytes unread would reset the
    /// connection (RFC 1122 section 4.2.2.13) and take the goodbye with it.
    async fn linger(&mut self) -> io::Result<()> {
        self.stream.shutdown().await?;
        let mut buffer = [0; READ];
        while self.stream.read(&mut buffer).await? > 0 {}
        Ok(())
    }
}

/// Says in the log what a device can't say on its panel: 530 is for a login or TLS that is missing (RFC 4954
/// section 6). The Frontend ends a session that hears it again and again.
fn tell_if_required(reply: &[u8]) {
    if reply.starts_with(b"530 ") {
        info!(reply = %String::from_utf8_lossy(reply).trim_end(), "refused before a login");
    }
}

pub(super) async fn write(stream: &mut Stream, bytes: &[u8]) -> Result<(), Ending> {
    let write = async {
        stream.write_all(bytes).await?;
        stream.flush().await
    };
    within(Instant::now() + WRITE, write).await
}

async fn within<T>(
    deadline: Instant,
    wait: impl Future<Output = io::Result<T>>,
) -> Result<T, Ending> {
    match timeout_at(deadline, wait).await {
        Ok(done) => Ok(done?),
        Err(_) => Err(Ending::Closed(Closing::Deadline)),
    }
}

/// A client that is set to plain, or that does not trust the certificate.
async fn handshake(
    deadline: Instant,
    accept: impl Future<Output = io::Result<Stream>>,
) -> Result<Stream, Ending> {
    within(deadline, accept).await.map_err(|ending| match ending {
        Ending::Lost(error) => Ending::Handshake(error),
        // It waits for a greeting, as a client in plain text does.
        _ => Ending::Handshake(io::ErrorKind::TimedOut.into()),
    })
}
