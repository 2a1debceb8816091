//! The direct side of SMTP through real sockets: sessions that wait for their turn, the upstream's limits that are
//! never hit, and devices that can't log in.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::support::{House, LIMIT, MAILBOX, Settings, Wire, login_command, within};
use gatepost::emulator::{LoginFault, Options, SmtpFault, SmtpStage};
use gatepost::vocabulary::{Protocol, TlsMode};
use tokio::task::JoinSet;
use tokio::time::sleep;

use Protocol::{Imap, Pop3, Smtp};

/// An account with these keys.
async fn house(account: &'static str) -> House {
    House::start(Settings { account, ..Settings::default() }).await
}

/// A client that has sent its login, of which the answer is not read yet.
async fn begin(house: &House, protocol: Protocol) -> Wire {
    let mut client = house.open(protocol, TlsMode::None).await;
    client.send(login_command(protocol, MAILBOX, &house.password)).await;
    if protocol != Imap {
        client.answer(protocol).await;
    }
    client
}

/// A device's connection, behind its greeting.
async fn device(house: &House) -> Wire {
    let mut client = house.open(Smtp, TlsMode::None).await;
    client.send("HELO scanner\r\n").await;
    client.expect("250 ").await;
    client
}

/// What each of the commands is answered.
async fn expect_all(client: &mut Wire, commands: &[(&str, &str)]) {
    for (command, answer) in commands {
        client.send(format!("{command}\r\n")).await;
        let line = client.answer(Smtp).await;
        assert!(line.starts_with(answer), "{command:?}: {line}");
    }
}

/// A message of a client that is logged in.
async fn send_message(client: &mut Wire, text: &str) {
    let (from, to) = (format!("MAIL FROM:<{MAILBOX}>"), "RCPT TO:<x@fabrikam.example>");
    let content = format!("Subject: {text}\r\n\r\n{text}\r\n.");
    expect_all(client, &[(&from, "250 "), (to, "250 "), ("DATA", "354 "), (&content, "250 2.0.0")])
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn forty_clients_never_hit_the_limit_of_connections() {
    let emulated = Options { smtp_messages_per_minute: 0, ..Options::default() };
    let account = "limits = { messages_per_minute = 0, wait = \"60s\" }";
    let house = House::start(Settings { emulated, account, ..Settings::default() }).await;
    let house = Arc::new(house);
    let mut clients = JoinSet::new();
    for number in 0..40 {
        let house = Arc::clone(&house);
        clients.spawn(async move {
            let mut client = begin(&house, Smtp).await;
            let answer = client.answer_within(Smtp, 6 * LIMIT).await;
            assert!(answer.starts_with("235 "), "{number}: {answer}");
            for message in 0..3 {
                send_message(&mut client, &format!("message {message} of {number}")).await;
            }
            // Each fourth leaves without a word, each other one in the midst of a message.
            match number % 4 {
                0 => {}
                1 => {
                    client
                        .send(format!("MAIL FROM:<{MAILBOX}>\r\nRCPT TO:<a@b>\r\nDATA\r\nx"))
                        .await
                }
                _ => expect_all(&mut client, &[("QUIT", "221 ")]).await,
            }
        });
    }
    clients.join_all().await;
    let control = house.control();
    assert_eq!((control.limits_hit(), control.sent().len()), (0, 120));
    assert_eq!(control.most_smtp_sessions(MAILBOX), 3, "neither more nor less");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_turn_that_does_not_come_is_a_421() {
    let house = house("limits = { connections = 1, wait = \"1s\" }").await;
    let mut first = house.log_in(Smtp).await;
    let (logins, start) = (house.control().logins(), Instant::now());
    let mut second = begin(&house, Smtp).await;
    let answer = second.answer(Smtp).await;
    assert!(answer.starts_with("421 4.3.2 no turn"), "{answer}");
    assert!(answer.contains("the one connection of jane@"), "{answer}");
    assert!(start.elapsed() >= Duration::from_secs(1));
    second.expect_end().await;
    assert_eq!(house.control().logins(), logins, "nothing went upstream");
    // Other protocols have no such limit.
    house.log_in(Imap).await;
    send_message(&mut first, "still here").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_waits_may_leave_and_may_send_ahead() {
    let house = house("limits = { connections = 1 }").await;
    let mut first = house.log_in(Smtp).await;
    let logins = house.control().logins();
    let gone = begin(&house, Smtp).await;
    sleep(Duration::from_millis(200)).await;
    let mut patient = begin(&house, Smtp).await;
    patient.send(format!("MAIL FROM:<{MAILBOX}>\r\nRCPT TO:<a@b.ex")).await;
    sleep(Duration::from_millis(200)).await;
    patient.send("ample>\r\nNOOP\r\n").await;
    drop(gone);
    sleep(Duration::from_millis(200)).await;
    expect_all(&mut first, &[("QUIT", "221 ")]).await;
    // The client has not closed yet, but the upstream has.
    for answer in ["235 ", "250 2.1.0", "250 2.1.5", "250 2.0.0"] {
        patient.expect(answer).await;
    }
    assert_eq!(house.control().logins() - logins, 1, "who was gone did not log in");
    assert_eq!(house.control().most_smtp_sessions(MAILBOX), 1);
    first.expect_end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_ends_the_wait() {
    let house = house("limits = { connections = 1 }").await;
    let first = house.log_in(Smtp).await;
    let mut second = begin(&house, Smtp).await;
    sleep(Duration::from_millis(200)).await;
    drop(first);
    let stopped = tokio::spawn(house.stop());
    let answer = second.answer(Smtp).await;
    // It may have had its turn just before.
    assert!(
        answer.starts_with("454 4.3.2 gatepost is being") || answer.starts_with("235"),
        "{answer}"
    );
    drop(second);
    within(2 * LIMIT, "stop", stopped).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_upstream_says_of_too_much_holds_the_next_ones_back() {
    let house = house("").await;
    let busy =
        SmtpFault::Reply("432 4.3.2 STOREDRV.ClientSubmit; sender thread limit exceeded".into());
    house.control().fail_smtp(SmtpStage::EndOfData, busy, Some(1));
    let mut client = house.log_in(Smtp).await;
    let (from, to) = (format!("MAIL FROM:<{MAILBOX}>"), "RCPT TO:<x@fabrikam.example>");
    let commands =
        [(&from[..], "250 "), (to, "250 "), ("DATA", "354 "), ("x\r\n.", "432 4.3.2 STORE")];
    expect_all(&mut client, &commands).await;
    let start = Instant::now();
    // Neither a new session nor a new message of an old one; IMAP is another matter.
    house.log_in(Imap).await;
    assert!(start.elapsed() < Duration::from_millis(2500), "a slow machine: {:?}", start.elapsed());
    client.send(format!("{from}\r\n")).await;
    house.log_in(Smtp).await;
    assert!(start.elapsed() > Duration::from_millis(2500), "{:?}", start.elapsed());
    client.expect("250 ").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn imap_is_left_alone_for_as_long_as_it_asks() {
    let house = house("").await;
    for (milliseconds, protocol) in [(2000, Imap), (2000, Pop3), (60_000, Imap)] {
        house.control().fail_logins(1, LoginFault::Throttled { milliseconds });
        let mut client = house.open(protocol, TlsMode::None).await;
        let start = Instant::now();
        let answer = house.try_log_in(&mut client, protocol).await;
        assert!(crate::support::is_temporary(protocol, &answer), "{answer}");
        let logins = house.control().connections();
        let answer = house.try_log_in(&mut client, protocol).await;
        if milliseconds == 2000 {
            assert!(crate::support::is_welcome(protocol, &answer), "{answer}");
            assert!(start.elapsed() > Duration::from_millis(1900), "{:?}", start.elapsed());
            continue;
        }
        assert!(answer.starts_with("1 NO [LIMIT]") && answer.contains("seconds"), "{answer}");
        assert_eq!(house.control().connections(), logins, "nothing went upstream");
        house.log_in(Pop3).await;
        house.log_in(Smtp).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_account_of_graphs_alone_is_told_what_to_set() {
    let provider = "graph = \"https://localhost:1\"\ngraph_app_scopes = [\"x\"]";
    let account = "via = [\"graph\"]";
    let house = House::start(Settings { account, provider, ..Settings::default() }).await;
    let mut client = house.open(Smtp, TlsMode::None).await;
    let answer = house.try_log_in(&mut client, Smtp).await;
    assert!(answer.starts_with("550 5.7.1") && answer.contains("delivery = \"spool\""), "{answer}");
    house.log_in(Imap).await;
}

const SCANNER: &str = "limits = { connections = 1, wait = \"1s\" }\n\
    [[device]]\nname = \"scanner 3\"\nnetworks = [\"127.0.0.1\"]\nmailbox = \"jane@contoso.example\"\n\
    recipients = [\"fabrikam.example\", \"joe@contoso.example\"]\nsize = \"1000 B\"\nrate = 4";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_device_sends_without_a_login() {
    let house = house(SCANNER).await;
    let from = format!("MAIL FROM:<{MAILBOX}>");
    let mut scanner = device(&house).await;
    expect_all(
        &mut scanner,
        &[
            (&from, "250 2.1.0"),
            ("AUTH PLAIN x", "503 5.5.1"),
            ("RCPT TO:<x@fabrikam.example>", "250 2.1.5"),
            ("RCPT TO:<x@evil.example>", "550 5.7.1"),
            ("RCPT TO:<joe@contoso.example>", "250 2.1.5"),
            ("DATA", "354 "),
            ("Subject: scan\r\n\r\n..\r\n.", "250 2.0.0"),
            ("MAIL FROM:<jane@contoso.example> SIZE=1001", "552 5.3.4"),
            (&from, "250 2.1.0"),
            ("RSET", "250 "),
        ],
    )
    .await;
    let sent = house.control().sent();
    assert_eq!((sent.len(), sent[0].mailbox.as_str()), (1, MAILBOX));
    assert_eq!(sent[0].recipients, ["x@fabrikam.example", "joe@contoso.example"]);
    assert_eq!(&*sent[0].data, b"Subject: scan\r\n\r\n.\r\n");
    // Its mailbox has one connection, and it is in use.
    let mut other = device(&house).await;
    other.send(format!("{from}\r\nRCPT TO:<x@fabrikam.example>\r\nDATA\r\n")).await;
    other.expect("421 4.3.2 no turn").await;
    other.expect_end().await;
    // A message that is too large, or could be two, is void.
    let rcpt = ("RCPT TO:<x@fabrikam.example>", "250 ");
    let mut large = String::new();
    large += &format!("{}\r\n", "x".repeat(70)).repeat(20);
    expect_all(&mut scanner, &[(&from, "250 "), rcpt, ("DATA", "354 ")]).await;
    scanner.send(format!("{large}.\r\nQUIT\r\n")).await;
    scanner.expect("552 5.3.4").await;
    scanner.expect_end().await;
    let mut scanner = device(&house).await;
    expect_all(&mut scanner, &[(&from, "250 "), rcpt, ("DATA", "354 ")]).await;
    scanner.send("a\n.\r\nMAIL FROM:<b>\r\n.\r\n").await;
    scanner.expect("550 5.6.11").await;
    scanner.expect_end().await;
    // Its messages of this minute are used up; another one's are not.
    let mut scanner = device(&house).await;
    scanner.send(format!("{from}\r\nNOOP\r\n")).await;
    scanner.expect("450 4.7.1").await;
    scanner.expect("250 ").await;
    expect_all(&mut scanner, &[("QUIT", "221 ")]).await;
    send_message(&mut house.log_in(Smtp).await, "with a login from there too").await;
    assert_eq!((house.control().sent().len(), house.control().limits_hit()), (2, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_device_is_told_why_it_can_not_send_now() {
    let house = house(SCANNER).await;
    house.log_in(Smtp).await;
    house.control().set_mail_outage(true);
    let mut scanner = device(&house).await;
    scanner.send(format!("MAIL FROM:<{MAILBOX}>\r\n")).await;
    let answer = scanner.line().await;
    assert!(answer.starts_with("451 4.3.0 mail can't be had"), "{answer}");
    scanner.expect_end().await;
    house.control().clear_faults();
    house.control().fail_logins(1, LoginFault::SmtpAuthDisabled);
    let mut scanner = device(&house).await;
    scanner.send(format!("MAIL FROM:<{MAILBOX}>\r\n")).await;
    let answer = scanner.line().await;
    assert!(answer.starts_with("550 5.7.1 the mail server refuses this mailbox: 535"), "{answer}");
    scanner.expect_end().await;
}

/// Never an open relay.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_an_entry_nobody_sends_without_a_login() {
    let house = house(
        "[[device]]\nname = \"else\"\nnetworks = [\"192.0.2.1\"]\nmailbox = \"jane@contoso.example\"",
    );
    let house = house.await;
    let mut stranger = device(&house).await;
    expect_all(&mut stranger, &[("MAIL FROM:<a@b>", "530 5.7.0"), ("QUIT", "221 ")]).await;
    assert!(house.control().sent().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn large_messages_pass_unchanged() {
    let house = house("").await;
    let mut client = house.log_in(Smtp).await;
    let mut random = fastrand::Rng::with_seed(3);
    // All octets but CR, LF and the dot, in lines of odd lengths.
    let octet = |random: &mut fastrand::Rng| match random.u8(..) {
        b'\r' | b'\n' | b'.' => b'x',
        octet => octet,
    };
    let mut message = b"Subject: large\r\n\r\n".to_vec();
    while message.len() < 20_000_000 {
        let length = random.usize(0..3000);
        message.extend((0..length).map(|_| octet(&mut random)));
        message.extend(b"\r\n");
    }
    expect_all(&mut client, &[(&format!("MAIL FROM:<{MAILBOX}>"), "250 ")]).await;
    expect_all(&mut client, &[(&format!("RCPT TO:<{MAILBOX}>"), "250 "), ("DATA", "354 ")]).await;
    client.try_send_slowly(&message).await.unwrap();
    client.send(".\r\n").await;
    client.expect("250 2.0.0").await;
    assert!(*house.control().sent()[0].data == *message, "arrived changed");
    // In one group, the message as a chunk.
    let small = message.get(..100_000).unwrap();
    let group =
        format!("MAIL FROM:<{MAILBOX}>\r\nRCPT TO:<{MAILBOX}>\r\nBDAT {} LAST\r\n", small.len());
    client.send([group.as_bytes(), small, b"QUIT\r\n"].concat()).await;
    for answer in ["250 ", "250 ", "250 2.0.0", "221 "] {
        client.expect(answer).await;
    }
    assert!(*house.control().sent()[1].data == *small, "arrived changed");
}
