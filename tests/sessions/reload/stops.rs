//! What sessions hear of a stop: the protocol's own goodbye where nothing is under way, and in SMTP also where
//! gatepost alone knows what becomes of a message.

use std::time::{Duration, Instant};

use gatepost::emulator::{SmtpFault, SmtpStage};
use gatepost::vocabulary::Protocol::{Imap, Pop3, Smtp};
use tokio::time::sleep;

use super::proxy::{JANE, Proxy, account, listener};
use crate::support::free_address;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_takes_a_moment_when_all_is_quiet() {
    let (imap, pop3, smtp) = (free_address(), free_address(), free_address());
    let tables = listener(Imap, imap, "")
        + &listener(Pop3, pop3, "")
        + &listener(Smtp, smtp, "")
        + &account(JANE);
    let mut proxy = Proxy::start(&tables).await;
    let mut sessions = Vec::new();
    for number in 0..100 {
        let mut session = proxy.log_in(Imap, imap, JANE).await;
        if number % 2 == 0 {
            session.send("2 SELECT INBOX\r\n3 IDLE\r\n").await;
            session.until("+ ").await;
        }
        sessions.push(session);
    }
    let mut mail = proxy.log_in(Smtp, smtp, JANE).await;
    let mut reader = proxy.log_in(Pop3, pop3, JANE).await;
    let mut strangers = [proxy.open(Imap, imap).await, proxy.open(Smtp, smtp).await];
    proxy.signal("-TERM");
    let heard = tokio::spawn(async move {
        for session in &mut sessions {
            session.expect("* BYE gatepost is being restarted").await;
            session.expect_end().await;
        }
        mail.expect("421 4.3.2 ").await;
        mail.expect_end().await;
        reader.expect_end().await;
        strangers[0].expect("* BYE gatepost is being restarted").await;
        strangers[1].expect("421 4.3.2 ").await;
    });
    let (status, took) = proxy.ended().await;
    heard.await.unwrap();
    eprintln!("a stop under 104 quiet sessions took {took:?}");
    assert!(status.success(), "{status}: {}", proxy.said());
    assert!(took < Duration::from_secs(5), "{took:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_under_way_comes_to_its_end() {
    let (imap, smtp, spool) = (free_address(), free_address(), free_address());
    let tables = listener(Imap, imap, "")
        + &listener(Smtp, smtp, "")
        + &listener(Smtp, spool, "delivery = \"spool\"")
        + &account(JANE);
    let mut proxy = Proxy::start(&tables).await;
    let lines = format!("* 1 FETCH\r\na OK\r\n{}\r\n", "x".repeat(980)).repeat(10_000);
    let large = format!("Subject: large\r\n\r\n{lines}");
    assert!(proxy.control().deliver(JANE, large.as_bytes()));
    // A large answer that is read slowly, and that looks like answers.
    let mut fetch = proxy.log_in(Imap, imap, JANE).await;
    fetch.send("2 SELECT INBOX\r\n").await;
    fetch.until("2 OK").await;
    fetch.send("3 FETCH 4 BODY[]\r\n").await;
    fetch.until("* 4 FETCH").await;
    let mut append = proxy.log_in(Imap, imap, JANE).await;
    append.send("2 APPEND INBOX {20}\r\n").await;
    append.expect("+ ").await;
    append.send("Subject: x\r\n").await;
    // The upstream has it, and takes its time to say so.
    let delay = SmtpFault::Delay(Duration::from_secs(2));
    proxy.control().fail_smtp(SmtpStage::EndOfData, delay, Some(1));
    let mut mail = [proxy.log_in(Smtp, smtp, JANE).await, proxy.log_in(Smtp, spool, JANE).await];
    for mail in &mut mail {
        mail.send(format!("MAIL FROM:<{JANE}>\r\nRCPT TO:<{JANE}>\r\nDATA\r\n")).await;
        mail.until("354 ").await;
        mail.send("Subject: x\r\n\r\n").await;
    }
    mail[0].send("x\r\n.\r\n").await;
    proxy.signal("-TERM");
    proxy.until("gatepost is stopping", 1).await;
    sleep(Duration::from_secs(1)).await;
    append.send("x:yz\r\n\r\n\r\n").await;
    append.until("2 OK").await;
    append.expect("* BYE ").await;
    mail[1].send("x\r\n.\r\n").await;
    for mail in &mut mail {
        mail.expect("250 ").await;
        mail.expect("421 4.3.2 ").await;
        mail.expect_end().await;
    }
    let rest = fetch.until("3 OK").await;
    assert!(rest.iter().all(|line| !line.starts_with("* BYE")));
    assert!(rest.len() > 30_000, "{} lines", rest.len());
    fetch.expect("* BYE ").await;
    fetch.expect_end().await;
    let (status, _) = proxy.ended().await;
    assert!(status.success(), "{status}: {}", proxy.said());
    assert_eq!(proxy.control().sent().len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_does_not_come_to_its_end_is_cut_and_smtp_says_so() {
    let (imap, smtp, spool) = (free_address(), free_address(), free_address());
    let tables = listener(Imap, imap, "")
        + &listener(Smtp, smtp, "")
        + &listener(Smtp, spool, "delivery = \"spool\"")
        + &account(JANE);
    for (hurry, longest) in [(false, 15), (true, 4)] {
        let mut proxy = Proxy::start(&tables).await;
        let mut append = proxy.log_in(Imap, imap, JANE).await;
        append.send("2 APPEND INBOX {20}\r\n").await;
        append.expect("+ ").await;
        append.send("Subject: x\r\n").await;
        let mut mails =
            [proxy.log_in(Smtp, smtp, JANE).await, proxy.log_in(Smtp, spool, JANE).await];
        for mail in &mut mails {
            mail.send(format!("MAIL FROM:<{JANE}>\r\nRCPT TO:<{JANE}>\r\nDATA\r\n")).await;
            mail.until("354 ").await;
            mail.send("Subject: x\r\n\r\n").await;
        }
        let began = Instant::now();
        proxy.signal("-TERM");
        proxy.until("gatepost is stopping", 1).await;
        if hurry {
            // A second signal.
            proxy.signal("-INT");
        }
        let (status, _) = proxy.ended().await;
        let took = began.elapsed();
        append.expect_end().await;
        for mail in &mut mails {
            // RFC 5321 section 3.8.
            mail.expect("421 4.3.2 gatepost is being restarted").await;
            mail.expect_end().await;
        }
        assert!(status.success(), "{status}: {}", proxy.said());
        assert!(took < Duration::from_secs(longest), "{took:?}");
        assert!(hurry || took > Duration::from_secs(9), "{took:?}: it had its time");
        assert!(proxy.control().sent().is_empty());
    }
}
