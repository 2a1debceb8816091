//! `kill -9` around the rotation of a refresh token, under load: the next start always opens its store, and signs in.
//!
//! `GATEPOST_KILLS=500 GATEPOST_GROUNDS=4 cargo test --test program rotation -- --nocapture` is the long run.

use std::io;
use std::net::SocketAddr;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use crate::support_tokens::{APP_ONLY, DELEGATED, Site};
use gatepost::emulator::Control;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

/// Tokens end so soon that the proxy asks for a new one all the time, and not so soon that one is of no use when it
/// comes: a busy machine stalls for a second.
const LIFE: Duration = Duration::from_secs(3);

/// The way of a rotation (request, answer, write, use) takes about as long.
const ROTATION: f64 = 0.012;

/// Clients that log in all the time.
const CLIENTS: usize = 2;

/// For a start, or for the next rotation.
const LIMIT: Duration = Duration::from_secs(20);

/// The proxy as a process, and where it listens.
async fn run(site: &Site) -> (Child, SocketAddr) {
    let mut proxy = Command::new(env!("CARGO_BIN_EXE_gatepost"));
    proxy.arg("--config").arg(&site.file).arg("run").env("GATEPOST_LOG", "off");
    proxy.stdin(Stdio::null()).stderr(Stdio::piped()).kill_on_drop(true);
    let mut proxy = proxy.spawn().unwrap();
    let mut lines = BufReader::new(proxy.stderr.take().unwrap()).lines();
    let ready = async {
        let mut said = Vec::new();
        while let Some(line) = lines.next_line().await.unwrap() {
            if let Some((_, address)) = line.split_once("gatepost is ready: imap on ") {
                return address.parse().unwrap();
            }
            said.push(line);
        }
        panic!("the proxy does not start: {said:?}");
    };
    let address = timeout(LIMIT, ready).await.expect("a start in time");
    // With the log off it says nothing more until it stops; the pipe may be closed then.
    (proxy, address)
}

/// Every other kill strikes within a rotation, the others at any time.
async fn wait_for_the_moment(kill: u32, control: &Control) {
    if kill.is_multiple_of(2) {
        sleep(Duration::from_secs_f64(1.5 * fastrand::f64())).await;
        return;
    }
    let before = control.token_requests();
    let rotation = async {
        while control.token_requests() == before {
            sleep(Duration::from_millis(1)).await;
        }
    };
    timeout(LIMIT, rotation).await.expect("a rotation in time");
    sleep(Duration::from_secs_f64(ROTATION * fastrand::f64())).await;
}

/// The emulator ends a session with its token, which lives for seconds: on a busy machine that may come between the
/// login and the logout. A refusal is no such end.
async fn log_in(site: &Site, address: SocketAddr, mailbox: &str) -> io::Result<()> {
    match site.log_in(address, mailbox).await {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
            site.log_in(address, mailbox).await
        }
        login => login,
    }
}

/// Logs in to both mailboxes all the time, whatever becomes of it: the load.
async fn load(site: Arc<Site>, address: SocketAddr) {
    loop {
        for mailbox in [DELEGATED, APP_ONLY] {
            let _ = site.log_in(address, mailbox).await;
        }
    }
}

/// One ground: a proxy of its own that is killed so often. How many token requests were cut off before the write.
async fn lives(kills: u32) -> u64 {
    let site = Arc::new(Site::new(LIFE).await);
    site.sign_in_with_an_expired_token(DELEGATED).await;
    let control = site.emulator.control();
    for kill in 0..=kills {
        // A store that does not open would end it here.
        let (mut proxy, address) = run(&site).await;
        for mailbox in [DELEGATED, APP_ONLY] {
            let login = log_in(&site, address, mailbox).await;
            login.unwrap_or_else(|error| panic!("{mailbox} after {kill} kills: {error}"));
        }
        let mut clients = JoinSet::new();
        (0..CLIENTS).for_each(|_| drop(clients.spawn(load(Arc::clone(&site), address))));
        if kill < kills {
            wait_for_the_moment(kill, control).await;
        }
        proxy.kill().await.unwrap();
    }
    control.token_requests() - site.tokens_stored().await
}

/// `GATEPOST_KILLS` in all, on `GATEPOST_GROUNDS` grounds at once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kill_at_any_moment_loses_no_sign_in() {
    let number = |name, usual| std::env::var(name).map_or(usual, |text| text.parse().unwrap());
    let (kills, grounds): (u32, u32) =
        (number("GATEPOST_KILLS", 20), number("GATEPOST_GROUNDS", 2));
    let mut all = JoinSet::new();
    (0..grounds).for_each(|_| drop(all.spawn(lives(kills.div_ceil(grounds)))));
    let lost: u64 = all.join_all().await.into_iter().sum();
    println!("{kills} kills on {grounds} grounds, {lost} token requests cut off before the write");
    // Else the kills were never at the right moment, and this test shows nothing.
    assert!(lost > 0 || kills < 100, "no kill struck within a rotation");
}
