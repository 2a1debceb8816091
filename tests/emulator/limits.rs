//! The emulator's limits and faults of SMTP submission: before it may judge who keeps the limits, it is
//! judged here.

use std::time::{Duration, Instant, SystemTime};

use crate::wire::{LIMIT, Wire, trusting};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use gatepost::emulator::{Emulator, Options, Shared, SmtpFault, SmtpStage, Tls, Way};
use gatepost::vocabulary::Protocol;
use tokio::time::sleep;

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

#[tokio::test]
async fn a_given_reply_at_each_stage() {
    let emulator = start(Options::default()).await;
    let control = emulator.control();
    let reply = |line: &str| SmtpFault::Reply(line.to_owned());
    control.fail_smtp(
        SmtpStage::Auth,
        reply("454 4.7.0 Temporary authentication failure"),
        Some(1),
    );
    let mut wire = connect(&emulator).await;
    let answer = authenticate(&emulator, &mut wire, None).await;
    assert_eq!(answer, "454 4.7.0 Temporary authentication failure");
    let answer = authenticate(&emulator, &mut wire, None).await;
    assert!(answer.starts_with("235 "), "{answer}");

    control.fail_smtp(SmtpStage::Mail, reply("451 4.7.500 Server busy."), Some(2));
    for start in ["451 4.7.500", "451 4.7.500", "250 2.1.0"] {
        wire.send(format!("MAIL FROM:<{JANE}>\r\n")).await;
        wire.expect(start).await;
    }
    let nobody = SmtpStage::Rcpt(Some("nobody@fabrikam.example".into()));
    control.fail_smtp(nobody, reply("550 5.1.1 User unknown"), None);
    for (address, start) in [
        ("nobody@fabrikam.example", "550 5.1.1 User unknown"),
        ("bob@fabrikam.example", "250 "),
        ("NoBody@fabrikam.example", "550 5.1.1"),
    ] {
        wire.send(format!("RCPT TO:<{address}>\r\n")).await;
        wire.expect(start).await;
    }
    control.clear_smtp_faults();
    control.fail_smtp(SmtpStage::Rcpt(None), reply("452 4.5.3 Too many recipients"), Some(1));
    for start in ["452 4.5.3", "250 "] {
        wire.send("RCPT TO:<nobody@fabrikam.example>\r\n").await;
        wire.expect(start).await;
    }
    control.fail_smtp(SmtpStage::EndOfData, reply("554 5.2.252 SendAsDenied"), Some(1));
    wire.send("BDAT 2 LAST\r\nhi").await;
    wire.expect("554 5.2.252 SendAsDenied").await;
    assert_eq!(control.sent(), []);
    must_submit(&mut wire, "well").await;
    // a 432 that was asked for is one more that a client was told, and a 421 closes
    control.fail_smtp(SmtpStage::EndOfData, reply("432 4.3.2 Wait."), Some(1));
    assert_eq!(submit(&mut wire, "x", 1).await, "432 4.3.2 Wait.");
    assert_eq!((control.limits_hit(), control.sent().len()), (1, 1));
    control.fail_smtp(SmtpStage::EndOfData, reply("421 4.3.2 Closing."), Some(1));
    assert_eq!(submit(&mut wire, "x", 1).await, "421 4.3.2 Closing.");
    wire.expect_end().await;
}

#[tokio::test]
async fn late_answers_and_none() {
    let emulator = start(Options::default()).await;
    let control = emulator.control();
    let delay = Duration::from_millis(300);
    for stage in [SmtpStage::Auth, SmtpStage::EndOfData] {
        control.fail_smtp(stage, SmtpFault::Delay(delay), None);
    }
    let mut wire = connect(&emulator).await;
    let begun = Instant::now();
    let answer = authenticate(&emulator, &mut wire, None).await;
    assert!(answer.starts_with("235 ") && begun.elapsed() >= delay, "{answer}");
    control.fail_smtp(SmtpStage::EndOfData, SmtpFault::Closed, Some(1));
    let begun = Instant::now();
    wire.send(format!("MAIL FROM:<{JANE}>\r\nRCPT TO:<{SUPPORT}>\r\nBDAT 5 LAST\r\ntaken")).await;
    for _ in 0..2 {
        wire.expect("250 ").await;
    }
    wire.expect_end().await;
    assert!(begun.elapsed() >= delay);
    assert_eq!(control.messages(SUPPORT, "INBOX").last().unwrap(), b"taken");

    control.clear_faults();
    control.fail_smtp(SmtpStage::EndOfData, SmtpFault::Lost, Some(1));
    let mut wire = log_in(&emulator).await;
    wire.send(format!("MAIL FROM:<{JANE}>\r\nRCPT TO:<{SUPPORT}>\r\nBDAT 4 LAST\r\nlost")).await;
    for _ in 0..2 {
        wire.expect("250 ").await;
    }
    wire.expect_end().await;
    assert_eq!(control.sent().len(), 1);
    must_submit(&mut log_in(&emulator).await, "after").await;
}

#[tokio::test]
async fn faults_over_http() {
    let emulator = start(Options::default()).await;
    for (form, status) in [
        ("at=data&reply=451+4.7.500+Server+busy.&count=1", 204),
        ("at=auth&delay_ms=1", 204),
        ("at=rcpt&address=a@b&closed=1", 204),
        ("at=mail&reply=550+5.1.8+Bad+sender", 204),
        ("off=1", 204),
        ("at=data&reply=451+4.7.500+Server+busy.&count=1", 204),
        ("at=nowhere&lost=1", 400),
        ("at=data", 400),
    ] {
        assert_eq!(post(&emulator, "smtp-fault", form).await, status, "{form}");
    }
    let mut wire = log_in(&emulator).await;
    assert_eq!(submit(&mut wire, "x", 1).await, "451 4.7.500 Server busy.");
    must_submit(&mut wire, "x").await;
    for (form, open) in [("", false), ("off=1", true)] {
        assert_eq!(post(&emulator, "mail-outage", form).await, 204);
        let mut wire = Wire::connect(emulator.smtp(Tls::StartTls)).await;
        assert_eq!(wire.try_line(LIMIT).await.is_some(), open);
    }
}

/// The status of a request to the emulator's control.
async fn post(emulator: &Emulator, action: &str, form: &str) -> u16 {
    let url = emulator.control_url();
    let host = url.trim_start_matches("http://").trim_end_matches("/emulator");
    let mut wire = Wire::connect(host.parse().unwrap()).await;
    let length = form.len();
    let head = format!("POST /emulator/{action} HTTP/1.1\r\nHost: x\r\nContent-Length: {length}");
    wire.send(format!("{head}\r\n\r\n{form}")).await;
    let line = wire.expect("HTTP/1.1 ").await;
    line[9..12].parse().unwrap()
}
