//! The attacks of "Why TLS Is Better Without STARTTLS" (Poddebniak and others, USENIX Security 2021) through real sockets,
//! towards both sides. What `tests/sessions/guard.rs`, `tests/sessions/upstream.rs` and `tests/sessions/dial.rs` hold is not repeated here: the
//! commands in one segment with STARTTLS, the refused or missing STARTTLS, the wrong certificates.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::support::{
    Authority, Cells, Fake, House, Leaf, MAILBOX, Settings, Wire, admit_greeted, is_temporary,
    is_welcome, login_command, start_tls_command,
};
use gatepost::vocabulary::{Protocol, TlsMode};
use tokio_rustls::TlsAcceptor;

/// What stands in every XOAUTH2 message, in base64: `user=`.
const TOKEN: &str = "dXNlcj";

/// How an attacker's commands come between STARTTLS and the TLS of the client.
#[derive(Clone, Copy, Debug)]
enum Injection {
    /// In one segment with STARTTLS.
    WithStartTls,
    /// In a segment of their own, when STARTTLS is answered.
    BehindTheAnswer,
    /// In one segment with the ClientHello.
    WithTheHello,
}

const INJECTIONS: [Injection; 3] =
    [Injection::WithStartTls, Injection::BehindTheAnswer, Injection::WithTheHello];

/// B_C of the paper: commands in plain text that would be read behind TLS, in the name of the client.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_command_gets_from_plain_text_into_tls() {
    let mut cells = Cells::default();
    for (protocol, smtp_listener) in [
        (Protocol::Imap, ""),
        (Protocol::Pop3, ""),
        (Protocol::Smtp, ""),
        (Protocol::Smtp, "delivery = \"spool\""),
    ] {
        let house = House::start(Settings { smtp_listener, ..Settings::default() }).await;
        // SMTP's keywords are asked for once.
        house.log_in(protocol).await;
        let house = Arc::new(house);
        for injection in INJECTIONS {
            let house = Arc::clone(&house);
            let case = async move { inject(&house, protocol, injection).await };
            cells.run(format!("{protocol} {smtp_listener} {injection:?}"), case).await;
        }
    }
    cells.finish(4 * 3);
}

async fn inject(house: &House, protocol: Protocol, injection: Injection) {
    let before = house.control().connections();
    let injected = login_command(protocol, MAILBOX, &house.password);
    let mut client = Wire::connect(house.address(protocol, TlsMode::StartTls)).await;
    client.answer(protocol).await;
    let (start_tls, accepted) = start_tls_command(protocol);
    if let Injection::WithStartTls = injection {
        client.send(start_tls.to_owned() + &injected).await;
        let said = String::from_utf8_lossy(&client.rest().await).into_owned();
        assert!(said.contains("plain text behind") && !said.contains(accepted), "{said}");
    } else {
        client.send(start_tls).await;
        client.expect(accepted).await;
        let mut head = injected.as_bytes();
        if let Injection::BehindTheAnswer = injection {
            client.send(head).await;
            head = b"";
        }
        let tls = client.start_tls_behind(head, house.trust()).await;
        assert!(tls.is_err(), "TLS begins with plain text in front of it");
    }
    assert_eq!(house.control().connections(), before, "nothing goes upstream");
    let mut honest = house.open(protocol, TlsMode::StartTls).await;
    let answer = house.try_log_in(&mut honest, protocol).await;
    assert!(is_welcome(protocol, &answer), "without an attacker: {answer}");
}

/// What an attacker says in the upstream's place, in plain text: the first by itself, each other one as the answer to a
/// line. What must not be believed or repeated has the word `evil` in it.
type Script = &'static [&'static str];

/// N, T and U of the paper, with the words by which Exchange tells of tokens, mailboxes and waiting times.
const LIES: &[(Protocol, &str, Script)] = &[
    (Protocol::Imap, "PREAUTH", &["* PREAUTH [CAPABILITY IMAP4rev1 evil] evil\r\n"]),
    (Protocol::Imap, "alert", &["* NO [ALERT] your account is closed, visit evil.example\r\n"]),
    (Protocol::Imap, "goodbye", &["* BYE [ALERT] visit evil.example\r\n"]),
    (Protocol::Imap, "expired", &["* BYE Session invalidated - AccessTokenExpired evil\r\n"]),
    (
        Protocol::Imap,
        "wait",
        &[
            "* OK hi\r\n",
            "* BYE Request is throttled. Suggested Backoff Time: 86400000 milliseconds evil\r\n",
        ],
    ),
    (
        Protocol::Imap,
        "referral",
        &["* OK hi\r\n", "g1 NO [REFERRAL imap://jane@evil.example/] evil\r\n"],
    ),
    (
        Protocol::Imap,
        "mailbox",
        &["* OK hi\r\n", "g1 BAD User is authenticated but not connected. evil\r\n"],
    ),
    (Protocol::Imap, "no line of IMAP", &["* OK hi\r\n", "visit evil.example\r\n"]),
    (Protocol::Pop3, "expired", &["-ERR [SYS/PERM] AccessTokenExpired evil\r\n"]),
    (Protocol::Pop3, "wrong password", &["+OK hi\r\n", "-ERR [AUTH] visit evil.example\r\n"]),
    (Protocol::Pop3, "no line of POP3", &["visit evil.example\r\n"]),
    (Protocol::Smtp, "expired", &["421 4.7.0 AccessTokenExpired evil\r\n"]),
    (
        Protocol::Smtp,
        "switched off",
        &["220 hi\r\n", "450 5.7.139 SmtpClientAuthentication is disabled evil\r\n"],
    ),
    (
        Protocol::Smtp,
        "wait",
        &[
            "220 hi\r\n",
            "250-evil\r\n250 STARTTLS\r\n",
            "454 4.3.2 throttled. Suggested Backoff Time: 86400000 milliseconds evil\r\n",
        ],
    ),
    (
        Protocol::Smtp,
        "a reply of many lines",
        &["421-your account is closed,\r\n421-visit\r\n421 evil.example\r\n"],
    ),
    (Protocol::Smtp, "no line of SMTP", &["visit evil.example\r\n"]),
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_said_before_tls_is_neither_believed_nor_repeated() {
    let authority = Arc::new(Authority::new());
    let mut cells = Cells::default();
    for (protocol, name, script) in LIES {
        let authority = Arc::clone(&authority);
        let case = async move {
            let present = Arc::new(AtomicBool::new(true));
            let fake = attacked(*protocol, script, &present, authority.acceptor(Leaf::Good)).await;
            let house = House::with(&[(*protocol, &fake)], TlsMode::StartTls, &authority).await;
            let mut client = house.open(*protocol, TlsMode::None).await;
            let answer = house.try_log_in(&mut client, *protocol).await;
            assert!(is_temporary(*protocol, &answer), "{answer}");
            assert!(!answer.contains("evil") && !answer.contains("milliseconds"), "{answer}");
            assert!(!fake.heard().contains(TOKEN), "a token was shown");
            // Nothing of it is left when the attacker has gone.
            present.store(false, Ordering::Relaxed);
            let answer = house.try_log_in(&mut client, *protocol).await;
            assert!(is_welcome(*protocol, &answer), "the next login: {answer}");
            assert_eq!(house.control().token_requests(), 1, "a token was renewed for a lie");
        };
        cells.run(format!("{protocol} {name}"), case).await;
    }
    cells.finish(16);
}

/// A server with STARTTLS by the book; while the attacker is present, it is the one that answers.
async fn attacked(
    protocol: Protocol,
    script: Script,
    present: &Arc<AtomicBool>,
    acceptor: TlsAcceptor,
) -> Fake {
    let present = Arc::clone(present);
    Fake::start(move |mut wire: Wire| {
        let (acceptor, present) = (acceptor.clone(), present.load(Ordering::Relaxed));
        async move {
            if !present {
                offer_tls(wire, protocol, &Forged::default(), acceptor).await;
                return;
            }
            for (turn, words) in script.iter().enumerate() {
                if turn > 0 {
                    wire.line().await;
                }
                wire.send(words).await;
            }
            // All that may still come is heard.
            wire.rest().await;
        }
    })
    .await
}

/// What an attacker adds to the plain text of a server whose TLS it leaves alone.
#[derive(Clone, Copy, Debug, Default)]
struct Forged {
    /// Behind the greeting, and in the answer to EHLO.
    greeting: &'static str,
    /// Before the answer to STARTTLS.
    before: &'static str,
    /// Behind it, in a segment of its own.
    behind: &'static str,
}

async fn offer_tls(mut wire: Wire, protocol: Protocol, forged: &Forged, acceptor: TlsAcceptor) {
    let (greeting, accepted) = match protocol {
        Protocol::Imap => ("* OK hi\r\n", "g1 OK go\r\n"),
        Protocol::Pop3 => ("+OK hi\r\n", "+OK go\r\n"),
        Protocol::Smtp => ("220 hi\r\n", "220 go\r\n"),
    };
    if protocol == Protocol::Smtp {
        wire.send(greeting).await;
        wire.line().await;
        wire.send(format!("250-fake\r\n{}250 STARTTLS\r\n", forged.greeting)).await;
    } else {
        wire.send(format!("{greeting}{}", forged.greeting)).await;
    }
    wire.line().await;
    wire.send(format!("{}{accepted}", forged.before)).await;
    if !forged.behind.is_empty() {
        wire.send(forged.behind).await;
    }
    if let Ok(wire) = wire.accept_tls(&acceptor).await
        && let Some(mut wire) = admit_greeted(wire, protocol, "").await
    {
        wire.rest().await;
    }
}

/// T of the paper: a server's mailbox and abilities, told by somebody else before TLS.
const MAILBOX_LIES: Forged = Forged {
    greeting: "* CAPABILITY IMAP4rev1 EVIL\r\n* 666 EXISTS\r\n* LIST (\\NoSelect) \"/\" EVIL\r\n",
    before: "* STATUS EVIL (MESSAGES 666)\r\n* FLAGS (EVIL)\r\n* OK [ALERT] EVIL\r\n",
    behind: "",
};

/// The client gets in, and sees nothing of what was added.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_sees_nothing_that_came_before_tls() {
    let abilities = Forged { greeting: "250-SIZE 666\r\n250-EVIL\r\n", ..Forged::default() };
    for (protocol, forged) in [(Protocol::Imap, MAILBOX_LIES), (Protocol::Smtp, abilities)] {
        let authority = Authority::new();
        let acceptor = authority.acceptor(Leaf::Good);
        let talk = move |wire| {
            let acceptor = acceptor.clone();
            async move { offer_tls(wire, protocol, &forged, acceptor).await }
        };
        let fake = Fake::start(talk).await;
        let house = House::with(&[(protocol, &fake)], TlsMode::StartTls, &authority).await;
        let mut client = house.open(protocol, TlsMode::None).await;
        client.send(login_command(protocol, MAILBOX, &house.password)).await;
        let seen = match protocol {
            Protocol::Imap => client.until("1 ").await,
            _ => [client.until("250 ").await, client.until("235 ").await].concat(),
        };
        assert!(seen.iter().any(|line| line.starts_with("1 OK") || line.starts_with("235 ")));
        client.half_close().await;
        let seen = seen.join("\n") + &String::from_utf8_lossy(&client.rest().await);
        assert!(!seen.contains("EVIL") && !seen.contains("666"), "{protocol}: {seen}");
    }
}

/// B_R of the paper, when the answers come too late to be seen behind that to STARTTLS: TLS finds them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_that_come_between_starttls_and_tls_end_the_connection() {
    for (protocol, behind) in [
        (Protocol::Imap, "g2 OK in\r\n"),
        (Protocol::Pop3, "+ \r\n+OK in\r\n"),
        (Protocol::Smtp, "250 evil\r\n334 \r\n235 in\r\n"),
    ] {
        let authority = Authority::new();
        let acceptor = authority.acceptor(Leaf::Good);
        let forged = Forged { behind, ..Forged::default() };
        let talk = move |wire| {
            let acceptor = acceptor.clone();
            async move { offer_tls(wire, protocol, &forged, acceptor).await }
        };
        let fake = Fake::start(talk).await;
        let house = House::with(&[(protocol, &fake)], TlsMode::StartTls, &authority).await;
        let mut client = house.open(protocol, TlsMode::None).await;
        let answer = house.try_log_in(&mut client, protocol).await;
        assert!(is_temporary(protocol, &answer), "{protocol}: {answer}");
        // Whichever segment was read first.
        let told = ["plain text behind", "no TLS with"].iter().any(|why| answer.contains(why));
        assert!(told && !answer.contains("evil"), "{protocol}: {answer}");
        assert!(!fake.heard().contains(TOKEN), "{protocol}: a token was shown");
    }
}
