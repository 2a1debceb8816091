//! Connections that have not logged in: how many there may be, who goes first, and what ends them.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::support::{
    Cells, House, LOCAL_TLS, MAILBOX, Settings, Wire, is_welcome, plain, start_tls_command,
    try_log_in,
};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use gatepost::protocol::{Closing, Frontend, FrontendStep, LocalTls};
use gatepost::vocabulary::{Protocol, TlsMode};
use tokio::time::sleep;

const FLOODER: &str = "127.0.0.2";

/// A good login beside whatever goes on takes less than this; a build for debugging may share its cores with other tests.
const NORMAL: Duration = Duration::from_secs(if cfg!(debug_assertions) { 3 } else { 1 });

async fn small_house() -> House {
    let account = "[guard]\nwaiting_per_source = 5\nwaiting = 8\n";
    House::start(Settings { account, ..Settings::default() }).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_oldest_of_a_source_goes_with_a_word_and_the_others_stay() {
    let house = small_house().await;
    for protocol in Protocol::ALL {
        let address = house.address(protocol, TlsMode::None);
        let mut clients = Vec::new();
        for _ in 0..7 {
            let mut client = Wire::connect_from(FLOODER, address).await;
            client.answer(protocol).await;
            clients.push(client);
        }
        let stay = clients.split_off(2);
        for mut gone in clients {
            let said = String::from_utf8_lossy(&gone.rest().await).into_owned();
            let start = match protocol {
                Protocol::Imap => "* BYE [UNAVAILABLE] too many",
                Protocol::Pop3 => "-ERR [SYS/TEMP] too many",
                Protocol::Smtp => "421 4.3.2 too many",
            };
            assert!(said.starts_with(start), "{protocol}: {said}");
        }
        for mut client in stay {
            let answer = house.try_log_in(&mut client, protocol).await;
            assert!(is_welcome(protocol, &answer), "{protocol}: {answer}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_logged_in_has_no_seat() {
    let account = "limits = { connections = 0 }\n[guard]\nwaiting_per_source = 2\nwaiting = 3\n";
    let house = House::start(Settings { account, ..Settings::default() }).await;
    for protocol in Protocol::ALL {
        let mut sessions = Vec::new();
        for _ in 0..6 {
            sessions.push(house.log_in(protocol).await);
        }
        for session in &mut sessions {
            session.send("9 NOOP\r\nNOOP\r\n").await;
            session.line().await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_costs_others_no_seat() {
    let house = small_house().await;
    let address = house.address(Protocol::Smtp, TlsMode::None);
    let mut slow = house.open(Protocol::Imap, TlsMode::None).await;
    let mut flood = Vec::new();
    for _ in 0..60 {
        flood.push(Wire::connect_from(FLOODER, address).await);
        // Four other sources, one seat each: with the flood's five there are more than eight in all.
        let source = format!("127.0.0.{}", 3 + flood.len() % 4);
        let mut good = Wire::connect_from(&source, address).await;
        let start = Instant::now();
        good.answer(Protocol::Smtp).await;
        let answer = house.try_log_in(&mut good, Protocol::Smtp).await;
        assert!(is_welcome(Protocol::Smtp, &answer) && start.elapsed() < NORMAL, "{answer}");
        good.send("QUIT\r\n").await;
    }
    let answer = house.try_log_in(&mut slow, Protocol::Imap).await;
    assert!(is_welcome(Protocol::Imap, &answer), "one that waited was thrown out: {answer}");
}

/// Where a connection can wait before its login, and what it has said by then.
const WAITING: &[(&str, Protocol, TlsMode, &str)] = &[
    ("for a ClientHello", Protocol::Imap, TlsMode::Implicit, ""),
    ("in a handshake", Protocol::Smtp, TlsMode::Implicit, "\x16\x03\x01\x02\x00\x01"),
    ("for one behind STARTTLS", Protocol::Imap, TlsMode::StartTls, "1 STARTTLS\r\n"),
    ("in one behind STLS", Protocol::Pop3, TlsMode::StartTls, "STLS\r\n"),
    ("for a line", Protocol::Pop3, TlsMode::None, "USER jane"),
    ("for a literal", Protocol::Imap, TlsMode::None, "1 LOGIN {10+}\r\nhal"),
    ("for a response", Protocol::Smtp, TlsMode::None, "EHLO x\r\nAUTH PLAIN\r\n"),
    ("in its farewell", Protocol::Smtp, TlsMode::None, "QUIT\r\n"),
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_hears_it_wherever_it_waits() {
    let house = Arc::new(small_house().await);
    let mut cells = Cells::default();
    for (place, protocol, tls, sent) in WAITING {
        let house = Arc::clone(&house);
        let case = async move {
            let mut waiting = Wire::connect_from(FLOODER, house.address(*protocol, *tls)).await;
            waiting.send(sent).await;
            if *tls == TlsMode::StartTls {
                waiting.answer(*protocol).await;
                waiting.answer(*protocol).await;
                waiting.send("\x16\x03\x01\x02").await;
            }
            // Another listener's accept may be faster: it must be the oldest.
            sleep(Duration::from_millis(300)).await;
            let address = house.address(Protocol::Imap, TlsMode::None);
            let mut newer = Vec::new();
            for _ in 0..5 {
                newer.push(Wire::connect_from(FLOODER, address).await);
            }
            let start = Instant::now();
            waiting.rest().await;
            assert!(start.elapsed() < NORMAL, "it stays for {:?}", start.elapsed());
        };
        cells.run((*place).to_owned(), case).await;
    }
    cells.finish(WAITING.len());
}

/// What browsers and scanners begin with, odd spellings of it too.
const REQUESTS: &[&str] = &[
    "GET / HTTP/1.1\r\n",
    "GET /\r\n",
    "get / http/1.0\n",
    "  GET   /index.html   HTTP/1.1\r\n",
    "GET\t/\tHTTP/1.1\r\n",
    "POST / HTTP/1.1\r\n",
    "PUT /x HTTP/2\r\n",
    "HEAD / HTTP/1.0\r\n",
    "DELETE /x HTTP/1.1\r\n",
    "OPTIONS * HTTP/1.1\r\n",
    "OPTIONS rtsp://127.0.0.1/ RTSP/1.0\r\n",
    "TRACE / HTTP/1.1\r\n",
    "PATCH /x HTTP/1.1\r\n",
    "PROPFIND / HTTP/1.1\r\n",
    "CONNECT mail.example:25 HTTP/1.1\r\n",
    "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
];

/// What a page would have the browser say behind its request.
const BODY: &str = "Host: 127.0.0.1\r\nContent-Type: text/plain\r\n\r\n1 NOOP\r\nNOOP\r\nQUIT\r\n";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_of_http_ends_the_session_at_its_line() {
    // Who knocks so often with a wrong password would wait for minutes.
    let account = "[guard]\ndelay = \"0s\"\n";
    let house = Arc::new(House::start(Settings { account, ..Settings::default() }).await);
    let mut cells = Cells::default();
    for protocol in Protocol::ALL {
        for request in REQUESTS {
            for place in ["first", "behind a command", "behind a login", "in an exchange"] {
                let house = Arc::clone(&house);
                let case = async move {
                    let mut client = house.open(protocol, TlsMode::None).await;
                    lead_up_to(&mut client, protocol, place).await;
                    client.send(format!("{request}{BODY}")).await;
                    client.expect_end().await;
                };
                cells.run(format!("{protocol} {place}: {request:?}"), case).await;
            }
        }
        // Behind TLS: the request of a page that mistakes the port.
        for tls in LOCAL_TLS {
            let mut client = house.open(protocol, tls).await;
            client.send(format!("POST / HTTP/1.1\r\n{BODY}")).await;
            client.expect_end().await;
        }
    }
    cells.finish(3 * 4 * REQUESTS.len());
}

async fn lead_up_to(client: &mut Wire, protocol: Protocol, place: &str) {
    match (place, protocol) {
        ("behind a command", Protocol::Imap) => client.send("1 NOOP\r\n").await,
        ("behind a command", Protocol::Pop3) => client.send("NOOP\r\n").await,
        ("behind a command", Protocol::Smtp) => client.send("NOOP\r\n").await,
        ("behind a login", _) => {
            try_log_in(client, protocol, MAILBOX, "wrong").await;
            return;
        }
        ("in an exchange", Protocol::Imap) => client.send("1 AUTHENTICATE PLAIN\r\n").await,
        ("in an exchange", Protocol::Pop3) => client.send("AUTH PLAIN\r\n").await,
        ("in an exchange", Protocol::Smtp) => {
            client.send("EHLO x\r\nAUTH LOGIN\r\n").await;
            client.answer(protocol).await;
        }
        _ => return,
    }
    client.answer(protocol).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_method_in_a_tag_or_a_password_is_no_request() {
    let house = House::new().await;
    let password = "GET / HTTP/1.1";
    house.add_chosen("odd", password).await;
    let mut client = house.open(Protocol::Imap, TlsMode::None).await;
    client.send(format!("GET LOGIN {MAILBOX} {{14+}}\r\n{password}\r\n")).await;
    client.expect("GET OK").await;
    let mut client = house.open(Protocol::Imap, TlsMode::None).await;
    client.send(format!("1 LOGIN {MAILBOX} {{16+}}\r\nPUT /x HTTP/1.1\n\r\n2 NOOP\r\n")).await;
    client.expect("1 NO [AUTHENTICATIONFAILED]").await;
    client.expect("2 OK").await;
    let mut client = house.open(Protocol::Pop3, TlsMode::None).await;
    client.send(format!("USER {MAILBOX}\r\nPASS {password}\r\n")).await;
    client.answer(Protocol::Pop3).await;
    client.expect("+OK").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn commands_without_an_error_have_a_limit_too() {
    let house = House::new().await;
    for protocol in Protocol::ALL {
        let mut client = house.open(protocol, TlsMode::None).await;
        let command = match protocol {
            Protocol::Imap => "1 NOOP\r\n",
            Protocol::Pop3 => "AUTH\r\n",
            Protocol::Smtp => "NOOP\r\n",
        };
        client.try_send(command.repeat(1000)).await.unwrap();
        let said = String::from_utf8_lossy(&client.rest().await).into_owned();
        let lines = said.lines().count();
        assert!((100..=401).contains(&lines), "{protocol}: {lines}");
        assert!(said.ends_with("too many commands before a login\r\n"), "{protocol}: {said}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_that_only_write_or_only_wait_end_together_with_their_linger() {
    let house = House::new().await;
    for tls in [TlsMode::None, TlsMode::Implicit] {
        let mut client = house.open(Protocol::Smtp, tls).await;
        let start = Instant::now();
        client.send("QUIT\r\n").await;
        // It neither closes nor reads: gatepost gives it two seconds.
        tokio::time::sleep(Duration::from_millis(2500)).await;
        while client.try_send("x".repeat(4096)).await.is_ok() {
            assert!(start.elapsed() < Duration::from_secs(5), "{tls}: it is still heard");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

/// Control characters of every kind, at either end and in the middle.
const EVIL: &[&str] = &[
    "a\0b", "\0ab", "ab\0", "a\x01b", "a\tb", "a\x1bb", "a\x7fb", "a\u{80}b", "a\u{9b}b", "ab\x01",
    "\x01ab",
];

/// The ways by which a user name comes. NUL ends a field of PLAIN, so that it is malformed there.
fn ways(protocol: Protocol, user: &str) -> Vec<String> {
    let (user64, plain) = (BASE64_STANDARD.encode(user), plain(user, "pw"));
    let own = BASE64_STANDARD.encode(format!("{user}\0{user}\0pw"));
    let length = user.len();
    let mut ways: Vec<String> = [("PLAIN", &plain), ("PLAIN", &own), ("LOGIN", &user64)]
        .iter()
        .flat_map(|(mechanism, first)| {
            let auth = match protocol {
                Protocol::Imap => "1 AUTHENTICATE",
                Protocol::Pop3 | Protocol::Smtp => "AUTH",
            };
            let more = if *mechanism == "LOGIN" { "cHc=\r\n" } else { "" };
            [
                format!("{auth} {mechanism} {first}\r\n{more}"),
                format!("{auth} {mechanism}\r\n{first}\r\n{more}"),
            ]
        })
        .collect();
    match protocol {
        Protocol::Imap => ways.extend([
            format!("1 LOGIN {user} pw\r\n"),
            format!("1 LOGIN \"{user}\" pw\r\n"),
            format!("1 LOGIN {{{length}}}\r\n{user} pw\r\n"),
            format!("1 LOGIN {{{length}+}}\r\n{user} {{2+}}\r\npw\r\n"),
        ]),
        Protocol::Pop3 => ways.push(format!("USER {user}\r\nPASS pw\r\n")),
        Protocol::Smtp => {}
    }
    ways
}

/// What a Frontend wants checked of this, and how often it finds an error.
fn logins(protocol: Protocol, input: &str) -> Vec<String> {
    let mut frontend = Frontend::new(protocol, LocalTls::Never, Arc::default());
    frontend.push(b"EHLO x\r\n".get(..if protocol == Protocol::Smtp { 8 } else { 0 }).unwrap());
    frontend.push(input.as_bytes());
    let mut logins = Vec::new();
    loop {
        match frontend.step() {
            FrontendStep::Read | FrontendStep::Close(Closing::TooManyErrors) => return logins,
            FrontendStep::Write(_) => {}
            FrontendStep::Login(login) => {
                logins.push(login.user);
                frontend.refuse(&gatepost::protocol::Refusal::BadCredentials);
            }
            other => panic!("{input:?}: {other:?}"),
        }
    }
}

#[test]
fn no_user_name_with_a_control_character_is_looked_up() {
    let mut count = 0;
    for protocol in Protocol::ALL {
        for way in ways(protocol, "jane") {
            assert_eq!(logins(protocol, &way), ["jane"], "{protocol}: {way:?}");
        }
        for way in EVIL.iter().flat_map(|user| ways(protocol, user)) {
            assert_eq!(logins(protocol, &way), [""; 0], "{protocol}: {way:?}");
            count += 1;
        }
    }
    assert_eq!(count, EVIL.len() * (10 + 7 + 6));
}

/// STARTTLS is the one place where a session changes: what was counted before it still counts.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn starttls_gives_no_new_tries() {
    let house = House::new().await;
    for protocol in Protocol::ALL {
        let mut client = Wire::connect(house.address(protocol, TlsMode::StartTls)).await;
        client.answer(protocol).await;
        for _ in 0..9 {
            client.send("1 NONSENSE\r\n").await;
            client.answer(protocol).await;
        }
        let (command, answer) = start_tls_command(protocol);
        client.send(command).await;
        client.expect(answer).await;
        let mut client = client.start_tls(house.trust()).await.unwrap();
        client.send("1 NONSENSE\r\n").await;
        client.answer(protocol).await;
        let said = String::from_utf8_lossy(&client.rest().await).into_owned();
        assert!(said.contains("too many errors"), "{protocol}: {said}");
    }
}
