//! Any octets of an upstream before gatepost is logged in to it.

use std::sync::LazyLock;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use gatepost::protocol::{Goal, MAX_LINE, Rejection, Upstream, UpstreamStep, Welcome, Xoauth2};
use gatepost::secret::Secret;
use gatepost::vocabulary::{Protocol, TlsMode};

use super::case::{Case, Pieces, Split, flights, one_flight};
use super::wire::{assert_clean, assert_words, contains, shown};

const USER: &str = "jane@contoso.com";
const TOKEN: &str = "eyJ0eXAiOiJKV1QifQ.secret-of-a-token.c2lnbmF0dXJl";

/// The message in which the token goes out (Exchange's form of XOAUTH2).
static MESSAGE: LazyLock<String> =
    LazyLock::new(|| BASE64_STANDARD.encode(format!("user={USER}\x01auth=Bearer {TOKEN}\x01\x01")));

static LOGIN: LazyLock<Xoauth2> = LazyLock::new(|| {
    let token = Secret::new(String::from(TOKEN));
    Xoauth2::new(USER, &token).expect("no control character in it")
});

/// Most that gatepost says to one upstream, besides the token: some commands, and an empty line for each challenge.
const MOST_SAID: usize = 1024;

/// Most of an upstream's words that is kept of a refusal.
const MOST_WORDS: usize = 240;

#[derive(Clone, Copy)]
struct Setup {
    protocol: Protocol,
    tls: TlsMode,
    learn: bool,
    ask: bool,
    /// The login is known when its turn has come, and not before.
    late: bool,
}

/// All that can be seen of a connection.
#[derive(Debug, Default, PartialEq, Eq)]
struct Outcome {
    said: Vec<u8>,
    /// How much of that was said in plain text, if TLS has begun.
    plain: Option<usize>,
    end: Option<End>,
    unread: Vec<u8>,
}

#[derive(Debug, PartialEq, Eq)]
enum End {
    Ready(Welcome),
    Failed(Rejection),
    /// As TLS would fail, if this comes later than the answer to STARTTLS.
    Injected,
}

/// An upstream gets clean commands, the same ones however its octets are split; the token goes out once at most and
/// never in plain text; nothing that was said before TLS has any effect behind it; and a connection that has stood ready
/// for its login goes on like one that was opened for it.
pub fn check(protocol: Protocol, data: &[u8]) {
    let Some(case) = Case::of(data) else { return };
    let setup = Setup {
        protocol,
        tls: if case.flag(0) { TlsMode::StartTls } else { TlsMode::Implicit },
        learn: case.flag(1) && protocol == Protocol::Smtp,
        ask: case.flag(2),
        late: false,
    };
    let whole = case.agree(|split| call(&setup, case.wire, split));
    if !setup.learn {
        assert_eq!(call(&Setup { late: true, ..setup }, case.wire, case.split()), whole);
    }
    assert_clean(&whole.said);
    assert!(whole.said.len() <= MOST_SAID + MESSAGE.len(), "{} octets", whole.said.len());
    let (plain, secured) = match (setup.tls, whole.plain) {
        (TlsMode::Implicit, _) => whole.said.split_at(0),
        (_, plain) => whole.said.split_at(plain.unwrap_or(whole.said.len())),
    };
    assert!(!contains(plain, MESSAGE.as_bytes()), "the token went out in plain text");
    let told = shown(secured).matches(MESSAGE.as_str()).count();
    assert!(told <= usize::from(!setup.learn), "the token went out {told} times");
    match &whole.end {
        Some(End::Ready(welcome)) => {
            assert!(setup.learn || told == 1, "logged in without a token");
            assert!(welcome.capabilities.len() <= MAX_LINE);
            for word in &*welcome.capabilities {
                assert!(word.bytes().all(|octet| (32..127).contains(&octet)), "{word:?}");
            }
        }
        Some(End::Failed(rejection)) => {
            assert_words(said(rejection), MOST_WORDS);
            assert!(told == 1 || !matches!(rejection, Rejection::Token { .. }), "{rejection:?}");
        }
        Some(End::Injected) | None => {}
    }
    if let (Some(plain), true) = (whole.plain, case.flag(7)) {
        check_forgetful(&setup, &case, &whole, plain);
    }
}

fn said(rejection: &Rejection) -> &str {
    match rejection {
        Rejection::Token { said }
        | Rejection::NotPermitted { said }
        | Rejection::Busy { said, .. }
        | Rejection::Broken { said } => said,
    }
}

/// What an upstream said in plain text may have been anybody's.
fn check_forgetful(setup: &Setup, case: &Case<'_>, whole: &Outcome, plain: usize) {
    /// Lines are counted over all of a connection.
    const MOST_LINES: usize = 150;
    if case.wire.iter().filter(|&&octet| octet == b'\n').count() > MOST_LINES {
        return;
    }
    let short: &[u8] = match setup.protocol {
        Protocol::Imap => b"* OK\r\ng1 OK\r\n<TLS>",
        Protocol::Pop3 => b"+OK\r\n+OK\r\n<TLS>",
        Protocol::Smtp => b"220 x\r\n250 x\r\n220 x\r\n<TLS>",
    };
    let (_, tls) = flights(case.wire);
    let fresh = call(setup, &[short, tls.unwrap_or_default()].concat(), Split::Whole);
    let fresh_plain = fresh.plain.expect("no TLS");
    assert_eq!(shown(&whole.said[plain..]), shown(&fresh.said[fresh_plain..]));
    assert_eq!((&whole.end, &whole.unread), (&fresh.end, &fresh.unread));
}

fn call(setup: &Setup, wire: &[u8], split: Split) -> Outcome {
    match setup.tls {
        TlsMode::Implicit => talk(setup, &one_flight(wire), &[], split),
        _ => {
            let (plain, secured) = flights(wire);
            talk(setup, plain, secured.unwrap_or_default(), split)
        }
    }
}

/// A connection on which the upstream says `plain`, and `secured` behind STARTTLS.
fn talk(setup: &Setup, plain: &[u8], secured: &[u8], split: Split) -> Outcome {
    let mut pieces = Pieces::new(plain, split);
    let goal = match setup {
        Setup { learn: true, .. } => Goal::Learn,
        Setup { late: true, .. } => Goal::StandBy,
        _ => Goal::Login(LOGIN.clone()),
    };
    let mut upstream = Upstream::new(setup.protocol, setup.tls, goal, "gatepost.local", setup.ask);
    let mut outcome = Outcome::default();
    loop {
        match upstream.step() {
            UpstreamStep::Read => match pieces.next() {
                Some(piece) => upstream.push(piece),
                None => {
                    let unread = upstream.into_unread().len();
                    assert!(unread <= MAX_LINE, "{unread} octets are held");
                    return outcome;
                }
            },
            UpstreamStep::Write(octets) => outcome.said.extend(octets.expose()),
            UpstreamStep::StartTls if pieces.rest().is_empty() => {
                assert!(setup.tls == TlsMode::StartTls && outcome.plain.is_none(), "TLS in TLS");
                outcome.plain = Some(outcome.said.len());
                upstream.tls_started();
                pieces = Pieces::new(secured, split);
            }
            UpstreamStep::StartTls => {
                outcome.end = Some(End::Injected);
                return outcome;
            }
            UpstreamStep::Rest => {
                assert!(setup.late && !contains(&outcome.said, MESSAGE.as_bytes()));
                upstream.log_in(LOGIN.clone(), setup.ask);
            }
            UpstreamStep::Ready(welcome) => {
                assert!(setup.tls == TlsMode::Implicit || outcome.plain.is_some(), "no TLS");
                outcome.unread = [&upstream.into_unread(), pieces.rest()].concat();
                outcome.end = Some(End::Ready(welcome));
                return outcome;
            }
            UpstreamStep::Failed(rejection) => {
                let injected = said(&rejection).starts_with("plain text behind");
                outcome.end = Some(if injected { End::Injected } else { End::Failed(rejection) });
                return outcome;
            }
        }
    }
}

/// What stands in the challenge of a server that takes no token changes nothing: an empty line is the answer to it,
/// and the refusal behind it tells why.
pub fn check_challenge(data: &[u8]) {
    let Some(case) = Case::of(data) else { return };
    let protocol = Protocol::ALL[usize::from(case.flags & 3) % 3];
    let setup =
        Setup { protocol, tls: TlsMode::Implicit, learn: false, ask: case.flag(2), late: false };
    let at = case.wire.iter().position(|&octet| octet == 0).unwrap_or(case.wire.len());
    let (challenge, refusal) = case.wire.split_at(at);
    let refusal = refusal.get(1..).unwrap_or_default();
    let mut challenge = match case.flag(3) {
        true => BASE64_STANDARD.encode(challenge).into_bytes(),
        false => challenge.iter().copied().filter(|octet| !b"\r\n".contains(octet)).collect(),
    };
    challenge.truncate(MAX_LINE - 16);
    let (before, mark): (&[u8], &[u8]) = match protocol {
        Protocol::Imap => (b"* OK\r\n", b"+ "),
        Protocol::Pop3 => (b"+OK\r\n+ \r\n", b"+ "),
        Protocol::Smtp => (b"220 x\r\n250 x\r\n334 \r\n", b"334 "),
    };
    let wire = |challenge: &[u8]| [before, mark, challenge, b"\r\n", refusal].concat();
    let outcome = talk(&setup, &wire(&challenge), &[], case.split());
    assert_eq!(outcome, talk(&setup, &wire(b""), &[], Split::Whole));
    let mut lines = shown(&outcome.said);
    let token_at = lines.find(MESSAGE.as_str()).expect("the token went out");
    lines.drain(..token_at + MESSAGE.len());
    assert!(lines.starts_with("\r\n\r\n"), "no empty line: {lines:?}");
}
