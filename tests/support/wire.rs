//! One connection, read by lines or by octets, in either role.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use gatepost::vocabulary::Protocol;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::{sleep, timeout};
use tokio_rustls::{TlsAcceptor, TlsConnector};

/// Longest wait for anything. Generous, since a loaded machine is slow; nothing in the tests that go well
/// comes near it.
pub const LIMIT: Duration = Duration::from_secs(10);

/// A stream of any kind.
trait Io: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

/// A connection.
pub struct Wire {
    stream: Box<dyn Io>,
    unread: Vec<u8>,
    /// Gets a copy of all that is read.
    heard: Option<Arc<Mutex<Vec<u8>>>>,
}

/// Waits, but not forever.
pub async fn within<T>(limit: Duration, what: &str, wait: impl Future<Output = T>) -> T {
    match timeout(limit, wait).await {
        Ok(done) => done,
        Err(_) => panic!("{what}: not within {limit:?}"),
    }
}

/// For clients that trust this certificate alone.
pub fn trusting(pem: &[u8]) -> TlsConnector {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(pem).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    TlsConnector::from(Arc::new(config))
}

impl Wire {
    /// Connects by TCP.
    pub async fn connect(address: SocketAddr) -> Self {
        let stream = within(LIMIT, "connect", TcpStream::connect(address)).await.unwrap();
        Self::new(stream)
    }

    /// The same from this address of the machine: on Linux all of 127.0.0.0/8 are.
    pub async fn connect_from(source: &str, address: SocketAddr) -> Self {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind(SocketAddr::new(source.parse().unwrap(), 0)).unwrap();
        Self::new(within(LIMIT, "connect", socket.connect(address)).await.unwrap())
    }

    /// Over an open connection.
    pub fn new(stream: TcpStream) -> Self {
        // So that each write is a segment of its own.
        stream.set_nodelay(true).unwrap();
        Self { stream: Box::new(stream), unread: Vec::new(), heard: None }
    }

    /// Keeps a copy of all that is read, behind TLS as it was before encryption.
    pub fn overheard_by(mut self, ear: &Arc<Mutex<Vec<u8>>>) -> Self {
        self.heard = Some(Arc::clone(ear));
        self
    }

    /// TLS in the client's role.
    pub async fn start_tls(self, trust: &TlsConnector) -> std::io::Result<Self> {
        let name = ServerName::try_from("localhost").unwrap();
        let stream = within(LIMIT, "TLS handshake", trust.connect(name, self.stream)).await?;
        Ok(Self { stream: Box::new(stream), unread: Vec::new(), heard: self.heard })
    }

    /// The same with these octets right before the ClientHello, in one segment with it.
    pub async fn start_tls_behind(
        self,
        head: &[u8],
        trust: &TlsConnector,
    ) -> std::io::Result<Self> {
        let stream = Headed { stream: self.stream, head: head.to_vec() };
        Self { stream: Box::new(stream), ..self }.start_tls(trust).await
    }

    /// TLS in the server's role.
    pub async fn accept_tls(self, acceptor: &TlsAcceptor) -> std::io::Result<Self> {
        let stream = within(LIMIT, "TLS handshake", acceptor.accept(self.stream)).await?;
        Ok(Self { stream: Box::new(stream), unread: Vec::new(), heard: self.heard })
    }

    /// Sends, all in one write.
    pub async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.try_send(bytes).await.unwrap();
    }

    /// Sends to a peer that may have closed already.
    pub async fn try_send(&mut self, bytes: impl AsRef<[u8]>) -> std::io::Result<()> {
        let write = async {
            self.stream.write_all(bytes.as_ref()).await?;
            self.stream.flush().await
        };
        within(LIMIT, "send", write).await
    }

    /// The same to a peer that takes its time.
    pub async fn try_send_slowly(&mut self, bytes: impl AsRef<[u8]>) -> std::io::Result<()> {
        let write = self.stream.write_all(bytes.as_ref());
        within(6 * LIMIT, "send to a slow reader", write).await
    }

    /// Sends each octet in a segment (behind TLS: a record) of its own.
    pub async fn send_bytewise(&mut self, bytes: impl AsRef<[u8]>) {
        for byte in bytes.as_ref() {
            self.send([*byte]).await;
            sleep(Duration::from_millis(1)).await;
        }
    }

    /// Closes the writing half.
    pub async fn half_close(&mut self) {
        within(LIMIT, "shutdown", self.stream.shutdown()).await.unwrap();
    }

    /// Reads once; `false` if the peer has closed.
    async fn fill(&mut self) -> std::io::Result<bool> {
        let mut buffer = [0; 16 * 1024];
        let count = self.stream.read(&mut buffer).await?;
        if let Some(heard) = &self.heard {
            heard.lock().unwrap().extend_from_slice(&buffer[..count]);
        }
        self.unread.extend_from_slice(&buffer[..count]);
        Ok(count > 0)
    }

    /// The next line without its end; `None` if the peer closes instead.
    pub async fn try_line(&mut self, limit: Duration) -> Option<String> {
        let read = async {
            loop {
                if let Some(end) = self.unread.iter().position(|byte| *byte == b'\n') {
                    let line: Vec<u8> = self.unread.drain(..=end).collect();
                    let text = String::from_utf8_lossy(&line);
                    return Some(text.trim_end_matches(['\r', '\n']).to_owned());
                }
                if !self.fill().await.unwrap_or(false) {
                    return None;
                }
            }
        };
        within(limit, "a line", read).await
    }

    /// The next line without its end.
    pub async fn line(&mut self) -> String {
        self.try_line(LIMIT).await.expect("a line, but the peer has closed")
    }

    /// The next line, which begins like this.
    pub async fn expect(&mut self, start: &str) -> String {
        let line = self.line().await;
        assert!(line.starts_with(start), "{start:?} was expected, it is {line:?}");
        line
    }

    /// Lines up to the one that begins like this.
    pub async fn until(&mut self, start: &str) -> Vec<String> {
        let mut lines = Vec::new();
        loop {
            let line = self.line().await;
            let last = line.starts_with(start);
            lines.push(line);
            if last {
                return lines;
            }
        }
    }

    /// The line that ends an answer: behind IMAP's untagged lines and SMTP's continued ones.
    pub async fn answer(&mut self, protocol: Protocol) -> String {
        self.answer_within(protocol, LIMIT).await
    }

    /// The same with another limit.
    pub async fn answer_within(&mut self, protocol: Protocol, limit: Duration) -> String {
        loop {
            let line = self.try_line(limit).await.expect("an answer, but the peer has closed");
            let last = match protocol {
                Protocol::Imap => !line.starts_with("* ") || line.starts_with("* OK [CAPABILITY"),
                Protocol::Pop3 => true,
                Protocol::Smtp => line.as_bytes().get(3) != Some(&b'-'),
            };
            if last {
                return line;
            }
        }
    }

    /// Exactly so many octets.
    pub async fn exact(&mut self, count: usize) -> Vec<u8> {
        let read = async {
            while self.unread.len() < count {
                assert!(self.fill().await.unwrap(), "{count} octets, but the peer has closed");
            }
            self.unread.drain(..count).collect()
        };
        within(3 * LIMIT, "octets", read).await
    }

    /// All up to these octets, and they; `None` if the peer closes instead.
    pub async fn until_octets(&mut self, end: &[u8]) -> Option<Vec<u8>> {
        let read = async {
            loop {
                if let Some(at) = self.unread.windows(end.len()).position(|part| part == end) {
                    return Some(self.unread.drain(..at + end.len()).collect());
                }
                if !self.fill().await.unwrap_or(false) {
                    return None;
                }
            }
        };
        within(3 * LIMIT, "octets", read).await
    }

    /// All that comes until the peer closes; a reset counts as that.
    pub async fn rest(&mut self) -> Vec<u8> {
        let read = async { while self.fill().await.unwrap_or(false) {} };
        within(LIMIT, "the end", read).await;
        std::mem::take(&mut self.unread)
    }

    /// That the peer closes without another word.
    pub async fn expect_end(&mut self) {
        let rest = self.rest().await;
        assert!(rest.is_empty(), "the end was expected: {}", String::from_utf8_lossy(&rest));
    }
}

/// Sends its head in one write with the first octets.
struct Headed {
    stream: Box<dyn Io>,
    head: Vec<u8>,
}

impl AsyncRead for Headed {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Headed {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        octets: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        let head = std::mem::take(&mut self.head);
        let written = ready!(Pin::new(&mut self.stream).poll_write(cx, &[&head, octets].concat()))?;
        assert!(written >= head.len(), "a fresh connection takes a segment");
        Poll::Ready(Ok(written - head.len()))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
