//! A network that fails: a relay between two TCP peers that does to a connection what networks, middleboxes and dying
//! machines do, at the octet that was asked for.
//!
//! A clean connection is recorded ([`Trace`]): whose turn it was, and up to which octet. That is how a place is found
//! inside of TLS, where nobody can read.
//!
//! Invariant: it has no chance in it. The same fault on the same octets does the same, so that a seed is enough to
//! see a failure again. Each connection has at most one fault, and one without is passed on unchanged.

use std::{
    collections::VecDeque,
    io,
    net::{Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::watch,
    time::sleep,
};
use tokio_util::{
    sync::{CancellationToken, DropGuard},
    task::TaskTracker,
};

use super::locked;

/// Octets read at a time.
const READ: usize = 16 * 1024;

/// How often a throttled direction moves.
const TICK: Duration = Duration::from_millis(50);

/// Connections whose traces are kept.
const KEPT: usize = 128;

/// A listener, and the way from there to a server. It ends, with its connections, when this is dropped.
pub struct Network {
    address: SocketAddr,
    shared: Arc<Shared>,
    _stop: DropGuard,
}

/// What happens to a connection, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Where.
    pub place: Place,
    /// What.
    pub deed: Deed,
}

/// From which side octets come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From who has connected.
    Up,
    /// From the server.
    Down,
}

/// Where a fault happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// When the connection is accepted, before the server knows of it.
    Connect,
    /// When so many octets have passed in this direction, and there is one more.
    Octet(Direction, u64),
}

/// What a fault does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Deed {
    /// Nothing passes in this direction for so long.
    Delay(Duration),
    /// From now on so many octets pass in a second, in this direction; at connect in both.
    Throttle(u32),
    /// Both connections are closed.
    Cut,
    /// Both connections are reset.
    Reset,
    /// This direction is closed, and what comes is thrown away; the other goes on.
    HalfClose,
    /// These octets come between the others.
    Garbage(Vec<u8>),
    /// What was about to pass passes twice.
    Repeat,
    /// Nothing passes any more, in neither direction. Then both are closed.
    Swallow(Duration),
}

/// What a connection was.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Trace {
    /// Who spoke, and up to which octet of that direction, in order.
    pub turns: Vec<Turn>,
    /// Whether its fault has happened.
    pub fired: bool,
    /// Whether it is over.
    pub closed: bool,
}

/// Octets in one direction, with none in the other between them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Turn {
    /// Which.
    pub direction: Direction,
    /// Those that had passed in this direction before.
    pub from: u64,
    /// And behind it.
    pub to: u64,
}

struct Shared {
    to: SocketAddr,
    armed: Mutex<VecDeque<Fault>>,
    traces: Mutex<VecDeque<Arc<Mutex<Trace>>>>,
    connections: TaskTracker,
    /// Ends the connections that hold a clone of it.
    cut: Mutex<CancellationToken>,
}

/// Why a connection ends before both sides have closed it.
enum End {
    Cut,
    Reset,
    /// One side has broken it off.
    Broken,
}

impl Network {
    /// Listens on a free port of 127.0.0.1, and leads to this server.
    pub async fn to(server: SocketAddr) -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared {
            to: server,
            armed: Mutex::default(),
            traces: Mutex::default(),
            connections: TaskTracker::new(),
            cut: Mutex::default(),
        });
        let stop = CancellationToken::new();
        let accepting = accept(listener, Arc::clone(&shared), stop.clone());
        let ended = stop.clone();
        tokio::spawn(async move { ended.run_until_cancelled(accepting).await });
        Ok(Self { address, shared, _stop: stop.drop_guard() })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The next connection has this fault; one behind it the next one.
    pub fn arm(&self, fault: Fault) {
        locked(&self.shared.armed).push_back(fault);
    }

    /// Faults that have met no connection are taken back; how many.
    pub fn disarm(&self) -> usize {
        std::mem::take(&mut *locked(&self.shared.armed)).len()
    }

    /// Closes all connections.
    pub fn cut_all(&self) {
        std::mem::take(&mut *locked(&self.shared.cut)).cancel();
    }

    /// Connections that are open on one side or both.
    pub fn live(&self) -> usize {
        self.shared.connections.len()
    }

    /// The newest connection so far.
    pub fn last(&self) -> Option<Trace> {
        locked(&self.shared.traces).back().map(|trace| locked(trace).clone())
    }

    /// Octets that have passed so far, of each connection whose trace is kept.
    pub fn passed(&self, direction: Direction) -> Vec<u64> {
        let traces = locked(&self.shared.traces);
        traces.iter().map(|trace| locked(trace).passed(direction)).collect()
    }
}

impl Trace {
    /// Octets so far in this direction.
    pub fn passed(&self, direction: Direction) -> u64 {
        let mut turns = self.turns.iter().rev();
        turns.find(|turn| turn.direction == direction).map_or(0, |turn| turn.to)
    }

    fn add(&mut self, direction: Direction, octets: u64) {
        let from = self.passed(direction);
        match self.turns.last_mut() {
            Some(turn) if turn.direction == direction => turn.to += octets,
            _ => self.turns.push(Turn { direction, from, to: from + octets }),
        }
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>, stop: CancellationToken) {
    loop {
        let Ok((client, _)) = listener.accept().await else {
            sleep(TICK).await;
            continue;
        };
        let fault = locked(&shared.armed).pop_front();
        let trace = Arc::new(Mutex::new(Trace::default()));
        {
            let mut traces = locked(&shared.traces);
            traces.push_back(Arc::clone(&trace));
            if traces.len() > KEPT {
                traces.pop_front();
            }
        }
        let (cut, stop, to) = (locked(&shared.cut).clone(), stop.clone(), shared.to);
        shared.connections.spawn(async move {
            tokio::select! {
                () = connection(client, to, fault, &trace) => {}
                () = cut.cancelled() => {}
                () = stop.cancelled() => {}
            }
            locked(&trace).closed = true;
        });
    }
}

async fn connection(
    mut client: TcpStream,
    to: SocketAddr,
    fault: Option<Fault>,
    trace: &Mutex<Trace>,
) {
    let (mut rate, mut later) = (None, None);
    match fault {
        Some(Fault { place: Place::Connect, deed }) => {
            locked(trace).fired = true;
            match at_connect(&mut client, deed).await {
                Ok(throttle) => rate = throttle,
                Err(_) => return,
            }
        }
        fault => later = fault,
    }
    let Ok(mut server) = TcpStream::connect(to).await else { return };
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    let line = Line { trace, fault: later, held: watch::Sender::new(false) };
    let end = {
        let ((from_client, to_client), (from_server, to_server)) = (client.split(), server.split());
        let up = line.pump(Direction::Up, from_client, to_server, rate);
        let down = line.pump(Direction::Down, from_server, to_client, rate);
        tokio::try_join!(up, down)
    };
    if let Err(End::Reset) = end {
        let _ = (client.set_zero_linger(), server.set_zero_linger());
    }
}

/// A fault before there is a server; the answer is the rate from then on, an error that there will be none.
async fn at_connect(client: &mut TcpStream, deed: Deed) -> io::Result<Option<u32>> {
    let over = || Err(io::ErrorKind::ConnectionAborted.into());
    match deed {
        Deed::Delay(time) => sleep(time).await,
        Deed::Throttle(rate) => return Ok(Some(rate)),
        Deed::Cut => return over(),
        Deed::Reset => {
            client.set_zero_linger()?;
            return over();
        }
        Deed::HalfClose => {
            client.shutdown().await?;
            throw_away(client).await?;
            return over();
        }
        Deed::Garbage(octets) => client.write_all(&octets).await?,
        Deed::Repeat => {}
        Deed::Swallow(time) => {
            sleep(time).await;
            return over();
        }
    }
    Ok(None)
}

/// What the two directions of a connection share.
struct Line<'a> {
    trace: &'a Mutex<Trace>,
    fault: Option<Fault>,
    /// Whether nothing passes any more.
    held: watch::Sender<bool>,
}

impl Line<'_> {
    /// One direction, until its source is closed.
    async fn pump(
        &self,
        direction: Direction,
        mut source: impl AsyncRead + Unpin,
        mut sink: impl AsyncWrite + Unpin,
        mut rate: Option<u32>,
    ) -> Result<(), End> {
        let mut buffer = vec![0; READ];
        loop {
            let most = rate.map_or(READ, at_a_tick);
            let room = buffer.get_mut(..most).unwrap_or_default();
            let count = source.read(room).await?;
            self.unheld().await;
            let octets = buffer.get(..count).unwrap_or_default();
            if octets.is_empty() {
                sink.shutdown().await?;
                return Ok(());
            }
            let (before, rest, deed) = self.divide(direction, octets);
            // Before it passes, so that whoever has heard it finds it here.
            locked(self.trace).add(direction, count as u64);
            self.write(before, &mut sink, rate).await?;
            match deed {
                None => {}
                Some(Deed::Throttle(new)) => rate = Some(new),
                Some(Deed::HalfClose) => {
                    sink.shutdown().await?;
                    return Ok(throw_away(&mut source).await?);
                }
                Some(deed) => self.commit(deed, rest, &mut sink).await?,
            }
            self.write(rest, &mut sink, rate).await?;
        }
    }

    /// What passes before the fault, what behind it, and the fault.
    fn divide<'o>(
        &self,
        direction: Direction,
        octets: &'o [u8],
    ) -> (&'o [u8], &'o [u8], Option<Deed>) {
        let none: (&[u8], &[u8], _) = (octets, &[], None);
        let Some(Fault { place: Place::Octet(where_to, at), deed }) = &self.fault else {
            return none;
        };
        let mut trace = locked(self.trace);
        let passed = trace.passed(direction);
        let before = at.saturating_sub(passed);
        if *where_to != direction || trace.fired || before >= octets.len() as u64 {
            return none;
        }
        trace.fired = true;
        let (before, rest) = octets.split_at(usize::try_from(before).unwrap_or(octets.len()));
        (before, rest, Some(deed.clone()))
    }

    async fn commit(
        &self,
        deed: Deed,
        rest: &[u8],
        sink: &mut (impl AsyncWrite + Unpin),
    ) -> Result<(), End> {
        match deed {
            Deed::Delay(time) => sleep(time).await,
            Deed::Cut => return Err(End::Cut),
            Deed::Reset => return Err(End::Reset),
            Deed::Garbage(octets) => sink.write_all(&octets).await?,
            Deed::Repeat => sink.write_all(rest).await?,
            Deed::Swallow(time) => {
                self.held.send_replace(true);
                sleep(time).await;
                return Err(End::Cut);
            }
            Deed::Throttle(_) | Deed::HalfClose => {}
        }
        Ok(())
    }

    async fn write(
        &self,
        octets: &[u8],
        sink: &mut (impl AsyncWrite + Unpin),
        rate: Option<u32>,
    ) -> Result<(), End> {
        let Some(rate) = rate else { return Ok(sink.write_all(octets).await?) };
        for piece in octets.chunks(at_a_tick(rate)) {
            sink.write_all(piece).await?;
            sleep(TICK).await;
        }
        Ok(())
    }

    /// Waits, for ever, while nothing may pass.
    async fn unheld(&self) {
        let _ = self.held.subscribe().wait_for(|held| !held).await;
    }
}

impl From<io::Error> for End {
    fn from(_: io::Error) -> Self {
        Self::Broken
    }
}

/// What passes at once at this rate.
fn at_a_tick(rate: u32) -> usize {
    let octets = u128::from(rate) * TICK.as_millis() / 1000;
    usize::try_from(octets).unwrap_or(READ).clamp(1, READ)
}

async fn throw_away(source: &mut (impl AsyncRead + Unpin)) -> io::Result<()> {
    tokio::io::copy(source, &mut tokio::io::sink()).await.map(drop)
}

#[cfg(test)]
mod tests;
