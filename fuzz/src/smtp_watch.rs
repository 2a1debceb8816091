//! Any octets of both sides of an SMTP session behind the login.

use gatepost::protocol::{AllowedRecipients, ClientStep, DeviceRules, Noticed, Watch};

use super::case::{Case, Pieces, Split};
use super::smtp_server::Server;
use super::wire::{assert_words, shown};

/// Octets of a device's message, few so that the limit is met.
const MAX_SIZE: u64 = 60;

/// Most of the upstream's words that is kept.
const MOST_WORDS: usize = 240;

/// What came of a session.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    pub up: Vec<u8>,
    pub down: Vec<u8>,
    pub noticed: Vec<Noticed>,
    /// Recipients and content of each message that the server took.
    pub taken: Vec<(Vec<String>, Vec<u8>)>,
    pub idle: bool,
    pub over: bool,
}

/// How the octets come.
#[derive(Clone, Copy, Debug)]
pub struct Ways {
    pub client: Split,
    pub server: Split,
    /// The server's answers come only when the client's octets can't pass without.
    pub late: bool,
}

/// Of a client that has logged in, what passes is what came, whatever either side says; a device gets nothing past its
/// rules, and what comes of its session does not depend on how it was split.
pub fn check(data: &[u8]) {
    let Some(case) = Case::of(data) else { return };
    let lenient = case.flag(0);
    match case.flags >> 1 & 3 {
        0 => check_client(&case, lenient),
        1 => check_both(&case),
        _ => check_device(&case, lenient),
    }
}

/// The server's octets come when they like, the client's up to the first NUL.
fn check_both(case: &Case<'_>) {
    let at = case.wire.iter().position(|&octet| octet == 0).unwrap_or(case.wire.len());
    let (client, server) = case.wire.split_at(at);
    let mut watch = Watch::new(None);
    let (mut held, mut up, mut down) = (Vec::new(), Vec::new(), Vec::new());
    let mut sides = (
        Pieces::new(client, Split::Sizes(case.seed)),
        Pieces::new(server, Split::Sizes(!case.seed)),
    );
    loop {
        let (of_client, of_server) = (sides.0.next(), sides.1.next());
        if (of_client, of_server) == (None, None) {
            break;
        }
        held.extend_from_slice(of_client.unwrap_or_default());
        pass(&mut watch, &mut held, &mut up, false);
        hear(&mut watch, of_server.unwrap_or_default(), &mut down, |noticed| {
            check_noticed(&noticed)
        });
        pass(&mut watch, &mut held, &mut up, false);
    }
    watch.server_closed();
    pass(&mut watch, &mut held, &mut up, true);
    assert_eq!((shown(&up), shown(&down)), (shown(client), shown(server)));
    assert!(watch.answers().is_empty());
}

/// Lets pass what may.
fn pass(watch: &mut Watch, held: &mut Vec<u8>, up: &mut Vec<u8>, closed: bool) {
    loop {
        match watch.client(held, closed) {
            ClientStep::Pass(count) => up.extend(held.drain(..count)),
            ClientStep::Message => watch.let_message_go(),
            ClientStep::Wait => return,
            ClientStep::Drop(_) => panic!("nothing is dropped of a client that has logged in"),
        }
    }
}

fn hear(watch: &mut Watch, mut piece: &[u8], down: &mut Vec<u8>, mut noticed: impl FnMut(Noticed)) {
    while !piece.is_empty() {
        let (passed, told) = watch.server(piece);
        assert!(passed > 0);
        down.extend_from_slice(&piece[..passed]);
        down.extend(watch.answers());
        told.into_iter().for_each(&mut noticed);
        piece = &piece[passed..];
    }
}

fn check_noticed(noticed: &Noticed) {
    if let Noticed::Refused { said, .. } = noticed {
        assert_words(said, MOST_WORDS);
    }
}

fn check_client(case: &Case<'_>, lenient: bool) {
    case.agree(|split| {
        let outcome = session(None, lenient, case.wire, ways(case, split));
        assert_eq!(shown(&outcome.up), shown(case.wire));
        (outcome.down, outcome.taken)
    });
}

fn check_device(case: &Case<'_>, lenient: bool) {
    let outcome = case.agree(|split| session(Some(rules()), lenient, case.wire, ways(case, split)));
    outcome.noticed.iter().for_each(check_noticed);
    for (recipients, content) in &outcome.taken {
        for recipient in recipients {
            assert!(recipient.to_lowercase().contains("@good.example>"), "{recipient:?}");
        }
        assert!(content.len() as u64 <= MAX_SIZE, "{:?}", shown(content));
    }
}

fn ways(case: &Case<'_>, split: Split) -> Ways {
    let late = case.flag(3) && !matches!(split, Split::Whole);
    Ways { client: split, server: split, late }
}

pub fn rules() -> DeviceRules {
    let recipients = AllowedRecipients::new(vec!["good.example".into()]);
    DeviceRules { recipients: Some(recipients), size: Some(MAX_SIZE) }
}

/// A session from its login to where the client closes. Of a device each third message is one too many.
pub fn session(rules: Option<DeviceRules>, lenient: bool, input: &[u8], ways: Ways) -> Outcome {
    let device = rules.is_some();
    let mut watch = Watch::new(rules);
    let mut server = Server::default();
    server.lenient = lenient;
    let mut outcome = Outcome::default();
    let mut held = Vec::new();
    let mut pieces = Pieces::new(input, ways.client);
    let mut messages = 0;
    loop {
        held.extend_from_slice(pieces.next().unwrap_or_default());
        let closed = pieces.rest().is_empty();
        loop {
            match watch.client(&held, closed) {
                ClientStep::Pass(count) => {
                    outcome.up.extend_from_slice(&held[..count]);
                    server.read(&held[..count]);
                    held.drain(..count);
                }
                ClientStep::Drop(count) => drop(held.drain(..count)),
                ClientStep::Message => {
                    messages += 1;
                    match device && messages % 3 == 0 {
                        true => watch.refuse_message(),
                        false => watch.let_message_go(),
                    }
                }
                ClientStep::Wait if server.out.is_empty() => break,
                ClientStep::Wait => answer(&mut watch, &mut server, &mut outcome, ways.server),
            }
            outcome.down.extend(watch.answers());
            while !ways.late && !server.out.is_empty() {
                answer(&mut watch, &mut server, &mut outcome, ways.server);
            }
        }
        if closed {
            break;
        }
    }
    (outcome.idle, outcome.over) = (watch.is_idle(), watch.is_over());
    outcome.taken = server.taken;
    outcome
}

/// The next piece of what the server has to say.
fn answer(watch: &mut Watch, server: &mut Server, outcome: &mut Outcome, split: Split) {
    let said = std::mem::take(&mut server.out);
    let piece = Pieces::new(&said, split).next().unwrap_or_default();
    server.out = said[piece.len()..].to_vec();
    hear(watch, piece, &mut outcome.down, |noticed| outcome.noticed.push(noticed));
}
