//! What must hold for any input of the Receiver. The dialogues of `tests/dialogues/smtp-receiver-*.txt` show
//! what it does one by one.
//!
//! Invariant: the models here look at the message as a whole and know nothing of states.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

#[path = "support/pieces.rs"]
mod pieces;

use std::collections::VecDeque;

use gatepost::protocol::{
    AllowedRecipients, Closing, Envelope, Frontend, FrontendStep, LocalTls, Receiver,
    ReceiverRules, ReceiverStep, Recipient, Reply, spool_keywords,
};
use gatepost::vocabulary::{BareLf, Protocol};
use pieces::split;
use proptest::prelude::*;
use proptest::sample::select;

const BEFORE: &[u8] = b"MAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\n";

proptest! {
    #![proptest_config(ProptestConfig { cases: 2048, failure_persistence: None, ..ProptestConfig::default() })]

    /// DATA ends where the model says, and what comes out is what the model says, however it is split.
    #[test]
    fn data_is_as_the_model_says(
        wire in adversarial(),
        bare_lf in select(vec![BareLf::Refuse, BareLf::Accept]),
        max_size in prop_oneof![Just(u64::MAX), 0_u64..40],
        sizes in sizes(),
    ) {
        let wire = [&wire[..], b"\r\n.\r\n"].concat();
        let (content, behind) = split_at_end(&wire);
        let input = [BEFORE, b"DATA\r\n", &wire[..], b"\r\nQUIT\r\n"].concat();
        let whole = run(&rules(bare_lf, max_size), split(&input, &[usize::MAX]), &[]);
        prop_assert_eq!(&run(&rules(bare_lf, max_size), split(&input, &sizes), &[]), &whole);
        prop_assert_eq!(&run(&rules(bare_lf, max_size), split(&input, &[1]), &[]), &whole);

        let modelled = model(content, true);
        let first = whole.messages.first().expect("a message began");
        let verdict = whole.replies.iter().position(|reply| reply.starts_with("354")).unwrap() + 1;
        check(first, &whole.replies[verdict], &modelled, bare_lf, max_size)?;
        if behind.is_empty() {
            prop_assert_eq!(whole.replies.len(), verdict + 3, "{:?}", whole.replies);
        }
        prop_assert!(whole.messages.iter().all(|message| is_clean(&message.octets)));
    }

    /// The octets of chunks are taken as one text, with no meaning of dots, and never as commands.
    #[test]
    fn chunks_are_as_the_model_says(
        wire in adversarial(),
        bare_lf in select(vec![BareLf::Refuse, BareLf::Accept]),
        lengths in prop::collection::vec(0_usize..8, 1..6),
        sizes in sizes(),
    ) {
        let mut input = BEFORE.to_vec();
        let mut rest = &wire[..];
        for length in lengths {
            let (chunk, behind) = rest.split_at(length.min(rest.len()));
            input.extend(format!("BDAT {}\r\n", chunk.len()).bytes());
            input.extend(chunk);
            rest = behind;
        }
        input.extend(format!("BDAT {} LAST\r\n", rest.len()).bytes());
        input.extend(rest);
        let count = wire_commands(&input);
        input.extend(b"QUIT\r\n");
        let whole = run(&rules(bare_lf, u64::MAX), split(&input, &[usize::MAX]), &[]);
        prop_assert_eq!(&run(&rules(bare_lf, u64::MAX), split(&input, &sizes), &[]), &whole);
        prop_assert_eq!(&run(&rules(bare_lf, u64::MAX), split(&input, &[1]), &[]), &whole);
        prop_assert_eq!(whole.end, Some(Closing::Quit));
        prop_assert_eq!(whole.messages.len(), 1);
        prop_assert!(whole.replies.len() <= count + 1);

        let modelled = model(&wire, false);
        let refused = whole.replies.iter().find(|reply| !reply.starts_with('2'));
        let verdict = refused.unwrap_or(&whole.replies[whole.replies.len() - 2]);
        check(&whole.messages[0], verdict, &modelled, bare_lf, u64::MAX)?;
        prop_assert!(is_clean(&whole.messages[0].octets));
    }

    /// What came out, sent on as RFC 5321 section 4.5.2 says, comes out again, and no end is seen before its
    /// own: by this server, which refuses what is bare, and by one that takes bare line feeds for line ends.
    #[test]
    fn no_end_can_be_smuggled(wire in adversarial()) {
        let wire = [&wire[..], b"\r\n.\r\n"].concat();
        let input = [BEFORE, b"DATA\r\n", &wire[..]].concat();
        let octets = run(&rules(BareLf::Accept, u64::MAX), split(&input, &[3]), &[]).messages.remove(0).octets;
        let sent = stuff(&octets);
        let input = [BEFORE, b"DATA\r\n", &sent[..], b"QUIT\r\n"].concat();
        let again = run(&rules(BareLf::Refuse, u64::MAX), split(&input, &[5]), &[]);
        prop_assert_eq!(&again.messages.len(), &1);
        prop_assert_eq!(&again.messages[0].octets, &octets);
        prop_assert_eq!(again.end, Some(Closing::Quit));
        prop_assert_eq!(lenient_end(&sent), sent.len());
    }

    /// Any bytes of a client: no panic, clean replies, clean envelopes, messages that are whole or void, and the
    /// same ones however the bytes are split and whatever the driver says.
    #[test]
    fn any_client(
        input in input(),
        bare_lf in select(vec![BareLf::Refuse, BareLf::Accept]),
        decisions in prop::collection::vec(any::<bool>(), 0..8),
        sizes in sizes(),
    ) {
        let rules = ReceiverRules {
            recipients: Some(AllowedRecipients::new(vec!["d".into(), "ü.de".into()])),
            ..rules(bare_lf, 60)
        };
        let whole = run(&rules, split(&input, &[usize::MAX]), &decisions);
        prop_assert_eq!(&run(&rules, split(&input, &sizes), &decisions), &whole);
        prop_assert_eq!(&run(&rules, split(&input, &[1]), &decisions), &whole);
        for Message { envelope, octets, .. } in &whole.messages {
            prop_assert!(!envelope.recipients.is_empty());
            prop_assert!(is_sound(envelope), "{:?}", envelope);
            prop_assert!(is_clean(octets) && octets.len() <= 60);
        }
    }

    /// What stands in brackets of MAIL, whatever it is, is refused or comes out fit for brackets.
    #[test]
    fn any_path(path in "[ -~äß\\t]{0,12}|[a-c@.<>\" :,\\\\]{0,12}", behind in "|[ -~]{0,8}| RET=FULL") {
        for (mail, rcpt) in [(format!("<{path}>{behind}"), "<c@d>"), ("<a@b>".into(), &*format!("{path}{behind}"))] {
            let input = format!("MAIL FROM:{mail}\r\nRCPT TO:{rcpt}\r\nDATA\r\n.\r\n");
            let outcome = run(&rules(BareLf::Refuse, 60), split(input.as_bytes(), &[usize::MAX]), &[]);
            for message in &outcome.messages {
                prop_assert!(is_sound(&message.envelope), "{:?}", message);
            }
        }
    }
}

#[test]
fn no_content_is_held() {
    const PUSH: usize = 64 * 1024;
    let line = [&[b'x'; 76][..], b"\r\n"].concat();
    let octets: Vec<u8> = line.iter().copied().cycle().take(line.len() * 200_000).collect();
    let mut receiver = Receiver::new(rules(BareLf::Refuse, u64::MAX));
    receiver.push(&[BEFORE, b"DATA\r\n"].concat());
    let mut pushes = octets.chunks(PUSH).chain([&b".\r\n"[..]]);
    let (mut size, mut ended) = (0, false);
    while !ended {
        match receiver.step() {
            ReceiverStep::Read => receiver.push(pushes.next().unwrap()),
            ReceiverStep::Content(..) => receiver.go_on(),
            ReceiverStep::Chunk(chunk) => {
                assert!(chunk.len() <= PUSH + 4);
                size += chunk.len();
            }
            ReceiverStep::End(mends) => ended = mends.is_empty(),
            ReceiverStep::Write(_) => {}
            step => panic!("{step:?}"),
        }
    }
    assert_eq!(size, octets.len());
}

#[test]
fn at_most_500_recipients_are_taken() {
    let recipients = b"RCPT TO:<c@d>\r\n".repeat(620);
    let input = [b"MAIL FROM:<a@b>\r\n", &recipients[..], b"DATA\r\n.\r\nQUIT\r\n"].concat();
    let outcome = run(&rules(BareLf::Refuse, 60), split(&input, &[1000]), &[]);
    assert_eq!(outcome.messages[0].envelope.recipients.len(), 500);
    assert_eq!(outcome.replies.iter().filter(|reply| reply.starts_with("452 4.5.3")).count(), 120);
    assert_eq!(outcome.end, Some(Closing::Quit));
}

/// Postfix counts errors since the last message in the same way.
#[test]
fn a_message_that_was_taken_makes_errors_forgotten() {
    let errors = b"FOO\r\n".repeat(19);
    let message = [BEFORE, b"DATA\r\n.\r\n"].concat();
    let input = [&errors[..], &message, &errors, &message, b"QUIT\r\n"].concat();
    let whole = |decisions: &[bool]| {
        run(&rules(BareLf::Refuse, 60), split(&input, &[usize::MAX]), decisions).end
    };
    assert_eq!(whole(&[]), Some(Closing::Quit));
    assert_eq!(whole(&[false]), Some(Closing::TooManyErrors));
}

/// A device without a login: what the Frontend did not read begins the Receiver's session, and both list the
/// same keywords.
#[test]
fn a_device_goes_on_where_the_frontend_has_stopped() {
    let keywords = spool_keywords(60);
    let mut frontend =
        Frontend::new(Protocol::Smtp, LocalTls::Never, keywords.clone()).open_to_device();
    frontend
        .push(b"EHLO x\r\nMAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\nDATA\r\nhello\r\n.\r\nEHLO x\r\n");
    let FrontendStep::Write(before) = frontend.step() else { panic!("no answer") };
    assert!(matches!(frontend.step(), FrontendStep::Device));
    assert!(matches!(frontend.step(), FrontendStep::Device), "it was read");
    let unread = frontend.into_unread();
    let outcome = run(&rules(BareLf::Refuse, 60), split(&unread, &[7]), &[]);
    assert_eq!(outcome.messages[0].octets, b"hello\r\n");

    let listed = |text: &str| -> Vec<String> {
        let lines = text.lines().skip(1).filter_map(|line| line.get(4..));
        lines.filter(|keyword| !keyword.starts_with("AUTH")).map(str::to_owned).collect()
    };
    let behind = outcome.replies[outcome.replies.len() - keywords.len() - 1..].join("\r\n");
    assert_eq!(listed(&String::from_utf8(before).unwrap()), keywords);
    assert_eq!(listed(&behind), keywords);
}

#[test]
fn an_envelope_survives_its_file() {
    let envelope = Envelope {
        sender: "a@b".into(),
        parameters: vec!["RET=FULL".into()],
        recipients: vec![Recipient { address: "ü@d".into(), parameters: Vec::new() }],
    };
    let json = serde_json::to_string(&envelope).unwrap();
    assert_eq!(serde_json::from_str::<Envelope>(&json).unwrap(), envelope);
}

/// A message as the driver saw it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Message {
    envelope: Envelope,
    octets: Vec<u8>,
    /// `None`: it is not over, `Some(Err(_))`: void, `Some(Ok(_))`: whole, with its mends.
    end: Option<Result<Vec<String>, String>>,
}

#[derive(Debug, Default, PartialEq, Eq)]
struct Outcome {
    replies: Vec<String>,
    messages: Vec<Message>,
    end: Option<Closing>,
}

/// Drives a Receiver. Each decision is for one question of it; behind the last, all are yes.
fn run(rules: &ReceiverRules, mut pieces: VecDeque<Vec<u8>>, decisions: &[bool]) -> Outcome {
    let mut receiver = Receiver::new(rules.clone());
    let mut outcome = Outcome::default();
    let mut decisions = decisions.iter().copied().chain(std::iter::repeat(true));
    let taken = Reply::new(250, "2.0.0 taken");
    let full = Reply::new(452, "4.3.1 full");
    loop {
        match receiver.step() {
            ReceiverStep::Read => match pieces.pop_front() {
                Some(piece) => receiver.push(&piece),
                None => return outcome,
            },
            ReceiverStep::Write(octets) => outcome.replies.extend(lines(&octets)),
            ReceiverStep::Content(envelope, _) => {
                outcome.messages.push(Message { envelope, ..Message::default() });
                if decisions.next().unwrap() {
                    receiver.go_on();
                } else {
                    receiver.refuse(&full);
                    outcome.messages.last_mut().unwrap().end = Some(Err("refused".into()));
                }
            }
            ReceiverStep::Chunk(octets) => {
                let message = outcome.messages.last_mut().expect("a chunk of no message");
                assert!(message.end.is_none() && !octets.is_empty());
                message.octets.extend(octets);
            }
            ReceiverStep::End(mends) => {
                let message = outcome.messages.last_mut().expect("an end of no message");
                assert!(message.end.replace(Ok(mends)).is_none(), "ended twice");
                receiver.finish(if decisions.next().unwrap() { &taken } else { &full });
            }
            ReceiverStep::Abort(why) => {
                let message = outcome.messages.last_mut().expect("no message to drop");
                assert!(message.end.replace(Err(why)).is_none(), "ended twice");
                message.octets.clear();
            }
            ReceiverStep::Close(closing) => {
                outcome.replies.extend(lines(&receiver.goodbye(closing)));
                outcome.end = Some(closing);
                return outcome;
            }
        }
    }
}

/// Whole lines of printable ASCII that begin with a code.
fn lines(octets: &[u8]) -> Vec<String> {
    let text = std::str::from_utf8(octets).unwrap().strip_suffix("\r\n").expect("a whole line");
    let clean = |line: &str| {
        assert!(
            line.len() <= 510 && line.bytes().all(|octet| (32..127).contains(&octet)),
            "{line:?}"
        );
        assert!(line.bytes().take(3).all(|octet| octet.is_ascii_digit()), "{line:?}");
        line.to_owned()
    };
    text.split("\r\n").map(clean).collect()
}

/// What a message is by its octets, looked at as a whole.
struct Modelled {
    octets: Vec<u8>,
    line_feeds: usize,
    returns: usize,
}

/// Up to the end of DATA, which is the first CRLF.CRLF if a CRLF stood in front, and what is behind it.
fn split_at_end(wire: &[u8]) -> (&[u8], &[u8]) {
    let framed = [b"\r\n", wire].concat();
    let at = framed.windows(5).position(|octets| octets == b"\r\n.\r\n").unwrap();
    (&wire[..at], &wire[at + 3..])
}

fn model(content: &[u8], dotted: bool) -> Modelled {
    // One character for each octet.
    let content: String = content.iter().map(|&octet| char::from(octet)).collect();
    let mut lines: Vec<&str> = content.split("\r\n").collect();
    let last = lines.pop().unwrap();
    let in_lines: String = lines.concat() + last;
    let mut out = String::new();
    for line in &lines {
        let line = if dotted { line.strip_prefix('.').unwrap_or(line) } else { line };
        let line = line.strip_suffix('\r').unwrap_or(line);
        out += &(mend(line, dotted) + "\r\n");
    }
    out += &mend(last, dotted);
    Modelled {
        octets: out.chars().map(|octet| u8::try_from(u32::from(octet)).unwrap()).collect(),
        line_feeds: in_lines.matches('\n').count(),
        returns: in_lines.matches('\r').count(),
    }
}

/// What stands between two CRLF.
fn mend(line: &str, dotted: bool) -> String {
    let line = if dotted { line.replace("\n..", "\n.") } else { line.to_owned() };
    line.replace('\r', " ").replace('\n', "\r\n")
}

fn check(
    message: &Message,
    verdict: &str,
    modelled: &Modelled,
    bare_lf: BareLf,
    max_size: u64,
) -> Result<(), TestCaseError> {
    let bare = modelled.line_feeds + modelled.returns > 0 && bare_lf == BareLf::Refuse;
    let too_long = modelled.octets.len() as u64 > max_size;
    match (&message.end, verdict.get(..10)) {
        (Some(Ok(mends)), Some("250 2.0.0 ")) => {
            prop_assert!(!bare && !too_long);
            prop_assert_eq!(&message.octets, &modelled.octets);
            let all: String = mends.join(", ");
            let counted = |count: usize, what: &str| match count {
                0 => None,
                1 => Some(format!("1 bare {what}")),
                _ => Some(format!("{count} bare {what}s")),
            };
            let expected = [
                counted(modelled.line_feeds, "line feed"),
                counted(modelled.returns, "carriage return"),
            ];
            prop_assert_eq!(all, expected.into_iter().flatten().collect::<Vec<_>>().join(", "));
        }
        (Some(Err(why)), Some("552 5.3.4 ")) => prop_assert!(too_long && why == "too long"),
        (Some(Err(_)), Some("550 5.6.11")) => prop_assert!(bare),
        other => prop_assert!(false, "{:?}", other),
    }
    Ok(())
}

/// How a sender writes the content of DATA.
fn stuff(octets: &[u8]) -> Vec<u8> {
    let text: String = octets.iter().map(|&octet| char::from(octet)).collect();
    let framed = format!("\r\n{text}").replace("\r\n.", "\r\n..");
    let sent = format!("{}.\r\n", framed.strip_prefix("\r\n").unwrap());
    sent.chars().map(|octet| u8::try_from(u32::from(octet)).unwrap()).collect()
}

/// Where a server sees the end that takes CR, LF and CRLF alike for line ends.
fn lenient_end(wire: &[u8]) -> usize {
    let is_end = |octet: &u8| matches!(octet, b'\r' | b'\n');
    let mut at = 0;
    loop {
        let line = wire[at..].iter().position(is_end).expect("no end") + at;
        let crlf = wire[line..].starts_with(b"\r\n");
        let next = line + if crlf { 2 } else { 1 };
        if &wire[at..line] == b"." {
            return next;
        }
        at = next;
    }
}

/// How many commands could at most be answered.
fn wire_commands(input: &[u8]) -> usize {
    input.iter().filter(|&&octet| octet == b'\n').count()
}

/// CRLF line ends, and no other CR or LF.
fn is_clean(octets: &[u8]) -> bool {
    let without: Vec<u8> = {
        let text: String = octets.iter().map(|&octet| char::from(octet)).collect();
        text.replace("\r\n", "").chars().map(|c| u8::try_from(u32::from(c)).unwrap()).collect()
    };
    !without.contains(&b'\r') && !without.contains(&b'\n')
}

/// What can stand in `MAIL FROM:<…> …` and `RCPT TO:<…> …`.
fn is_sound(envelope: &Envelope) -> bool {
    let address = |address: &str| {
        let outside = address.rsplit_once('"').map_or(address, |(_, outside)| outside);
        !address.contains(|c: char| c.is_control() || c == '<' || c == '>')
            && !outside.contains(' ')
            && address.len() <= 254
    };
    let parameter = |parameter: &String| parameter.bytes().all(|octet| octet.is_ascii_graphic());
    let recipient = |recipient: &Recipient| {
        address(&recipient.address)
            && recipient.address.contains('@')
            && recipient.parameters.iter().all(parameter)
    };
    address(&envelope.sender)
        && envelope.parameters.iter().all(parameter)
        && envelope.recipients.iter().all(recipient)
}

fn rules(bare_lf: BareLf, max_size: u64) -> ReceiverRules {
    ReceiverRules { max_size, bare_lf, recipients: None }
}

/// Content made of what its end is made of.
fn adversarial() -> impl Strategy<Value = Vec<u8>> {
    let parts = ["\r\n", "\r\n", "\r", "\n", ".", ".", "a", "b", "\0", ".\r\n", "\r\n.\r\n"];
    prop::collection::vec(select(parts.to_vec()), 0..24)
        .prop_map(|parts| parts.concat().into_bytes())
}

fn sizes() -> impl Strategy<Value = Vec<usize>> {
    prop::collection::vec(1_usize..12, 1..6)
}

/// Words that lead deep into a session.
fn input() -> impl Strategy<Value = Vec<u8>> {
    let words = [
        "EHLO x\r\n",
        "HELO\r\n",
        "MAIL FROM:<a@b>\r\n",
        "mail from: Scanner a@b RET=FULL\n",
        "MAIL FROM:<> SIZE=61\r\n",
        "MAIL FROM:<",
        "RCPT TO:",
        "RCPT TO:<c@d>\r\n",
        "RCPT TO:<ü@ü.de> NOTIFY=NEVER\r\n",
        "RCPT TO:<c@e>\r\n",
        "MAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\n",
        "DATA\r\n",
        "BDAT 3\r\n",
        "BDAT 9 LAST\r\n",
        "BDAT 70\r\n",
        "BDAT 0 LAST\r\n",
        "BDAT 99999999999999999999\r\n",
        "RSET\r\n",
        "QUIT\r\n",
        "NOOP\r\n",
        "\r\n.\r\n",
        ".\r\n",
        "\r\n",
        "\n",
        "\r",
        ".",
        "\"",
        "<",
        ">",
        "a@d",
        "\0",
        "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx",
    ];
    let word = select(words.to_vec()).prop_map(|word| word.as_bytes().to_vec());
    let noise = prop::collection::vec(any::<u8>(), 0..8);
    let part = prop_oneof![14 => word, 1 => noise];
    prop::collection::vec(part, 0..40).prop_map(|parts| parts.concat())
}
