//! The way of ONE connection, from accept to close:
//!
//! ```text
//! accept ─▶ greet ─▶ read_login ─▶ admit: access ─▶ pace ─▶ tokens ─▶ upstream ─▶ relay ─▶ outcome
//!                        ▲            │ refused
//!                        └────────────┘
//! ```
//!
//! A device that can't log in is known by its address, and skips the check of a password.
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
use crate::config::{Account, Config, Device, Listener};
use crate::direct::{Submission, relay_submission};
use crate::net::{Relayed, ServerTls, Stream, relay};
use crate::oauth::{AccessToken, Tokens};
use crate::pace::{Pace, Turn};
use crate::protocol::{
    Closing, Frontend, FrontendStep, LocalTls, Login, Refusal, Rejection, Welcome, Xoauth2,
    session_refusal,
};
use crate::sessions::Sessions;
use crate::store::MismatchKind;
use crate::upstream::{Server, Session};
use crate::vocabulary::{Delivery, Protocol, TlsMode, Way};

/// From accept to a login, whatever trickles in. RFC 3501 section 5.4 and RFC 5321 section 4.5.3.2 have
/// minutes for a session that is at work; before a login a minute is plenty for any device.
const LOGIN: Duration = Duration::from_secs(60);

/// For writing to a client that does not read.
const WRITE: Duration = Duration::from_secs(30);

/// For a client to read the goodbye and close.
const LINGER: Duration = Duration::from_secs(2);

/// Octets read at a time before the login.
const READ: usize = 4096;

/// Octets that a client may send behind its login while it waits for its turn: more than a group of commands
/// (RFC 2920), and no message.
const AHEAD: usize = 64 * 1024;

/// What all connections share.
pub struct Gate {
    /// The accounts.
    pub config: Arc<Config>,
    /// Who may log in.
    pub access: Access,
    /// With what they log in upstream.
    pub tokens: Tokens,
    /// How much of it the provider takes.
    pub pace: Arc<Pace>,
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
    let span = info_span!("connection", id, %listener, %peer, account = field::Empty, device = field::Empty, upstream = field::Empty);
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
        let mut deadline = deadline;
        let mut client = self.greet(socket, deadline).await?;
        loop {
            let login;
            (client, login) = client.read_login(&self.door, deadline).await?;
            let Some(login) = login else { return self.serve_device(client).await };
            let admitting = Instant::now();
            match self.admit(&mut client, login).await? {
                Ok(admitted) => return self.relay(client, admitted).await,
                Err(refusal) => {
                    debug!(refusal = refusal.name(), reason = refusal.text(), "login refused");
                    let (reply, last) = (client.frontend.refuse(&refusal), refusal.ends_session());
                    self.refused = Some(refusal);
                    client.write(&reply).await?;
                    if last {
                        return Err(client.close(Closing::Refused).await);
                    }
                    // What gatepost has taken for itself is not the client's delay.
                    deadline += admitting.elapsed();
                }
            }
        }
    }

    /// MAIL without a login, from an address where a device is.
    async fn serve_device(&mut self, mut client: Client) -> Result<Ending, Ending> {
        let Door { listener, gate, .. } = &*self.door;
        let Some(device) = gate.config.device(self.peer.ip()).cloned() else {
            return Err(io::Error::from(io::ErrorKind::Unsupported).into());
        };
        Span::current().record("account", device.account.mailbox.as_str());
        Span::current().record("device", device.name.as_str());
        let refusal = match listener.delivery {
            Delivery::Direct => match self.reach(&mut client, Arc::clone(&device.account)).await? {
                Ok(admitted) => {
                    let admitted = Admitted { device: Some(device), ..admitted };
                    return self.relay(client, admitted).await;
                }
                Err(refusal) => refusal,
            },
            Delivery::Spool => {
                Refusal::NotPermitted { said: "this listener takes no mail from devices".into() }
            }
        };
        let reply = session_refusal(&refusal);
        self.refused = Some(refusal);
        client.write(&reply).await?;
        // Without a way to the mail server there is nothing that a device could do next.
        Err(client.close(Closing::Refused).await)
    }

    /// TLS if the listener begins with it, then the greeting.
    async fn greet(&self, socket: TcpStream, deadline: Instant) -> Result<Client, Ending> {
        let Door { listener, server, tls, gate } = &*self.door;
        let mut stream = Stream::accepted(socket)?;
        if let (TlsMode::Implicit, Some(tls)) = (listener.tls, tls) {
            stream = handshake(deadline, tls.accept(stream)).await?;
        }
        let keywords = match listener.protocol {
            Protocol::Smtp => server.keywords().await,
            Protocol::Imap | Protocol::Pop3 => Vec::new(),
        };
        let mut frontend = Frontend::new(listener.protocol, LocalTls::from(listener.tls), keywords);
        if listener.protocol == Protocol::Smtp && gate.config.device(self.peer.ip()).is_some() {
            frontend = frontend.open_to_device();
        }
        let greeting = frontend.greeting();
        let mut client = Client { stream, frontend };
        client.write(&greeting).await?;
        Ok(client)
    }

    /// From credentials, which end here, to a session upstream.
    async fn admit(
        &self,
        client: &mut Client,
        login: Login,
    ) -> Result<Result<Admitted, Refusal>, Ending> {
        let Door { listener, gate, .. } = &*self.door;
        let account = gate.config.account(&login.user);
        if let Some(account) = &account {
            Span::current().record("account", account.mailbox.as_str());
        }
        let (known, peer) = (account.as_deref(), self.peer.ip());
        if let Err(refusal) = gate.access.check(known, &login, listener.protocol, peer).await {
            return Ok(Err(refusal));
        }
        drop(login);
        match account {
            Some(account) => self.reach(client, account).await,
            None => Ok(Err(Refusal::BadCredentials)),
        }
    }

    /// A session upstream, when its turn has come.
    async fn reach(
        &self,
        client: &mut Client,
        account: Arc<Account>,
    ) -> Result<Result<Admitted, Refusal>, Ending> {
        if let Err(refusal) = self.suits(&account) {
            return Ok(Err(refusal));
        }
        let turn = match self.wait_for_turn(client, &account).await? {
            Ok(turn) => turn,
            Err(refusal) => return Ok(Err(refusal)),
        };
        let session = self.open_session(&account).await;
        Ok(session.map(|session| Admitted { account, device: None, session, turn }))
    }

    /// Whether this listener leads to where the account's mail is.
    fn suits(&self, account: &Account) -> Result<(), Refusal> {
        let Door { listener, .. } = &*self.door;
        let said = if !listener.provider.shares_tokens_with(&account.app.provider) {
            let (here, there) = (&listener.provider.name, &account.app.provider.name);
            format!("this listener leads to provider {here}, its app is of {there}")
        } else if listener.protocol == Protocol::Smtp && !account.via.contains(&Way::Smtp) {
            "its mail goes by Microsoft Graph alone (via): set delivery = \"spool\" on this listener"
                .into()
        } else {
            return Ok(());
        };
        Err(Refusal::NotPermitted { said })
    }

    /// Waits until the provider takes one more session of this mailbox. A client that goes away meanwhile
    /// leaves the queue; what it sends ahead is kept.
    async fn wait_for_turn(
        &self,
        client: &mut Client,
        account: &Account,
    ) -> Result<Result<Turn, Refusal>, Ending> {
        let Gate { pace, stop, .. } = &*self.door.gate;
        let turn = pace.turn_within(account, self.door.listener.protocol);
        let mut turn = std::pin::pin!(turn);
        let mut ahead = 0;
        let mut buffer = [0; READ];
        loop {
            tokio::select! {
                biased;
                turn = &mut turn => return Ok(turn),
                () = stop.cancelled() => return Ok(Err(Refusal::ShuttingDown)),
                read = client.stream.read(&mut buffer), if ahead < AHEAD => match read? {
                    0 => return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
                    count => {
                        client.frontend.push(buffer.get(..count).unwrap_or_default());
                        ahead += count;
                    }
                },
            }
        }
    }

    async fn open_session(&self, account: &Account) -> Result<Session, Refusal> {
        let Door { server, gate, .. } = &*self.door;
        let token = gate.tokens.get(account).await?;
        Span::current().record("upstream", field::display(server.endpoint()));
        match self.log_in(account, &token).await {
            Err(Rejection::Token { said }) => self.log_in_anew(account, &token, said).await,
            first => first.map_err(refusal),
        }
    }

    async fn log_in(&self, account: &Account, token: &AccessToken) -> Result<Session, Rejection> {
        let Door { listener, server, gate, .. } = &*self.door;
        let user = account.xoauth2_user(listener.protocol);
        let Some(login) = Xoauth2::new(user, &token.token) else {
            return Err(Rejection::NotPermitted { said: "no user name or no token".into() });
        };
        let session = server.log_in(login).await;
        if let Err(Rejection::Busy { wait, .. }) = &session {
            gate.pace.hold(account, listener.protocol, *wait);
        }
        session
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
    async fn relay(&self, client: Client, admitted: Admitted) -> Result<Ending, Ending> {
        let Gate { sessions, cut, .. } = &*self.door.gate;
        let Admitted { account, device, mut session, turn } = admitted;
        let protocol = self.door.listener.protocol;
        let _counted = sessions.enter(&account.mailbox, protocol);
        let (mut stream, mut reply, ahead) = match device {
            Some(_) => (client.stream, Vec::new(), client.frontend.into_unread()),
            None => client.accept(&session.welcome),
        };
        debug!("logged in");
        let relayed = async {
            if protocol == Protocol::Smtp {
                write(&mut stream, &reply).await?;
                let submission =
                    Submission { pace: Arc::clone(&self.door.gate.pace), turn, account, device };
                let Session { stream: upstream, unread, .. } = session;
                return Ok(relay_submission(stream, upstream, ahead, unread, submission).await);
            }
            reply.append(&mut session.unread);
            write(&mut stream, &reply).await?;
            write(&mut session.stream, &ahead).await?;
            Ok(relay(stream, session.stream).await)
        };
        tokio::select! {
            relayed = relayed => relayed.map(Ending::Session),
            () = cut.cancelled() => Ok(Ending::Cut),
        }
    }
}

/// A client that is let through.
struct Admitted {
    account: Arc<Account>,
    /// What it is, if it has not logged in.
    device: Option<Arc<Device>>,
    session: Session,
    turn: Turn,
}

/// A client before its login.
struct Client {
    stream: Stream,
    frontend: Frontend,
}

impl Client {
    /// Drives the Frontend up to the next login, or without one up to a device's first command.
    async fn read_login(
        mut self,
        door: &Door,
        deadline: Instant,
    ) -> Result<(Self, Option<Login>), Ending> {
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
                FrontendStep::Login(login) => return Ok((self, Some(login))),
                FrontendStep::Device => return Ok((self, None)),
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
