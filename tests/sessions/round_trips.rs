//! What a login costs when the mail server is far away: round trips, and handshakes that are resumed.

use std::io::Write;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::support::{Authority, Fake, House, LIMIT, Leaf, MAILBOX, Settings, Wire, within};
use gatepost::net::{ClientTls, Route};
use gatepost::protocol::Xoauth2;
use gatepost::secret::Secret;
use gatepost::upstream::Server;
use gatepost::vocabulary::Protocol;
use rustls::HandshakeKind;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::time::{sleep, sleep_until};
use tokio_rustls::TlsAcceptor;

/// There and back. Long, so that a machine that is busy with other tests does not count for much.
const ROUND_TRIP: Duration = Duration::from_millis(200);

/// A way to `server` of this length, on which connecting takes a round trip too.
async fn far(server: SocketAddr) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((near, _)) = listener.accept().await {
            tokio::spawn(async move {
                sleep(ROUND_TRIP).await;
                let far = TcpStream::connect(server).await.unwrap();
                far.set_nodelay(true).unwrap();
                near.set_nodelay(true).unwrap();
                let ((near_in, near_out), (far_in, far_out)) =
                    (near.into_split(), far.into_split());
                tokio::join!(carry(near_in, far_out), carry(far_in, near_out));
            });
        }
    });
    address
}

/// One direction: what is read is written half a round trip later.
async fn carry(
    mut from: impl AsyncReadExt + Unpin,
    mut to: impl AsyncWriteExt + Unpin + Send + 'static,
) {
    let (sender, mut receiver) = mpsc::unbounded_channel::<(tokio::time::Instant, Vec<u8>)>();
    let write = tokio::spawn(async move {
        while let Some((due, octets)) = receiver.recv().await {
            sleep_until(due).await;
            if to.write_all(&octets).await.is_err() {
                return;
            }
        }
        let _ = to.shutdown().await;
    });
    let mut buffer = vec![0; 16 * 1024];
    while let Ok(count @ 1..) = from.read(&mut buffer).await {
        let _ =
            sender.send((tokio::time::Instant::now() + ROUND_TRIP / 2, buffer[..count].to_vec()));
    }
    drop(sender);
    let _ = write.await;
}

/// A far server with the TLS that Exchange has: SMTP's begins with STARTTLS.
async fn far_server(protocol: Protocol, authority: &Authority) -> Fake {
    let acceptor = authority.acceptor(Leaf::Good);
    Fake::start(move |mut wire: Wire| {
        let acceptor = acceptor.clone();
        async move {
            if protocol == Protocol::Smtp {
                wire.send("220 ready\r\n").await;
                wire.expect("EHLO ").await;
                wire.send("250-fake\r\n250 STARTTLS\r\n").await;
                wire.expect("STARTTLS").await;
                wire.send("220 go\r\n").await;
            }
            let Ok(mut wire) = wire.accept_tls(&acceptor).await else { return };
            // What is said first, then what to each line.
            let (first, answers): (_, &[&str]) = match protocol {
                Protocol::Imap => ("* OK ready\r\n", &["g2 OK [CAPABILITY IMAP4rev1] in\r\n"]),
                Protocol::Pop3 => ("+OK ready\r\n", &["+ \r\n", "+OK in\r\n"]),
                Protocol::Smtp => ("", &["250 fake\r\n", "334 \r\n", "235 in\r\n"]),
            };
            wire.send(first).await;
            for answer in answers {
                let Some(line) = wire.try_line(10 * LIMIT).await else { return };
                wire.send(if line == "QUIT" { "221 bye\r\n" } else { answer }).await;
            }
            let _ = wire.try_line(10 * LIMIT).await;
        }
    })
    .await
}

/// The median of several logins, in round trips, from the client's connect to the answer to its login.
async fn round_trips(protocol: Protocol, spares: usize) -> f64 {
    let authority = Authority::new();
    let fake = far_server(protocol, &authority).await;
    let tls = if protocol == Protocol::Smtp { " starttls" } else { "" };
    let instead = vec![(protocol, format!("{}{tls}", far(fake.address()).await))];
    let trusted = vec![authority.pem()];
    let house = House::start(Settings { instead, trusted, spares, ..Settings::default() }).await;
    let mut sessions = vec![house.log_in(protocol).await];
    let mut taken = Vec::new();
    for _ in 0..5 {
        // As long as a connection is made ready.
        sleep(12 * ROUND_TRIP).await;
        let start = Instant::now();
        let session = house.log_in(protocol).await;
        taken.push(start.elapsed().as_secs_f64() / ROUND_TRIP.as_secs_f64());
        // Of SMTP's sessions there may be three.
        sessions = vec![session];
    }
    drop(sessions);
    taken.sort_by(f64::total_cmp);
    println!("{protocol}, {spares} spares: {taken:.2?} round trips");
    taken[taken.len() / 2]
}

/// What a client would need that spoke XOAUTH2 itself: TCP, TLS 1.3, the greeting, then IMAP's login; POP3 has a challenge
/// before; SMTP's greeting comes half a round trip behind TCP, then EHLO, STARTTLS, TLS, EHLO, AUTH, the response.
const DIRECTLY: [(Protocol, f64); 3] =
    [(Protocol::Imap, 4.0), (Protocol::Pop3, 5.0), (Protocol::Smtp, 7.5)];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_login_takes_one_round_trip_or_as_many_as_without_gatepost() {
    let mut all = tokio::task::JoinSet::new();
    for (protocol, directly) in DIRECTLY {
        // One more would be a whole one; the rest is for a machine that is busy.
        for (spares, most) in [(2, 1.0 + 0.9), (0, directly + 0.9)] {
            all.spawn(async move {
                let took = round_trips(protocol, spares).await;
                assert!(took >= 1.0, "{protocol}: the way is too short");
                assert!(took < most, "{protocol}, {spares} spares: {took:.2}");
            });
        }
    }
    while let Some(case) = all.join_next().await {
        case.unwrap();
    }
}

/// An IMAP server that notes how each handshake was made.
struct Noting {
    address: SocketAddr,
    kinds: Arc<Mutex<Vec<HandshakeKind>>>,
}

impl Noting {
    async fn start(acceptor: TlsAcceptor) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let kinds = Arc::new(Mutex::new(Vec::new()));
        let noted = Arc::clone(&kinds);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (acceptor, noted) = (acceptor.clone(), Arc::clone(&noted));
                tokio::spawn(async move {
                    let mut stream = acceptor.accept(stream).await.unwrap();
                    noted.lock().unwrap().extend(stream.get_ref().1.handshake_kind());
                    stream.write_all(b"* OK hi\r\n").await.unwrap();
                    let mut buffer = [0; 4096];
                    let mut line = Vec::new();
                    while !line.ends_with(b"\n") {
                        let count = stream.read(&mut buffer).await.unwrap();
                        line.extend_from_slice(&buffer[..count]);
                    }
                    stream.write_all(b"g2 OK [CAPABILITY IMAP4rev1] in\r\n").await.unwrap();
                    while let Ok(1..) = stream.read(&mut buffer).await {}
                });
            }
        });
        Self { address, kinds }
    }

    /// How many were not resumed, of how many.
    fn full(&self) -> (usize, usize) {
        let kinds = self.kinds.lock().unwrap();
        (kinds.iter().filter(|kind| **kind != HandshakeKind::Resumed).count(), kinds.len())
    }
}

async fn log_in(server: &Server) {
    let token = Secret::new("t".repeat(1500));
    let login = Xoauth2::new(MAILBOX, &token).unwrap();
    within(LIMIT, "a login", server.log_in(login)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tls_is_resumed_by_all_logins_of_a_burst_too() {
    let authority = Authority::new();
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(authority.pem().as_bytes()).unwrap();
    let tls = ClientTls::new(Some(file.path())).unwrap();
    for versions in [&[&rustls::version::TLS13][..], &[&rustls::version::TLS12]] {
        let mut pair = Vec::new();
        for _ in 0..2 {
            let host = Noting::start(authority.acceptor_of(Leaf::Good, versions)).await;
            let endpoint = host.address.to_string().parse().unwrap();
            let server = Server::new(Protocol::Imap, endpoint, tls.clone(), Route::direct());
            pair.push((host, Arc::new(server)));
        }
        // By turns: they have one name, and neither takes the other's tickets.
        for _ in 0..40 {
            for (_, server) in &pair {
                log_in(server).await;
            }
        }
        for (host, server) in &pair {
            assert_eq!(host.full(), (1, 40), "the first alone");
            let mut burst = tokio::task::JoinSet::new();
            for _ in 0..32 {
                let server = Arc::clone(server);
                burst.spawn(async move { log_in(&server).await });
            }
            burst.join_all().await;
            assert_eq!(host.full(), (1, 72), "a burst");
        }
    }
}
