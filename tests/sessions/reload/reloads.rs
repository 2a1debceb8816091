//! What another configuration changes, and what it leaves alone.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use gatepost::emulator::Options;
use gatepost::vocabulary::Protocol::{Imap, Pop3, Smtp};
use tokio::net::TcpStream;
use tokio::time::sleep;

use super::proxy::{JANE, JOHN, Proxy, RELOADED, account, listener};
use crate::support::{free_address, is_welcome, is_wrong_password};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn listeners_come_and_go_and_change() {
    let (one, two) = (free_address(), free_address());
    let first = listener(Imap, one, "");
    let proxy = Proxy::start(&(first.clone() + &account(JANE))).await;
    let mut session = proxy.log_in(Imap, one, JANE).await;
    let requests = proxy.control().token_requests();

    let second = listener(Smtp, two, "");
    let said = proxy.reload(&(first.clone() + &second + &account(JANE))).await;
    assert!(said.contains(&format!("listener smtp {two} added")), "{said}");
    let mut mail = proxy.log_in(Smtp, two, JANE).await;

    // The same address, but gatepost delivers by itself now: a connection that is there keeps the former way.
    let spooled = listener(Smtp, two, "delivery = \"spool\"");
    let said = proxy.reload(&(first.clone() + &spooled + &account(JANE))).await;
    assert!(said.contains(&format!("listener smtp {two} changed")), "{said}");
    for (answer, client) in
        [("250 ", &mut mail), ("250 ", &mut proxy.log_in(Smtp, two, JANE).await)]
    {
        client.send(format!("MAIL FROM:<{JANE}>\r\n")).await;
        client.expect(answer).await;
    }
    let text = format!("RCPT TO:<{JANE}>\r\nDATA\r\n");
    let mut new = proxy.log_in(Smtp, two, JANE).await;
    new.send(format!("MAIL FROM:<{JANE}>\r\n{text}")).await;
    new.until("354 ").await;
    new.send("Subject: x\r\n\r\nx\r\n.\r\n").await;
    new.expect("250 2.0.0 kept as ").await;
    mail.send(text).await;
    mail.until("354 ").await;
    mail.send("Subject: x\r\n\r\nx\r\n.\r\n").await;
    let answer = mail.answer(Smtp).await;
    assert!(answer.starts_with("250 ") && !answer.contains("kept as"), "{answer}");

    // STARTTLS on it: the same socket.
    let tls = listener(Imap, one, "tls = \"starttls\"");
    let said = proxy.reload(&(tls.clone() + &account(JANE))).await;
    assert!(said.contains(&format!("listener imap {one} changed")), "{said}");
    assert!(said.contains(&format!("listener smtp {two} removed")), "{said}");
    let mut client = proxy.open(Imap, one).await;
    client.send("1 STARTTLS\r\n").await;
    client.expect("1 OK").await;
    sleep(Duration::from_millis(200)).await;
    assert!(TcpStream::connect(two).await.is_err(), "it still listens");
    mail.send("NOOP\r\n").await;
    mail.expect("250 ").await;
    session.send("2 NOOP\r\n").await;
    session.until("2 OK").await;
    assert_eq!(proxy.control().token_requests(), requests, "the token stays");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn accounts_come_and_go_and_change() {
    let at = free_address();
    let listening = listener(Imap, at, "");
    let both = listening.clone() + &account(JANE) + &account(JOHN);
    let proxy = Proxy::start(&(listening.clone() + &account(JANE))).await;
    let mut early = proxy.open(Imap, at).await;
    let answer = proxy.try_log_in(&mut early, Imap, JOHN).await;
    assert!(is_wrong_password(Imap, &answer), "{answer}");
    // The first token is there then, however slow the machine.
    drop(proxy.log_in(Imap, at, JANE).await);
    let requests = proxy.control().token_requests();

    let said = proxy.reload(&both).await;
    assert!(said.contains(&format!("account {JOHN} added")), "{said}");
    let mut john = proxy.log_in(Imap, at, JOHN).await;
    let mut jane = proxy.log_in(Imap, at, JANE).await;
    let mut waiting = proxy.open(Imap, at).await;
    assert_eq!(proxy.control().token_requests(), requests, "both are of one app");

    // A client id that the endpoint does not know: what is published is soon of no use any more.
    let other = proxy.text(&both).replace(&Options::default().app.client_id, "unknown");
    let said = proxy.reload_text(&other).await;
    assert!(said.contains("app lab changed") && !said.contains("account"), "{said}");
    let began = Instant::now();
    loop {
        let mut client = proxy.open(Imap, at).await;
        let answer = proxy.try_log_in(&mut client, Imap, JANE).await;
        assert!(!is_wrong_password(Imap, &answer), "{answer}");
        if !is_welcome(Imap, &answer) {
            break;
        }
        assert!(began.elapsed() < Duration::from_secs(10), "still by the former one");
    }
    proxy.reload(&both).await;
    drop(proxy.log_in(Imap, at, JANE).await);

    let said = proxy.reload(&(listening + &account(JANE))).await;
    assert!(said.contains(&format!("account {JOHN} removed")), "{said}");
    john.expect("* BYE [CONTACTADMIN] gatepost does not serve this mailbox any more").await;
    john.expect_end().await;
    jane.send("2 NOOP\r\n").await;
    jane.until("2 OK").await;
    let mut client = proxy.open(Imap, at).await;
    let answer = proxy.try_log_in(&mut client, Imap, JOHN).await;
    assert!(is_wrong_password(Imap, &answer), "{answer}");
    // One that had begun before does not get in either, or not for long.
    let answer = proxy.try_log_in(&mut waiting, Imap, JOHN).await;
    if is_welcome(Imap, &answer) {
        waiting.expect("* BYE [CONTACTADMIN] gatepost").await;
    }
}

/// What leads to the same servers keeps what is connected to them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_that_stand_ready_stay_or_go() {
    let at = free_address();
    let text = listener(Imap, at, "") + &account(JANE);
    let proxy = Proxy::start(&text).await;
    let live = async |count| {
        let began = Instant::now();
        while proxy.control().live_connections() != count {
            assert!(began.elapsed() < Duration::from_secs(10), "never {count} connections");
            sleep(Duration::from_millis(10)).await;
        }
    };
    let session = proxy.log_in(Imap, at, JANE).await;
    live(2).await;
    drop(session);
    live(1).await;
    let opened = proxy.control().connections();
    proxy.reload(&(text.clone() + &account(JOHN))).await;
    sleep(Duration::from_millis(300)).await;
    assert_eq!((proxy.control().connections(), proxy.control().live_connections()), (opened, 1));
    let said = proxy.reload(&("spare_connections = 0\n".to_owned() + &text)).await;
    assert!(said.contains("spare_connections changed"), "{said}");
    live(0).await;
    drop(proxy.log_in(Imap, at, JANE).await);
    live(0).await;
    assert_eq!(proxy.control().connections(), opened + 1, "none stands ready any more");
}

/// It is no restart, and to try again is of no use.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sessions_of_an_account_that_is_gone_hear_so() {
    let gone = "gatepost does not serve this mailbox any more";
    let (direct, spool, pop3) = (free_address(), free_address(), free_address());
    let listening = listener(Smtp, direct, "")
        + &listener(Smtp, spool, "delivery = \"spool\"")
        + &listener(Pop3, pop3, "");
    let proxy = Proxy::start(&(listening.clone() + &account(JANE) + &account(JOHN))).await;
    let mut sessions =
        [proxy.log_in(Smtp, direct, JOHN).await, proxy.log_in(Smtp, spool, JOHN).await];
    let mut reader = proxy.log_in(Pop3, pop3, JOHN).await;
    proxy.reload(&(listening + &account(JANE))).await;
    for session in &mut sessions {
        session.expect(&format!("421 4.7.0 {gone}")).await;
        session.expect_end().await;
    }
    // RFC 1939 has no words that are no answer.
    reader.expect_end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_hundred_reloads_under_load() {
    let (one, two) = (free_address(), free_address());
    let small = listener(Imap, one, "") + &account(JANE);
    let large = small.clone()
        + &listener(Smtp, two, "delivery = \"spool\"")
        + &account(JOHN)
        + "[[device]]\nname = \"scanner\"\nnetworks = [\"192.0.2.1\"]\nmailbox = \"jane@contoso.example\"\n";
    let proxy = Arc::new(Proxy::start(&small).await);
    let mut session = proxy.log_in(Imap, one, JANE).await;
    let (over, logins) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let load = |_| {
        let (proxy, over, logins) = (Arc::clone(&proxy), Arc::clone(&over), Arc::clone(&logins));
        tokio::spawn(async move {
            while !over.load(Ordering::Relaxed) {
                let mut client = proxy.log_in(Imap, one, JANE).await;
                client.send("2 NOOP\r\n").await;
                client.until("2 OK").await;
                client.send("3 LOGOUT\r\n").await;
                client.until("3 OK").await;
                logins.fetch_add(1, Ordering::Relaxed);
            }
        })
    };
    let clients: Vec<_> = (0..4).map(load).collect();
    let text = |round: usize| if round.is_multiple_of(2) { &large } else { &small };
    // What is made once is made by then.
    for round in 0..20 {
        proxy.reload(text(round)).await;
    }
    #[cfg(target_os = "linux")]
    let before = proxy.held();
    for round in 0..200 {
        let said = proxy.reload(text(round)).await;
        assert!(said.contains(RELOADED), "{said}");
    }
    over.store(true, Ordering::Relaxed);
    for client in clients {
        client.await.expect("no connection is refused, and no login");
    }
    session.send("2 NOOP\r\n").await;
    session.until("2 OK").await;
    sleep(Duration::from_millis(500)).await;
    let logins = logins.load(Ordering::Relaxed);
    assert!(logins > 20, "{logins} logins are no load");
    assert!(proxy.control().token_requests() <= 2, "{}", proxy.control().token_requests());
    #[cfg(target_os = "linux")]
    {
        let after = proxy.held();
        eprintln!("{logins} logins; descriptors and KiB {before:?} before, {after:?} after");
        assert!(after.0 <= before.0 + 4, "descriptors: {before:?}, {after:?}");
        assert!(after.1 <= before.1 + 8 * 1024, "KiB: {before:?}, {after:?}");
    }
}
