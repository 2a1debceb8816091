//! The way of ONE connection, from accept to close:
//!
//! ```text
//! accept ─▶ greet ─▶ read_login ─▶ admit: access ─▶ tokens ─▶ upstream ─▶ relay ─▶ outcome
//!                        ▲            │ refused
//!                        └────────────┘
//! ```
//!
//! Invariant: nothing goes upstream before the login is checked here, and nothing that the client sent
//! before its login is logged.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, Span, debug, field, info, info_span};

use crate::access::Access;
use crate::config::{Account, Config, Listener};
use crate::net::{Relayed, ServerTls, Stream, relay};
use crate::oauth::{AccessToken, Tokens};
use crate::protocol::{
    Closing, Frontend, FrontendStep, LocalTls, Login, Refusal, Rejection, Welcome, Xoauth2,
};
use crate::sessions::Sessions;
use crate::store::MismatchKind;
use crate::upstream::{Server, Session};
use crate::vocabulary::{Protocol, TlsMode};

/// From accept to a login, whatever trickles in. RFC 3501 section 5.4 and RFC 5321 section 4.5.3.2 have
/// minutes for a session that is at work; before a login a minute is plenty for any device.
const LOGIN: Duration = Duration::from_secs(60);

/// For writing to a client that does not read.
const WRITE: Duration = Duration::from_secs(30);

/// For a client to read the goodbye and close.
const LINGER: Duration = Duration::from_secs(2);

/// Octets read at a time before the login.
const READ: usize = 4096;

/// What all connections share.
pub struct Gate {
    /// The accounts.
    pub config: Arc<Config>,
    /// Who may log in.
    pub access: Access,
    /// With what they log in upstream.
    pub tokens: Tokens,
    /// Who is logged in now.
    pub sessions: Arc<Sessions>,
    /// Ends connections that are not logged in.
    pub stop: CancellationToken,
    /// Ends all of them.
    pub cut: CancellationToken,
}

/// What the connections of one listener share.
pub struct Door {
    /// Its configuration.
    pub listener: Arc<Listener>,
    /// The server it leads to.
    pub server: Arc<Server>,
    /// For STARTTLS and implicit TLS.
    pub tls: Option<ServerTls>,
    /// The rest.
    pub gate: Arc<Gate>,
}

/// How a connection ended.
#[derive(Debug)]
enum Ending {
    /// Without a login.
    Closed(Closing),
    /// The connection broke before its login.
    Lost(io::Error),
    /// No TLS with the client.
    Handshake(io::Error),
    /// After a session.
    Session(Relayed),
    /// gatepost was stopped during the session.
    Cut,
}

/// Serves one connection and logs how it ended.
pub async fn serve(door: Arc<Door>, socket: TcpStream, peer: SocketAddr, id: u64) {
    let listener = door.listener.protocol;
    let span = info_span!("connection", id, %listener, %peer, account = field::Empty, upstream = field::Empty);
    let connection = Connection { door, peer, refused: None };
    connection.run(socket).instrument(span).await;
}

struct Connection {
    door: Arc<Door>,
    peer: SocketAddr,
    /// The last refusal, for the outcome.
    refused: Option<Refusal>,
}

impl Connection {
    async fn run(mut self, socket: TcpStream) {
        let start = Instant::now();
        let ending = match self.pass(socket).await {
            Ok(ending) | Err(ending) => ending,
        };
        let (up, down) = match &ending {
            Ending::Session(relayed) => (relayed.up, relayed.down),
            _ => (0, 0),
        };
        self.note_mismatch(&ending);
        let refused = self.refused.as_ref().map(Refusal::name);
        let reason = self.refused.as_ref().map(Refusal::text);
        let millis = u64::try_from(start.elapsed().as_millis()).unwrap_or(u64::MAX);
        info!(outcome = %ending, refused, reason, millis, up, down, "connection closed");
    }

    /// A client that is set otherwise than this listener does not know it: the doctor tells people.
    fn note_mismatch(&self, ending: &Ending) {
        let kind = match ending {
            Ending::Closed(Closing::TlsOnPlainPort) => MismatchKind::TlsOnPlainPort,
            Ending::Handshake(_) => MismatchKind::NoTls,
            _ => return,
        };
        let Door { listener, gate, .. } = &*self.door;
        gate.sessions.mismatch(&listener.name(), kind, self.peer.ip());
    }

    /// The whole way.
    async fn pass(&mut self, socket: TcpStream) -> Result<Ending, Ending> {
        let deadline = Instant::now() + LOGIN;
        let mut client = self.greet(socket, deadline).await?;
        loop {
            let login;
            (client, login) = client.read_login(&self.door, deadline).await?;
            match self.admit(login).await {
                Ok((account, session)) => return self.relay(client, &account, session).await,
                Err(refusal) => {
                    debug!(refusal = refusal.name(), reason = refusal.text(), "login refused");
                    let reply = client.frontend.refuse(&refusal);
                    self.refused = Some(refusal);
                    client.write(&reply).await?;
                }
            }
        }
    }

    /// TLS if the listener begins with it, then the greeting.
    async fn greet(&self, socket: TcpStream, deadline: Instant) -> Result<Client, Ending> {
        let Door { listener, server, tls, .. } = &*self.door;
        let mut stream = Stream::accepted(socket)?;
        if let (TlsMode::Implicit, Some(tls)) = (listener.tls, tls) {
            stream = handshake(deadline, tls.accept(stream)).await?;
        }
        let keywords = match listener.protocol {
            Protocol::Smtp => server.keywords().await,
            Protocol::Imap | Protocol::Pop3 => Vec::new(),
        };
        let frontend = Frontend::new(listener.protocol, LocalTls::from(listener.tls), keywords);
        let greeting = frontend.greeting();
        let mut client = Client { stream, frontend };
        client.write(&greeting).await?;
        Ok(client)
    }

    /// From credentials, which end here, to a session upstream.
    async fn admit(&self, login: Login) -> Result<(Arc<Account>, Session), Refusal> {
        let Door { listener, server, gate, .. } = &*self.door;
        let account = gate.config.account(&login.user);
        if let Some(account) = &account {
            Span::current().record("account", account.mailbox.as_str());
        }
        let (known, peer) = (account.as_deref(), self.peer.ip());
        gate.access.check(known, &login, listener.protocol, peer).await?;
        drop(login);
        let account = account.ok_or(Refusal::BadCredentials)?;
        if !listener.provider.shares_tokens_with(&account.app.provider) {
            let (here, there) = (&listener.provider.name, &account.app.provider.name);
            let said = format!("this listener leads to provider {here}, its app is of {there}");
            return Err(Refusal::NotPermitted { said });
        }
        let token = gate.tokens.get(&account).await?;
        Span::current().record("upstream", field::display(server.endpoint()));
        let session = match self.log_in(&account, &token).await {
            Err(Rejection::Token { said }) => self.log_in_anew(&account, &token, said).await,
            first => first.map_err(refusal),
        };
        session.map(|session| (account, session))
    }

    async fn log_in(&self, account: &Account, token: &AccessToken) -> Result<Session, Rejection> {
        let Door { listener, server, .. } = &*self.door;
        let user = account.xoauth2_user(listener.protocol);
        match Xoauth2::new(user, &token.token) {
            Some(login) => server.log_in(login).await,
            None => Err(Rejection::NotPermitted { said: "no user name or no token".into() }),
        }
    }

    /// The token was stale, or so it seems: one renewal, one more try, on a connection of its own.
    async fn log_in_anew(
        &self,
        account: &Account,
        stale: &AccessToken,
        said: String,
    ) -> Result<Session, Refusal> {
        let Door { listener, gate, .. } = &*self.door;
        let other = gate.tokens.get_other(account, listener.protocol, stale).await;
        let Some(token) = other.transpose()? else {
            return Err(Refusal::NotPermitted { said });
        };
        let second = self.log_in(account, &token).await;
        if let Err(Rejection::Token { .. }) = second {
            gate.tokens.give_up(account, listener.protocol);
        }
        second.map_err(refusal)
    }

    /// The answer to the login, what either side has sent ahead, then bytes.
    async fn relay(
        &self,
        client: Client,
        account: &Account,
        mut session: Session,
    ) -> Result<Ending, Ending> {
        let Gate { sessions, cut, .. } = &*self.door.gate;
        let _counted = sessions.enter(&account.mailbox, self.door.listener.protocol);
        let (mut stream, mut reply, ahead) = client.accept(&session.welcome);
        reply.append(&mut session.unread);
        write(&mut stream, &reply).await?;
        write(&mut session.stream, &ahead).await?;
        debug!("logged in");
        tokio::select! {
            relayed = relay(stream, session.stream) => Ok(Ending::Session(relayed)),
            () = cut.cancelled() => Ok(Ending::Cut),
        }
    }
}

/// A client before its login.
struct Client {
    stream: Stream,
    frontend: Frontend,
}

impl Client {
    /// Drives the Frontend up to the next login.
    async fn read_login(mut self, door: &Door, deadline: Instant) -> Result<(Self, Login), Ending> {
        loop {
            match self.frontend.step() {
                FrontendStep::Read => {
                    if let Some(closing) = self.read(&door.gate.stop, deadline).await? {
                        return Err(self.close(closing).await);
                    }
                }
                FrontendStep::Write(reply) => self.write(&reply).await?,
                FrontendStep::StartTls(reply) => {
                    self.write(&reply).await?;
                    self = self.start_tls(door, deadline).await?;
                }
                FrontendStep::Login(login) => return Ok((self, login)),
                // No session is open to a device here.
                FrontendStep::Device => {
                    return Err(io::Error::from(io::ErrorKind::Unsupported).into());
                }
                FrontendStep::Close(closing) => return Err(self.close(closing).await),
            }
        }
    }

    /// Reads once; `Some`: the session ends instead.
    async fn read(
        &mut self,
        stop: &CancellationToken,
        deadline: Instant,
    ) -> Result<Option<Closing>, Ending> {
        let mut buffer = [0; READ];
        let count = tokio::select! {
            () = stop.cancelled() => return Ok(Some(Closing::ShuttingDown)),
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

    async fn start_tls(mut self, door: &Door, deadline: Instant) -> Result<Self, Ending> {
        let Some(tls) = &door.tls else {
            return Err(io::Error::from(io::ErrorKind::Unsupported).into());
        };
        self.stream = handshake(deadline, tls.accept(self.stream)).await?;
        self.frontend.tls_started();
        Ok(self)
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

    fn accept(self, welcome: &Welcome) -> (Stream, Vec<u8>, Vec<u8>) {
        let (reply, ahead) = self.frontend.accept(welcome);
        (self.stream, reply, ahead)
    }
}

/// What an upstream's rejection means to the client.
fn refusal(rejection: Rejection) -> Refusal {
    match rejection {
        Rejection::Token { said } | Rejection::NotPermitted { said } => {
            Refusal::NotPermitted { said }
        }
        Rejection::Busy { said, .. } => Refusal::UpstreamBusy { said },
        Rejection::Broken { said } => Refusal::UpstreamDown { reason: said },
    }
}

async fn write(stream: &mut Stream, bytes: &[u8]) -> Result<(), Ending> {
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

impl From<io::Error> for Ending {
    fn from(error: io::Error) -> Self {
        Self::Lost(error)
    }
}

impl fmt::Display for Ending {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Closed(closing) => f.write_str(closing.text()),
            Self::Lost(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                f.write_str(Closing::Quit.text())
            }
            Self::Lost(error) => write!(f, "broken off before a login: {error}"),
            Self::Handshake(error) => {
                write!(
                    f,
                    "no TLS with the client; is it set to plain, or mistrusts the certificate? {error}"
                )
            }
            Self::Session(Relayed { end: Ok(()), .. }) => f.write_str("session done"),
            Self::Session(Relayed { end: Err(error), .. }) => {
                write!(f, "session broken off: {error}")
            }
            Self::Cut => f.write_str("session ended because gatepost was stopped"),
        }
    }
}
