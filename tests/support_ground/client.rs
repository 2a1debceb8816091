//! A mail client of few words, which tells how its session ended.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use gatepost::vocabulary::Protocol;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_util::either::Either;

/// The smallest that Linux gives is about this.
const NARROW: u32 = 4096;

/// Why a session ended before its goodbye. The phase is the one that it was in.
#[derive(Debug)]
pub enum Stop {
    /// The login was refused, by this answer.
    Refused(String),
    /// The connection ended.
    Ended(&'static str, io::Error),
    /// Nothing came for as long as the client waits.
    Hung(&'static str),
    /// An answer that was not expected.
    Odd(&'static str, String),
}

/// A connection.
pub struct Client {
    stream: BufReader<Either<TcpStream, Box<TlsStream<TcpStream>>>>,
    protocol: Protocol,
    pub phase: &'static str,
    patience: Duration,
}

impl Client {
    /// Connects, from this address of the machine if one is given, by TLS if it has something to trust.
    pub async fn connect(
        way: (Option<SocketAddr>, SocketAddr),
        trust: Option<&TlsConnector>,
        protocol: Protocol,
        patience: Duration,
    ) -> Result<Self, Stop> {
        Self::open(TcpSocket::new_v4(), way, trust, protocol, patience).await
    }

    /// The same of a machine whose kernel takes nearly nothing that its client has not read.
    pub async fn connect_narrowly(
        way: (Option<SocketAddr>, SocketAddr),
        trust: Option<&TlsConnector>,
        protocol: Protocol,
        patience: Duration,
    ) -> Result<Self, Stop> {
        let narrow = TcpSocket::new_v4().and_then(|socket| {
            socket.set_recv_buffer_size(NARROW).and(socket.set_send_buffer_size(NARROW))?;
            Ok(socket)
        });
        Self::open(narrow, way, trust, protocol, patience).await
    }

    async fn open(
        socket: io::Result<TcpSocket>,
        (from, to): (Option<SocketAddr>, SocketAddr),
        trust: Option<&TlsConnector>,
        protocol: Protocol,
        patience: Duration,
    ) -> Result<Self, Stop> {
        let phase = "connect";
        let opening = async {
            let socket = socket?;
            if let Some(from) = from {
                socket.bind(from)?;
            }
            let stream = socket.connect(to).await?;
            stream.set_nodelay(true)?;
            let Some(trust) = trust else { return Ok(Either::Left(stream)) };
            let name = ServerName::try_from("localhost").map_err(io::Error::other)?;
            Ok(Either::Right(Box::new(trust.connect(name, stream).await?)))
        };
        match timeout(patience, opening).await {
            Ok(Ok(stream)) => {
                Ok(Self { stream: BufReader::new(stream), protocol, phase, patience })
            }
            Ok(Err(error)) => Err(Stop::Ended(phase, error)),
            Err(_) => Err(Stop::Hung(phase)),
        }
    }

    /// How long it waits for each answer from now on.
    pub fn wait_at_most(&mut self, patience: Duration) {
        self.patience = patience;
    }

    pub async fn send(&mut self, octets: impl AsRef<[u8]>) -> Result<(), Stop> {
        let stream = self.stream.get_mut();
        let sending = async {
            stream.write_all(octets.as_ref()).await?;
            stream.flush().await
        };
        let sent = timeout(self.patience, sending).await;
        self.in_time(sent)
    }

    /// The next line without its end.
    pub async fn line(&mut self) -> Result<String, Stop> {
        let mut line = Vec::new();
        let read = timeout(self.patience, self.stream.read_until(b'\n', &mut line)).await;
        self.in_time(read)?;
        if !line.ends_with(b"\n") {
            return Err(self.closed());
        }
        Ok(String::from_utf8_lossy(&line).trim_end().to_owned())
    }

    /// The line that ends an answer: behind IMAP's untagged lines and SMTP's continued ones.
    pub async fn answer(&mut self) -> Result<String, Stop> {
        loop {
            let line = self.line().await?;
            let goes_on = match self.protocol {
                // A BYE stands for the answer that will not come.
                Protocol::Imap => line.starts_with("* ") && !line.starts_with("* BYE"),
                Protocol::Pop3 => false,
                Protocol::Smtp => line.as_bytes().get(3) == Some(&b'-'),
            };
            if !goes_on {
                return Ok(line);
            }
        }
    }

    pub fn protocol(&self) -> Protocol {
        self.protocol
    }

    /// IMAP's is untagged.
    pub async fn greeting(&mut self) -> Result<String, Stop> {
        match self.protocol {
            Protocol::Imap => self.line().await,
            _ => self.answer().await,
        }
    }

    /// The same, which begins like this.
    pub async fn expect(&mut self, start: &str) -> Result<String, Stop> {
        let line = self.answer().await?;
        if line.starts_with(start) { Ok(line) } else { Err(Stop::Odd(self.phase, line)) }
    }

    /// Lines up to the one that is this.
    pub async fn until(&mut self, last: &str) -> Result<(), Stop> {
        while self.line().await? != last {}
        Ok(())
    }

    /// Exactly so many octets.
    pub async fn exact(&mut self, count: usize) -> Result<Vec<u8>, Stop> {
        let mut octets = vec![0; count];
        let read = timeout(self.patience, self.stream.read_exact(&mut octets)).await;
        self.in_time(read).map(|_| octets)
    }

    /// Some octets, as a slow reader takes them; none at the end.
    pub async fn some(&mut self, most: usize) -> Result<usize, Stop> {
        let mut octets = vec![0; most];
        let read = timeout(self.patience, self.stream.read(&mut octets)).await;
        self.in_time(read)
    }

    /// Ends the connection as a machine that is switched off does.
    pub fn reset(self) {
        let _ = match self.stream.get_ref() {
            Either::Left(stream) => stream.set_zero_linger(),
            Either::Right(stream) => stream.get_ref().0.set_zero_linger(),
        };
    }

    fn in_time<T>(
        &self,
        done: Result<io::Result<T>, tokio::time::error::Elapsed>,
    ) -> Result<T, Stop> {
        match done {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(error)) => Err(Stop::Ended(self.phase, error)),
            Err(_) => Err(Stop::Hung(self.phase)),
        }
    }

    fn closed(&self) -> Stop {
        Stop::Ended(self.phase, io::ErrorKind::UnexpectedEof.into())
    }
}
