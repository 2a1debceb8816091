//! A device's end of a connection, octet for octet: it writes what a test says and reads what comes.
//!
//! Invariant: each wait has a limit, and no certificate is looked at, as old devices do it.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, SignatureScheme};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

/// For one answer.
const ANSWER: Duration = Duration::from_secs(15);

trait Io: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Io for T {}

/// See the module.
pub(crate) struct Wire {
    stream: Box<dyn Io>,
    unread: Vec<u8>,
}

impl Wire {
    /// Up to the greeting, in plain text.
    pub(crate) async fn open(address: SocketAddr) -> Self {
        Self::open_from(Ipv4Addr::LOCALHOST, address).await
    }

    /// The same from another address of this machine.
    pub(crate) async fn open_from(own: Ipv4Addr, address: SocketAddr) -> Self {
        let mut wire = Self { stream: Box::new(connect(own, address).await), unread: Vec::new() };
        wire.expect("220").await;
        wire
    }

    /// A device that ends its connections by a reset, in place of QUIT.
    pub(crate) async fn open_rude(address: SocketAddr) -> Self {
        let stream = connect(Ipv4Addr::LOCALHOST, address).await;
        stream.set_zero_linger().unwrap();
        let mut wire = Self { stream: Box::new(stream), unread: Vec::new() };
        wire.expect("220").await;
        wire
    }

    /// TLS from the first octet.
    pub(crate) async fn open_tls(address: SocketAddr) -> Self {
        Self::open_tls_from(Ipv4Addr::LOCALHOST, address).await
    }

    /// The same from another address of this machine.
    pub(crate) async fn open_tls_from(own: Ipv4Addr, address: SocketAddr) -> Self {
        let stream = encrypted(connect(own, address).await).await;
        let mut wire = Self { stream: Box::new(stream), unread: Vec::new() };
        wire.expect("220").await;
        wire
    }

    /// STARTTLS and what follows it.
    pub(crate) async fn start_tls(mut self) -> Self {
        self.say("STARTTLS", "220").await;
        assert!(self.unread.is_empty());
        Self { stream: Box::new(encrypted(self.stream).await), unread: Vec::new() }
    }

    /// EHLO and AUTH PLAIN.
    pub(crate) async fn log_in(mut self, user: &str, password: &str) -> Self {
        self.say("EHLO device", "250").await;
        let response = base64(&format!("\0{user}\0{password}"));
        self.say(&format!("AUTH PLAIN {response}"), "235").await;
        self
    }

    pub(crate) async fn write(&mut self, octets: impl AsRef<[u8]>) {
        let write = async {
            self.stream.write_all(octets.as_ref()).await?;
            self.stream.flush().await
        };
        timeout(ANSWER, write).await.expect("the proxy does not read").unwrap();
    }

    /// A reply, its lines separated by line feeds; empty: the connection has ended.
    pub(crate) async fn reply(&mut self) -> String {
        timeout(ANSWER, self.try_reply()).await.expect("no answer")
    }

    async fn try_reply(&mut self) -> String {
        let mut reply = String::new();
        loop {
            let Some(end) = self.unread.iter().position(|octet| *octet == b'\n') else {
                let mut octets = [0; 4096];
                match self.stream.read(&mut octets).await {
                    Ok(0) | Err(_) => return reply,
                    Ok(count) => self.unread.extend_from_slice(&octets[..count]),
                }
                continue;
            };
            let line: Vec<u8> = self.unread.drain(..=end).collect();
            reply += &String::from_utf8(line.clone()).unwrap();
            if line.get(3) != Some(&b'-') {
                return reply.trim_end().replace("\r\n", "\n");
            }
        }
    }

    /// A reply that begins so.
    pub(crate) async fn expect(&mut self, wanted: &str) -> String {
        let reply = self.reply().await;
        assert!(reply.starts_with(wanted), "{wanted} was expected: {reply:?}");
        reply
    }

    pub(crate) async fn ask(&mut self, command: &str) -> String {
        self.write(format!("{command}\r\n")).await;
        self.reply().await
    }

    /// Asks for an answer that begins so.
    pub(crate) async fn say(&mut self, command: &str, wanted: &str) -> String {
        let reply = self.ask(command).await;
        assert!(reply.starts_with(wanted), "{command:?}: {wanted} was expected: {reply:?}");
        reply
    }

    /// MAIL, RCPT and DATA, up to its answer.
    pub(crate) async fn envelope(&mut self, from: &str, to: &str) {
        self.say(&format!("MAIL FROM:<{from}>"), "250").await;
        self.say(&format!("RCPT TO:<{to}>"), "250").await;
        self.say("DATA", "354").await;
    }

    /// A whole message, as it stands: no dot is doubled.
    pub(crate) async fn send(&mut self, from: &str, to: &str, message: impl AsRef<[u8]>) {
        self.envelope(from, to).await;
        self.write([message.as_ref(), b".\r\n"].concat()).await;
        self.expect("250").await;
    }

    /// Whether the other side has ended the connection.
    pub(crate) async fn is_over(&mut self) -> bool {
        self.reply().await.is_empty()
    }
}

/// In base64, as AUTH has it.
pub(crate) fn base64(text: &str) -> String {
    BASE64_STANDARD.encode(text)
}

async fn connect(own: Ipv4Addr, address: SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(SocketAddr::from((own, 0))).unwrap();
    let stream = timeout(ANSWER, socket.connect(address)).await.unwrap().unwrap();
    stream.set_nodelay(true).unwrap();
    stream
}

async fn encrypted<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(
    stream: S,
) -> impl AsyncRead + AsyncWrite + Unpin + Send + 'static {
    let provider = Arc::new(ring::default_provider());
    let config = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Careless(provider)))
        .with_no_client_auth();
    let name = ServerName::try_from("scanner.invalid").unwrap();
    let connect = TlsConnector::from(Arc::new(config)).connect(name, stream);
    timeout(ANSWER, connect).await.unwrap().unwrap()
}

/// Takes any certificate.
#[derive(Debug)]
struct Careless(Arc<CryptoProvider>);

impl ServerCertVerifier for Careless {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
