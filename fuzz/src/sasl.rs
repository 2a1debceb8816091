//! PLAIN and LOGIN as any client spells them, the same through each protocol.

use std::sync::Arc;

use gatepost::protocol::{Frontend, FrontendStep, LocalTls};
use gatepost::vocabulary::Protocol;

use base64::Engine;
use base64::prelude::{BASE64_STANDARD, BASE64_STANDARD_NO_PAD};

use super::case::{Case, Pieces, Split};

/// Longest user name (RFC 4616 section 2).
const LONGEST_USER: usize = 255;

/// What a client claims, or that it claims nothing.
type Claim = Option<(String, Vec<u8>)>;

/// The same exchange brings the same login through each protocol, whichever way it is written, and it is the one that
/// a model reads from the octets.
pub fn check(data: &[u8]) {
    let Some(case) = Case::of(data) else { return };
    let at = case.wire.iter().position(|&octet| octet == b'\n').unwrap_or(case.wire.len());
    let (first, second) = case.wire.split_at(at);
    let second = second.get(1..).unwrap_or_default();
    let plain = case.flag(0);
    // Encoded here, or the fuzzer's own words where base64 should stand.
    let (lines, expected) = match (case.flag(1), plain) {
        (true, true) => (vec![encode(&case, case.wire)], model_plain(case.wire)),
        (true, false) => (
            vec![encode(&case, first), encode(&case, second)],
            user(first).and_then(|user| model(user, second)),
        ),
        (false, true) => (vec![line(first)], decode(&line(first)).and_then(|it| model_plain(&it))),
        (false, false) => {
            let lines = vec![line(first), line(second)];
            let user = decode(&lines[0]).and_then(|octets| user(&octets));
            let password = decode(&lines[1]);
            let claim = user.zip(password).and_then(|(user, password)| model(user, &password));
            (lines, claim)
        }
    };
    // What a command with more than one word behind it means is a protocol's own.
    let initial = case.flag(2) && case.flag(1) && !lines[0].is_empty();
    for protocol in Protocol::ALL {
        let wire = wire(protocol, plain, initial, &lines);
        let claim = run(protocol, &wire, case.split());
        assert_eq!(claim, expected, "{protocol} {:?}", String::from_utf8_lossy(&wire));
    }
}

fn encode(case: &Case<'_>, octets: &[u8]) -> Vec<u8> {
    // Some more than is read of a line before the login.
    let octets = &octets[..octets.len().min(8000)];
    let padded = !case.flag(3);
    let text = match padded {
        true => BASE64_STANDARD.encode(octets),
        false => BASE64_STANDARD_NO_PAD.encode(octets),
    };
    text.into_bytes()
}

/// One line, which has no line end of its own.
fn line(octets: &[u8]) -> Vec<u8> {
    octets.iter().copied().filter(|octet| !b"\r\n".contains(octet)).take(8000).collect()
}

fn wire(protocol: Protocol, plain: bool, initial: bool, lines: &[Vec<u8>]) -> Vec<u8> {
    let command = match protocol {
        Protocol::Imap => "a AUTHENTICATE ",
        Protocol::Pop3 => "AUTH ",
        Protocol::Smtp => "EHLO x\r\nAUTH ",
    };
    let mut wire = command.as_bytes().to_vec();
    wire.extend_from_slice(if plain { b"PLAIN" } else { b"LOGIN" });
    wire.extend_from_slice(if initial { b" " } else { b"\r\n" });
    for line in lines {
        wire.extend_from_slice(line);
        wire.extend_from_slice(b"\r\n");
    }
    wire
}

/// The first login, if there is one before the exchange has failed.
fn run(protocol: Protocol, wire: &[u8], split: Split) -> Claim {
    let mut frontend = Frontend::new(protocol, LocalTls::Never, Arc::default());
    let mut pieces = Pieces::new(wire, split);
    loop {
        match frontend.step() {
            FrontendStep::Read => frontend.push(pieces.next()?),
            // It has failed: what comes behind it are commands, which may be other logins.
            FrontendStep::Write(said)
                if [&b"a "[..], b"-", b"5"].iter().any(|no| said.starts_with(no)) =>
            {
                return None;
            }
            FrontendStep::Write(_) => {}
            FrontendStep::Login(login) => {
                return Some((login.user, login.password.expose().clone()));
            }
            FrontendStep::Close(_) => return None,
            step => panic!("{step:?}"),
        }
    }
}

/// RFC 4616 section 2, as said of the whole message.
fn model_plain(message: &[u8]) -> Claim {
    let message = &message[..message.len().min(8000)];
    let nuls: Vec<_> = (0..message.len()).filter(|&at| message[at] == 0).collect();
    let &[first, second] = &nuls[..] else { return None };
    let (identity, name) = (&message[..first], &message[first + 1..second]);
    if !identity.is_empty() && !identity.eq_ignore_ascii_case(name) {
        return None;
    }
    model(user(name)?, &message[second + 1..])
}

fn model(user: String, password: &[u8]) -> Claim {
    let password = &password[..password.len().min(8000)];
    (!password.contains(&0)).then(|| (user, password.to_vec()))
}

fn user(name: &[u8]) -> Option<String> {
    let user = String::from_utf8(name[..name.len().min(8000)].to_vec()).ok()?;
    let clean = !user.is_empty() && user.len() <= LONGEST_USER && !user.contains(char::is_control);
    clean.then_some(user)
}

/// RFC 4648 section 4, bit by bit; the padding may be left out, and spaces stand behind it.
fn decode(line: &[u8]) -> Option<Vec<u8>> {
    let line = &line[..line.iter().rposition(|&octet| octet != b' ').map_or(0, |at| at + 1)];
    let symbols = &line[..line.iter().rposition(|&octet| octet != b'=').map_or(0, |at| at + 1)];
    let padding = line.len() - symbols.len();
    if symbols.len() % 4 == 1 || padding > (4 - symbols.len() % 4) % 4 {
        return None;
    }
    let mut octets = Vec::new();
    let (mut bits, mut count) = (0_u32, 0);
    for symbol in symbols {
        let value = match symbol {
            b'A'..=b'Z' => symbol - b'A',
            b'a'..=b'z' => symbol - b'a' + 26,
            b'0'..=b'9' => symbol - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => return None,
        };
        (bits, count) = (bits << 6 | u32::from(value), count + 6);
        if count >= 8 {
            count -= 8;
            octets.push(u8::try_from(bits >> count & 255).ok()?);
        }
    }
    (bits & ((1 << count) - 1) == 0).then_some(octets)
}
