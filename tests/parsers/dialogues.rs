//! Wire transcripts as data: `tests/dialogues/*.txt`, for gatepost as a server and as a client.
//!
//! A file has a header, then dialogues, each under a title. A title may be followed by headers of its own.
//!
//! ```text
//! protocol: imap                  imap, pop3, smtp
//! role: frontend                  frontend (default): gatepost is the server; upstream: the client;
//!                                 receiver: the server behind the login, which takes mail itself
//! tls: none                       none (default), starttls, implicit
//! keywords: SIZE 1000|DSN         frontend, smtp: the upstream's EHLO keywords
//! device: open                    frontend, smtp: mail is taken without a login
//! goal: learn                     upstream: learn the keywords instead of logging in
//! capabilities: ask               upstream, imap: ask for capabilities that were not told
//! user: jane@contoso.com          upstream: whom the token is for
//! token: <2500*t>                 upstream: the token
//! max_size: 1000                  receiver: octets of a message
//! bare_lf: accept                 receiver: refuse (default), accept
//! recipients: contoso.com|a@b.c   receiver: who is allowed; default: all
//!
//! === what this shows
//! # why a client does so, or what an attacker hopes for
//! C: a1 LOGIN jane pw             the peer says this and CRLF (in the role of upstream: `S:`)
//! C- \x16\x03\x01                 the peer says this and no line end
//! S: a1 OK logged in              gatepost says this line (in the role of upstream: `C:`)
//! S~ AUTH=PLAIN                   gatepost says a line with this in it
//! -- greeting                     first of all, if the greeting is looked at too; else it is skipped
//! -- tls                          gatepost starts TLS
//! -- login jane pw                gatepost wants this user name and password checked; it is told
//! -- accept IMAP4rev1 IDLE        that they are right, with the upstream's capabilities, or
//! -- refuse upstream_down DNS     that they are not, with the text of this refusal
//! -- device                       gatepost leaves the session to the device's way, and then
//! -- unread a2 NOOP\r\n           what came behind the login and belongs to the other side
//! -- close TooLong                gatepost ends the session, for this reason
//! -- ready SIZE 1000|DSN          upstream: logged in, with these capabilities
//! -- failed busy wait=5000 text   upstream: given up (token, not_permitted, busy, broken), with this in its words
//! -- failed busy is text          upstream: the same, with these words and no others
//!
//! -- content <a@b> RET=HDRS | <c@d> NOTIFY=NEVER     receiver: a message begins; each recipient behind a bar
//! -- mend MAIL FROM with …        receiver: what was mended, behind `content` or `end`
//! -- go_on                        receiver: it is told to go on, or
//! -- refuse 452 4.3.1 no room     that it is not taken, with this reply
//! -- chunk Subject: x\r\n         receiver: octets of the message, those of several chunks in one
//! -- end                          receiver: the message is whole; it is told
//! -- finish 250 2.0.0 safe        what has become of it
//! -- abort too long               receiver: the message is void
//! ```
//!
//! Escapes: `\r \n \t \0 \\ \xff`, `<65536*A>` for a run, `<b64:\0jane\0pw>` for base64, `<b64-:…>` without
//! its padding. Whatever gatepost does must stand in the dialogue, to the last line.
//!
//! Each dialogue is played with the peer's octets in whole segments, one by one, and split at random; every
//! time the same must come out. One thing can't be the same, plain text behind STARTTLS: if it comes later
//! than the answer it is taken for a TLS handshake, which fails. The runner counts that as the same closing.

use std::path::Path;

use crate::session::{Split, play};
use crate::transcript::{Dialogue, Role};
use gatepost::vocabulary::Protocol;

#[test]
fn imap_frontend() {
    play_all(Protocol::Imap, Role::Frontend);
}

#[test]
fn pop3_frontend() {
    play_all(Protocol::Pop3, Role::Frontend);
}

#[test]
fn smtp_frontend() {
    play_all(Protocol::Smtp, Role::Frontend);
}

#[test]
fn imap_upstream() {
    play_all(Protocol::Imap, Role::Upstream);
}

#[test]
fn pop3_upstream() {
    play_all(Protocol::Pop3, Role::Upstream);
}

#[test]
fn smtp_upstream() {
    play_all(Protocol::Smtp, Role::Upstream);
}

#[test]
fn smtp_receiver() {
    play_all(Protocol::Smtp, Role::Receiver);
}

/// A file that is skipped or lost must not go unnoticed.
#[test]
fn none_is_lost() {
    let frontend: Vec<_> =
        load().into_iter().filter(|dialogue| dialogue.settings.role == Role::Frontend).collect();
    let legal = frontend.iter().filter(|dialogue| dialogue.logs_in()).count();
    let hostile = frontend.len() - legal;
    let receiver =
        load().iter().filter(|dialogue| dialogue.settings.role == Role::Receiver).count();
    assert!(receiver >= 70, "{receiver} of a receiver");
    assert!(legal >= 110 && hostile >= 140, "{legal} that log in, {hostile} that don't");
}

#[test]
fn the_runner_can_fail() {
    let nothing_expected = "protocol: imap\n=== title\nC: a NOOP\n";
    assert!(
        crate::transcript::parse("x", nothing_expected)
            .unwrap_err()
            .contains("x:2: expects nothing")
    );
    let cases = [
        ("C: a NOOP\nS: a OK wrong", "x:4: expected the line"),
        ("C: a NOOP\nS: a OK done\nS: more", "x:5: expected the line"),
        ("C: a NOOP\nC: b NOOP\nS: a OK done", "x:6: nothing more is expected"),
        ("C: a LOGIN jane pw\n-- login jane other", "x:4: expected the login"),
        ("C: a LOGIN jane pw\n-- login jane pw", "x:5: waits for accept or refuse"),
        (
            "C: a LOGIN jane pw\nC: b NOOP\n-- login jane pw\n-- accept\nS: a OK logged in",
            "x:8: nothing more is expected",
        ),
    ];
    for (lines, message) in cases {
        let text = format!("protocol: imap\n=== title\n{lines}\n");
        let dialogues = crate::transcript::parse("x", &text).unwrap();
        for split in [Split::Whole, Split::Octets, Split::Random(1)] {
            let error = play(dialogues.first().unwrap(), split).unwrap_err();
            assert!(error.starts_with(message), "{error}");
        }
    }
}

fn load() -> Vec<Dialogue> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/dialogues");
    crate::transcript::load(&folder).unwrap_or_else(|error| panic!("{error}"))
}

fn play_all(protocol: Protocol, role: Role) {
    let mut failures = Vec::new();
    for dialogue in load() {
        if dialogue.settings.protocol != Some(protocol) || dialogue.settings.role != role {
            continue;
        }
        let random = (1..=4).map(Split::Random);
        for split in [Split::Whole, Split::Octets].into_iter().chain(random) {
            let played = match role {
                Role::Receiver => crate::receiving::play(&dialogue, split),
                Role::Frontend | Role::Upstream => play(&dialogue, split),
            };
            if let Err(failure) = played {
                failures.push(format!("tests/dialogues/{failure} ({split:?})"));
                break;
            }
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}
