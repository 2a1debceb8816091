//! What gatepost sees of an SMTP session behind the login, and that it changes nothing of it: judged by a server
//! of the test's own, and by all that a client can send.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test ends by panicking"
)]

use std::time::Duration;

use gatepost::protocol::{AllowedRecipients, ClientStep, DeviceRules, Noticed, Refusal, Watch};
use proptest::prelude::*;

/// A server that answers what it reads. A lenient one takes a bare line feed for a line's end everywhere, as
/// some do.
#[derive(Default)]
struct Server {
    lenient: bool,
    input: Vec<u8>,
    out: Vec<u8>,
    state: State,
    sender: bool,
    recipients: Vec<String>,
    chunks: Vec<u8>,
    /// Recipients and content of each message that was taken.
    taken: Vec<(Vec<String>, Vec<u8>)>,
}

#[derive(Clone, Copy, Default)]
enum State {
    #[default]
    Commands,
    Content,
    Chunk(usize, bool),
}

impl Server {
    fn read(&mut self, bytes: &[u8]) {
        self.input.extend_from_slice(bytes);
        while self.advance() {}
    }

    fn advance(&mut self) -> bool {
        match self.state {
            State::Commands => {
                let Some(end) = self.input.iter().position(|byte| *byte == b'\n') else {
                    return false;
                };
                let line: Vec<u8> = self.input.drain(..=end).collect();
                let line = String::from_utf8_lossy(&line).trim().to_owned();
                let reply = self.command(&line);
                self.out.extend(reply.bytes());
            }
            State::Content => {
                let Some((length, taken)) = self.content_end() else { return false };
                let content: Vec<u8> = self.input.drain(..taken).take(length).collect();
                self.take(content);
            }
            State::Chunk(count, last) => {
                if self.input.len() < count {
                    return false;
                }
                self.chunks.extend(self.input.drain(..count));
                match last {
                    true => {
                        let content = std::mem::take(&mut self.chunks);
                        self.take(content);
                    }
                    false => self.out.extend(b"250 chunk\r\n"),
                }
                self.state = State::Commands;
            }
        }
        true
    }

    /// Octets of the content, and with its end.
    fn content_end(&self) -> Option<(usize, usize)> {
        if self.input.starts_with(b".\r\n") {
            return Some((0, 3));
        }
        let ends: &[&[u8]] =
            if self.lenient { &[b"\n.\r\n", b"\n.\n", b"\r.\r\n"] } else { &[b"\r\n.\r\n"] };
        let at = |end: &&[u8]| {
            let at = self.input.windows(end.len()).position(|window| window == *end)?;
            Some((at, at + end.len()))
        };
        ends.iter().filter_map(at).min_by_key(|(at, _)| *at)
    }

    fn take(&mut self, content: Vec<u8>) {
        let recipients = std::mem::take(&mut self.recipients);
        self.sender = false;
        self.state = State::Commands;
        if content.windows(6).any(|window| window == b"refuse") {
            self.out.extend(b"554-5.2.0 no\r\n554 SubmissionQuotaExceededException\r\n");
        } else {
            self.out.extend(format!("250 2.0.0 taken for {}\r\n", recipients.len()).bytes());
            self.taken.push((recipients, content));
        }
    }

    fn command(&mut self, line: &str) -> String {
        let upper = line.to_uppercase();
        let reply = match upper.split([' ', ':']).next().unwrap() {
            "MAIL" if self.sender => "503 again",
            "MAIL" if upper.contains("BUSY") => {
                "432 4.3.2 slower; Suggested Backoff Time: 1500 milliseconds"
            }
            "MAIL" => {
                self.sender = true;
                "250-2.1.0 fine\r\n250 sender"
            }
            "RCPT" if !self.sender => "503 MAIL first",
            "RCPT" if upper.contains("NOBODY") => "550 5.1.1 nobody",
            "RCPT" => {
                self.recipients.push(line.to_owned());
                "250 2.1.5 recipient"
            }
            "DATA" if self.recipients.is_empty() => "503 RCPT first",
            "DATA" => {
                self.state = State::Content;
                "354 go on"
            }
            "BDAT" => return self.bdat(&upper),
            "RSET" | "EHLO" | "HELO" => {
                self.sender = false;
                (self.recipients, self.chunks) = (Vec::new(), Vec::new());
                "250-reset\r\n250 done"
            }
            "NOOP" => "250 2.0.0 noop",
            _ => "500 what?",
        };
        format!("{reply}\r\n")
    }

    fn bdat(&mut self, upper: &str) -> String {
        let mut words = upper.split_whitespace().skip(1);
        let Some(count) = words.next().and_then(|count| count.parse().ok()) else {
            return "501 a size\r\n".into();
        };
        self.state = State::Chunk(count, words.next() == Some("LAST"));
        String::new()
    }
}

/// What came of a session.
#[derive(Debug, Default, PartialEq, Eq)]
struct Outcome {
    up: Vec<u8>,
    down: Vec<u8>,
    noticed: Vec<Noticed>,
    taken: Vec<(Vec<String>, Vec<u8>)>,
    idle: bool,
    over: bool,
}

/// How the octets come.
#[derive(Clone, Debug)]
struct Pieces {
    /// Sizes of the client's, over and over.
    client: Vec<usize>,
    /// Size of the server's.
    server: usize,
    /// The server's answers come only when the client's octets can't pass without.
    late: bool,
}

const WHOLE: Pieces = Pieces { client: Vec::new(), server: usize::MAX, late: false };

/// A session from its login to where the client closes. Of a device each third message is one too many.
fn session(rules: Option<DeviceRules>, lenient: bool, input: &[u8], pieces: &Pieces) -> Outcome {
    let device = rules.is_some();
    let mut watch = Watch::new(rules);
    let mut server = Server { lenient, ..Server::default() };
    let mut outcome = Outcome::default();
    let (mut held, mut rest) = (Vec::new(), input);
    let mut sizes = pieces.client.iter().copied().cycle();
    let mut messages = 0;
    loop {
        let size = sizes.next().unwrap_or(rest.len()).clamp(1, rest.len().max(1));
        let (piece, behind) = rest.split_at(size.min(rest.len()));
        held.extend_from_slice(piece);
        rest = behind;
        let closed = rest.is_empty();
        loop {
            match watch.client(&held, closed) {
                ClientStep::Pass(count) => {
                    outcome.up.extend(&held[..count]);
                    server.read(&held.drain(..count).collect::<Vec<_>>());
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
                ClientStep::Wait => answer(&mut watch, &mut server, &mut outcome, pieces.server),
            }
            outcome.down.extend(watch.answers());
            while !pieces.late && !server.out.is_empty() {
                answer(&mut watch, &mut server, &mut outcome, pieces.server);
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
fn answer(watch: &mut Watch, server: &mut Server, outcome: &mut Outcome, size: usize) {
    let piece: Vec<u8> = server.out.drain(..size.min(server.out.len())).collect();
    let mut rest = &piece[..];
    while !rest.is_empty() {
        let (passed, noticed) = watch.server(rest);
        outcome.down.extend(&rest[..passed]);
        outcome.down.extend(watch.answers());
        outcome.noticed.extend(noticed);
        rest = &rest[passed..];
    }
}

fn rules() -> DeviceRules {
    let recipients = AllowedRecipients::new(vec!["good.example".into()]);
    DeviceRules { recipients: Some(recipients), size: Some(60) }
}

fn codes(down: &[u8]) -> String {
    let text = String::from_utf8_lossy(down).into_owned();
    let last = text.lines().filter(|line| line.as_bytes().get(3) != Some(&b'-'));
    last.map(|line| line[..3].to_owned()).collect::<Vec<_>>().join(" ")
}

fn sent(recipients: u32) -> Noticed {
    Noticed::Sent { recipients }
}

#[test]
fn a_session_with_all_in_one_group() {
    let input = b"EHLO x\r\nMAIL FROM:<a@b>\r\nRCPT TO:<c@good.example>\r\nRCPT TO:<nobody@d>\r\n\
        rcpt to:<e@f>\r\nDATA\r\nMAIL FROM:<this is content>\r\n..\r\n.\r\nMAIL FROM:<a@b>\r\n\
        RCPT TO:<g@h>\r\nBDAT 6\r\nRSET\r\nBDAT 0 LAST\r\nNOOP\r\n";
    let outcome = session(None, false, input, &WHOLE);
    assert_eq!(outcome.up, input);
    assert_eq!(codes(&outcome.down), "250 250 250 550 250 354 250 250 250 250 250 250");
    let refused = Noticed::Refused { said: "550 5.1.1 nobody".into(), busy: None, quota: false };
    assert_eq!(outcome.noticed, [refused, sent(2), sent(1)]);
    assert_eq!(outcome.taken[0].1, b"MAIL FROM:<this is content>\r\n..");
    assert!(outcome.idle && !outcome.over);
}

#[test]
fn what_the_server_wants_is_noticed() {
    let input =
        b"MAIL FROM:<busy@b>\r\nMAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\nDATA\r\nrefuse\r\n.\r\n";
    let outcome = session(None, false, input, &WHOLE);
    let [
        Noticed::Refused { busy, quota: false, .. },
        Noticed::Refused { said, busy: None, quota: true },
    ] = &outcome.noticed[..]
    else {
        panic!("{:?}", outcome.noticed)
    };
    assert_eq!(*busy, Some(Some(Duration::from_millis(1500))));
    assert_eq!(said, "554-5.2.0 no SubmissionQuotaExceededException");
    assert!(outcome.idle);
    for (reply, wait) in [
        ("432 4.3.2 STOREDRV.ClientSubmit; sender thread limit exceeded\r\n", Some(None)),
        ("421 4.3.2 The maximum number of concurrent server connections\r\n", Some(None)),
        ("451 4.7.0 Temporary server error\r\n", None),
        ("550 4.3.2 x\r\n", None),
    ] {
        let mut watch = Watch::new(None);
        watch.let_message_go();
        assert_eq!(watch.client(b"MAIL FROM:<a@b>\r\n", false), ClientStep::Pass(17));
        let (passed, noticed) = watch.server(reply.as_bytes());
        let Some(Noticed::Refused { busy, .. }) = noticed else { panic!("{reply}: {noticed:?}") };
        assert_eq!((passed, busy), (reply.len(), wait), "{reply}");
    }
}

#[test]
fn a_message_waits_until_it_is_let_go() {
    let mut watch = Watch::new(None);
    let group = b"NOOP\r\nMAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\n";
    assert_eq!(watch.client(group, false), ClientStep::Pass(6));
    for _ in 0..2 {
        assert_eq!(watch.client(&group[6..], false), ClientStep::Message);
    }
    // The answer to what went before comes meanwhile.
    assert_eq!(watch.server(b"250 fine\r\n"), (10, None));
    assert!(watch.is_idle() && !watch.is_sending());
    watch.let_message_go();
    assert_eq!(watch.client(&group[6..], false), ClientStep::Pass(17));
    assert!(watch.is_sending() && !watch.is_idle());
    // Or it is refused, behind what is under way.
    watch.end(&Refusal::NoTurn { reason: "x".into() });
    assert_eq!((watch.answers(), watch.is_over(), watch.is_ending()), (Vec::new(), false, true));
    assert_eq!(watch.client(b"RCPT TO:<c@d>\r\n", false), ClientStep::Drop(15));
    assert_eq!(watch.server(b"250 fine\r\n").0, 10);
    assert!(watch.answers().starts_with(b"421 4.3.2 ") && watch.is_over());
}

#[test]
fn what_is_not_understood_makes_a_pipe() {
    for (client, server) in [
        ("AUTH LOGIN\r\n", "334 VXNlcm5hbWU6\r\n"),
        ("STARTTLS\r\n", "220 go\r\n"),
        ("NOOP\r\n", "354 what\r\n"),
        ("NOOP\r\n", "* OK\r\n"),
        ("", "250 unasked\r\n"),
    ] {
        let mut watch = Watch::new(None);
        if !client.is_empty() {
            let passed = ClientStep::Pass(client.len());
            assert_eq!(watch.client(client.as_bytes(), false), passed, "{client}");
        }
        assert_eq!(watch.server(server.as_bytes()), (server.len(), None), "{client}");
        assert_eq!(watch.client(b"MAIL", false), ClientStep::Pass(4), "{client}");
        assert!(watch.answers().is_empty() && !watch.is_idle());
    }
    let mut watch = Watch::new(None);
    let endless = [b'x'; 12_289];
    assert_eq!(watch.client(&endless[..12_288], false), ClientStep::Wait);
    assert_eq!(watch.client(&endless, false), ClientStep::Pass(12_289));
    // Not understood, of a device: its session ends.
    let mut watch = Watch::new(Some(rules()));
    watch.server(b"250 unasked\r\n");
    assert!(watch.answers().starts_with(b"421 ") && watch.is_over());
}

#[test]
fn a_device_is_held_to_its_rules() {
    let mail = "MAIL FROM:<a@b>\r\nRCPT TO:<c@good.example>\r\n";
    for (input, wanted, over) in [
        (format!("{mail}RCPT TO:<d@evil.example>\r\nNOOP\r\n"), "250 250 550 250", false),
        (
            "AUTH PLAIN\r\nSTARTTLS\r\nXFOO\r\nNOOP\n\r\nHELP\r\n".into(),
            "503 503 502 500 502 500",
            false,
        ),
        ("MAIL FROM:<a@b> SIZE=61\r\nMAIL FROM:<a@b> SIZE=60\r\n".into(), "552 250", false),
        (format!("{mail}RSET\r\n").repeat(3), "250 250 250 250 250 250 450 503 250", false),
        (
            format!("{mail}DATA\r\n{}\r\n.\r\nNOOP\r\n", "x".repeat(58)),
            "250 250 354 250 250",
            false,
        ),
        (format!("{mail}DATA\r\n{}\r\n.\r\nNOOP\r\n", "x".repeat(59)), "250 250 354 552", true),
        (format!("{mail}DATA\r\nab\n.\r\n.\r\n"), "250 250 354 550", true),
        (format!("{mail}BDAT 60 LAST\r\n{}NOOP\r\n", "\n".repeat(60)), "250 250 250 250", false),
        (format!("{mail}BDAT 1\r\nxBDAT 60 LAST\r\n"), "250 250 250 552", true),
        (format!("{mail}BDAT x\r\n"), "250 250 501", true),
        (format!("NOOP\r\n{}", "x".repeat(12_289)), "250 500", true),
    ] {
        for late in [false, true] {
            let pieces = Pieces { late, ..WHOLE };
            let outcome = session(Some(rules()), false, input.as_bytes(), &pieces);
            assert_eq!((codes(&outcome.down).as_str(), outcome.over), (wanted, over), "{input}");
        }
    }
}

/// What sessions are made of.
const TOKENS: &[&str] = &[
    "MAIL FROM:<a@b>\r\n",
    "MAIL FROM:<a@b> SIZE=50\r\n",
    "mail from:<a@b> size=70\r\n",
    "MAIL FROM:<busy@b>\r\n",
    "RCPT TO:<c@good.example>\r\n",
    "RCPT TO:<nobody@good.example>\r\n",
    "RCPT TO:<d@evil.example>\r\n",
    "RCPT TO:<c@good.example>\nRCPT TO:<d@evil.example>\r\n",
    "DATA\r\n",
    "DATA\r\nhello\r\n.\r\n",
    "hello\r\n",
    "refuse\r\n",
    ".\r\n",
    "..\r\n",
    "\r\n.\r\n",
    "\n.\n",
    "\n.\r\n",
    "\r.\r\n",
    "BDAT 5\r\nab\r\nc",
    "BDAT 4 LAST\r\n.\r\n\n",
    "BDAT 0 LAST\r\n",
    "RSET\r\n",
    "NOOP\r\n",
    "EHLO x\r\n",
    "AUTH PLAIN x\r\n",
    "what\r\n",
    "\r\n",
    "\r",
    "\n",
    "x",
    "\u{e9}",
];

/// A message that goes, and what is around it.
fn input() -> impl Strategy<Value = Vec<u8>> {
    let message = "MAIL FROM:<a@b>\r\nRCPT TO:<c@good.example>\r\nDATA\r\n";
    let token = prop_oneof![3 => prop::sample::select(TOKENS), 1 => Just(message)];
    prop::collection::vec(token, 0..24).prop_map(|tokens| tokens.concat().into_bytes())
}

fn pieces() -> impl Strategy<Value = Pieces> {
    let client = prop::collection::vec(1_usize..12, 1..20);
    (client, 1_usize..9, any::<bool>()).prop_map(|(client, server, late)| Pieces {
        client,
        server,
        late,
    })
}

/// A device that sends ahead has its chunks counted before the answer to MAIL comes.
#[test]
fn chunks_that_are_sent_ahead_count() {
    let chunk = "x".repeat(40);
    let input = format!(
        "MAIL FROM:<a@b>\r\nRCPT TO:<c@good.example>\r\nBDAT 40\r\n{chunk}BDAT 40 LAST\r\n{chunk}"
    );
    let late = Pieces { client: vec![1000], server: 1, late: true };
    for pieces in [&WHOLE, &late] {
        let outcome = session(Some(rules()), false, input.as_bytes(), pieces);
        assert!(outcome.taken.is_empty(), "{:?}", outcome.taken);
        assert!(String::from_utf8_lossy(&outcome.down).contains("552 5.3.4"));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    /// A client that has logged in: what passes is what came, whole, and however it is split.
    #[test]
    fn nothing_is_changed(input in input(), pieces in pieces(), lenient in any::<bool>()) {
        let whole = session(None, lenient, &input, &WHOLE);
        let split = session(None, lenient, &input, &pieces);
        prop_assert_eq!(&whole.up, &input, "{}", String::from_utf8_lossy(&input));
        prop_assert_eq!(&split.up, &input, "{}", String::from_utf8_lossy(&input));
        prop_assert_eq!(&whole.down, &split.down);
        prop_assert_eq!(&whole.taken, &split.taken);
    }

    /// Whatever both sides say, also when they don't listen to each other.
    #[test]
    fn any_octets_pass(
        client in input(),
        server in "(250[ -]x\r\n|354 y\r\n|4[23][12] 4.3.2 z\r\n|554 q\r\n|junk\n|\r\n){0,20}",
        order in prop::collection::vec((any::<bool>(), 1_usize..30), 0..60),
    ) {
        let mut watch = Watch::new(None);
        let (mut up, mut down): (Vec<u8>, Vec<u8>) = (Vec::new(), Vec::new());
        let mut rests = (&client[..], server.as_bytes());
        let mut held = Vec::new();
        let mut end = [(true, usize::MAX), (false, usize::MAX)].into_iter();
        for (of_client, size) in order.into_iter().chain(&mut end) {
            let rest = if of_client { &mut rests.0 } else { &mut rests.1 };
            let (piece, behind) = rest.split_at(size.min(rest.len()));
            *rest = behind;
            if of_client {
                held.extend_from_slice(piece);
            } else {
                let mut piece = piece;
                while !piece.is_empty() {
                    let (passed, _) = watch.server(piece);
                    down.extend(&piece[..passed]);
                    piece = &piece[passed..];
                }
            }
            pass(&mut watch, &mut held, &mut up, false);
        }
        watch.server_closed();
        pass(&mut watch, &mut held, &mut up, true);
        prop_assert_eq!(up, client);
        prop_assert_eq!(&down[..], server.as_bytes());
        prop_assert!(watch.answers().is_empty());
    }

    /// A device: what comes out does not depend on how it was split, each command has one answer, and no
    /// server, however lenient, gets a recipient whom the device may not write to.
    #[test]
    fn a_device_gets_nothing_past_its_rules(
        input in input(),
        pieces in pieces(),
        lenient in any::<bool>(),
    ) {
        let whole = session(Some(rules()), lenient, &input, &WHOLE);
        let split = session(Some(rules()), lenient, &input, &pieces);
        prop_assert_eq!(&whole, &split, "{}", String::from_utf8_lossy(&input));
        for (recipients, content) in &whole.taken {
            prop_assert!(recipients.iter().all(|line| !line.contains("evil")), "{:?}", recipients);
            prop_assert!(content.len() <= 60);
        }
    }
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
