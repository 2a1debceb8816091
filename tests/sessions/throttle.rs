//! Who guesses is slowed down and locked out; who belongs here is not, whatever others do.
//!
//! Each loopback address is a source of its own.
// Other systems have 127.0.0.1 alone.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::support::{
    House, MAILBOX, Settings, Wire, is_temporary, is_welcome, is_wrong_password, login_command,
    try_log_in, within,
};
use gatepost::vocabulary::{Protocol, TlsMode};
use tokio::time::sleep;

/// A good login beside an attack takes less than this; a build for debugging may share its cores with other tests.
const NORMAL: Duration = Duration::from_secs(if cfg!(debug_assertions) { 3 } else { 1 });

const CHOSEN: &str = "correct horse";

async fn house(guard: &'static str) -> House {
    House::start(Settings { account: guard, ..Settings::default() }).await
}

async fn open(house: &House, source: &str, protocol: Protocol) -> Wire {
    let address = house.address(protocol, TlsMode::None);
    let mut client = Wire::connect_from(source, address).await;
    client.answer(protocol).await;
    client
}

/// The answer to a login on a connection of its own.
async fn log_in(house: &House, source: &str, user: &str, password: &str) -> String {
    let mut client = open(house, source, Protocol::Imap).await;
    try_log_in(&mut client, Protocol::Imap, user, password).await
}

async fn must_enter(house: &House, source: &str, password: &str) {
    let start = Instant::now();
    let answer = log_in(house, source, MAILBOX, password).await;
    assert!(is_welcome(Protocol::Imap, &answer), "{source}: {answer}");
    assert!(start.elapsed() < NORMAL, "{source}: a login took {:?}", start.elapsed());
}

async fn must_wait(house: &House, source: &str, user: &str, password: &str) {
    let answer = log_in(house, source, user, password).await;
    assert!(is_temporary(Protocol::Imap, &answer), "{source}: {answer}");
    assert!(answer.contains("try again in "), "{source}: {answer}");
}

async fn must_be_wrong(house: &House, source: &str, user: &str, password: &str) {
    let answer = log_in(house, source, user, password).await;
    assert!(is_wrong_password(Protocol::Imap, &answer), "{source}: {answer}");
}

/// So many different wrong passwords.
async fn guess(house: &House, source: &str, user: &str, times: usize) {
    static COUNT: AtomicUsize = AtomicUsize::new(0);
    for _ in 0..times {
        let guess = format!("guess {}", COUNT.fetch_add(1, Ordering::Relaxed));
        must_be_wrong(house, source, user, &guess).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_guesses_is_locked_and_nobody_else_is() {
    let house = house("[guard]\nattempts = 4\nlock = \"3s\"\ndelay = \"0s\"").await;
    // A mailbox that does not exist is locked in the same way.
    for user in [MAILBOX, "nobody@contoso.example"] {
        guess(&house, "127.0.0.2", user, 4).await;
        must_wait(&house, "127.0.0.2", user, "another").await;
        must_be_wrong(&house, "127.0.0.3", user, "another").await;
    }
    for protocol in Protocol::ALL {
        let mut client = open(&house, "127.0.0.2", protocol).await;
        let answer = try_log_in(&mut client, protocol, MAILBOX, "another").await;
        assert!(is_temporary(protocol, &answer), "{protocol}: {answer}");
        // On the same connection and from the same address: a generated password can't be guessed.
        let answer = try_log_in(&mut client, protocol, MAILBOX, &house.password).await;
        assert!(is_welcome(protocol, &answer), "{protocol}: {answer}");
    }
    must_enter(&house, "127.0.0.3", &house.password).await;
    sleep(Duration::from_secs(3)).await;
    must_be_wrong(&house, "127.0.0.2", MAILBOX, "another").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_guesses_many_mailboxes_is_locked_for_all() {
    let house = house("[guard]\nattempts = 2\ndelay = \"0s\"").await;
    for n in 0..8 {
        guess(&house, "127.0.0.2", &format!("user{n}@contoso.example"), 1).await;
    }
    must_wait(&house, "127.0.0.2", "user9@contoso.example", "wrong").await;
    must_wait(&house, "127.0.0.2", MAILBOX, "wrong").await;
    must_be_wrong(&house, "127.0.0.3", MAILBOX, "wrong").await;
    must_enter(&house, "127.0.0.2", &house.password).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn devices_behind_one_nat() {
    let house = house("[guard]\nattempts = 4\ndelay = \"0s\"").await;
    house.add_chosen("the scanner", CHOSEN).await;
    let nat = "127.0.0.2";
    must_enter(&house, nat, CHOSEN).await;
    // One has an old password, and tries all day.
    for _ in 0..50 {
        must_be_wrong(&house, nat, MAILBOX, "the old one").await;
    }
    must_enter(&house, nat, CHOSEN).await;
    // One is somebody else's.
    guess(&house, nat, MAILBOX, 3).await;
    must_wait(&house, nat, MAILBOX, "one more").await;
    must_enter(&house, nat, CHOSEN).await;
    must_enter(&house, nat, &house.password).await;
    // No slow hash for who has never had it right from there.
    guess(&house, "127.0.0.3", MAILBOX, 4).await;
    must_wait(&house, "127.0.0.3", MAILBOX, CHOSEN).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_sources_against_one_mailbox() {
    let house = house("[guard]\nattempts = 2\ndelay = \"0s\"").await;
    house.add_chosen("at home", CHOSEN).await;
    house.add_chosen_from("office", "from the office", &["127.0.7.0/24"]).await;
    must_enter(&house, "127.0.0.2", CHOSEN).await;
    for n in 0..10 {
        guess(&house, &format!("127.0.1.{n}"), MAILBOX, 1).await;
    }
    must_wait(&house, "127.0.0.9", MAILBOX, CHOSEN).await;
    must_enter(&house, "127.0.0.9", &house.password).await;
    must_enter(&house, "127.0.0.2", CHOSEN).await;
    must_enter(&house, "127.0.7.1", "from the office").await;
    must_be_wrong(&house, "127.0.0.9", "nobody@contoso.example", CHOSEN).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_are_held_back_for_who_is_there() {
    let house = house("[guard]\nattempts = 0\ndelay = \"15s\"").await;
    let connections = || connections_to(house.address(Protocol::Imap, TlsMode::None).port());
    let start = Instant::now();
    for _ in 0..3 {
        must_be_wrong(&house, "127.0.0.2", MAILBOX, "wrong").await;
    }
    let at_once = start.elapsed();
    for _ in 0..3 {
        must_be_wrong(&house, "127.0.0.2", MAILBOX, "wrong").await;
    }
    // 250, 500 and 1,000 ms.
    assert!(start.elapsed() - at_once > Duration::from_millis(1750), "{:?}", start.elapsed());
    assert!(at_once < NORMAL, "{at_once:?}");
    must_be_wrong(&house, "127.0.0.3", MAILBOX, "wrong").await;
    // Those whose answers are held back by 2 to 15 seconds go away: so does gatepost's side.
    let mut waiting = Vec::new();
    for _ in 0..20 {
        let mut client = open(&house, "127.0.0.2", Protocol::Imap).await;
        client.send(login_command(Protocol::Imap, MAILBOX, "wrong")).await;
        waiting.push(client);
    }
    sleep(Duration::from_millis(500)).await;
    assert!(connections() >= 18, "{}", connections());
    drop(waiting);
    let gone = async {
        while connections() > 2 {
            sleep(Duration::from_millis(20)).await;
        }
    };
    within(NORMAL, "connections whose clients are gone", gone).await;
    // A right password is never held back.
    must_enter(&house, "127.0.0.2", &house.password).await;
    // Nor is a stop.
    let mut client = open(&house, "127.0.0.2", Protocol::Imap).await;
    for _ in 0..9 {
        let mut other = open(&house, "127.0.0.2", Protocol::Imap).await;
        other.send(login_command(Protocol::Imap, MAILBOX, "wrong")).await;
    }
    client.send(login_command(Protocol::Imap, MAILBOX, "wrong")).await;
    sleep(Duration::from_millis(300)).await;
    within(Duration::from_secs(4), "the stop", house.stop()).await;
}

/// Which gatepost has at a port of 127.0.0.1, whether their clients are still there or not.
fn connections_to(port: u16) -> usize {
    let local = format!("0100007F:{port:04X}");
    let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
    let fields = |line: &str| -> Vec<String> {
        line.split(' ').filter(|f| !f.is_empty()).map(str::to_owned).collect()
    };
    // proc_pid_net(5): number, local address, remote address, state: 01 is established, 08 left by its client.
    let open = |fields: &Vec<String>| fields[1] == local && ["01", "08"].contains(&&*fields[3]);
    table.lines().map(fields).filter(open).count()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_wrong_passwords_keep_nobody_waiting() {
    const FLOOD: usize = 10_000;
    let house = Arc::new(house("").await);
    house.add_chosen("one", CHOSEN).await;
    // Known from another address, so that this one's first login computes its hash.
    must_enter(&house, "127.0.0.5", &house.password).await;
    let sent = Arc::new(AtomicUsize::new(0));
    let over = Arc::new(AtomicBool::new(false));
    let mut flood = tokio::task::JoinSet::new();
    for worker in 0..20 {
        let (house, sent) = (Arc::clone(&house), Arc::clone(&sent));
        flood.spawn(async move { pour(&house, worker, &sent, FLOOD).await });
    }
    let good = {
        let (house, over) = (Arc::clone(&house), Arc::clone(&over));
        tokio::spawn(async move {
            let mut source = 0_u8;
            while !over.load(Ordering::Relaxed) || source < 5 {
                source = source.saturating_add(1);
                // A first login by a chosen password from each of them, and then one by a generated one.
                let source: IpAddr = [127, 0, 5, source].into();
                must_enter(&house, &source.to_string(), CHOSEN).await;
                must_enter(&house, &source.to_string(), &house.password).await;
            }
            source
        })
    };
    while let Some(poured) = flood.join_next().await {
        poured.unwrap();
    }
    over.store(true, Ordering::Relaxed);
    let logins = good.await.unwrap();
    assert!(sent.load(Ordering::Relaxed) >= FLOOD);
    println!("{logins} pairs of good logins");
}

/// Different passwords for different names, three a connection, as fast as they are answered.
async fn pour(house: &House, worker: usize, sent: &AtomicUsize, most: usize) {
    let mut count = 0;
    while sent.load(Ordering::Relaxed) < most {
        let mut client = open(house, "127.0.0.66", Protocol::Imap).await;
        for _ in 0..3 {
            count += 1;
            let user = if count % 2 == 0 {
                MAILBOX.into()
            } else {
                format!("u{worker}-{count}@x.example")
            };
            let password = format!("wrong {worker} {count}");
            client.send(login_command(Protocol::Imap, &user, &password)).await;
            // The first ones wait for their hashes, and for the delay of their answers.
            let answer = client.answer_within(Protocol::Imap, Duration::from_secs(60)).await;
            assert!(!is_welcome(Protocol::Imap, &answer), "{answer}");
            sent.fetch_add(1, Ordering::Relaxed);
        }
    }
}
