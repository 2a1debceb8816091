//! TLS in the client's role, on rustls' unbuffered connection.
//!
//! Invariant: a stream on which nothing is under way holds no buffer. Records are received, opened and sealed in a
//! buffer that each worker thread has once; only the beginning of a record whose rest has not come, what its reader had
//! no room for, and what its socket has not taken are kept. The streams of tokio-rustls keep 4 KiB each for the next
//! record.

use std::cell::Cell;
use std::fmt;
use std::future::poll_fn;
use std::io;
use std::mem;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use rustls::client::{ClientConnectionData, UnbufferedClientConnection};
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::unbuffered::{
    ConnectionState, EncodeError, EncodeTlsData, UnbufferedStatus, WriteTraffic,
};
use rustls::{ClientConfig, Error};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Most octets that are sealed at a time: four records (RFC 8446 section 5.1).
const SEALED: usize = 64 * 1024;

/// Size of a worker's buffer. What is sealed and what makes records of it, 256 octets each at most (RFC 8446 section
/// 5.2, RFC 5246 section 6.2.3); or the longest message of a handshake that rustls takes (64 KiB) and its last record.
const SCRATCH: usize = SEALED + 18 * 1024;

/// Room for a sealed `close_notify`: two octets, and what makes a record of them.
const NOTIFY: usize = 512;

thread_local! {
    static BUFFER: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// A connection behind its handshake, or in it.
pub struct TlsStream<T> {
    socket: T,
    session: UnbufferedClientConnection,
    /// Received: the beginning of a record, or of a message of the handshake.
    partial: Vec<u8>,
    /// Opened, and not yet read.
    plain: Vec<u8>,
    /// Sealed, and not yet taken by the socket.
    unsent: Vec<u8>,
    /// The other side has sent its `close_notify`.
    peer_closed: bool,
    /// So have we.
    closed: bool,
}

impl<T> fmt::Debug for TlsStream<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsStream").finish_non_exhaustive()
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> TlsStream<T> {
    /// The handshake. The other side's alert or ours is the error, as [`rustls::Error`] within.
    pub(super) async fn connect(
        config: Arc<ClientConfig>,
        name: ServerName<'static>,
        socket: T,
    ) -> io::Result<Self> {
        let session = UnbufferedClientConnection::new(config, name).map_err(broken)?;
        let (partial, plain, unsent) = (Vec::new(), Vec::new(), Vec::new());
        let mut stream =
            Self { socket, session, partial, plain, unsent, peer_closed: false, closed: false };
        stream.process(&mut [], &mut ReadBuf::new(&mut []))?;
        poll_fn(|cx| stream.poll_handshake(cx)).await?;
        Ok(stream)
    }

    /// The chain that the server has shown.
    pub(super) fn peer_certificates(&self) -> Option<&[CertificateDer<'static>]> {
        self.session.peer_certificates()
    }

    fn poll_handshake(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            ready!(self.poll_send(cx))?;
            if !self.session.is_handshaking() {
                return Poll::Ready(Ok(()));
            }
            if let Err(error) = ready!(self.poll_receive(cx, &mut ReadBuf::new(&mut []))) {
                // The alert, as far as the socket takes it now.
                let _ = self.poll_send(cx);
                return Poll::Ready(Err(error));
            }
        }
    }

    /// Receives once, and opens what is whole.
    fn poll_receive(
        &mut self,
        cx: &mut Context<'_>,
        reader: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        with_buffer(|buffer| {
            let held = self.partial.len();
            let room = buffer.get_mut(held..).filter(|room| !room.is_empty());
            let mut received = ReadBuf::new(room.ok_or(io::ErrorKind::InvalidData)?);
            ready!(Pin::new(&mut self.socket).poll_read(cx, &mut received))?;
            let end = held + received.filled().len();
            if end == held {
                return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
            }
            let incoming = buffer.get_mut(..end).unwrap_or_default();
            if let Some(front) = incoming.get_mut(..held) {
                front.copy_from_slice(&self.partial);
            }
            let done = self.process(incoming, reader);
            let rest = done.as_ref().ok().and_then(|done| incoming.get(*done..));
            self.partial = rest.unwrap_or_default().to_vec();
            Poll::Ready(done.map(drop))
        })
    }

    /// Does what the records in `incoming` say, up to one that is not whole; how many octets that were.
    fn process(&mut self, incoming: &mut [u8], reader: &mut ReadBuf<'_>) -> io::Result<usize> {
        let Self { session, plain, unsent, peer_closed, .. } = self;
        let mut done = 0;
        loop {
            let rest = incoming.get_mut(done..).unwrap_or_default();
            let UnbufferedStatus { mut discard, state } = session.process_tls_records(rest);
            match state {
                Ok(ConnectionState::ReadTraffic(mut records)) => {
                    while let Some(record) = records.next_record() {
                        let record = record.map_err(broken)?;
                        discard += record.discard;
                        let fits = if plain.is_empty() { reader.remaining() } else { 0 };
                        let (now, later) = record.payload.split_at(fits.min(record.payload.len()));
                        reader.put_slice(now);
                        plain.extend_from_slice(later);
                    }
                }
                Ok(ConnectionState::EncodeTlsData(message)) => encode(message, unsent)?,
                Ok(ConnectionState::TransmitTlsData(message)) => message.done(),
                Ok(ConnectionState::PeerClosed) => *peer_closed = true,
                Ok(ConnectionState::BlockedHandshake | ConnectionState::WriteTraffic(_)) => {
                    return Ok(done + discard);
                }
                Ok(ConnectionState::Closed) => return Ok(incoming.len()),
                Ok(_) => return Err(io::ErrorKind::Unsupported.into()),
                Err(error) => {
                    if let Ok(ConnectionState::EncodeTlsData(alert)) =
                        session.process_tls_records(&mut []).state
                    {
                        encode(alert, unsent)?;
                    }
                    return Err(broken(error));
                }
            }
            done += discard;
        }
    }

    /// What may be written by, behind what the session itself has to say (an answer to a KeyUpdate, RFC 8446 section
    /// 4.6.3).
    fn poll_traffic(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<WriteTraffic<'_, ClientConnectionData>>> {
        let mut partial = mem::take(&mut self.partial);
        let done = self.process(&mut partial, &mut ReadBuf::new(&mut []));
        self.partial = partial;
        self.partial.drain(..done?);
        ready!(self.poll_send(cx))?;
        match self.session.process_tls_records(&mut self.partial).state.map_err(broken)? {
            ConnectionState::WriteTraffic(traffic) => Poll::Ready(Ok(traffic)),
            _ => Poll::Ready(Err(io::ErrorKind::NotConnected.into())),
        }
    }

    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.unsent.is_empty() {
            match ready!(Pin::new(&mut self.socket).poll_write(cx, &self.unsent))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                sent if sent == self.unsent.len() => self.unsent = Vec::new(),
                sent => drop(self.unsent.drain(..sent)),
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> AsyncRead for TlsStream<T> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        reader: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = reader.filled().len();
        if !this.plain.is_empty() {
            let now = this.plain.len().min(reader.remaining());
            reader.put_slice(this.plain.get(..now).unwrap_or_default());
            this.plain = this.plain.split_off(now);
        }
        while reader.filled().len() == before && reader.remaining() > 0 && !this.peer_closed {
            ready!(this.poll_receive(cx, reader))?;
            // Whoever only reads would never send it.
            let _ = this.poll_send(cx)?;
        }
        Poll::Ready(Ok(()))
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> AsyncWrite for TlsStream<T> {
    /// What is sealed counts as written: of what the socket does not take, there is never more than one write.
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        octets: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let octets = octets.get(..SEALED).unwrap_or(octets);
        with_buffer(|buffer| {
            let sealed = ready!(this.poll_traffic(cx))?.encrypt(octets, buffer);
            let mut rest = buffer.get(..sealed.map_err(io::Error::other)?).unwrap_or_default();
            while !rest.is_empty() {
                match Pin::new(&mut this.socket).poll_write(cx, rest)? {
                    Poll::Ready(0) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                    Poll::Ready(sent) => rest = rest.get(sent..).unwrap_or_default(),
                    Poll::Pending => break,
                }
            }
            this.unsent.extend_from_slice(rest);
            Poll::Ready(Ok(octets.len()))
        })
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.poll_send(cx))?;
        Pin::new(&mut this.socket).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if !this.closed {
            let mut notify = [0; NOTIFY];
            let sealed = ready!(this.poll_traffic(cx))?.queue_close_notify(&mut notify);
            let sealed = sealed.map_err(io::Error::other)?;
            this.unsent.extend_from_slice(notify.get(..sealed).unwrap_or_default());
            this.closed = true;
        }
        ready!(this.poll_send(cx))?;
        Pin::new(&mut this.socket).poll_shutdown(cx)
    }
}

/// Lends the worker's buffer. TLS inside TLS asks for a second one, which is made for it.
fn with_buffer<R>(work: impl FnOnce(&mut [u8]) -> R) -> R {
    let mut buffer = BUFFER.take();
    buffer.resize(SCRATCH, 0);
    let done = work(&mut buffer);
    BUFFER.set(buffer);
    done
}

/// Puts a message of the session behind what is to be sent.
fn encode<D>(mut message: EncodeTlsData<'_, D>, unsent: &mut Vec<u8>) -> io::Result<()> {
    let end = unsent.len();
    // Its length is in the error alone.
    if let Err(EncodeError::InsufficientSize(missing)) = message.encode(&mut []) {
        unsent.resize(end + missing.required_size, 0);
        message.encode(unsent.get_mut(end..).unwrap_or_default()).map_err(io::Error::other)?;
    }
    Ok(())
}

fn broken(error: Error) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

#[cfg(test)]
mod tests {
    use rustls::pki_types::PrivateKeyDer;
    use rustls::{HandshakeKind, RootCertStore, ServerConfig};
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex, split};
    use tokio_rustls::{TlsAcceptor, server};

    use super::super::tls::provider;
    use super::*;

    type Server = server::TlsStream<DuplexStream>;

    /// A socket that takes and gives at most so many octets at a time.
    struct Trickle(DuplexStream, usize);

    impl AsyncRead for Trickle {
        fn poll_read(
            mut self: Pin<&mut Self>,
            cx: &mut Context<'_>,
            reader: &mut ReadBuf<'_>,
        ) -> Poll<io::Result<()>> {
            let mut some = reader.take(self.1);
            ready!(Pin::new(&mut self.0).poll_read(cx, &mut some))?;
            let count = some.filled().len();
            reader.advance(count);
            Poll::Ready(Ok(()))
        }
    }

    impl AsyncWrite for Trickle {
        fn poll_write(
            mut self: Pin<&mut Self>,
            cx: &mut Context<'_>,
            octets: &[u8],
        ) -> Poll<io::Result<usize>> {
            let some = octets.len().min(self.1);
            Pin::new(&mut self.0).poll_write(cx, &octets[..some])
        }

        fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            Pin::new(&mut self.0).poll_flush(cx)
        }

        fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            Pin::new(&mut self.0).poll_shutdown(cx)
        }
    }

    /// A client's and a server's configuration that trust each other.
    fn pair() -> (Arc<ClientConfig>, Arc<ServerConfig>) {
        let made = rcgen::generate_simple_self_signed([String::from("localhost")]).unwrap();
        let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
        let mut roots = RootCertStore::empty();
        roots.add(made.cert.der().clone()).unwrap();
        let client = ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let server = ServerConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![made.cert.der().clone()], key)
            .unwrap();
        (Arc::new(client), Arc::new(server))
    }

    /// Both ends of a connection of which `room` octets may be under way, in pieces of `most`.
    async fn connected(
        (client, server): &(Arc<ClientConfig>, Arc<ServerConfig>),
        room: usize,
        most: usize,
    ) -> (TlsStream<Trickle>, Server) {
        let (near, far) = duplex(room);
        let near = Trickle(near, most);
        let name = ServerName::try_from("localhost").unwrap();
        let accept = TlsAcceptor::from(Arc::clone(server)).accept(far);
        let (client, server) =
            tokio::join!(TlsStream::connect(Arc::clone(client), name, near), accept);
        (client.unwrap(), server.unwrap())
    }

    fn holds_nothing(stream: &TlsStream<Trickle>) -> bool {
        [&stream.partial, &stream.plain, &stream.unsent].iter().all(|held| held.capacity() == 0)
    }

    #[tokio::test]
    async fn octets_pass_whole_however_they_are_split() {
        let pair = pair();
        for (room, most, count) in [
            (2_000, 7, 5_000),
            (2_000, 2_000, 100_000),
            (20_000, 16_406, 300_000),
            (200_000, 200_000, 300_000),
        ] {
            let sent: Vec<u8> = (0..count).flat_map(u32::to_le_bytes).collect();
            let (mut client, server) = connected(&pair, room, most).await;
            let (mut from, mut to) = split(server);
            let echo = tokio::spawn(async move {
                tokio::io::copy(&mut from, &mut to).await.unwrap();
                to.shutdown().await.unwrap();
            });
            let (mut answers, mut questions) = split(&mut client);
            let (mut received, mut buffer) = (Vec::new(), vec![0; 5_000]);
            let write = async {
                questions.write_all(&sent).await.unwrap();
                questions.shutdown().await.unwrap();
            };
            let read = async {
                loop {
                    match answers.read(&mut buffer).await.unwrap() {
                        0 => break,
                        count => received.extend_from_slice(&buffer[..count]),
                    }
                }
            };
            tokio::join!(write, read);
            echo.await.unwrap();
            assert!(received == sent, "{most}");
            assert!(holds_nothing(&client), "{most}");
        }
    }

    #[tokio::test]
    async fn an_idle_stream_holds_no_buffer_and_a_slow_reader_loses_nothing() {
        let (mut client, mut server) = connected(&pair(), 200_000, 200_000).await;
        server.write_all(&[b'x'; 50_000]).await.unwrap();
        server.flush().await.unwrap();
        let mut octets = [0; 10];
        client.read_exact(&mut octets).await.unwrap();
        assert!(!holds_nothing(&client));
        let mut rest = vec![0; 49_990];
        client.read_exact(&mut rest).await.unwrap();
        assert!(rest.iter().all(|octet| *octet == b'x') && holds_nothing(&client));
    }

    #[tokio::test]
    async fn new_keys_are_answered_by_new_keys() {
        let (mut client, mut server) = connected(&pair(), 200_000, 200_000).await;
        let mut octets = [0; 4];
        for _ in 0..3 {
            server.get_mut().1.refresh_traffic_keys().unwrap();
            server.write_all(b"ping").await.unwrap();
            server.flush().await.unwrap();
            client.read_exact(&mut octets).await.unwrap();
            client.write_all(b"pong").await.unwrap();
            server.read_exact(&mut octets).await.unwrap();
            assert_eq!(&octets, b"pong");
        }
        assert!(holds_nothing(&client));
    }

    #[tokio::test]
    async fn an_end_without_close_notify_is_told_from_one_with_it() {
        let pair = pair();
        let (mut client, mut server) = connected(&pair, 4_000, 4_000).await;
        server.shutdown().await.unwrap();
        assert_eq!(client.read(&mut [0; 10]).await.unwrap(), 0);
        // The other direction goes on.
        client.write_all(b"bye").await.unwrap();
        client.flush().await.unwrap();
        server.read_exact(&mut [0; 3]).await.unwrap();
        let (mut client, server) = connected(&pair, 4_000, 4_000).await;
        drop(server);
        let error = client.read(&mut [0; 10]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
    }

    #[tokio::test]
    async fn a_server_hears_why_its_certificate_is_not_taken() {
        let ((_, server), (client, _)) = (pair(), pair());
        let (near, far) = duplex(4_000);
        let name = ServerName::try_from("localhost").unwrap();
        let accept = TlsAcceptor::from(server).accept(far);
        let (client, server) = tokio::join!(TlsStream::connect(client, name, near), accept);
        let error = client.map(drop).unwrap_err();
        assert!(error.to_string().contains("certificate"), "{error}");
        let heard = server.map(drop).unwrap_err();
        assert!(heard.to_string().contains("alert"), "{heard}");
    }

    #[tokio::test]
    async fn garbage_in_place_of_a_record_ends_the_connection() {
        let (near, mut far) = duplex(4_000);
        let name = ServerName::try_from("localhost").unwrap();
        let (client, _) = pair();
        far.write_all(b"* OK plain text\r\n").await.unwrap();
        let error = TlsStream::connect(client, name, near).await.map(drop).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
    }

    #[tokio::test]
    async fn the_next_connection_resumes_the_session() {
        let pair = pair();
        for kind in [HandshakeKind::Full, HandshakeKind::Resumed] {
            let (mut client, mut server) = connected(&pair, 4_000, 4_000).await;
            // Tickets come behind the handshake.
            server.write_all(b"ok").await.unwrap();
            server.flush().await.unwrap();
            client.read_exact(&mut [0; 2]).await.unwrap();
            assert_eq!(client.session.handshake_kind(), Some(kind));
        }
    }
}
