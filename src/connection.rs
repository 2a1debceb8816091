//! The way of ONE connection, from accept to close:
//!
//! ```text
//!                                                    direct ┌─▶ pace ─▶ tokens ─▶ upstream ─▶ relay ─┐
//! accept ─▶ greet ─▶ read_login ─▶ identify: access ────────┤                                       ├─▶ outcome
//!                        ▲             │ refused      spool └─▶ intake ─────────────────────────────┘
//!                        └─────────────┘
//!           └────── a seat in the lobby ──────┘
//! ```
//!
//! Behind a load balancer its header comes first, and its client is the peer from then on.
//! A device that can't log in is known by its address, and skips the check of a password.
//!
//! Invariant: nothing goes upstream before the login is checked here, and nothing that the client sent
//! before its login is logged.

mod balancer;
mod client;
mod ending;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, Span, debug, field, info, info_span};

use crate::access::Access;
use crate::config::{Account, Config, Device, Listener};
use crate::direct::{Submission, relay_submission};
use crate::lobby::{Lobby, Seat};
use crate::net::{ServerTls, Stream, relay};
use crate::oauth::Tokens;
use crate::outbox::{Intake, Outbox, Source, Spool};
use crate::pace::{Pace, Turn};
use crate::protocol::{Closing, Login, Refusal, Rejection, Talk, Welcome, spool_keywords};
use crate::sessions::{LAST_WORDS, Leave, Sessions};
use crate::store::MismatchKind;
use crate::upstream::{NoSession, Server, Session};
use crate::vocabulary::{Delivery, Protocol, Way};
use client::{Asked, Client, write};
use ending::Ending;

/// From accept to a login, whatever trickles in. RFC 3501 section 5.4 and RFC 5321 section 4.5.3.2 have
/// minutes for a session that is at work; before a login a minute is plenty for any device.
const LOGIN: Duration = Duration::from_secs(60);

/// At a stop, for a client that is not logged in to hear its goodbye. Nothing is lost with it.
const FAREWELL: Duration = Duration::from_secs(3);

/// What all connections of one configuration share. A reload makes another Gate for those that come later; what is
/// not of the configuration is the same in both.
pub struct Gate {
    /// The accounts.
    pub config: Arc<Config>,
    /// Who may log in.
    pub access: Arc<Access>,
    /// With what they log in upstream.
    pub tokens: Arc<Tokens>,
    /// How much of it the provider takes.
    pub pace: Arc<Pace>,
    /// Where mail is kept that gatepost delivers itself.
    pub spool: Spool,
    /// Delivers it.
    pub outbox: Outbox,
    /// Who is logged in now.
    pub sessions: Arc<Sessions>,
    /// Who is not, and waits.
    pub lobby: Arc<Lobby>,
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

/// Who is let in.
struct Guest {
    account: Arc<Account>,
    /// Of its app password, or the device's.
    name: String,
    /// What it is, if it has not logged in.
    device: Option<Arc<Device>>,
}

/// A client that is let in, and its session upstream if it has one.
type LetIn = (Client, Guest, Option<(Session, Turn)>);

impl Door {
    /// A seat in the lobby for a connection from there.
    pub fn seat(&self, peer: IpAddr) -> Seat {
        match self.listener.is_balancer(peer) {
            true => self.gate.lobby.enter_balancer(peer),
            false => self.gate.lobby.enter(peer),
        }
    }
}

/// Serves one connection and logs how it ended.
pub async fn serve(
    door: Arc<Door>,
    mut socket: TcpStream,
    peer: SocketAddr,
    id: u64,
    mut seat: Seat,
) {
    let start = Instant::now();
    let announced = balancer::client(&door, &mut socket, peer, &mut seat).await;
    let (listener, client) = (door.listener.protocol, *announced.as_ref().unwrap_or(&peer));
    let span = info_span!("connection", id, %listener, peer = %client, balancer = field::Empty, account = field::Empty, device = field::Empty, upstream = field::Empty);
    if client != peer {
        span.record("balancer", field::display(peer));
    }
    let connection = Connection { door, peer: client, start, refused: None };
    match announced {
        Ok(_) => connection.run(socket, seat).instrument(span).await,
        Err(ending) => span.in_scope(|| connection.tell(&ending)),
    }
}

struct Connection {
    door: Arc<Door>,
    /// The client, also behind a load balancer.
    peer: SocketAddr,
    start: Instant,
    /// The last refusal, for the outcome.
    refused: Option<Refusal>,
}

impl Connection {
    async fn run(mut self, socket: TcpStream, seat: Seat) {
        let ending = match self.pass(socket, seat).await {
            Ok(ending) | Err(ending) => ending,
        };
        self.tell(&ending);
    }

    /// The one line of each connection.
    fn tell(&self, ending: &Ending) {
        let (up, down) = match ending {
            Ending::Session(relayed) => (relayed.up, relayed.down),
            Ending::Taken(taken) => (taken.octets, 0),
            _ => (0, 0),
        };
        self.note_mismatch(ending);
        let refused = self.refused.as_ref().map(Refusal::name);
        let reason = self.refused.as_ref().map(Refusal::text);
        let millis = u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX);
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

    /// The whole way. Its two halves are boxed, so that a session does not keep the memory of its login.
    async fn pass(&mut self, socket: TcpStream, seat: Seat) -> Result<Ending, Ending> {
        let stop = self.door.gate.stop.clone();
        let overdue = async {
            stop.cancelled().await;
            sleep(FAREWELL).await;
        };
        let (client, guest, upstream) = tokio::select! {
            let_in = Box::pin(self.let_in(socket, seat)) => let_in?,
            () = overdue => return Err(Ending::Closed(Closing::ShuttingDown)),
        };
        match upstream {
            Some((session, turn)) => Box::pin(self.relay(client, guest, session, turn)).await,
            None => Box::pin(self.take_mail(client, guest)).await,
        }
    }

    /// Up to a login that is let through, and a session upstream, unless gatepost takes the mail itself.
    async fn let_in(&mut self, socket: TcpStream, seat: Seat) -> Result<LetIn, Ending> {
        let mut client = self.greet(socket, seat).await?;
        loop {
            let asked;
            (client, asked) = client.read_login(&self.door).await?;
            let is_device = matches!(asked, Asked::Device);
            let refusal = match self.identify(&mut client, asked).await? {
                Ok(guest) => {
                    client.leave_lobby();
                    if self.door.listener.delivery == Delivery::Spool {
                        return Ok((client, guest, None));
                    }
                    // Boxed: a client that waits does not hold the memory of a login upstream.
                    match client.stays_for(Box::pin(self.reach(&guest.account))).await? {
                        Ok(upstream) => return Ok((client, guest, Some(upstream))),
                        Err(refusal) => refusal,
                    }
                }
                Err(refusal) => refusal,
            };
            debug!(refusal = refusal.name(), reason = refusal.text(), "login refused");
            client = client.refuse(self.refused.insert(refusal), is_device).await?;
        }
    }

    async fn greet(&self, socket: TcpStream, seat: Seat) -> Result<Client, Ending> {
        let Door { listener, server, gate, .. } = &*self.door;
        let keywords = match (listener.protocol, listener.delivery) {
            (Protocol::Smtp, Delivery::Direct) => seat.during(Box::pin(server.keywords())).await?,
            (Protocol::Smtp, Delivery::Spool) => spool_keywords(gate.config.spool.message).into(),
            (Protocol::Imap | Protocol::Pop3, _) => Arc::default(),
        };
        let open =
            listener.protocol == Protocol::Smtp && gate.config.device(self.peer.ip()).is_some();
        let deadline = Instant::now() + LOGIN;
        Client::greet(&self.door, socket, seat, keywords, open, deadline).await
    }

    /// From credentials, which end here, or an address, to who it is.
    async fn identify(
        &self,
        client: &mut Client,
        asked: Asked,
    ) -> Result<Result<Guest, Refusal>, Ending> {
        let guest = match asked {
            Asked::Login(login) => self.check(client, login).await?,
            Asked::Device => self.device(),
        };
        Ok(guest.and_then(|guest| {
            Span::current().record("device", guest.name.as_str());
            self.suits(&guest.account)?;
            Ok(guest)
        }))
    }

    /// Who has failed before waits for the answer. The check itself goes to its end without the client: what was tried
    /// counts, and a script that closes its side early still hears the answer.
    async fn check(
        &self,
        client: &mut Client,
        login: Login,
    ) -> Result<Result<Guest, Refusal>, Ending> {
        let Door { listener, gate, .. } = &*self.door;
        let Gate { config, access, stop, .. } = &**gate;
        let account = config.account(&login.user);
        let listed = account.as_ref().filter(|account| config.lists(account));
        // Also of a name that is not listed, so that both take as long.
        let shown = listed.map_or("unknown", |account| account.mailbox.as_str());
        Span::current().record("account", shown);
        let (known, protocol, peer) = (account.as_deref(), listener.protocol, self.peer.ip());
        let verdict = client.has_done(access.check(known, &login, protocol, peer)).await?;
        match (verdict, &account) {
            (Ok(name), Some(account)) => {
                if listed.is_none() {
                    Span::current().record("account", account.mailbox.as_str());
                }
                let account = Arc::clone(account);
                Ok(Ok(Guest { account, name, device: None }))
            }
            (verdict, _) => {
                let refusal = verdict.err().unwrap_or(Refusal::BadCredentials);
                let delay = access.delay(known, &login, protocol, peer, &refusal);
                if !delay.is_zero() {
                    client.stays_for(stop.run_until_cancelled(sleep(delay))).await?;
                }
                Ok(Err(refusal))
            }
        }
    }

    fn device(&self) -> Result<Guest, Refusal> {
        let device = self.door.gate.config.device(self.peer.ip());
        let device = device.cloned().ok_or(Refusal::NotAllowedFromHere)?;
        let (account, name) = (Arc::clone(&device.account), device.name.clone());
        Span::current().record("account", account.mailbox.as_str());
        Ok(Guest { account, name, device: Some(device) })
    }

    /// Whether this listener leads to where the account's mail is.
    fn suits(&self, account: &Account) -> Result<(), Refusal> {
        let Door { listener, .. } = &*self.door;
        let by_graph_alone = listener.protocol == Protocol::Smtp && !account.goes_by(Way::Smtp);
        let said = if !listener.provider.shares_tokens_with(&account.app.provider) {
            let (here, there) = (&listener.provider.name, &account.app.provider.name);
            format!("this listener leads to provider {here}, its app is of {there}")
        } else if by_graph_alone && listener.delivery == Delivery::Direct {
            "its mail goes by Microsoft Graph alone (via): set delivery = \"spool\" on this listener"
                .into()
        } else {
            return Ok(());
        };
        Err(Refusal::NotPermitted { said })
    }

    /// A session upstream, when its turn has come.
    async fn reach(&self, account: &Account) -> Result<(Session, Turn), Refusal> {
        let Door { listener, server, gate, .. } = &*self.door;
        let turn = tokio::select! {
            turn = gate.pace.turn_within(account, listener.protocol) => turn?,
            () = gate.stop.cancelled() => return Err(Refusal::ShuttingDown),
        };
        Span::current().record("upstream", field::display(server.endpoint()));
        let session = tokio::select! {
            session = server.log_in_as(account, &gate.tokens) => session,
            () = gate.stop.cancelled() => return Err(Refusal::ShuttingDown),
        };
        if let Err(NoSession::Rejected(Rejection::Busy { wait, .. })) = &session {
            gate.pace.hold(account, listener.protocol, *wait);
        }
        Ok((session.map_err(refusal)?, turn))
    }

    /// The answer to the login, what either side has sent ahead, then bytes.
    async fn relay(
        &self,
        client: Client,
        guest: Guest,
        session: Session,
        turn: Turn,
    ) -> Result<Ending, Ending> {
        let Gate { sessions, pace, cut, .. } = &*self.door.gate;
        let protocol = self.door.listener.protocol;
        let Guest { account, device, .. } = guest;
        let counted = sessions.enter(&account.mailbox, protocol);
        let leave = counted.leave();
        // Boxed, as what follows it: a session has the memory of what it is at.
        let begun = Box::pin(begin(client, session, protocol, device.is_some()));
        debug!("logged in");
        let relayed = async {
            let Begun { client, upstream, ahead, unread, talk } = begun.await?;
            Ok(match talk {
                Some(talk) => {
                    Box::pin(relay(client, upstream, talk, leave.asked(), || leave.why())).await
                }
                None => {
                    let (pace, leave, cut) = (Arc::clone(pace), leave.clone(), cut.clone());
                    let submission = Submission { pace, turn, account, device, leave, cut };
                    Box::pin(relay_submission(client, upstream, ahead, unread, submission)).await
                }
            })
        };
        tokio::select! {
            relayed = relayed => relayed.map(Ending::Session),
            () = overdue(leave, cut, protocol) => Ok(Ending::Cut),
        }
    }

    /// The answer to the login, then messages, which gatepost delivers itself.
    async fn take_mail(&self, client: Client, guest: Guest) -> Result<Ending, Ending> {
        let Door { listener, gate, .. } = &*self.door;
        let Guest { account, name, device } = guest;
        let counted = gate.sessions.enter(&account.mailbox, listener.protocol);
        let leave = counted.leave();
        let (mut stream, reply, ahead) = client.accept(&Welcome::default(), device.is_some());
        write(&mut stream, &reply).await?;
        let intake = Intake {
            spool: &gate.spool,
            outbox: &gate.outbox,
            pace: &gate.pace,
            largest: gate.config.spool.message,
            bare_lf: listener.bare_lf,
            source: Source {
                mailbox: account.mailbox.clone(),
                device: name,
                peer: Some(self.peer.ip().to_canonical()),
                sender: account.sender.clone(),
            },
            device: device.as_deref(),
            leave,
        };
        tokio::select! {
            taken = intake.take(stream, &ahead, leave.over(&gate.cut)) => Ok(Ending::Taken(taken)),
            () = overdue(leave, &gate.cut, listener.protocol) => Ok(Ending::Cut),
        }
    }
}

/// Both sides of a session whose client has heard that it is logged in.
struct Begun {
    client: Stream,
    upstream: Stream,
    /// Sent by the client behind its login, and not passed on.
    ahead: Vec<u8>,
    /// Sent by the upstream behind its answer, and not passed on.
    unread: Vec<u8>,
    /// Of a session of which nothing is kept back.
    talk: Option<Talk>,
}

/// Answers the login. SMTP's messages wait for their turn; of others what was sent ahead is passed on at once.
async fn begin(
    client: Client,
    session: Session,
    protocol: Protocol,
    is_device: bool,
) -> Result<Begun, Ending> {
    let (mut client, mut reply, ahead) = client.accept(&session.welcome, is_device);
    let Session { stream: mut upstream, mut unread, .. } = session;
    if protocol == Protocol::Smtp {
        write(&mut client, &reply).await?;
        return Ok(Begun { client, upstream, ahead, unread, talk: None });
    }
    let mut talk = Talk::new(protocol);
    talk.client(&ahead);
    talk.server(&unread);
    reply.append(&mut unread);
    write(&mut client, &reply).await?;
    write(&mut upstream, &ahead).await?;
    Ok(Begun { client, upstream, ahead: Vec::new(), unread, talk: Some(talk) })
}

/// Comes to its end when the session is not waited for any more. SMTP's may say a last word first.
async fn overdue(leave: &Leave, cut: &CancellationToken, protocol: Protocol) {
    leave.over(cut).await;
    if protocol == Protocol::Smtp {
        sleep(2 * LAST_WORDS).await;
    }
}

/// What it means to the client that there is no session upstream.
fn refusal(none: NoSession) -> Refusal {
    match none {
        NoSession::NoToken(refusal) => refusal,
        NoSession::Rejected(Rejection::Token { said } | Rejection::NotPermitted { said }) => {
            Refusal::NotPermitted { said }
        }
        NoSession::Rejected(Rejection::Busy { said, .. }) => Refusal::UpstreamBusy { said },
        NoSession::Rejected(Rejection::Broken { said }) => Refusal::UpstreamDown { reason: said },
    }
}
