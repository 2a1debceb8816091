//! What must hold for any input of the protocol core, not only for the dialogues that somebody thought of.
//!
//! Invariant: each property drives the machines the way a connection does, with the input split anywhere.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

#[path = "support/pieces.rs"]
mod pieces;

use std::collections::VecDeque;

use base64::Engine;
use base64::prelude::{BASE64_STANDARD, BASE64_STANDARD_NO_PAD};
use gatepost::protocol::{
    Closing, Frontend, FrontendStep, Goal, LocalTls, Refusal, Upstream, UpstreamStep, Welcome,
    Xoauth2,
};
use gatepost::secret::Secret;
use gatepost::vocabulary::{Protocol, TlsMode};
use pieces::split;
use proptest::prelude::*;
use proptest::sample::{Index, select};

const TOKEN: &str = "t0ken";

proptest! {
    #![proptest_config(ProptestConfig { cases: 1024, failure_persistence: None, ..ProptestConfig::default() })]

    /// Any bytes of a client: no panic, no forged user name, no login before TLS, clean answers, and the
    /// same ones however the bytes are split.
    #[test]
    fn any_client(
        protocol in protocol(),
        tls in select(vec![LocalTls::Never, LocalTls::Offered, LocalTls::Active]),
        input in input(FROM_CLIENTS),
        sizes in sizes(),
        refused in 0_usize..4,
        open in any::<bool>(),
    ) {
        let serve = |chunks| serve(protocol, tls, open, chunks, refused);
        let whole = serve(VecDeque::from([input.clone()]));
        prop_assert_eq!(&serve(split(&input, &sizes)), &whole);
        prop_assert_eq!(&serve(split(&input, &[1])), &whole);
        prop_assert!(open || whole.end != "device");
        prop_assert!(is_clean(&whole.said), "{:?}", String::from_utf8_lossy(&whole.said));
        for (user, _) in &whole.logins {
            prop_assert!(!user.is_empty() && !user.chars().any(char::is_control), "{:?}", user);
        }
        prop_assert!(tls != LocalTls::Offered || whole.logins.is_empty());
    }

    /// Any bytes of an upstream: no panic, no token before TLS, clean commands, and the same ones however
    /// the bytes are split.
    #[test]
    fn any_upstream(
        protocol in protocol(),
        tls in select(vec![TlsMode::StartTls, TlsMode::Implicit]),
        input in input(FROM_UPSTREAMS),
        sizes in sizes(),
        ask in any::<bool>(),
    ) {
        let whole = call(protocol, tls, VecDeque::from([input.clone()]), ask);
        prop_assert_eq!(&call(protocol, tls, split(&input, &sizes), ask), &whole);
        prop_assert_eq!(&call(protocol, tls, split(&input, &[1]), ask), &whole);
        prop_assert!(is_clean(&whole.said), "{:?}", String::from_utf8_lossy(&whole.said));
        let token_said = contains(&whole.said, xoauth2_message().as_bytes());
        prop_assert!(!(token_said && tls == TlsMode::StartTls), "the token went out in plain text");
    }

    /// A legal login in any form comes out as exactly that login, and what stands behind it as unread.
    #[test]
    fn any_legal_login(
        protocol in protocol(),
        user in "[a-zA-Z0-9äß@._ '\\\\/-]{0,40}[a-z]",
        password in password(),
        form in any::<Index>(),
        behind in prop::collection::vec(any::<u8>(), 0..20),
        sizes in sizes(),
    ) {
        let forms = forms(protocol, &user, &password);
        let mut input = form.get(&forms).clone();
        let shown = String::from_utf8_lossy(&input).into_owned();
        input.extend(&behind);
        let outcome = serve(protocol, LocalTls::Never, false, split(&input, &sizes), 0);
        prop_assert_eq!(&outcome.logins, &vec![(user, password)], "{}", shown);
        prop_assert_eq!((&outcome.end[..], &outcome.unread), ("accepted", &behind), "{}", shown);
    }
}

/// All that can be seen of a session.
#[derive(Debug, Default, PartialEq, Eq)]
struct Outcome {
    said: Vec<u8>,
    logins: Vec<(String, Vec<u8>)>,
    end: String,
    unread: Vec<u8>,
}

/// Drives a Frontend; the first `refused` logins are refused, the next one is let through.
fn serve(
    protocol: Protocol,
    tls: LocalTls,
    open: bool,
    mut chunks: VecDeque<Vec<u8>>,
    refused: usize,
) -> Outcome {
    let mut frontend = Frontend::new(protocol, tls, vec!["SIZE 1000".into()]);
    if open {
        frontend = frontend.open_to_device();
    }
    let mut outcome = Outcome { said: frontend.greeting(), ..Outcome::default() };
    let close = |mut frontend: Frontend, mut outcome: Outcome, closing| {
        outcome.said.extend(frontend.goodbye(closing));
        outcome.end = format!("{closing:?}");
        outcome
    };
    loop {
        match frontend.step() {
            FrontendStep::Read => match chunks.pop_front() {
                Some(chunk) => frontend.push(&chunk),
                None => return outcome,
            },
            FrontendStep::Write(octets) => outcome.said.extend(octets),
            FrontendStep::StartTls(reply) if chunks.is_empty() => {
                outcome.said.extend(reply);
                frontend.tls_started();
            }
            // What comes in plain text behind the answer fails as a TLS handshake.
            FrontendStep::StartTls(_) => {
                return close(frontend, outcome, Closing::PlaintextBehindStartTls);
            }
            FrontendStep::Close(closing) => return close(frontend, outcome, closing),
            FrontendStep::Device => {
                outcome.unread = frontend
                    .into_unread()
                    .into_iter()
                    .chain(chunks.into_iter().flatten())
                    .collect();
                outcome.end = "device".into();
                return outcome;
            }
            FrontendStep::Login(login) => {
                outcome.logins.push((login.user, login.password.expose().clone()));
                if outcome.logins.len() <= refused {
                    let answer = frontend.refuse(&Refusal::BadCredentials);
                    outcome.said.extend(answer);
                    continue;
                }
                let (answer, unread) = frontend.accept(&Welcome::default());
                outcome.said.extend(answer);
                outcome.unread = unread.into_iter().chain(chunks.into_iter().flatten()).collect();
                outcome.end = "accepted".into();
                return outcome;
            }
        }
    }
}

/// Drives an Upstream.
fn call(protocol: Protocol, tls: TlsMode, mut chunks: VecDeque<Vec<u8>>, ask: bool) -> Outcome {
    let token = Secret::new(String::from(TOKEN));
    let goal = Goal::Login(Xoauth2::new("jane", &token).unwrap());
    let mut upstream = Upstream::new(protocol, tls, goal, "gatepost.local", ask);
    let mut outcome = Outcome::default();
    loop {
        match upstream.step() {
            UpstreamStep::Read => match chunks.pop_front() {
                Some(chunk) => upstream.push(&chunk),
                None => return outcome,
            },
            UpstreamStep::Write(octets) => outcome.said.extend(octets.expose()),
            UpstreamStep::StartTls if chunks.is_empty() => {
                outcome.end = "TLS".into();
                return outcome;
            }
            UpstreamStep::StartTls => {
                outcome.end = "plain text behind its answer to STARTTLS".into();
                return outcome;
            }
            UpstreamStep::Ready(welcome) => {
                outcome.end = format!("{welcome:?}");
                outcome.unread = upstream
                    .into_unread()
                    .into_iter()
                    .chain(chunks.into_iter().flatten())
                    .collect();
                return outcome;
            }
            UpstreamStep::Failed(rejection) => {
                outcome.end = match format!("{rejection:?}") {
                    text if text.contains("plain text behind") => {
                        "plain text behind its answer to STARTTLS".into()
                    }
                    text => text,
                };
                return outcome;
            }
        }
    }
}

/// Every way in which a client of the protocol can send this login.
fn forms(protocol: Protocol, user: &str, password: &[u8]) -> Vec<Vec<u8>> {
    let plain = [b"\0", user.as_bytes(), b"\0", password].concat();
    let own = [user.as_bytes(), b"\0", user.as_bytes(), b"\0", password].concat();
    let plain = [encode(&plain), encode(&own), encode_unpadded(&plain)];
    let (user64, password64) = (encode(user.as_bytes()), encode(password));
    let auth = match protocol {
        Protocol::Imap => "a1 AUTHENTICATE",
        Protocol::Pop3 => "auth",
        Protocol::Smtp => "EHLO x\r\nAUTH",
    };
    let mut forms: Vec<Vec<u8>> = vec![
        format!("{auth} LOGIN {user64}\r\n{password64}\r\n").into_bytes(),
        format!("{auth} login\r\n{user64}\n{password64}\r\n").into_bytes(),
        format!("{auth} LOGIN =\r\n{user64}\r\n{password64}\r\n").into_bytes(),
    ];
    for message in plain {
        forms.push(format!("{auth} PLAIN {message}\r\n").into_bytes());
        forms.push(format!("{auth} plain\r\n{message}\n").into_bytes());
    }
    match protocol {
        Protocol::Imap => forms.extend(imap_logins(user.as_bytes(), password)),
        // A space at the start of a user name is a separator of USER.
        Protocol::Pop3 if !user.starts_with(' ') => {
            let lines = [b"USER ", user.as_bytes(), b"\r\nPASS ", password, b"\r\n"].concat();
            forms.push(lines);
        }
        Protocol::Pop3 | Protocol::Smtp => {}
    }
    forms
}

fn imap_logins(user: &[u8], password: &[u8]) -> Vec<Vec<u8>> {
    let mut logins = Vec::new();
    for user in strings(user) {
        for password in strings(password) {
            logins.push([b"2.12 LoGiN ", &user[..], b" ", &password, b"\r\n"].concat());
        }
    }
    logins
}

/// A string as literals of both kinds, quoted, and as an atom, where these are possible.
fn strings(octets: &[u8]) -> Vec<Vec<u8>> {
    let literal = |plus| [format!("{{{}{plus}}}\r\n", octets.len()).as_bytes(), octets].concat();
    let mut strings = vec![literal(""), literal("+")];
    if octets.iter().any(u8::is_ascii_control) {
        return strings;
    }
    let mut quoted = vec![b'"'];
    for &octet in octets {
        if matches!(octet, b'"' | b'\\') {
            quoted.push(b'\\');
        }
        quoted.push(octet);
    }
    quoted.push(b'"');
    strings.push(quoted);
    // As lenient as clients need it: only what begins like another form is none.
    let odd = matches!(octets.first(), None | Some(b'"' | b'{'));
    if !odd && !octets.contains(&b' ') {
        strings.push(octets.to_vec());
    }
    strings
}

fn encode(octets: &[u8]) -> String {
    BASE64_STANDARD.encode(octets)
}

fn encode_unpadded(octets: &[u8]) -> String {
    BASE64_STANDARD_NO_PAD.encode(octets)
}

fn xoauth2_message() -> String {
    encode(format!("user=jane\x01auth=Bearer {TOKEN}\x01\x01").as_bytes())
}

fn protocol() -> impl Strategy<Value = Protocol> {
    select(Protocol::ALL.to_vec())
}

fn sizes() -> impl Strategy<Value = Vec<usize>> {
    prop::collection::vec(1_usize..12, 1..6)
}

/// Octets but NUL, CR and LF.
fn password() -> impl Strategy<Value = Vec<u8>> {
    let octet =
        any::<u8>().prop_filter("ends a line or a field", |octet| ![0, 10, 13].contains(octet));
    prop_oneof![prop::collection::vec(octet, 0..30), "[ -~]{0,30}".prop_map(String::into_bytes)]
}

/// Words that lead deep into a dialogue, since pure noise never gets beyond the first line.
const FROM_CLIENTS: &[&str] = &[
    "a1 ",
    "LOGIN ",
    "jane ",
    "pw",
    "\"ja\\\"ne\" ",
    "{4}\r\n",
    "{2+}\r\n",
    " {0+}\r\n",
    "{99999}\r\n",
    "AUTHENTICATE ",
    "AUTH ",
    "PLAIN",
    "LOGIN",
    " ",
    "=",
    "*",
    "AGphbmUAcHc=",
    "amFuZQ==",
    "cHc=",
    "AGphAW5lAHB3",
    "USER jane\r\n",
    "PASS pw\r\n",
    "PASS ",
    "EHLO x\r\n",
    "HELO\r\n",
    "a2 LOGIN jane pw\r\n",
    "AUTH PLAIN AGphbmUAcHc=\r\n",
    "STARTTLS\r\n",
    "a STARTTLS\r\n",
    "STLS\r\n",
    "NOOP\r\n",
    "a ID (\"x\" {1+}\r\ny)\r\n",
    "AUTH PLAIN AGphAW5lAHB3\r\n",
    "a AUTHENTICATE PLAIN AGphAW5lAHB3\r\n",
    "a LOGIN {5+}\r\nja\rne pw\r\n",
    "USER ja\x01ne\r\n",
    "MAIL FROM:<a@b>\r\n",
    "mail from:a@b\n",
    "QUIT\r\n",
    "a LOGOUT\r\n",
    "PROXY TCP4 ",
    "GET / HTTP/1.1\r\n",
    "\x16\x03",
    "\0",
    "\r",
    "\n",
    "\r\n",
    "\r\n",
];
const FROM_UPSTREAMS: &[&str] = &[
    "* OK ready\r\n",
    "g1 OK\r\n",
    "g2 OK [CAPABILITY IDLE X\x01 AUTH=PLAIN] done\r\n",
    "g2 NO [LIMIT] x\r\n",
    "g3 OK\r\n",
    "* BYE Suggested Backoff Time: 10 milliseconds\r\n",
    "* CAPABILITY IMAP4rev1 MOVE\r\n",
    "* ",
    "g2 ",
    "+ ",
    "+\r\n",
    "+OK\r\n",
    "+OK ready\r\n",
    "-ERR [SYS/TEMP] x\r\n",
    "-ERR ",
    "220 x\r\n",
    "250-x\r\n",
    "250-SIZE 1\r\n",
    "250 DSN\r\n",
    "334 \r\n",
    "334\r\n",
    "235 ok\r\n",
    "535-5.7.3 no\r\n",
    "535 no\r\n",
    "432 4.3.2 x\r\n",
    "2",
    "ü",
    "\0",
    "\r",
    "\n",
    "\r\n",
];

fn input(words: &'static [&'static str]) -> impl Strategy<Value = Vec<u8>> {
    let word = select(words.to_vec()).prop_map(|word| word.as_bytes().to_vec());
    let noise = prop::collection::vec(any::<u8>(), 0..8);
    let parts = prop::collection::vec(prop_oneof![9 => word, 1 => noise], 0..24);
    let long =
        (any::<u8>(), 12_000_usize..13_000).prop_map(|(octet, count)| vec![vec![octet; count]]);
    prop_oneof![60 => parts, 1 => long].prop_map(|parts| parts.concat())
}

/// Whole lines of printable ASCII.
fn is_clean(said: &[u8]) -> bool {
    let Some(lines) = said.strip_suffix(b"\r\n") else { return said.is_empty() };
    let text = String::from_utf8_lossy(lines);
    text.split("\r\n").all(|line| line.bytes().all(|octet| (32..127).contains(&octet)))
}

fn contains(octets: &[u8], part: &[u8]) -> bool {
    octets.windows(part.len()).any(|window| window == part)
}
