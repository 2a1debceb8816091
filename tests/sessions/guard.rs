//! Before the login: nothing that one client sends costs more than its own connection, comes back raw,
//! or reaches the upstream.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::support::{
    Cells, House, MAILBOX, Settings, Wire, is_temporary, is_welcome, is_wrong_password, plain,
    start_tls_command, try_log_in, within,
};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use gatepost::vocabulary::{Protocol, TlsMode};
use tokio::time::sleep;

/// A normal login beside whatever goes on takes less than this.
const NORMAL: Duration = Duration::from_secs(1);

/// A new password counts, and a revoked one does not, within this.
const HONOURED: Duration = Duration::from_secs(1);

/// gatepost's deadline for the whole time before a login.
const DEADLINE: Duration = Duration::from_secs(60);

async fn log_in_normally(house: &House) {
    for protocol in Protocol::ALL {
        let start = Instant::now();
        house.log_in(protocol).await;
        assert!(start.elapsed() < NORMAL, "{protocol}: a login took {:?}", start.elapsed());
    }
}

/// What is more than a client may send before its login: at first, then over and over.
struct Flood {
    protocol: Protocol,
    name: &'static str,
    first: &'static str,
    then: u8,
    octets: usize,
}

const fn flood(
    protocol: Protocol,
    name: &'static str,
    first: &'static str,
    then: u8,
    octets: usize,
) -> Flood {
    Flood { protocol, name, first, then, octets }
}

const MIB: usize = 1024 * 1024;

const FLOODS: &[Flood] = &[
    flood(Protocol::Imap, "endless line", "", b'x', MIB),
    flood(Protocol::Imap, "endless quoted string", "1 LOGIN \"", b'x', MIB),
    flood(Protocol::Imap, "64 KiB of base64", "1 AUTHENTICATE PLAIN\r\n", b'A', 65_536),
    flood(Protocol::Imap, "64 KiB of initial response", "1 AUTHENTICATE PLAIN ", b'A', 65_536),
    flood(Protocol::Imap, "large literal", "1 LOGIN {1000000+}\r\n", b'x', MIB),
    flood(Protocol::Imap, "huge literal", "1 LOGIN {18446744073709551616+}\r\n", b'x', MIB),
    flood(Protocol::Imap, "empty lines", "", b'\n', MIB),
    flood(Protocol::Pop3, "endless line", "", b'x', MIB),
    flood(Protocol::Pop3, "endless password", "USER jane\r\nPASS ", b'x', MIB),
    flood(Protocol::Pop3, "64 KiB of base64", "AUTH PLAIN\r\n", b'A', 65_536),
    flood(Protocol::Pop3, "64 KiB of initial response", "AUTH PLAIN ", b'A', 65_536),
    flood(Protocol::Pop3, "empty lines", "", b'\n', MIB),
    flood(Protocol::Smtp, "endless line", "", b'x', MIB),
    flood(Protocol::Smtp, "endless EHLO", "EHLO ", b'x', MIB),
    flood(Protocol::Smtp, "64 KiB of base64", "EHLO x\r\nAUTH PLAIN\r\n", b'A', 65_536),
    flood(Protocol::Smtp, "64 KiB of initial response", "EHLO x\r\nAUTH PLAIN ", b'A', 65_536),
    flood(Protocol::Smtp, "64 KiB of user name", "EHLO x\r\nAUTH LOGIN\r\n", b'A', 65_536),
    flood(Protocol::Smtp, "empty lines", "", b'\n', MIB),
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn floods_end_their_connection_and_nothing_else() {
    let house = Arc::new(House::new().await);
    let mut cells = Cells::default();
    for flood in FLOODS {
        let client = house.open(flood.protocol, TlsMode::None).await;
        let name = format!("{} {}", flood.protocol, flood.name);
        cells.run(name, pour(flood, client)).await;
        log_in_normally(&house).await;
    }
    cells.finish(18);
}

async fn pour(flood: &Flood, mut client: Wire) {
    client.send(flood.first).await;
    let chunk = [flood.then; 4096];
    let mut left = flood.octets;
    while left > 0 && client.try_send(&chunk[..left.min(4096)]).await.is_ok() {
        left = left.saturating_sub(4096);
    }
    // The writing side stays open: it is gatepost that ends this.
    let said = String::from_utf8_lossy(&client.rest().await).into_owned();
    let welcome = said.lines().any(|line| line.starts_with("235 ") || line.starts_with("1 OK"));
    assert!(!welcome && said.len() < 4096, "{said}");
    // Some systems drop the last words of a peer that closes with octets unread.
    assert!(said.is_empty() || said.contains("too "), "it is not told why: {said}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_synchronising_literal_that_is_too_long_is_not_asked_for() {
    let house = House::new().await;
    let mut client = house.open(Protocol::Imap, TlsMode::None).await;
    for size in ["4097", "1000000", "4294967296", "99999999999999999999999"] {
        client.send(format!("2 LOGIN {{{size}}}\r\n")).await;
        client.expect("2 BAD").await;
    }
    let answer = house.try_log_in(&mut client, Protocol::Imap).await;
    assert!(is_welcome(Protocol::Imap, &answer), "{answer}");
}

/// How far the clients go that are then held open.
const UNFINISHED: &[(Protocol, TlsMode, &str)] = &[
    (Protocol::Imap, TlsMode::None, ""),
    (Protocol::Imap, TlsMode::None, "1 LOGIN jane {4000}\r\nhalf a literal"),
    (Protocol::Imap, TlsMode::None, "1 AUTHENTICATE PLAIN\r\n"),
    (Protocol::Imap, TlsMode::Implicit, "\x16\x03\x01\x02\x00\x01"),
    (Protocol::Imap, TlsMode::StartTls, "1 STARTTLS\r\n"),
    (Protocol::Pop3, TlsMode::None, "USER jane\r\nPASS half a password"),
    (Protocol::Pop3, TlsMode::Implicit, ""),
    (Protocol::Smtp, TlsMode::None, "EHLO x\r\nAUTH LOGIN\r\namFuZQ==\r\n"),
    (Protocol::Smtp, TlsMode::None, "EHLO x"),
    (Protocol::Smtp, TlsMode::StartTls, "EHLO x\r\nSTARTTLS\r\n"),
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_hundred_unfinished_connections_keep_nobody_out() {
    let house = House::new().await;
    let mut held = Vec::new();
    for (protocol, tls, sent) in UNFINISHED.iter().cycle().take(200) {
        let mut client = Wire::connect(house.address(*protocol, *tls)).await;
        client.send(sent).await;
        if sent.is_empty() && *tls == TlsMode::None {
            // Lines without an end, up to a little below the limit.
            client.send("x".repeat(12_000)).await;
        }
        held.push(client);
    }
    log_in_normally(&house).await;
    for tls in [TlsMode::StartTls, TlsMode::Implicit] {
        let start = Instant::now();
        let mut client = house.open(Protocol::Imap, tls).await;
        let answer = house.try_log_in(&mut client, Protocol::Imap).await;
        assert!(is_welcome(Protocol::Imap, &answer) && start.elapsed() < NORMAL, "{answer}");
    }
    assert_eq!(held.len(), 200);
}

/// Takes a minute: `cargo test --test sessions guard -- --ignored`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes as long as the deadline before a login, a minute"]
async fn a_trickle_ends_at_the_deadline() {
    let house = Arc::new(House::new().await);
    let mut trickles = tokio::task::JoinSet::new();
    for protocol in Protocol::ALL {
        for tls in crate::support::LOCAL_TLS {
            let client = Wire::connect(house.address(protocol, tls)).await;
            trickles.spawn(trickle(client, protocol, tls));
        }
    }
    while let Some(trickle) = trickles.join_next().await {
        trickle.unwrap();
    }
    log_in_normally(&house).await;
}

/// An octet each second, always with something new to wait for; `NOOP`s keep nobody either.
async fn trickle(mut client: Wire, protocol: Protocol, tls: TlsMode) {
    let start = Instant::now();
    // The start of a TLS record of 16 KiB, or commands that go on forever.
    let octets: &[u8] =
        if tls == TlsMode::Implicit { b"\x16\x03\x01\x40\x00" } else { b"1 NOOP\r\nNOOP\r\n" };
    for octet in octets.iter().cycle() {
        if client.try_send([*octet]).await.is_err() {
            break;
        }
        sleep(Duration::from_secs(1)).await;
        let overdue = start.elapsed() > DEADLINE + Duration::from_secs(5);
        assert!(!overdue, "{protocol} {tls} goes on behind the deadline");
    }
    client.rest().await;
    assert!(start.elapsed() + Duration::from_secs(1) > DEADLINE, "{protocol} {tls}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_wrong_passwords_or_ten_errors_end_a_connection() {
    let house = House::new().await;
    for protocol in Protocol::ALL {
        let mut client = house.open(protocol, TlsMode::None).await;
        for _ in 0..3 {
            let answer = try_log_in(&mut client, protocol, MAILBOX, "wrong").await;
            assert!(is_wrong_password(protocol, &answer), "{protocol}: {answer}");
        }
        assert_eq!(goodbye(&mut client).await, 1, "{protocol}: wrong passwords");
        let mut client = house.open(protocol, TlsMode::None).await;
        client.send("1 NONSENSE\r\n".repeat(20)).await;
        assert_eq!(goodbye(&mut client).await, 11, "{protocol}: errors");
    }
    log_in_normally(&house).await;
}

/// Lines up to the end.
async fn goodbye(client: &mut Wire) -> usize {
    client.rest().await.iter().filter(|octet| **octet == b'\n').count()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unknown_mailbox_is_refused_like_a_wrong_password() {
    let house = House::new().await;
    for protocol in Protocol::ALL {
        let mut client = house.open(protocol, TlsMode::None).await;
        let wrong = try_log_in(&mut client, protocol, MAILBOX, "wrong").await;
        let unknown = try_log_in(&mut client, protocol, "nobody@contoso.example", "wrong").await;
        assert_eq!(wrong, unknown, "{protocol}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn plain_text_behind_starttls_is_no_command() {
    let house = House::new().await;
    house.log_in(Protocol::Smtp).await;
    let before = house.control().connections();
    for protocol in Protocol::ALL {
        let login = crate::support::login_command(protocol, MAILBOX, &house.password);
        let mut client = Wire::connect(house.address(protocol, TlsMode::StartTls)).await;
        client.answer(protocol).await;
        client.send(start_tls_command(protocol).0.to_owned() + &login).await;
        let said = String::from_utf8_lossy(&client.rest().await).into_owned();
        assert_eq!(said.lines().count(), 1, "{protocol}: {said}");
        assert!(said.contains("plain text behind STARTTLS"), "{protocol}: {said}");
    }
    assert_eq!(house.control().connections(), before);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_login_in_plain_text_where_tls_is_wanted() {
    let house = House::new().await;
    house.log_in(Protocol::Smtp).await;
    let before = house.control().connections();
    for protocol in Protocol::ALL {
        let mut client = Wire::connect(house.address(protocol, TlsMode::StartTls)).await;
        client.answer(protocol).await;
        let answer = house.try_log_in(&mut client, protocol).await;
        assert!(!is_welcome(protocol, &answer), "{protocol}: {answer}");
        assert!(answer.contains("first"), "{protocol}: {answer}");
    }
    assert_eq!(house.control().connections(), before);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn starttls_is_not_offered_where_there_is_none() {
    let house = House::new().await;
    for protocol in Protocol::ALL {
        let mut client = house.open(protocol, TlsMode::None).await;
        let (start_tls, accepted) = start_tls_command(protocol);
        client.send(start_tls).await;
        assert!(!client.answer(protocol).await.starts_with(accepted), "{protocol}");
        let (ask, quit) = match protocol {
            Protocol::Imap => ("1 CAPABILITY\r\n", "2 LOGOUT\r\n"),
            Protocol::Pop3 => ("CAPA\r\n", "QUIT\r\n"),
            Protocol::Smtp => ("EHLO x\r\n", "QUIT\r\n"),
        };
        client.send(format!("{ask}{quit}")).await;
        let said = String::from_utf8_lossy(&client.rest().await).into_owned();
        for word in ["STARTTLS", "STLS", "LOGINDISABLED", "CRAM-MD5", "XOAUTH2"] {
            assert!(!said.contains(word), "{protocol}: {said}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn strangers_are_sent_away_at_once() {
    let house = House::new().await;
    // The start of a ClientHello, with no line feed in it, and a browser.
    let strangers = ["\x16\x03\x01\x02\x00\x01\x00\x01", "GET / HTTP/1.1\r\nHost: x\r\n\r\n"];
    for protocol in Protocol::ALL {
        for tls in [TlsMode::None, TlsMode::StartTls] {
            for stranger in strangers {
                let start = Instant::now();
                let mut client = Wire::connect(house.address(protocol, tls)).await;
                client.answer(protocol).await;
                client.send(stranger).await;
                assert!(
                    client.rest().await.is_empty(),
                    "{protocol} {tls}: it talks to {stranger:?}"
                );
                assert!(start.elapsed() < NORMAL, "{protocol} {tls}: {stranger:?} is kept");
            }
        }
        let mut client = Wire::connect(house.address(protocol, TlsMode::Implicit)).await;
        client.send(crate::support::login_command(protocol, MAILBOX, &house.password)).await;
        let said = client.rest().await;
        // At most a TLS alert (RFC 8446 section 5.1), and no word in plain text.
        assert!(said.len() <= 7 && said.first().is_none_or(|first| *first == 0x15), "{said:?}");
    }
    log_in_normally(&house).await;
}

/// What no user name has: an escape, line ends with something behind them, NUL, DEL, a C1 control. Behind a
/// line end stands a tag of the client's, which an answer to it must repeat.
const EVIL: &[&str] =
    &["a\x1b[2Jb", "a\r\n1 OK EVIL\r\nb", "a\n1 EVIL b", "a\rEVIL", "a\0b", "a\x7fb", "a\u{9b}2Jb"];

/// The commands by which a user name can come.
fn routes(protocol: Protocol, user: &str) -> Vec<String> {
    let (user64, plain) = (BASE64_STANDARD.encode(user), plain(user, "wrong"));
    let length = user.len();
    match protocol {
        Protocol::Imap => vec![
            format!("1 LOGIN {{{length}+}}\r\n{user} wrong\r\n"),
            format!("1 LOGIN \"{user}\" wrong\r\n"),
            format!("1 LOGIN {user} wrong\r\n"),
            format!("1 AUTHENTICATE PLAIN {plain}\r\n"),
            format!("1 AUTHENTICATE LOGIN {user64}\r\nd3Jvbmc=\r\n"),
            format!("{user} LOGIN x wrong\r\n"),
            format!("1 {user} x\r\n"),
            format!("1 AUTHENTICATE {user}\r\n"),
        ],
        Protocol::Pop3 => vec![
            format!("USER {user}\r\nPASS wrong\r\n"),
            format!("AUTH PLAIN {plain}\r\n"),
            format!("AUTH PLAIN\r\n{plain}\r\n"),
            format!("AUTH LOGIN\r\n{user64}\r\nd3Jvbmc=\r\n"),
            format!("AUTH {user}\r\n"),
            format!("{user}\r\n"),
        ],
        Protocol::Smtp => vec![
            format!("EHLO x\r\nAUTH PLAIN {plain}\r\n"),
            format!("EHLO x\r\nAUTH PLAIN\r\n{plain}\r\n"),
            format!("EHLO x\r\nAUTH LOGIN {user64}\r\nd3Jvbmc=\r\n"),
            format!("EHLO {user}\r\n"),
            format!("HELO {user}\r\n"),
            format!("EHLO x\r\nAUTH {user}\r\n"),
            format!("MAIL FROM:<{user}>\r\n"),
        ],
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn control_characters_never_come_back_raw() {
    let house = Arc::new(House::new().await);
    house.log_in(Protocol::Smtp).await;
    let before = house.control().connections();
    let mut cells = Cells::default();
    for protocol in Protocol::ALL {
        let of_user = |user: &&str| routes(protocol, user);
        for commands in EVIL.iter().flat_map(of_user) {
            let mut client = house.open(protocol, TlsMode::None).await;
            let name = format!("{protocol} {commands:?}");
            let case = async move {
                client.send(commands).await;
                client.send("\r\n9 LOGOUT\r\nQUIT\r\n").await;
                client.half_close().await;
                check_clean(&client.rest().await);
            };
            cells.run(name, case).await;
        }
    }
    cells.finish(EVIL.len() * (8 + 6 + 7));
    assert_eq!(house.control().connections(), before, "one went upstream");
}

/// Printable ASCII in lines, and nothing of the client's own making.
fn check_clean(said: &[u8]) {
    let text = String::from_utf8_lossy(said).into_owned();
    assert!(text.ends_with("\r\n"), "{text:?}");
    for line in text.trim_end_matches("\r\n").split("\r\n") {
        let clean = line.bytes().all(|octet| (b' '..=b'~').contains(&octet));
        assert!(clean && !line.contains("EVIL"), "{line:?}");
    }
}

/// What a client can do before its login.
const IDLE_TALK: &[(Protocol, &str)] = &[
    (Protocol::Imap, "1 CAPABILITY\r\n2 ID NIL\r\n3 NOOP\r\n1 LOGIN nobody x\r\n4 LOGOUT\r\n"),
    (Protocol::Imap, "1 SELECT INBOX\r\n2 LIST \"\" *\r\n"),
    (Protocol::Pop3, "CAPA\r\nAUTH\r\nUSER nobody\r\nPASS x\r\nQUIT\r\n"),
    (Protocol::Pop3, "STAT\r\nRETR 1\r\n"),
    (Protocol::Smtp, "EHLO x\r\nNOOP\r\nRSET\r\nAUTH PLAIN AG5vYm9keQB4\r\nQUIT\r\n"),
    (Protocol::Smtp, "HELO x\r\nMAIL FROM:<a@b.example>\r\nRCPT TO:<a@b.example>\r\nDATA\r\n"),
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_goes_upstream_before_a_good_login() {
    let house = House::new().await;
    for (protocol, talk) in IDLE_TALK {
        let mut client = house.open(*protocol, TlsMode::None).await;
        client.send(talk).await;
        client.half_close().await;
        client.rest().await;
        let mut client = house.open(*protocol, TlsMode::Implicit).await;
        try_log_in(&mut client, *protocol, MAILBOX, "wrong").await;
    }
    // The three SMTP listeners lead to one server, of which the keywords are learned once.
    assert_eq!((house.control().connections(), house.control().logins()), (1, 0));
    log_in_normally(&house).await;
    assert_eq!((house.control().connections(), house.control().logins()), (4, 3));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_password_counts_only_where_it_may() {
    let house = House::new().await;
    let smtp_only = house.add_password("scanner", &[Protocol::Smtp], &["127.0.0.0/8"]).await;
    let elsewhere = house.add_password("elsewhere", &[], &["192.0.2.0/24", "::1/128"]).await;
    let before = house.control().logins();
    for protocol in Protocol::ALL {
        let mut client = house.open(protocol, TlsMode::None).await;
        let answer = try_log_in(&mut client, protocol, MAILBOX, &elsewhere).await;
        assert!(answer.contains("not for this protocol or network"), "{protocol}: {answer}");
        let answer = try_log_in(&mut client, protocol, MAILBOX, &smtp_only).await;
        let welcome = is_welcome(protocol, &answer);
        assert_eq!(welcome, protocol == Protocol::Smtp, "{protocol}: {answer}");
        assert!(!is_temporary(protocol, &answer), "{protocol}: {answer}");
    }
    assert_eq!(house.control().logins(), before + 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn aliases_in_any_letter_case() {
    let account = "aliases = [\"contoso\\\\jane\", \"jane\"]";
    let house = House::start(Settings { account, ..Settings::default() }).await;
    for user in ["contoso\\jane", "CONTOSO\\Jane", "JANE", "Jane@Contoso.Example"] {
        for protocol in Protocol::ALL {
            let mut client = house.open(protocol, TlsMode::None).await;
            let answer = try_log_in(&mut client, protocol, user, &house.password).await;
            assert!(is_welcome(protocol, &answer), "{protocol} {user}: {answer}");
            client.send("QUIT\r\n").await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn passwords_added_and_revoked_count_within_a_second() {
    let house = House::new().await;
    let password = house.add_password("new", &[], &[]).await;
    let start = Instant::now();
    let mut client = house.open(Protocol::Imap, TlsMode::None).await;
    let answer = try_log_in(&mut client, Protocol::Imap, MAILBOX, &password).await;
    assert!(is_welcome(Protocol::Imap, &answer), "added, but {answer}");
    assert!(start.elapsed() < HONOURED);

    house.revoke_password("new").await;
    let revoked = async {
        loop {
            let mut client = house.open(Protocol::Imap, TlsMode::None).await;
            let answer = try_log_in(&mut client, Protocol::Imap, MAILBOX, &password).await;
            if is_wrong_password(Protocol::Imap, &answer) {
                return;
            }
            sleep(Duration::from_millis(20)).await;
        }
    };
    within(HONOURED, "revocation", revoked).await;
    house.log_in(Protocol::Imap).await;
}
