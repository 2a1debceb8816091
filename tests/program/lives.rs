//! Tokens that live for seconds, in real time: clients that log in all the time never notice that one ends.
//!
//! `GATEPOST_LIVES=500 GATEPOST_LIFE=5 cargo test --test program lives` is the long run.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::support_tokens::{APP_ONLY, DELEGATED, Site};
use gatepost::app::App;
use gatepost::clock::Clock;
use tokio::task::JoinSet;
use tokio::time::sleep;

/// Clients for each mailbox, and the pause between two logins of one: together they meet every part of a life.
const CLIENTS: usize = 4;
const PAUSE: Duration = Duration::from_millis(30);

async fn start(site: &Site) -> (App, SocketAddr) {
    let app = App::start(site.config(), Clock::system()).await.unwrap();
    let address = app.listening()[0].1;
    (app, address)
}

/// Logs in until `end`; the count of logins, and what went wrong.
async fn client(
    site: Arc<Site>,
    proxy: SocketAddr,
    mailbox: &str,
    end: Instant,
) -> (u64, Vec<String>) {
    let (mut logins, mut failed) = (0, Vec::new());
    while Instant::now() < end {
        match site.log_in(proxy, mailbox).await {
            Ok(()) => logins += 1,
            Err(error) => failed.push(format!("{mailbox}: {error}")),
        }
        sleep(PAUSE).await;
    }
    (logins, failed)
}

async fn live(lives: u32, life: Duration) {
    let site = Arc::new(Site::new(life).await);
    site.sign_in_with_an_expired_token(DELEGATED).await;
    let (app, proxy) = start(&site).await;
    let end = Instant::now() + life * lives;
    let mut clients = JoinSet::new();
    for index in 0..2 * CLIENTS {
        let mailbox = if index % 2 == 0 { DELEGATED } else { APP_ONLY };
        clients.spawn(client(Arc::clone(&site), proxy, mailbox, end));
    }
    let (mut logins, mut failed) = (0, Vec::new());
    for (count, failures) in clients.join_all().await {
        logins += count;
        failed.extend(failures);
    }
    app.stop().await;
    let requests = site.emulator.control().token_requests();
    let failures = failed.len();
    println!(
        "{lives} lives of {life:?}: {logins} logins, {failures} failed, {requests} token requests"
    );
    assert!(failed.is_empty(), "{failures} of {logins}: {:?}", failed.first());
    assert!(logins > u64::from(lives), "only {logins} logins");
    // Two principals, each with a token every 0.475 lives at most.
    let most = u64::from(2 * lives * 9 / 4) + 8;
    assert!(requests >= u64::from(2 * lives) && requests <= most, "{requests} requests");
}

fn number(variable: &str) -> Option<u32> {
    std::env::var(variable).ok().map(|text| text.parse().expect(variable))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_login_fails_while_tokens_come_and_go() {
    match number("GATEPOST_LIVES") {
        Some(lives) => {
            live(lives, Duration::from_secs(number("GATEPOST_LIFE").unwrap_or(5).into())).await;
        }
        None => {
            // Exchange ends a session with its token, and so does the emulator: a machine that has much else to do
            // must still log in within half of a life.
            tokio::join!(live(10, Duration::from_secs(3)), live(7, Duration::from_secs(4)));
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn logins_at_once_with_an_expired_token_make_one_request() {
    for mailbox in [DELEGATED, APP_ONLY] {
        let site = Arc::new(Site::new(Duration::from_secs(3600)).await);
        site.sign_in_with_an_expired_token(mailbox).await;
        // Long enough for all of them to wait for the one answer.
        site.emulator.control().set_token_delay(Duration::from_secs(1));
        let (app, proxy) = start(&site).await;
        let others = u64::from(mailbox == DELEGATED);
        let mut clients = JoinSet::new();
        for _ in 0..32 {
            let site = Arc::clone(&site);
            clients.spawn(async move { site.log_in(proxy, mailbox).await });
        }
        for login in clients.join_all().await {
            login.unwrap();
        }
        app.stop().await;
        // With the delegated account the app by itself asks too: that is another principal.
        assert_eq!(site.emulator.control().token_requests(), 1 + others, "{mailbox}");
    }
}
