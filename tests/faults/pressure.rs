//! Backpressure: who is slow costs a bounded buffer, whatever waits behind.

use std::sync::Arc;
use std::time::Duration;

use gatepost::emulator::Options;
use gatepost::emulator::network::{Deed, Direction, Fault, Place};
use gatepost::vocabulary::Protocol;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout, timeout_at};

use super::program;
use super::support_ground::{Client, Ground, PATIENCE, log_in, message};

/// Sessions at once.
const SESSIONS: usize = 100;

/// Octets of each message: more than the kernel takes of a connection (Linux: up to 4 MiB to be sent; 6 MiB received, and
/// newer ones 32).
const LARGE: usize = 40 << 20;

/// The same downwards, where the client's kernel takes nearly nothing.
const FETCHED: usize = 4 << 20;

/// Octets a second of the slow side.
const RATE: u32 = 1024;

/// Octets to the server by which a session is logged in: a token, and TLS around it.
const BEHIND_LOGIN: u64 = 10_000;

/// How often memory is read.
const LOOK: Duration = Duration::from_millis(100);

/// How long it is watched.
const TIME: Duration = Duration::from_secs(15);

/// What a session may cost, in KiB: one read of 64 KiB that the other side has not taken yet, as much in TLS's own
/// buffer of records (rustls has a limit of 64 KiB), a record of 16 KiB that is being read, and the session itself.
const EACH: u64 = 192;

/// Slow readers of what comes down, then slow servers of what goes up; by turns with TLS and without it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "memory is measured"]
async fn who_is_slow_costs_a_bounded_buffer() {
    let ground = Ground::start(program(), 1, Options::default(), "").await;
    let lane = &ground.lanes[0];
    let (mailbox, password) = (lane.mailboxes[0].clone(), lane.passwords[0].clone());
    let large: Arc<str> = message("x@y.example", "large", LARGE).into();
    let fetched = message("x@y.example", "large", FETCHED);
    assert!(ground.emulator.control().deliver(&mailbox, fetched.as_bytes()));
    let number = lane.number_of_newest + 1;
    for downwards in [true, false] {
        let mut sessions = Vec::new();
        for session in 0..SESSIONS {
            let visit = match session % 2 {
                0 => lane.visit(Protocol::Imap, ""),
                _ => lane.visit_from_outside(Protocol::Imap, ""),
            };
            if !downwards {
                lane.inside[0].arm(Fault {
                    place: Place::Octet(Direction::Up, BEHIND_LOGIN),
                    deed: Deed::Throttle(RATE),
                });
            }
            let to = (None, visit.door);
            let trust = visit.trust.as_ref();
            let mut client =
                Client::connect_narrowly(to, trust, Protocol::Imap, PATIENCE).await.unwrap();
            log_in(&mut client, &mailbox, &password).await.unwrap();
            client.send("2 SELECT INBOX\r\n").await.unwrap();
            client.expect("2 OK").await.unwrap();
            sessions.push(client);
        }
        let before = ground.process.memory().0;
        let mut running = JoinSet::new();
        for client in sessions {
            match downwards {
                true => running.spawn(read_slowly(client, number)),
                false => running.spawn(append(client, Arc::clone(&large))),
            };
        }
        let (mut most, mut moved, mut passed) = (before, 0, 0);
        loop {
            most = most.max(ground.process.memory().0);
            match timeout(LOOK, running.join_next()).await {
                Ok(None) => break,
                Ok(Some(done)) => moved += done.unwrap(),
                // While all of them are there.
                Err(_) if running.len() == SESSIONS => {
                    let each = lane.inside[0].passed(Direction::Up);
                    passed = each[each.len() - SESSIONS..].iter().sum::<u64>();
                }
                Err(_) => {}
            }
        }
        let grown = most.saturating_sub(before);
        // Downwards the client is slow, upwards the way to the server. What lies between may be in the kernel's buffers,
        // which grow to some MiB for each session, and not in gatepost's.
        let (way, slowly) = if downwards { ("down", moved as u64) } else { ("up", passed) };
        println!(
            "{SESSIONS} sessions that are slow {way}: {slowly} octets have passed slowly; {before} KiB before, {grown} \
             KiB more at most, {} KiB for each",
            grown / SESSIONS as u64,
        );
        assert!(slowly < (SESSIONS * FETCHED / 2) as u64, "nothing was slow");
        assert!(grown < EACH * SESSIONS as u64, "{grown} KiB");
    }
}

/// Takes so much of what comes as the slow rate lets it.
async fn read_slowly(mut client: Client, number: usize) -> usize {
    client.send(format!("3 FETCH {number} BODY.PEEK[]\r\n")).await.unwrap();
    client.line().await.unwrap();
    let (mut read, start) = (0, Instant::now());
    while start.elapsed() < TIME {
        read += client.some(RATE as usize / 4).await.unwrap();
        sleep_until(start + Duration::from_secs_f64(read as f64 / f64::from(RATE))).await;
    }
    assert!(read < FETCHED / 4, "{read} octets: it was not slow");
    client.reset();
    read
}

/// Sends the large message as fast as it is taken.
async fn append(mut client: Client, large: Arc<str>) -> usize {
    let end = Instant::now() + TIME;
    client.send(format!("3 APPEND Drafts {{{}+}}\r\n", large.len())).await.unwrap();
    let mut sent = 0;
    for piece in large.as_bytes().chunks(4096) {
        match timeout_at(end, client.send(piece)).await {
            Ok(done) => done.unwrap(),
            Err(_) => break,
        }
        sent += piece.len();
    }
    assert!(sent < LARGE, "all of it was taken: nothing was slow");
    sleep_until(end).await;
    client.reset();
    sent
}
