//! Behind the login bytes pass untouched, both ways, however they come.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use crate::support::{
    Authority, Cells, Fake, House, LOCAL_TLS, Leaf, MAILBOX, Wire, admit, is_welcome, within,
};
use gatepost::net::relay;
use gatepost::protocol::{Closing, Talk};
use gatepost::vocabulary::{Protocol, TlsMode};
use proptest::prelude::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

const MIB: usize = 1024 * 1024;

/// Octets without any order, the same at each call.
fn noise(count: usize) -> Vec<u8> {
    let mut random = fastrand::Rng::with_seed(7);
    (0..count).map(|_| random.u8(..)).collect()
}

/// An IMAP upstream with implicit TLS that takes any token and then does as `talk` says, and a proxy in
/// front of it.
async fn house_with<T, F>(behind_login: &'static str, talk: T) -> House
where
    T: Fn(Wire) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = ()> + Send,
{
    let authority = Authority::new();
    let acceptor = authority.acceptor(Leaf::Good);
    let fake = Fake::start(move |wire| {
        let (acceptor, talk) = (acceptor.clone(), talk.clone());
        async move {
            let wire = wire.accept_tls(&acceptor).await.unwrap();
            if let Some(wire) = admit(wire, Protocol::Imap, behind_login).await {
                talk(wire).await;
            }
        }
    });
    House::with(&[(Protocol::Imap, &fake.await)], TlsMode::Implicit, &authority).await
}

async fn log_in(house: &House, tls: TlsMode) -> Wire {
    let mut client = house.open(Protocol::Imap, tls).await;
    let answer = house.try_log_in(&mut client, Protocol::Imap).await;
    assert!(is_welcome(Protocol::Imap, &answer), "{answer}");
    client
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn idle_wakes_the_client() {
    let house = House::new().await;
    let mut client = house.log_in(Protocol::Imap).await;
    client.send("2 SELECT INBOX\r\n3 IDLE\r\n").await;
    client.until("+ ").await;
    assert!(house.control().deliver(MAILBOX, b"Subject: news\r\n\r\n.\r\n"));
    client.until("* 4 EXISTS").await;
    client.send("DONE\r\n").await;
    client.until("3 OK").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn any_octets_both_ways() {
    // An upstream that inverts each octet: what has been through COMPRESS looks no more orderly.
    let house = house_with("", |mut wire| async move {
        loop {
            let octets: Vec<u8> = wire.exact(1000).await.iter().map(|octet| !octet).collect();
            wire.send(octets).await;
        }
    });
    let house = Arc::new(house.await);
    let mut cells = Cells::default();
    for tls in LOCAL_TLS {
        let house = Arc::clone(&house);
        let case = async move {
            let mut client = log_in(&house, tls).await;
            for octets in noise(50_000).chunks(1000) {
                client.send(octets).await;
                let inverted: Vec<u8> = octets.iter().map(|octet| !octet).collect();
                assert!(client.exact(1000).await == inverted);
            }
        };
        cells.run(format!("local TLS {tls}"), case).await;
    }
    cells.finish(3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_either_side_sends_with_the_login_arrives() {
    let house = house_with("* 1 EXISTS\r\n\0\x01rest", |mut wire| async move {
        let line = wire.line().await;
        wire.send(format!("heard {line}\r\n")).await;
    });
    let house = house.await;
    let mut client = house.open(Protocol::Imap, TlsMode::None).await;
    let login = crate::support::login_command(Protocol::Imap, MAILBOX, &house.password);
    client.send(login + "2 \0\x7f odd\r\n").await;
    client.expect("1 OK").await;
    client.expect("* 1 EXISTS").await;
    assert_eq!(client.exact(6).await, b"\0\x01rest");
    assert_eq!(client.line().await, "heard 2 \0\x7f odd");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_literal_of_twenty_megabytes_up_and_down() {
    let house = House::new().await;
    let mut client = house.log_in(Protocol::Imap).await;
    let message = [b"Subject: large\r\n\r\n".to_vec(), noise(20 * MIB)].concat();
    client.send(format!("2 APPEND Archive {{{}+}}\r\n", message.len())).await;
    client.send(&message).await;
    client.send("\r\n3 SELECT Archive\r\n4 FETCH 1 BODY.PEEK[]\r\n").await;
    client.until("2 OK").await;
    client.until("* 1 FETCH").await;
    // Not with assert_eq, which would print them.
    assert!(client.exact(message.len()).await == message, "came back changed");
    client.until("4 OK").await;
    assert!(house.control().messages(MAILBOX, "Archive") == [message], "arrived changed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bdat_chunks_with_any_octets() {
    let house = House::new().await;
    let mut client = house.log_in(Protocol::Smtp).await;
    let chunks = [&b"Subject: binary\r\n\r\n\0\r\n.\r\nQUIT\r\n\n\r"[..], &noise(300_000)];
    client.send(format!("MAIL FROM:<{MAILBOX}> BODY=BINARYMIME\r\nRCPT TO:<{MAILBOX}>\r\n")).await;
    client.send([format!("BDAT {}\r\n", chunks[0].len()).as_bytes(), chunks[0]].concat()).await;
    client.send(format!("BDAT {} LAST\r\n", chunks[1].len())).await;
    client.send(chunks[1]).await;
    for _ in 0..4 {
        client.expect("250 ").await;
    }
    let inbox = house.control().messages(MAILBOX, "INBOX");
    assert!(inbox.last().unwrap().ends_with(&chunks.concat()), "arrived changed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_closes_its_half_gets_its_answer() {
    let house = house_with("", |mut wire| async move {
        let sent = wire.rest().await;
        // Later than any hasty end of the session.
        sleep(Duration::from_millis(300)).await;
        wire.send(format!("{} octets\r\n", sent.len())).await;
        wire.send(noise(MIB)).await;
        wire.half_close().await;
    });
    let house = Arc::new(house.await);
    let mut cells = Cells::default();
    for tls in LOCAL_TLS {
        let house = Arc::clone(&house);
        let case = async move {
            let mut client = log_in(&house, tls).await;
            client.send(noise(100_000)).await;
            client.half_close().await;
            assert_eq!(client.line().await, "100000 octets");
            assert!(client.rest().await == noise(MIB));
        };
        cells.run(format!("local TLS {tls}"), case).await;
    }
    cells.finish(3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upstream_that_closes_is_seen_and_may_still_be_spoken_to() {
    let (told, heard) = tokio::sync::mpsc::unbounded_channel();
    let house = house_with("", move |mut wire| {
        let told = told.clone();
        async move {
            wire.send(b"* BYE\r\n").await;
            wire.half_close().await;
            told.send(wire.rest().await).unwrap();
        }
    });
    let (house, mut heard) = (house.await, heard);
    for tls in LOCAL_TLS {
        let mut client = log_in(&house, tls).await;
        assert_eq!(client.rest().await, b"* BYE\r\n", "local TLS {tls}");
        client.send("last words\r\n").await;
        client.half_close().await;
        let words = within(crate::support::LIMIT, "last words", heard.recv()).await.unwrap();
        assert_eq!(words, b"last words\r\n", "local TLS {tls}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upstream_that_vanishes_ends_the_session() {
    let house = House::new().await;
    for protocol in Protocol::ALL {
        let mut client = house.log_in(protocol).await;
        house.control().disconnect_all();
        client.expect_end().await;
    }
}

/// A reader that has stopped costs what the kernel's buffers hold and one read of the relay: the upstream
/// is held up. Linux grows the buffers of a connection to some 10 MiB, and there are two connections.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_reader_holds_up_the_upstream() {
    const ALL: usize = 96 * MIB;
    let sent = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&sent);
    let house = house_with("", move |mut wire| {
        let count = Arc::clone(&count);
        async move {
            let chunk = noise(MIB);
            while count.load(Ordering::Relaxed) < ALL {
                if wire.try_send_slowly(&chunk).await.is_err() {
                    return;
                }
                count.fetch_add(chunk.len(), Ordering::Relaxed);
            }
            wire.half_close().await;
        }
    });
    let house = house.await;
    let mut client = log_in(&house, TlsMode::None).await;
    let held = stalled(&sent).await;
    assert!(held < ALL / 2, "{held} octets were taken for a client that does not read");
    assert!(client.exact(ALL / 2).await.starts_with(&noise(MIB)), "came changed");
    assert!(sent.load(Ordering::Relaxed) > held, "it goes on when the client reads");
}

/// Waits until no more is sent; how much it was.
async fn stalled(sent: &AtomicUsize) -> usize {
    let wait = async {
        let mut before = usize::MAX;
        loop {
            let now = sent.load(Ordering::Relaxed);
            if now == before && now > 0 {
                return now;
            }
            before = now;
            sleep(Duration::from_millis(700)).await;
        }
    };
    within(3 * crate::support::LIMIT, "a stall", wait).await
}

/// The clock can't be paused with real sockets, so that half an hour is not tried here; but no deadline of
/// the way to the login may reach into the session, and a short one would show.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_may_be_idle() {
    let house = House::new().await;
    let mut clients = Vec::new();
    for protocol in Protocol::ALL {
        clients.push((protocol, house.log_in(protocol).await));
    }
    sleep(Duration::from_secs(5)).await;
    for (protocol, client) in &mut clients {
        let (command, answer) = match protocol {
            Protocol::Imap => ("2 NOOP\r\n", "2 OK"),
            Protocol::Pop3 => ("NOOP\r\n", "+OK"),
            Protocol::Smtp => ("NOOP\r\n", "250 "),
        };
        client.send(command).await;
        client.expect(answer).await;
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    /// Octets go through in order and whole, in pieces of any size, also to a side that has said its last word.
    #[test]
    fn any_pieces_pass(up in pieces(), down in pieces(), up_waits in any::<bool>(), down_waits in any::<bool>()) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let (client, near_client) = connected().await;
            let (upstream, near_upstream) = connected().await;
            let stays = CancellationToken::new();
            let (relayed, heard_down, heard_up) = within(Duration::from_secs(30), "the relay", async {
                tokio::join!(
                    relay(near_client, near_upstream, Talk::new(Protocol::Imap), &stays, || {
                        Closing::ShuttingDown
                    }),
                    talk(client, &up, up_waits && !down_waits),
                    talk(upstream, &down, down_waits),
                )
            })
            .await;
            assert!(heard_up == up.concat() && heard_down == down.concat());
            relayed.end.unwrap();
            assert_eq!((relayed.up, relayed.down), (heard_up.len() as u64, heard_down.len() as u64));
        });
    }
}

fn pieces() -> impl Strategy<Value = Vec<Vec<u8>>> {
    let piece = prop_oneof![
        8 => prop::collection::vec(any::<u8>(), 1..200),
        1 => (any::<u8>(), 1..200_000_usize).prop_map(|(octet, count)| vec![octet; count]),
    ];
    prop::collection::vec(piece, 0..12)
}

async fn connected() -> (TcpStream, TcpStream) {
    let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (far, near) =
        tokio::join!(TcpStream::connect(socket.local_addr().unwrap()), socket.accept());
    (far.unwrap(), near.unwrap().0)
}

/// Sends these and closes its half, once the other side has closed its own if it `waits`; what it heard.
async fn talk(stream: TcpStream, pieces: &[Vec<u8>], waits: bool) -> Vec<u8> {
    let (mut read, mut write) = stream.into_split();
    let mut heard = Vec::new();
    if waits {
        read.read_to_end(&mut heard).await.unwrap();
    }
    let send = async {
        for piece in pieces {
            write.write_all(piece).await.unwrap();
            tokio::task::yield_now().await;
        }
        write.shutdown().await.unwrap();
    };
    tokio::join!(send, async { read.read_to_end(&mut heard).await.unwrap() });
    heard
}
