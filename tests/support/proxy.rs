//! An HTTP proxy that makes tunnels, or does what a test wants instead.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::sleep;
use tokio_rustls::TlsAcceptor;

/// What a proxy does.
#[derive(Clone, Copy, Debug)]
pub enum Manner {
    /// What it should.
    Tunnel,
    /// The same, its answer octet by octet.
    Split,
    /// The same, the first octets of the server in the same write as its answer.
    Together,
    /// It wants `jane` and `s3cret`.
    Password,
    /// It answers this, then closes.
    Says(&'static str),
    /// It answers this, then nothing more.
    Hangs(&'static str),
    /// It answers this without end.
    Floods(&'static str),
}

/// A proxy.
pub struct Proxy {
    address: SocketAddr,
    asked: Arc<Mutex<Vec<String>>>,
}

const ESTABLISHED: &[u8] = b"HTTP/1.1 200 Connection established\r\nVia: 1.1 test\r\n\r\n";

impl Proxy {
    /// Listens. Each name leads to an address: `("mail.example:993", …)`. With `tls` it is spoken to by TLS.
    pub async fn start(
        manner: Manner,
        names: Vec<(&'static str, SocketAddr)>,
        tls: Option<TlsAcceptor>,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let (ear, names) = (Arc::clone(&asked), Arc::new(names));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (ear, names, tls) = (Arc::clone(&ear), Arc::clone(&names), tls.clone());
                tokio::spawn(async move {
                    stream.set_nodelay(true).unwrap();
                    match tls {
                        None => serve(stream, manner, &names, &ear).await,
                        Some(tls) => match tls.accept(stream).await {
                            Ok(stream) => serve(stream, manner, &names, &ear).await,
                            Err(_) => return,
                        },
                    };
                });
            }
        });
        Self { address, asked }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What it was asked: the first line of each request.
    pub fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }
}

/// `None`: somebody has closed.
async fn serve<S: AsyncRead + AsyncWrite + Unpin>(
    mut stream: S,
    manner: Manner,
    names: &[(&'static str, SocketAddr)],
    asked: &Mutex<Vec<String>>,
) -> Option<()> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.ok()?);
    }
    let head = String::from_utf8(head).unwrap();
    let line = head.lines().next().unwrap().to_owned();
    let target = line.split(' ').nth(1).unwrap().to_owned();
    asked.lock().unwrap().push(line);
    let basic = format!("Proxy-Authorization: Basic {}\r\n", BASE64_STANDARD.encode("jane:s3cret"));
    match manner {
        Manner::Says(words) => return stream.write_all(words.as_bytes()).await.ok(),
        Manner::Hangs(words) => {
            stream.write_all(words.as_bytes()).await.ok()?;
            sleep(Duration::from_secs(60)).await;
            return None;
        }
        Manner::Floods(words) => {
            while stream.write_all(words.repeat(100).as_bytes()).await.is_ok() {}
            return None;
        }
        Manner::Password if !head.contains(&basic) => {
            let words = b"HTTP/1.1 407 Proxy Authentication Required\r\nProxy-Authenticate: Basic realm=\"x\"\r\n\r\n";
            return stream.write_all(words).await.ok();
        }
        _ => {}
    }
    let Some((_, to)) = names.iter().find(|(name, _)| *name == target) else {
        return stream.write_all(b"HTTP/1.1 502 Bad Gateway\r\n\r\n").await.ok();
    };
    let mut server = TcpStream::connect(to).await.unwrap();
    let mut answer = ESTABLISHED.to_vec();
    match manner {
        Manner::Split => {
            for octet in &answer {
                stream.write_all(&[*octet]).await.ok()?;
                stream.flush().await.ok()?;
            }
        }
        Manner::Together => {
            let mut first = [0; 1000];
            let count = server.read(&mut first).await.ok()?;
            answer.extend_from_slice(&first[..count]);
            stream.write_all(&answer).await.ok()?;
        }
        _ => stream.write_all(&answer).await.ok()?,
    }
    stream.flush().await.ok()?;
    let _ = copy_bidirectional(&mut stream, &mut server).await;
    Some(())
}
