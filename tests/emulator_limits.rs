//! The emulator's limits and faults of SMTP submission: before it may judge who keeps the limits, it is
//! judged here.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a test fails by panicking

#[allow(dead_code, unreachable_pub, reason = "shared with other tests, which use other parts")]
#[path = "support/wire.rs"]
mod wire;

use std::time::{Duration, SystemTime};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use gatepost::emulator::{Emulator, Options, Shared, Tls, Way};
use gatepost::vocabulary::Protocol;
use tokio::time::sleep;
use wire::{Wire, trusting};

const JANE: &str = "jane@contoso.example";
const SUPPORT: &str = "support@contoso.example";

/// An emulator, of which Jane may also send as support.
async fn start(options: Options) -> Emulator {
    let shared = vec![Shared { mailbox: SUPPORT.into(), users: vec![JANE.into()] }];
    Emulator::start(Options { shared, ..options }).await.unwrap()
}

/// A connection of Jane's behind EHLO.
async fn connect(emulator: &Emulator) -> Wire {
    let wire = Wire::connect(emulator.smtp(Tls::Implicit)).await;
    let mut wire = wire.start_tls(&trusting(emulator.ca_pem().as_bytes())).await.unwrap();
    wire.expect("220 ").await;
    wire.send("EHLO x\r\n").await;
    wire.answer(Protocol::Smtp).await;
    wire
}

/// What a login as Jane is answered.
async fn authenticate(emulator: &Emulator, wire: &mut Wire, token: Option<String>) -> String {
    let token = token.unwrap_or_else(|| emulator.control().issue_access_token(Some(JANE)));
    let response = STANDARD.encode(format!("user={JANE}\x01auth=Bearer {token}\x01\x01"));
    wire.send("AUTH XOAUTH2\r\n").await;
    wire.expect("334 ").await;
    wire.send(format!("{response}\r\n")).await;
    wire.line().await
}

async fn log_in(emulator: &Emulator) -> Wire {
    let mut wire = connect(emulator).await;
    let answer = authenticate(emulator, &mut wire, None).await;
    assert!(answer.starts_with("235 "), "{answer}");
    wire
}

/// Sends a message from Jane to so many; the answer to its end.
async fn submit(wire: &mut Wire, text: &str, recipients: usize) -> String {
    wire.send(format!("MAIL FROM:<{JANE}>\r\n")).await;
    wire.expect("250 ").await;
    for number in 0..recipients {
        wire.send(format!("RCPT TO:<r{number}@fabrikam.example>\r\n")).await;
        wire.expect("250 ").await;
    }
    wire.send("DATA\r\n").await;
    wire.expect("354 ").await;
    wire.send(format!("Subject: {text}\r\n\r\n{text}\r\n.\r\n")).await;
    wire.line().await
}

async fn must_submit(wire: &mut Wire, text: &str) {
    let answer = submit(wire, text, 1).await;
    assert!(answer.starts_with("250 2.0.0 OK"), "{answer}");
}

#[tokio::test]
async fn sessions_beyond_the_places() {
    let emulator = start(Options::default()).await;
    let control = emulator.control();
    let mut open = Vec::new();
    for _ in 0..4 {
        open.push(log_in(&emulator).await);
    }
    let answer = submit(&mut open[3], "too many", 1).await;
    assert!(answer.starts_with("432 4.3.2 Concurrent connections limit exceeded."), "{answer}");
    assert_eq!((control.limits_hit(), control.sent().len()), (1, 0));
    // who has seen the answer to QUIT may count on the place
    open[0].send("QUIT\r\n").await;
    open[0].expect("221 ").await;
    must_submit(&mut open[3], "now").await;
    assert_eq!((control.limits_hit(), control.most_smtp_sessions(JANE)), (1, 4));
    assert_eq!(control.most_smtp_sessions(SUPPORT), 0);
    let elsewhere = control.sent_elsewhere();
    assert_eq!(elsewhere.len(), 1);
    assert_eq!(elsewhere[0].recipients, ["r0@fabrikam.example"]);
}

#[tokio::test]
async fn messages_beyond_the_minute() {
    let smtp_minute = Duration::from_secs(2);
    let options = Options { smtp_messages_per_minute: 3, smtp_minute, ..Options::default() };
    let emulator = start(options).await;
    let mut wires = [log_in(&emulator).await, log_in(&emulator).await];
    // the limit is the mailbox's, not the session's
    for turn in [0, 1, 0] {
        must_submit(&mut wires[turn], "within").await;
    }
    let answer = submit(&mut wires[1], "beyond", 1).await;
    assert!(answer.starts_with("432 4.3.2 STOREDRV.ClientSubmit; sender thread limit"), "{answer}");
    assert_eq!(emulator.control().limits_hit(), 1);
    sleep(smtp_minute).await;
    must_submit(&mut wires[1], "later").await;
    assert_eq!(emulator.control().sent().len(), 4);
}

#[tokio::test]
async fn recipients_beyond_the_day() {
    let emulator = start(Options { smtp_recipients_per_day: 5, ..Options::default() }).await;
    let mut wire = log_in(&emulator).await;
    for (recipients, reply) in [
        (3, "250 "),
        (3, "554 5.2.0 STOREDRV.Submission.Exception:SubmissionQuotaExceededException"),
        (2, "250 "),
    ] {
        let answer = submit(&mut wire, "x", recipients).await;
        assert!(answer.starts_with(reply), "{answer}");
    }
    assert_eq!(emulator.control().limits_hit(), 0);
}

#[tokio::test]
async fn what_was_sent_is_kept_whole() {
    let emulator = start(Options::default()).await;
    let before = SystemTime::now();
    let mut wire = log_in(&emulator).await;
    must_submit(&mut wire, "first").await;
    let message = b"Subject: s\r\n\r\n..\r\n.x\r\nbare\nlf\r\n\xFF\0\r\n";
    wire.send(format!("MAIL FROM:<{SUPPORT}> SIZE=30 BODY=8BITMIME\r\n")).await;
    wire.send(format!("RCPT TO:<{JANE}>\r\nRCPT TO:<x@y.example> NOTIFY=NEVER\r\nDATA\r\n")).await;
    for reply in ["250 ", "250 ", "250 ", "354 "] {
        wire.expect(reply).await;
    }
    wire.send(b"Subject: s\r\n\r\n...\r\n..x\r\nbare\nlf\r\n\xFF\0\r\n.\r\n").await;
    wire.expect("250 2.0.0 OK").await;
    let sent = emulator.control().sent();
    let mail = &sent[1];
    assert_eq!((sent[0].sequence, mail.sequence, mail.way), (1, 2, Way::Smtp));
    assert_eq!((mail.mailbox.as_str(), mail.sender.as_str()), (JANE, SUPPORT));
    assert_eq!(mail.sender_parameters, ["SIZE=30", "BODY=8BITMIME"]);
    assert_eq!(mail.recipients, [JANE, "x@y.example"]);
    assert_eq!(mail.recipient_parameters, [vec![], vec!["NOTIFY=NEVER".to_owned()]]);
    assert_eq!(&*mail.data, message);
    assert!(before <= mail.accepted && sent[0].accepted <= mail.accepted);
    assert_eq!(emulator.control().messages(JANE, "INBOX").last().unwrap(), message);
    let elsewhere = &emulator.control().sent_elsewhere()[1];
    assert_eq!(elsewhere.recipients, ["x@y.example"]);
    assert_eq!(elsewhere.recipient_parameters, [["NOTIFY=NEVER"]]);
}
