//! `kill -9` around the rotation of a refresh token: the next start always signs in.
//!
//! `GATEPOST_KILLS=200 cargo test --test rotation` is the long run.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout)]

mod support_tokens;

use std::net::SocketAddr;
use std::process::Stdio;
use std::time::Duration;

use gatepost::emulator::Control;
use support_tokens::{DELEGATED, Site};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};
use tokio::time::{sleep, timeout};

/// Tokens end so soon that the proxy asks for a new one each second.
const LIFE: Duration = Duration::from_secs(1);

/// The way of a rotation (request, answer, write, use) takes about as long.
const ROTATION: f64 = 0.012;

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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kill_at_any_moment_loses_no_sign_in() {
    let kills = std::env::var("GATEPOST_KILLS").ok().map_or(20, |text| text.parse().unwrap());
    let site = Site::new(LIFE).await;
    site.sign_in_with_an_expired_token(DELEGATED).await;
    let control = site.emulator.control();
    for kill in 0..kills {
        let (mut proxy, address) = run(&site).await;
        let login = site.log_in(address, DELEGATED).await;
        login.unwrap_or_else(|error| panic!("after {kill} kills: {error}"));
        wait_for_the_moment(kill, control).await;
        proxy.kill().await.unwrap();
    }
    let (mut proxy, address) = run(&site).await;
    site.log_in(address, DELEGATED).await.unwrap();
    proxy.kill().await.unwrap();
    let (requests, stored) = (control.token_requests(), site.tokens_stored().await);
    let lost = requests - stored;
    println!("{kills} kills, {requests} token requests, {lost} of them cut off before the write");
    // Else the kills were never at the right moment, and this test shows nothing.
    assert!(lost > 0 || kills < 100, "no kill struck within a rotation");
}
