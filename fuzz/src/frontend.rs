//! Any octets of a client before its login.

use std::borrow::Cow;
use std::sync::Arc;
use std::sync::LazyLock;

use gatepost::protocol::{
    Closing, Frontend, FrontendStep, LocalTls, MAX_LINE, Refusal, Welcome, spool_keywords,
};
use gatepost::vocabulary::Protocol;

use super::case::{Case, Pieces, Split, flights, one_flight};
use super::wire::{assert_clean, contains, shown};

/// Wrong passwords, and other refusals, after which a session ends.
const MOST_WRONG: usize = 3;
const MOST_REFUSED: usize = 10;

/// Longest literal of IMAP that is waited for; what a session holds unread is a line or this.
const MOST_UNREAD: usize = MAX_LINE;

/// Most that is said at the beginning, and for a line of the client: SMTP's answer to EHLO.
const MOST_SAID: usize = 600;

/// How a session is served.
#[derive(Clone, Copy)]
pub struct Setup {
    protocol: Protocol,
    tls: LocalTls,
    /// Mail is taken without a login.
    open: bool,
    /// So many logins are refused.
    refused: usize,
    /// By this, with the rest of its answer behind a tag.
    refusal: &'static (Refusal, [Vec<u8>; 3]),
}

/// All that can be seen of a session.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    pub said: Vec<u8>,
    /// How much of that was said in plain text, if TLS has begun.
    plain: Option<usize>,
    pub logins: Vec<(String, Vec<u8>)>,
    pub end: Option<End>,
    pub unread: Vec<u8>,
}

#[derive(Debug, PartialEq, Eq)]
pub enum End {
    Closed(Closing),
    Device,
    Accepted,
}

/// A client gets clean answers, the same ones however its octets are split; no login before TLS and none with a forged
/// name; an answer to a login has nothing of the login in it; what was said before TLS has no effect behind it.
pub fn check(protocol: Protocol, data: &[u8]) {
    let Some(case) = Case::of(data) else { return };
    let tls =
        [LocalTls::Never, LocalTls::Offered, LocalTls::Active][usize::from(case.flags & 3) % 3];
    let setup = Setup {
        protocol,
        tls,
        open: case.flag(2),
        refused: if case.flag(3) { usize::MAX } else { usize::from(case.flags >> 4 & 3) },
        refusal: &REFUSALS[usize::from(case.flag(6))],
    };
    let whole = case.agree(|split| serve(&setup, case.wire, split));
    assert_clean(&whole.said);
    let lines = case.wire.iter().filter(|&&octet| octet == b'\n').count() + 1;
    assert!(whole.said.len() <= (lines + 1) * MOST_SAID, "{} octets", whole.said.len());
    assert!(setup.open || whole.end != Some(End::Device));
    for (user, password) in &whole.logins {
        assert!(!user.is_empty() && user.len() <= 255, "{user:?}");
        assert!(!user.contains(char::is_control), "{user:?}");
        assert!(!password.contains(&0), "a NUL in a password");
    }
    let most = if case.flag(6) { MOST_REFUSED } else { MOST_WRONG };
    assert!(whole.logins.len() <= most.min(setup.refused.saturating_add(1)));
    if let (Some(plain), true) = (whole.plain, case.flag(7)) {
        check_forgetful(&setup, &case, &whole, plain);
    }
}

/// RFC 3207 section 4.2: the session behind TLS is as if nothing had been said in front.
fn check_forgetful(setup: &Setup, case: &Case<'_>, whole: &Outcome, plain: usize) {
    let short: &[u8] = match setup.protocol {
        Protocol::Imap => b"a STARTTLS\r\n<TLS>",
        Protocol::Pop3 => b"STLS\r\n<TLS>",
        Protocol::Smtp => b"STARTTLS\r\n<TLS>",
    };
    let (_, tls) = flights(case.wire);
    let wire = [short, tls.unwrap_or_default()].concat();
    let fresh = serve(setup, &wire, Split::Whole);
    let counted = [Closing::TooManyErrors, Closing::TooManyWrongPasswords];
    let by_count = |end: &Option<End>| counted.iter().any(|why| *end == Some(End::Closed(*why)));
    // Errors are counted over all of a connection.
    if by_count(&whole.end) || by_count(&fresh.end) {
        return;
    }
    let fresh_plain = fresh.plain.expect("STARTTLS was refused");
    assert_eq!(shown(&whole.said[plain..]), shown(&fresh.said[fresh_plain..]));
    assert_eq!(
        (&whole.logins, &whole.end, &whole.unread),
        (&fresh.logins, &fresh.end, &fresh.unread)
    );
}

impl Setup {
    /// On a listener without TLS, and the first login is let in.
    pub fn plain(protocol: Protocol) -> Self {
        let refusal = &REFUSALS[0];
        Self { protocol, tls: LocalTls::Never, open: false, refused: 0, refusal }
    }
}

pub fn serve(setup: &Setup, wire: &[u8], split: Split) -> Outcome {
    let (plain, secured) = match setup.tls {
        LocalTls::Offered => {
            let (plain, secured) = flights(wire);
            (Cow::from(plain), secured.unwrap_or_default())
        }
        LocalTls::Never | LocalTls::Active => (one_flight(wire), &[][..]),
    };
    let mut pieces = Pieces::new(&plain, split);
    let mut frontend = new(setup);
    let mut outcome = Outcome { said: frontend.greeting(), ..Outcome::default() };
    loop {
        match frontend.step() {
            FrontendStep::Read => match pieces.next() {
                Some(piece) => frontend.push(piece),
                None => {
                    let unread = frontend.into_unread().len();
                    assert!(unread <= MOST_UNREAD, "{unread} octets are held");
                    return outcome;
                }
            },
            FrontendStep::Write(octets) => outcome.said.extend(octets),
            FrontendStep::StartTls(reply) if pieces.rest().is_empty() => {
                assert_eq!(setup.tls, LocalTls::Offered);
                assert!(outcome.plain.is_none(), "TLS in TLS");
                outcome.said.extend(reply);
                outcome.plain = Some(outcome.said.len());
                frontend.tls_started();
                pieces = Pieces::new(secured, split);
            }
            // What comes in plain text behind the answer fails as a TLS handshake.
            FrontendStep::StartTls(_) => {
                return closed(frontend, outcome, Closing::PlaintextBehindStartTls);
            }
            FrontendStep::Close(closing) => return closed(frontend, outcome, closing),
            FrontendStep::Device => {
                outcome.unread = [&frontend.into_unread(), pieces.rest()].concat();
                outcome.end = Some(End::Device);
                return outcome;
            }
            FrontendStep::Login(login) => {
                let in_plain_text = setup.tls == LocalTls::Offered && outcome.plain.is_none();
                assert!(!in_plain_text, "a login before TLS");
                outcome.logins.push((login.user, login.password.expose().clone()));
                if outcome.logins.len() > setup.refused {
                    let (answer, unread) = frontend.accept(&Welcome::default());
                    outcome.said.extend(answer);
                    outcome.unread = [&unread, pieces.rest()].concat();
                    outcome.end = Some(End::Accepted);
                    return outcome;
                }
                let answer = frontend.refuse(&setup.refusal.0);
                assert_answer(setup, &answer);
                outcome.said.extend(answer);
            }
        }
    }
}

fn new(setup: &Setup) -> Frontend {
    let keywords = match setup.protocol {
        Protocol::Smtp => spool_keywords(1000),
        Protocol::Imap | Protocol::Pop3 => Vec::new(),
    };
    let frontend = Frontend::new(setup.protocol, setup.tls, keywords.into());
    if setup.open { frontend.open_to_device() } else { frontend }
}

fn closed(mut frontend: Frontend, mut outcome: Outcome, closing: Closing) -> Outcome {
    outcome.said.extend(frontend.goodbye(closing));
    outcome.end = Some(End::Closed(closing));
    outcome
}

/// Nothing of a login comes back but IMAP's tag.
fn assert_answer(setup: &Setup, answer: &[u8]) {
    let expected = &setup.refusal.1[usize::from(setup.protocol as u8)];
    let words = match setup.protocol {
        Protocol::Imap => behind_tag(answer),
        Protocol::Pop3 | Protocol::Smtp => answer,
    };
    assert_eq!(shown(words), shown(expected));
}

fn behind_tag(line: &[u8]) -> &[u8] {
    let space = line.iter().position(|&octet| octet == b' ').expect("a tag");
    assert!(space <= 64, "a long tag");
    &line[space..]
}

/// Refusals, with what each protocol answers to the login of somebody else.
static REFUSALS: LazyLock<[(Refusal, [Vec<u8>; 3]); 2]> = LazyLock::new(|| {
    let down = Refusal::UpstreamDown { reason: "no route".into() };
    [Refusal::BadCredentials, down].map(|refusal| {
        let answers = Protocol::ALL.map(|protocol| {
            let wire: &[u8] = match protocol {
                Protocol::Imap => b"a LOGIN planted-name planted-word\r\n",
                Protocol::Pop3 => b"USER planted-name\r\nPASS planted-word\r\n",
                Protocol::Smtp => b"EHLO x\r\nAUTH PLAIN AHBsYW50ZWQtbmFtZQBwbGFudGVkLXdvcmQ=\r\n",
            };
            let mut frontend = Frontend::new(protocol, LocalTls::Never, Arc::default());
            frontend.push(wire);
            while !matches!(frontend.step(), FrontendStep::Login(_)) {}
            let answer = frontend.refuse(&refusal);
            assert!(!contains(&answer, b"planted"), "{}", shown(&answer));
            match protocol {
                Protocol::Imap => behind_tag(&answer).to_vec(),
                Protocol::Pop3 | Protocol::Smtp => answer,
            }
        });
        (refusal, answers)
    })
});
