//! A siege: thousands of connections that say nothing, trickle or guess, around a gatepost that is a process of its own,
//! while good clients from elsewhere log in. Takes some minutes:
//! `cargo test --test siege -- --ignored --nocapture --test-threads 1`.
#![cfg(target_os = "linux")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "tests, which tell what they measured"
)]

mod support;

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use gatepost::emulator::{self, Emulator, Options};
use gatepost::store::Store;
use gatepost::vocabulary::{Protocol, TlsMode};
use support::{LOCAL_TLS, MAILBOX, Wire, add_password, is_welcome, try_log_in};
use tokio::task::JoinSet;
use tokio::time::sleep;

/// The bars of a siege.
const NORMAL: Duration = Duration::from_secs(1);
const GROWTH: u64 = 64 * 1024;
const BESIEGERS: usize = 2000;

/// gatepost as a process, before an emulator.
struct Fortress {
    _emulator: Emulator,
    _folder: tempfile::TempDir,
    child: Child,
    password: String,
    doors: Vec<(Protocol, TlsMode, SocketAddr)>,
}

impl Fortress {
    async fn new() -> Self {
        let emulator = Emulator::start(Options::default()).await.unwrap();
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        fs::write(path("ca.pem"), emulator.ca_pem()).unwrap();
        let app = Options::default().app;
        fs::write(path("secret"), &app.client_secret).unwrap();
        let mut text = String::from("state_dir = \"state\"\n");
        for protocol in Protocol::ALL {
            for tls in LOCAL_TLS {
                text += &format!(
                    "[[listener]]\nprotocol = \"{protocol}\"\nlisten = \"127.0.0.1:0\"\ntls = \"{tls}\"\nprovider = \"lab\"\n"
                );
            }
        }
        let address = |protocol| emulator.address(protocol, emulator::Tls::Implicit);
        text += &format!(
            "[app.lab]\nprovider = \"lab\"\ntenant = \"{}\"\nclient_id = \"{}\"\nclient_secret = {{ file = \"secret\" }}\n\
             grant = \"client_credentials\"\n[[account]]\nmailbox = \"{MAILBOX}\"\napp = \"lab\"\n\
             [provider.lab]\ntoken_url = \"{}\"\nca_file = \"ca.pem\"\nimap = \"{}\"\npop3 = \"{}\"\nsmtp = \"{}\"\n\
             app_scopes = [\"https://outlook.office365.com/.default\"]\n",
            app.tenant,
            app.client_id,
            emulator.token_url(),
            address(emulator::Protocol::Imap),
            address(emulator::Protocol::Pop3),
            address(emulator::Protocol::Smtp),
        );
        fs::write(path("gatepost.toml"), text).unwrap();
        let store = Store::open(&path("state"), None).await.unwrap();
        let password = add_password(&store, MAILBOX, "first").await;
        store.close().await;
        let mut child = Command::new(env!("CARGO_BIN_EXE_gatepost"))
            .args(["run", "--config"])
            .arg(path("gatepost.toml"))
            .env("GATEPOST_LOG", "info")
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let doors = ready(&mut child);
        Self { _emulator: emulator, _folder: folder, child, password, doors }
    }

    fn door(&self, protocol: Protocol, tls: TlsMode) -> SocketAddr {
        self.doors.iter().find(|door| (door.0, door.1) == (protocol, tls)).unwrap().2
    }

    /// Resident memory in KiB.
    fn memory(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.trim().trim_end_matches(" kB").parse().unwrap()
    }

    fn descriptors(&self) -> usize {
        fs::read_dir(format!("/proc/{}/fd", self.child.id())).unwrap().count()
    }

    /// A login and a goodbye; how long up to the welcome.
    async fn good_login(&self, protocol: Protocol) -> Duration {
        let start = Instant::now();
        let mut client = Wire::connect(self.door(protocol, TlsMode::None)).await;
        client.answer(protocol).await;
        let answer = try_log_in(&mut client, protocol, MAILBOX, &self.password).await;
        assert!(is_welcome(protocol, &answer), "{protocol}: {answer}");
        let took = start.elapsed();
        client.send(if protocol == Protocol::Imap { "9 LOGOUT\r\n" } else { "QUIT\r\n" }).await;
        client.rest().await;
        took
    }

    /// Good logins for this long; the slowest, and the most memory meanwhile.
    async fn good_logins(&self, time: Duration) -> (Duration, u64) {
        let (start, mut slowest, mut most, mut count) = (Instant::now(), Duration::ZERO, 0, 0);
        while start.elapsed() < time {
            for protocol in Protocol::ALL {
                slowest = slowest.max(self.good_login(protocol).await);
                most = most.max(self.memory());
                count += 1;
            }
        }
        println!("{count} good logins, the slowest {slowest:?}");
        (slowest, most)
    }

    /// That all descriptors come back.
    async fn settles_at(&self, descriptors: usize) {
        let start = Instant::now();
        while self.descriptors() > descriptors + 4 {
            let left = self.descriptors();
            assert!(start.elapsed() < Duration::from_secs(75), "{left}, at first {descriptors}");
            sleep(Duration::from_millis(200)).await;
        }
    }
}

impl Drop for Fortress {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Waits until it listens; where. What it says later is thrown away.
fn ready(child: &mut Child) -> Vec<(Protocol, TlsMode, SocketAddr)> {
    let mut words = BufReader::new(child.stderr.take().unwrap());
    let mut line = String::new();
    while !line.contains("gatepost is ready: ") {
        line.clear();
        assert!(words.read_line(&mut line).unwrap() > 0, "gatepost does not start");
    }
    let all = line.trim_end().split_once("ready: ").unwrap().1;
    let addresses = all.split(", ").map(|one| one.split_once(" on ").unwrap().1.parse().unwrap());
    let pairs = Protocol::ALL.iter().flat_map(|protocol| LOCAL_TLS.map(|tls| (*protocol, tls)));
    let doors = pairs.zip(addresses).map(|((protocol, tls), at)| (protocol, tls, at)).collect();
    std::thread::spawn(move || words.lines().map_while(Result::ok).for_each(drop));
    doors
}

/// The start of a ClientHello of 512 octets.
const HALF_A_HELLO: &[u8] = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03";

/// How besiegers stand there: what they have said.
const STANCES: &[(Protocol, TlsMode, &[u8])] = &[
    (Protocol::Imap, TlsMode::None, b""),
    (Protocol::Imap, TlsMode::None, b"1 LOGIN {4000+}\r\nhalf a literal"),
    (Protocol::Imap, TlsMode::Implicit, HALF_A_HELLO),
    (Protocol::Imap, TlsMode::StartTls, b"1 STARTTLS\r\n"),
    (Protocol::Pop3, TlsMode::None, b"USER jane\r\nPASS half"),
    (Protocol::Pop3, TlsMode::Implicit, b""),
    (Protocol::Smtp, TlsMode::None, b"EHLO x\r\nAUTH LOGIN\r\namFuZQ==\r\n"),
    (Protocol::Smtp, TlsMode::StartTls, b"EHLO x\r\nSTARTTLS\r\n"),
    (Protocol::Smtp, TlsMode::Implicit, HALF_A_HELLO),
];

/// Takes up the stances from these sources in turn.
async fn besiege(fortress: &Fortress, sources: &[&str]) -> Vec<Wire> {
    let mut besiegers = Vec::new();
    for (number, (protocol, tls, sent)) in STANCES.iter().cycle().take(BESIEGERS).enumerate() {
        let source = sources[number % sources.len()];
        let mut one = Wire::connect_from(source, fortress.door(*protocol, *tls)).await;
        // One that had to go meanwhile can't be written to.
        let _ = one.try_send(sent).await;
        if *tls == TlsMode::StartTls {
            while let Some(line) = one.try_line(support::LIMIT).await {
                if line.contains("begin TLS") {
                    let _ = one.try_send(HALF_A_HELLO).await;
                    break;
                }
            }
        } else if sent.is_empty() && *tls == TlsMode::None {
            let _ = one.try_send([b'x'; 12_000]).await;
        }
        besiegers.push(one);
    }
    besiegers
}

/// From one address, then from as many as it takes for all two thousand to stay.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes some minutes, and memory is measured"]
async fn two_thousand_who_wait() {
    let fortress = Fortress::new().await;
    fortress.good_logins(Duration::from_secs(2)).await;
    let (memory, descriptors) = (fortress.memory(), fortress.descriptors());
    let many = ["127.0.0.2", "127.0.0.3", "127.0.0.4", "127.0.0.5", "127.0.0.6", "127.0.0.7"];
    for (sources, stay) in [(&many[..1], 512), (&many[..], 1900)] {
        let start = Instant::now();
        let (besiegers, (slowest, _)) = tokio::join!(
            besiege(&fortress, sources),
            fortress.good_logins(Duration::from_secs(5)),
        );
        let (later, most) = fortress.good_logins(Duration::from_secs(5)).await;
        let there = fortress.descriptors() - descriptors;
        println!(
            "{} besiegers from {} sources within {:?}: {there} stay, memory {memory} KiB and {} more",
            besiegers.len(),
            sources.len(),
            start.elapsed(),
            most.saturating_sub(memory),
        );
        let slowest = slowest.max(later);
        assert!(slowest < NORMAL, "a login took {slowest:?}");
        assert!(most < memory + GROWTH, "{most} KiB, at first {memory}");
        assert!((stay - 30..stay + 160).contains(&there), "{there} stay");
        drop(besiegers);
        fortress.settles_at(descriptors).await;
    }
    println!("behind it: memory {} KiB, at first {memory}", fortress.memory());
}

/// Connections that come as fast as they can, and passwords that are wrong, from one address.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes a minute, and memory is measured"]
async fn a_flood_of_connections_and_of_wrong_passwords() {
    let fortress = Arc::new(Fortress::new().await);
    fortress.good_logins(Duration::from_secs(2)).await;
    let (memory, descriptors) = (fortress.memory(), fortress.descriptors());
    let over = Arc::new(AtomicBool::new(false));
    let counts = Arc::new([AtomicUsize::new(0), AtomicUsize::new(0)]);
    // On a runtime of its own: it must slow down gatepost, not the emulator behind it.
    let flood = {
        let (fortress, over, counts) =
            (Arc::clone(&fortress), Arc::clone(&over), Arc::clone(&counts));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        std::thread::spawn(move || runtime.block_on(flood(fortress, over, counts)))
    };
    let (slowest, most) = fortress.good_logins(Duration::from_secs(20)).await;
    over.store(true, Ordering::Relaxed);
    flood.join().unwrap();
    let [silent, wrong] = [&counts[1], &counts[0]].map(|count| count.load(Ordering::Relaxed));
    println!(
        "{silent} silent, {wrong} with a wrong password; memory {memory} KiB and {} more",
        most.saturating_sub(memory)
    );
    assert!(slowest < NORMAL, "a login took {slowest:?}");
    assert!(most < memory + GROWTH, "{most} KiB, at first {memory}");
    fortress.settles_at(descriptors).await;
}

/// Thirty-two clients at once: every other one says nothing, the others guess.
async fn flood(fortress: Arc<Fortress>, over: Arc<AtomicBool>, counts: Arc<[AtomicUsize; 2]>) {
    let mut clients = JoinSet::new();
    for number in 0..32_usize {
        let (fortress, over, counts) =
            (Arc::clone(&fortress), Arc::clone(&over), Arc::clone(&counts));
        clients.spawn(async move {
            let mut held = std::collections::VecDeque::new();
            while !over.load(Ordering::Relaxed) {
                let protocol = Protocol::ALL[number % 3];
                let mut one =
                    Wire::connect_from("127.0.0.2", fortress.door(protocol, TlsMode::None)).await;
                // It waits for the greeting: the machine's cores are shared with it, and are not what is judged.
                let _ = one.try_line(support::LIMIT).await;
                if number % 2 == 0 {
                    let command = support::login_command(protocol, MAILBOX, "wrong");
                    let _ = one.try_send(command).await;
                    let _ = one.try_line(support::LIMIT).await;
                }
                counts[number % 2].fetch_add(1, Ordering::Relaxed);
                held.push_back(one);
                if held.len() > 100 {
                    held.pop_front();
                }
                tokio::task::yield_now().await;
            }
        });
    }
    clients.join_all().await;
}

/// A load generator's clients all come from one address, hundreds at once; none of them is in another's way.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "opens two thousand sessions"]
async fn sessions_from_one_address_as_fast_as_they_can() {
    let fortress = Arc::new(Fortress::new().await);
    let turn = Arc::new(tokio::sync::Semaphore::new(400));
    let (start, mut opening, mut sessions) = (Instant::now(), JoinSet::new(), Vec::new());
    for _ in 0..2000 {
        let (fortress, turn) = (Arc::clone(&fortress), Arc::clone(&turn));
        opening.spawn(async move {
            let _turn = turn.acquire().await.unwrap();
            let mut client = Wire::connect(fortress.door(Protocol::Pop3, TlsMode::None)).await;
            client.answer(Protocol::Pop3).await;
            let answer = try_log_in(&mut client, Protocol::Pop3, MAILBOX, &fortress.password).await;
            assert!(is_welcome(Protocol::Pop3, &answer), "{answer}");
            client
        });
    }
    while let Some(session) = opening.join_next().await {
        sessions.push(session.unwrap());
    }
    println!("{} sessions within {:?}", sessions.len(), start.elapsed());
    assert_eq!(sessions.len(), 2000);
}
