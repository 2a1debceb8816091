//! What must hold for any input of the protocol core, not only for the dialogues that somebody thought of.
//!
//! Invariant: each property drives the machines the way a connection does, with the input split anywhere.

use std::fs;
use std::path::Path;
use std::time::Duration;

use crate::fuzz::case::Split;
use crate::fuzz::frontend::{End, Setup};
use base64::Engine;
use base64::prelude::{BASE64_STANDARD, BASE64_STANDARD_NO_PAD};
use gatepost::config::Config;
use gatepost::oauth::{TokenError, read_answer};
use gatepost::vocabulary::Protocol;
use proptest::prelude::*;
use proptest::sample::{Index, select};
use serde_json::json;

type Check = fn(&[u8]);

/// The targets of `fuzz/fuzz_targets`, and what they call.
const TARGETS: [(&str, Check); 22] = [
    ("challenge", crate::fuzz::upstream::check_challenge),
    ("claims", crate::fuzz::tokens::check_claims),
    ("config", crate::fuzz::config::check),
    ("frontend_imap", |data| crate::fuzz::frontend::check(Protocol::Imap, data)),
    ("frontend_pop3", |data| crate::fuzz::frontend::check(Protocol::Pop3, data)),
    ("frontend_smtp", |data| crate::fuzz::frontend::check(Protocol::Smtp, data)),
    ("graph_answer", crate::fuzz::graph::check_answer),
    ("graph_recipients", crate::fuzz::graph::check_recipients),
    ("header", crate::fuzz::mend::check),
    ("mime", crate::fuzz::mime::check),
    ("proxy_header", crate::fuzz::proxy_header::check),
    ("redirect", crate::fuzz::redirect::check),
    ("sasl", crate::fuzz::sasl::check),
    ("smtp_content", crate::fuzz::smtp_content::check),
    ("smtp_receiver", crate::fuzz::smtp_receiver::check),
    ("smtp_submission", crate::fuzz::smtp_submission::check),
    ("smtp_watch", crate::fuzz::smtp_watch::check),
    ("spool_entry", crate::fuzz::spool_entry::check),
    ("token_response", crate::fuzz::tokens::check_answer),
    ("upstream_imap", |data| crate::fuzz::upstream::check(Protocol::Imap, data)),
    ("upstream_pop3", |data| crate::fuzz::upstream::check(Protocol::Pop3, data)),
    ("upstream_smtp", |data| crate::fuzz::upstream::check(Protocol::Smtp, data)),
];

/// What the fuzzers begin with, and what they once found.
#[test]
fn seeds() {
    let fuzz = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz");
    let sources = names(&fuzz.join("fuzz_targets"));
    let targets = TARGETS.map(|(target, _)| format!("{target}.rs"));
    assert_eq!(sources, targets, "TARGETS lacks a target, or there is one too many");
    for (target, check) in TARGETS {
        let folder = fuzz.join("seeds").join(target);
        let seeds = names(&folder);
        assert!(!seeds.is_empty(), "{target} has no seeds");
        for seed in seeds {
            let data = fs::read(folder.join(&seed)).unwrap();
            // The name is told only if it fails.
            let checked = std::panic::catch_unwind(|| check(&data));
            assert!(checked.is_ok(), "fuzz/seeds/{target}/{seed}");
        }
    }
}

fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).unwrap_or_else(|_| panic!("no {}", folder.display()));
    let mut names: Vec<_> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1024, failure_persistence: None, ..ProptestConfig::default() })]

    /// Any bytes of a client, in words that lead further than a fuzzer gets by chance.
    #[test]
    fn any_client(protocol in protocol(), choices in any::<[u8; 3]>(), input in input(FROM_CLIENTS)) {
        crate::fuzz::frontend::check(protocol, &[&choices[..], &input].concat());
    }

    /// Any bytes of an upstream.
    #[test]
    fn any_upstream(protocol in protocol(), choices in any::<[u8; 3]>(), input in input(FROM_UPSTREAMS)) {
        crate::fuzz::upstream::check(protocol, &[&choices[..], &input].concat());
    }

    /// Any credentials, and any words in their place, through all three protocols.
    #[test]
    fn any_exchange(choices in any::<[u8; 3]>(), user in "[a-z\0\x01@ é]{0,12}", behind in password()) {
        crate::fuzz::sasl::check(&[&choices[..], user.as_bytes(), b"\0", user.as_bytes(), b"\0", &behind].concat());
        crate::fuzz::sasl::check(&[&choices[..], user.as_bytes(), b"\n", &behind].concat());
        crate::fuzz::sasl::check(&[&choices[..], encode(user.as_bytes()).as_bytes(), b"\n", encode(&behind).as_bytes()].concat());
    }

    /// A token endpoint's answer is read as it was written, and any other is an error that stays one.
    #[test]
    fn any_answer(
        choices in any::<[u8; 3]>(),
        token in "[!-~]{1,40}",
        life in 0_u32..400_000,
        text in any::<bool>(),
        odd in "[ -~\\n\\x01é]{0,60}",
    ) {
        let expires_in = if text { json!(life.to_string()) } else { json!(life) };
        let body = json!({ "access_token": token, "expires_in": expires_in, "error_description": odd });
        let answer = read_answer(200, None, body.to_string().as_bytes()).unwrap();
        prop_assert_eq!(answer.access_token.expose(), &token);
        prop_assert_eq!(answer.expires_in, Duration::from_secs(u64::from(life.min(172_800))));
        let words = json!({ "error": odd, "error_description": token, "trace_id": odd });
        // The same fields' values without their names are no answer.
        let (values, error) = (json!([token, token, life, life]), json!(["invalid_grant", odd, [], token, token]));
        prop_assert!(read_answer(200, None, values.to_string().as_bytes()).is_err());
        let error = error.to_string();
        let refused = read_answer(400, None, error.as_bytes()).unwrap_err();
        prop_assert!(matches!(refused, TokenError::Transient { .. }), "{:?}", refused);
        for body in [body.to_string(), words.to_string(), values.to_string(), error, odd] {
            crate::fuzz::tokens::check_answer(&[&choices[..], b"\n", body.as_bytes()].concat());
            crate::fuzz::graph::check_answer(&[&choices[..], body.as_bytes()].concat());
            crate::fuzz::tokens::check_claims(&[&choices[..], body.as_bytes()].concat());
        }
    }

    /// Names come out of a configuration as they were written into it, or it is refused.
    #[test]
    fn any_names(mailbox in "[a-zé\\x01\\t @*\"\\\\'.-]{0,20}(@[a-z.]{0,8})?", alias in "[ -~\\x7fß]{0,16}") {
        let quoted = |text: &str| toml::Value::String(text.into()).to_string();
        let text = format!(
            "state_dir = \"s\"\n[[listener]]\nprotocol = \"imap\"\nlisten = \"127.0.0.1:1143\"\n\
             [app.a]\ntenant = \"t\"\nclient_id = \"c\"\n\
             [[account]]\napp = \"a\"\nmailbox = {}\naliases = [{}]\n",
            quoted(&mailbox), quoted(&alias)
        );
        crate::fuzz::config::check(text.as_bytes());
        if let Ok(config) = Config::parse_without_secrets(Path::new("/x.toml"), &text) {
            prop_assert_eq!((&config.accounts[0].mailbox, &config.accounts[0].aliases), (&mailbox, &vec![alias]));
        }
    }

    /// A legal login in any form comes out as exactly that login, and what stands behind it as unread.
    #[test]
    fn any_legal_login(
        protocol in protocol(),
        user in "[a-zA-Z0-9äß@._ '\\\\/-]{0,40}[a-z]",
        password in password(),
        form in any::<Index>(),
        behind in prop::collection::vec(any::<u8>(), 0..20),
        sizes in any::<u16>(),
    ) {
        let forms = forms(protocol, &user, &password);
        let mut input = form.get(&forms).clone();
        let shown = String::from_utf8_lossy(&input).into_owned();
        input.extend(&behind);
        let outcome = crate::fuzz::frontend::serve(&Setup::plain(protocol), &input, Split::Sizes(sizes));
        prop_assert_eq!(&outcome.logins, &vec![(user, password)], "{}", shown);
        prop_assert_eq!((outcome.end, &outcome.unread), (Some(End::Accepted), &behind), "{}", shown);
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

fn protocol() -> impl Strategy<Value = Protocol> {
    select(Protocol::ALL.to_vec())
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
    "STARTTLS\r\n<TLS>",
    "a STARTTLS\r\n<TLS>",
    "STLS\r\n<TLS>",
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
    "g1 OK\r\n<TLS>",
    "+OK\r\n<TLS>",
    "220 x\r\n<TLS>",
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
