//! A network of a certain length: a relay that holds back every packet for half of the round trip, and a new connection
//! for as long as its handshake would take.
//!
//! A client's SYN is answered after one round trip: until then what it sends has not left it. The server hears of the
//! connection half a round trip later. Bandwidth and losses are not imitated.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use anyhow::Result;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

use crate::ground::Ground;
use crate::upstream::{accept, bind};

/// Octets of a packet at most.
const PACKET: usize = 16 * 1024;

/// Packets under way in one direction.
const UNDER_WAY: usize = 1024;

/// The relay before a port, which ends when it is dropped.
pub(crate) struct Delay {
    /// Where it listens, on both loopbacks.
    pub(crate) port: u16,
    _tasks: JoinSet<()>,
}

impl Delay {
    pub(crate) fn start(ground: &Ground, to: u16, round_trip: Duration) -> Result<Self> {
        let port = ground.port()?;
        let mut tasks = JoinSet::new();
        for host in [IpAddr::from(Ipv4Addr::LOCALHOST), Ipv6Addr::LOCALHOST.into()] {
            let listener = bind((host, port).into())?;
            tasks.spawn(accept(listener, move |socket| relay(socket, to, round_trip)));
        }
        Ok(Self { port, _tasks: tasks })
    }
}

async fn relay(near: TcpStream, to: u16, round_trip: Duration) -> io::Result<()> {
    let (begun, half) = (Instant::now(), round_trip / 2);
    let (near_read, near_write) = near.into_split();
    let connected = async {
        sleep_until(begun + round_trip + half).await;
        let far = TcpStream::connect((Ipv4Addr::LOCALHOST, to)).await?;
        far.set_nodelay(true)?;
        Ok::<_, io::Error>(far.into_split())
    };
    let (up, packets_up) = mpsc::channel(UNDER_WAY);
    let leaving = async {
        sleep_until(begun + round_trip).await;
        send(near_read, up, half).await
    };
    let arriving = async {
        let (far_read, far_write) = connected.await?;
        let (down, packets_down) = mpsc::channel(UNDER_WAY);
        tokio::try_join!(
            deliver(packets_up, far_write),
            send(far_read, down, half),
            deliver(packets_down, near_write)
        )
    };
    tokio::try_join!(leaving, arriving)?;
    Ok(())
}

/// A packet and when it arrives.
type Packet = (Instant, Vec<u8>);

async fn send(
    mut from: impl AsyncRead + Unpin,
    packets: mpsc::Sender<Packet>,
    half: Duration,
) -> io::Result<()> {
    let mut buffer = vec![0; PACKET];
    loop {
        let count = from.read(&mut buffer).await?;
        let packet = buffer.get(..count).unwrap_or_default().to_vec();
        // The empty one says that no more will come.
        if packets.send((Instant::now() + half, packet)).await.is_err() || count == 0 {
            return Ok(());
        }
    }
}

async fn deliver(
    mut packets: mpsc::Receiver<Packet>,
    mut to: impl AsyncWrite + Unpin,
) -> io::Result<()> {
    while let Some((at, packet)) = packets.recv().await {
        sleep_until(at).await;
        to.write_all(&packet).await?;
    }
    to.shutdown().await
}
