//! An upstream that is wrong, broken, busy or in doubt: what the client is told, what the upstream gets to
//! see, and that the next login works.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::support::{
    Authority, Cells, Fake, House, LIMIT, Leaf, MAILBOX, Settings, UPSTREAM_TLS, Wire, admit,
    admit_greeted, is_temporary, is_welcome, is_wrong_password, start_tls_command,
};
use gatepost::emulator::LoginFault;
use gatepost::vocabulary::{Protocol, TlsMode};
use tokio::time::sleep;
use tokio_rustls::TlsAcceptor;

/// What stands in every XOAUTH2 message, in base64: `user=`.
const TOKEN: &str = "dXNlcj";

/// A server of `protocol` that starts TLS by the book, whatever the client then thinks of it, and lets
/// anybody in.
async fn server(protocol: Protocol, tls: TlsMode, acceptor: TlsAcceptor) -> Fake {
    let talk = move |wire: Wire| {
        let acceptor = acceptor.clone();
        async move {
            match tls {
                TlsMode::StartTls => start_tls_and_admit(wire, protocol, "", &acceptor).await,
                // A client that does not like the certificate has left.
                _ => {
                    if let Ok(wire) = wire.accept_tls(&acceptor).await {
                        admit(wire, protocol, "").await;
                    }
                }
            }
        }
    };
    Fake::start(talk).await
}

async fn start_tls_and_admit(wire: Wire, protocol: Protocol, injected: &str, tls: &TlsAcceptor) {
    let wire = invite(wire, protocol, injected).await;
    if let Ok(wire) = wire.accept_tls(tls).await {
        admit_greeted(wire, protocol, "").await;
    }
}

/// From the greeting to the answer to STARTTLS, with `behind_it` in the same write.
async fn invite(mut wire: Wire, protocol: Protocol, behind_it: &str) -> Wire {
    let (greeting, asked) = match protocol {
        Protocol::Imap => ("* OK ready\r\n", "g1 STARTTLS"),
        Protocol::Pop3 => ("+OK ready\r\n", "STLS"),
        Protocol::Smtp => ("220 ready\r\n", "STARTTLS"),
    };
    wire.send(greeting).await;
    if protocol == Protocol::Smtp {
        wire.expect("EHLO").await;
        wire.send("250-fake\r\n250 STARTTLS\r\n").await;
    }
    wire.expect(asked).await;
    let accepted = start_tls_command(protocol).1.replace('0', "g1");
    let accepted = if protocol == Protocol::Smtp { "220 go".into() } else { accepted };
    wire.send(format!("{accepted} ahead\r\n{behind_it}")).await;
    wire
}

/// That the login is refused for now, in the protocol's own terms, and that no token was shown.
async fn refused_for_now(house: &House, protocol: Protocol, why: &str) {
    let mut client = house.open(protocol, TlsMode::None).await;
    let answer = house.try_log_in(&mut client, protocol).await;
    assert!(is_temporary(protocol, &answer), "{answer}");
    assert!(!is_wrong_password(protocol, &answer), "{answer}");
    assert!(answer.contains(why), "{why:?} is not told: {answer}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_that_is_wrong_gets_no_token() {
    let (known, unknown) = (Authority::new(), Authority::new());
    let cases = [
        ("good", known.acceptor(Leaf::Good)),
        ("wrong name", known.acceptor(Leaf::OtherName)),
        ("expired", known.acceptor(Leaf::Expired)),
        ("unknown CA", unknown.acceptor(Leaf::Good)),
    ];
    let mut cells = Cells::default();
    for (fault, acceptor) in cases {
        for tls in UPSTREAM_TLS {
            let mut fakes = Vec::new();
            for protocol in Protocol::ALL {
                fakes.push((protocol, server(protocol, tls, acceptor.clone()).await));
            }
            let of_all: Vec<_> = fakes.iter().map(|(protocol, fake)| (*protocol, fake)).collect();
            let house = Arc::new(House::with(&of_all, tls, &known).await);
            for (protocol, fake) in fakes {
                let house = Arc::clone(&house);
                let case = async move {
                    if fault == "good" {
                        house.log_in(protocol).await;
                        assert!(fake.heard().contains(TOKEN), "a token would be noticed");
                        return;
                    }
                    refused_for_now(&house, protocol, "no TLS with 127.0.0.1").await;
                    assert!(fake.accepted() > 0 && !fake.heard().contains(TOKEN));
                };
                cells.run(format!("{protocol} {fault}, upstream TLS {tls}"), case).await;
            }
        }
    }
    cells.finish(4 * 2 * 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn plain_text_behind_the_upstreams_starttls_answer_is_not_believed() {
    let authority = Authority::new();
    for (protocol, injected) in [
        (Protocol::Imap, "* CAPABILITY IMAP4rev1 EVIL\r\n"),
        (Protocol::Pop3, "+OK EVIL\r\n"),
        (Protocol::Smtp, "250 EVIL\r\n"),
    ] {
        let acceptor = authority.acceptor(Leaf::Good);
        let talk = move |wire: Wire| {
            let acceptor = acceptor.clone();
            async move { start_tls_and_admit(wire, protocol, injected, &acceptor).await }
        };
        let fake = Fake::start(talk).await;
        let house = House::with(&[(protocol, &fake)], TlsMode::StartTls, &authority).await;
        refused_for_now(&house, protocol, "plain text behind").await;
        assert!(!fake.heard().contains(TOKEN), "{protocol}");
    }
}

/// A way for an upstream to be out of order.
#[derive(Clone, Copy)]
enum Fault {
    /// It says this, then closes.
    Says(&'static str),
    /// It says this over and over.
    Floods(&'static str),
}

/// What is wrong, and what the client's user is told of it. The fault is the first thing that the server
/// says, behind TLS.
const BROKEN: &[(Protocol, &str, Fault, &str)] = &[
    (Protocol::Imap, "closes", Fault::Says(""), "has closed"),
    (Protocol::Imap, "closes behind its greeting", Fault::Says("* OK hi\r\n"), "127.0.0.1"),
    (Protocol::Imap, "BYE", Fault::Says("* BYE full\r\n"), "full"),
    (Protocol::Imap, "PREAUTH", Fault::Says("* PREAUTH come in\r\n"), "PREAUTH"),
    (Protocol::Imap, "another protocol", Fault::Says("220 hi\r\n"), "220 hi"),
    (Protocol::Imap, "binary", Fault::Says("\x16\x03\x01\0\x1b[2J\r\n"), "not an IMAP greeting"),
    (Protocol::Imap, "endless line", Fault::Floods("xxxxxxxx"), "endless line"),
    (Protocol::Imap, "endless lines", Fault::Floods("* OK hi\r\n"), "too many lines"),
    (Protocol::Pop3, "closes", Fault::Says(""), "has closed"),
    (Protocol::Pop3, "refuses", Fault::Says("-ERR full\r\n"), "full"),
    (Protocol::Pop3, "another protocol", Fault::Says("* OK hi\r\n"), "* OK hi"),
    (
        Protocol::Pop3,
        "lets in without a token",
        Fault::Says("+OK\r\n+OK in\r\n"),
        "without a token",
    ),
    (Protocol::Pop3, "endless line", Fault::Floods("xxxxxxxx"), "endless line"),
    (Protocol::Pop3, "nonsense", Fault::Floods("+OK hi\r\nwhat?\r\n"), "what?"),
    (Protocol::Smtp, "closes", Fault::Says(""), "has closed"),
    (Protocol::Smtp, "refuses", Fault::Says("421 4.3.2 full\r\n"), "full"),
    (Protocol::Smtp, "no service", Fault::Says("554 5.3.2 none\r\n"), "554"),
    (Protocol::Smtp, "another protocol", Fault::Says("+OK hi\r\n"), "+OK hi"),
    (Protocol::Smtp, "endless line", Fault::Floods("xxxxxxxx"), "endless line"),
    (Protocol::Smtp, "endless reply", Fault::Floods("220-hi\r\n"), "too many lines"),
    (
        Protocol::Smtp,
        "lets in without a token",
        Fault::Says("220 hi\r\n250 hi\r\n235 in\r\n"),
        "235",
    ),
];

impl Fault {
    async fn show(self, mut wire: Wire) {
        match self {
            Self::Says(words) => {
                wire.send(words).await;
                wire.half_close().await;
                // A reset would take the words away that the client has not read yet.
                sleep(Duration::from_secs(1)).await;
            }
            Self::Floods(words) => {
                let words = words.repeat(100);
                while wire.try_send(&words).await.is_ok() {}
            }
        }
    }
}

/// A server with a fault, while `broken` says so.
async fn broken_server(
    protocol: Protocol,
    fault: Fault,
    broken: &Arc<AtomicBool>,
    acceptor: TlsAcceptor,
) -> Fake {
    let broken = Arc::clone(broken);
    let talk = move |wire: Wire| {
        let (acceptor, broken) = (acceptor.clone(), broken.load(Ordering::Relaxed));
        async move {
            let Ok(wire) = wire.accept_tls(&acceptor).await else { return };
            if broken {
                fault.show(wire).await;
            } else if let Some(mut wire) = admit(wire, protocol, "").await {
                wire.rest().await;
            }
        }
    };
    Fake::start(talk).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broken_upstream_is_one_temporary_refusal_and_the_next_login_works() {
    let authority = Arc::new(Authority::new());
    let mut cells = Cells::default();
    for (protocol, name, fault, told) in BROKEN {
        let authority = Arc::clone(&authority);
        let case = async move {
            let broken = Arc::new(AtomicBool::new(true));
            let acceptor = authority.acceptor(Leaf::Good);
            let fake = broken_server(*protocol, *fault, &broken, acceptor).await;
            let house = House::with(&[(*protocol, &fake)], TlsMode::Implicit, &authority).await;
            let mut client = house.open(*protocol, TlsMode::None).await;
            let answer = house.try_log_in(&mut client, *protocol).await;
            assert!(is_temporary(*protocol, &answer) && answer.contains(told), "{answer}");
            assert!(answer.bytes().all(|octet| (b' '..=b'~').contains(&octet)), "{answer:?}");
            // On the same connection: the refusal was one answer, and the session goes on.
            broken.store(false, Ordering::Relaxed);
            let answer = house.try_log_in(&mut client, *protocol).await;
            assert!(is_welcome(*protocol, &answer), "the next login: {answer}");
            assert_eq!(house.control().token_requests(), 1, "a token was renewed for this");
        };
        cells.run(format!("{protocol} {name}"), case).await;
    }
    cells.finish(21);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upstream_that_is_not_there() {
    let house = House::new().await;
    house.log_in(Protocol::Smtp).await;
    house.control().set_mail_outage(true);
    for protocol in Protocol::ALL {
        refused_for_now(&house, protocol, "127.0.0.1").await;
    }
    house.control().clear_faults();
    for protocol in Protocol::ALL {
        house.log_in(protocol).await;
    }
}

/// Ten seconds for the greeting, and for SMTP 5 more in which the keywords are asked. The other phases are in
/// `tests/sessions/dial.rs`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upstream_that_says_nothing_ends_at_the_deadline() {
    let authority = Authority::new();
    let silent = Fake::start(|wire| async move {
        sleep(Duration::from_secs(120)).await;
        drop(wire);
    });
    let silent = silent.await;
    let fakes = Protocol::ALL.map(|protocol| (protocol, &silent));
    let house = Arc::new(House::with(&fakes, TlsMode::StartTls, &authority).await);
    let mut clients = tokio::task::JoinSet::new();
    for protocol in Protocol::ALL {
        let house = Arc::clone(&house);
        clients.spawn(async move {
            let start = Instant::now();
            let mut client = house.open(protocol, TlsMode::None).await;
            let login = crate::support::login_command(protocol, MAILBOX, &house.password);
            client.send(login).await;
            if protocol != Protocol::Imap {
                client.answer(protocol).await;
            }
            let answer = client.answer_within(protocol, 4 * LIMIT).await;
            assert!(is_temporary(protocol, &answer), "{answer}");
            assert!(answer.contains("has sent no greeting within 10 s"), "{answer}");
            assert!(start.elapsed() < Duration::from_secs(20), "{protocol}: too late");
        });
    }
    while let Some(client) = clients.join_next().await {
        client.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stale_token_is_renewed_once_and_the_login_works() {
    for challenge in [false, true] {
        let house = House::new().await;
        house.control().set_challenge(challenge);
        house.log_in(Protocol::Smtp).await;
        for protocol in Protocol::ALL {
            house.control().revoke_access_tokens();
            let (tokens, connections) =
                (house.control().token_requests(), house.control().connections());
            house.log_in(protocol).await;
            assert_eq!(house.control().token_requests() - tokens, 1, "{protocol}: renewals");
            assert_eq!(house.control().connections() - connections, 2, "{protocol}: tries");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upstream_that_takes_no_token_is_not_a_wrong_password() {
    for protocol in Protocol::ALL {
        let house = House::new().await;
        house.log_in(Protocol::Smtp).await;
        house.control().fail_logins(1000, LoginFault::AuthFailed);
        let (tokens, connections) =
            (house.control().token_requests(), house.control().connections());
        for login in 1..=5 {
            let mut client = house.open(protocol, TlsMode::None).await;
            let answer = house.try_log_in(&mut client, protocol).await;
            assert!(!is_welcome(protocol, &answer), "{protocol}: {answer}");
            assert!(!is_wrong_password(protocol, &answer), "{protocol}: {answer}");
            assert!(answer.contains("the password is right"), "{protocol}: {answer}");
            let renewals = house.control().token_requests() - tokens;
            assert!(renewals <= login, "{protocol}: {renewals} renewals in {login} logins");
            let tries = house.control().connections() - connections;
            assert!(tries <= 2 * login, "{protocol}: {tries} tries in {login} logins");
        }
        assert!(house.control().token_requests() > tokens, "{protocol}: never renewed");
        house.control().clear_faults();
        house.log_in(protocol).await;
    }
}

const THROTTLED: LoginFault = LoginFault::Throttled { milliseconds: 1500 };

/// The fault, how the answer to the client begins, and what it tells.
const REFUSED: &[(Protocol, LoginFault, &str, &str)] = &[
    (Protocol::Imap, THROTTLED, "1 NO [LIMIT]", "1500 milliseconds"),
    (Protocol::Pop3, THROTTLED, "-ERR [SYS/TEMP]", "1500 milliseconds"),
    (Protocol::Smtp, THROTTLED, "454 4.3.2", "1500 milliseconds"),
    (Protocol::Smtp, LoginFault::ConnectionLimit, "454 4.3.2", "432 4.3.2"),
    (Protocol::Smtp, LoginFault::SmtpAuthDisabled, "550 5.7.1", "5.7.139"),
    (Protocol::Pop3, LoginFault::NotConnected, "-ERR [SYS/PERM]", "not connected"),
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_the_tokens_fault_renews_none() {
    let house = Arc::new(House::new().await);
    house.log_in(Protocol::Smtp).await;
    let mut cells = Cells::default();
    for (protocol, fault, start, told) in REFUSED {
        let house = Arc::clone(&house);
        let case = async move {
            let tokens = house.control().token_requests();
            house.control().fail_logins(1, *fault);
            let mut client = house.open(*protocol, TlsMode::None).await;
            let answer = house.try_log_in(&mut client, *protocol).await;
            assert!(answer.starts_with(start) && answer.contains(told), "{answer}");
            let answer = house.try_log_in(&mut client, *protocol).await;
            assert!(is_welcome(*protocol, &answer), "the next login: {answer}");
            assert_eq!(house.control().token_requests(), tokens, "a renewal");
        };
        cells.run(format!("{protocol} {fault:?}"), case).await;
    }
    cells.finish(6);
}

/// The keywords of an EHLO answer.
fn keywords(answer: &[String]) -> Vec<&str> {
    answer.iter().skip(1).filter_map(|line| line.get(4..)).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ehlo_shows_the_upstreams_keywords() {
    let house = House::start(Settings { upstream_tls: TlsMode::StartTls, ..Settings::default() });
    let house = house.await;
    for tls in crate::support::LOCAL_TLS {
        let mut client = house.open(Protocol::Smtp, tls).await;
        client.send("EHLO test\r\n").await;
        let before = client.until("250 ").await;
        let answer = house.try_log_in(&mut client, Protocol::Smtp).await;
        assert!(is_welcome(Protocol::Smtp, &answer), "{answer}");
        client.send("EHLO test\r\n").await;
        let behind = client.until("250 ").await;
        assert!(behind[0].contains("outlook"), "the second is the upstream's own: {behind:?}");
        let (mut before, mut behind) = (keywords(&before), keywords(&behind));
        assert!(before.contains(&"AUTH PLAIN LOGIN"), "{before:?}");
        before.retain(|keyword| !keyword.starts_with("AUTH"));
        behind.retain(|keyword| !keyword.starts_with("AUTH"));
        assert_eq!(before, behind, "local TLS {tls}");
        assert!(behind.contains(&"SIZE 157286400"));
        client.send("QUIT\r\n").await;
    }
}
