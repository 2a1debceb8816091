//! The content of a message: what a client sends, what is kept, and what is sent on.
//!
//! The models look at the message as a whole and know nothing of states.

use gatepost::protocol::{Closing, Dots, ReceiverRules};
use gatepost::vocabulary::BareLf;

use super::case::{Case, Pieces, Split};
use super::smtp_receiver::{Message, is_clean, run};
use super::wire::shown;

const BEFORE: &[u8] = b"MAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\n";

/// All is taken that the spool is asked.
const YES: u32 = u32::MAX;

/// What is kept is what a model says, by DATA and by BDAT; and sent on it comes out again, with no end in it but its
/// own (RFC 5321 section 4.5.2; no smuggling).
pub fn check(data: &[u8]) {
    let Some(case) = Case::of(data) else { return };
    let bare_lf = if case.flag(0) { BareLf::Accept } else { BareLf::Refuse };
    let max_size = if case.flag(1) { u64::from(case.seed % 40) } else { u64::MAX };
    match case.flags >> 2 & 3 {
        0 => check_data(&case, bare_lf, max_size),
        1 => check_chunks(&case, bare_lf),
        2 => check_kept(&case),
        _ => check_stuffed(&case),
    }
}

fn check_data(case: &Case<'_>, bare_lf: BareLf, max_size: u64) {
    let wire = [case.wire, b"\r\n.\r\n"].concat();
    let (content, behind) = split_at_end(&wire);
    let input = [BEFORE, b"DATA\r\n", &wire[..], b"\r\nQUIT\r\n"].concat();
    let rules = rules(bare_lf, max_size);
    let outcome = Case { wire: &input, ..*case }.agree(|split| run(&rules, &input, split, YES));
    let replies = outcome.replies();
    let first = outcome.messages.first().expect("a message began");
    let verdict = replies.iter().position(|reply| reply.starts_with("354")).expect("354") + 1;
    check_message(first, replies[verdict], &model(content, true), bare_lf, max_size);
    if behind.is_empty() {
        assert_eq!(replies.len(), verdict + 3, "{replies:?}");
    }
    assert!(outcome.messages.iter().all(|message| is_clean(&message.octets)));
}

/// The octets of chunks are taken as one text, with no meaning of dots, and never as commands.
fn check_chunks(case: &Case<'_>, bare_lf: BareLf) {
    let mut input = BEFORE.to_vec();
    let mut rest = case.wire;
    for nibble in [0, 4, 8, 12] {
        let length = usize::from(case.seed >> nibble & 15);
        let (chunk, behind) = rest.split_at(length.min(rest.len()));
        input.extend(format!("BDAT {}\r\n", chunk.len()).bytes());
        input.extend_from_slice(chunk);
        rest = behind;
    }
    input.extend(format!("BDAT {} LAST\r\n", rest.len()).bytes());
    input.extend_from_slice(rest);
    input.extend_from_slice(b"QUIT\r\n");
    let rules = rules(bare_lf, u64::MAX);
    let outcome = Case { wire: &input, ..*case }.agree(|split| run(&rules, &input, split, YES));
    assert_eq!((outcome.end, outcome.messages.len()), (Some(Closing::Quit), 1));
    let replies = outcome.replies();
    // One for each command: two before, five chunks, and the goodbye.
    assert_eq!(replies.len(), 8, "{replies:?}");
    let refused = replies.iter().find(|reply| !reply.starts_with('2'));
    let verdict = refused.unwrap_or(&replies[replies.len() - 2]);
    check_message(&outcome.messages[0], verdict, &model(case.wire, false), bare_lf, u64::MAX);
    assert!(is_clean(&outcome.messages[0].octets));
}

/// What was kept and is sent on comes out of another spool as it was.
fn check_kept(case: &Case<'_>) {
    let input = [BEFORE, b"DATA\r\n", case.wire, b"\r\n.\r\n"].concat();
    let first = run(&rules(BareLf::Accept, u64::MAX), &input, Split::Whole, YES).messages.remove(0);
    let octets = first.octets;
    let sent = stuffed(&octets, case.split());
    let input = [BEFORE, b"DATA\r\n", &sent[..], b"QUIT\r\n"].concat();
    let again = run(&rules(BareLf::Refuse, u64::MAX), &input, Split::Whole, YES);
    assert_eq!((again.messages.len(), again.end), (1, Some(Closing::Quit)));
    assert_eq!(shown(&again.messages[0].octets), shown(&octets));
    assert_eq!(lenient_end(&sent), sent.len(), "{:?}", shown(&sent));
}

/// Any octets, as if they had been kept: whatever they are, they have one end.
fn check_stuffed(case: &Case<'_>) {
    let sent = case.agree(|split| stuffed(case.wire, split));
    assert_eq!(split_at_end(&sent).1, b"");
}

/// As it is sent on.
fn stuffed(octets: &[u8], split: Split) -> Vec<u8> {
    let (mut dots, mut out) = (Dots::default(), Vec::new());
    Pieces::new(octets, split).for_each(|piece| dots.encode(piece, &mut out));
    dots.finish(&mut out);
    out
}

/// What a message is by its octets, looked at as a whole.
pub struct Modelled {
    pub octets: Vec<u8>,
    line_feeds: usize,
    returns: usize,
}

/// Up to the end of DATA, which is the first CRLF.CRLF if a CRLF stood in front, and what is behind it.
pub fn split_at_end(wire: &[u8]) -> (&[u8], &[u8]) {
    let framed = [b"\r\n", wire].concat();
    let at = framed.windows(5).position(|octets| octets == b"\r\n.\r\n").expect("no end");
    (&wire[..at], &wire[at + 3..])
}

pub fn model(content: &[u8], dotted: bool) -> Modelled {
    // One character for each octet.
    let content: String = content.iter().map(|&octet| char::from(octet)).collect();
    let mut lines: Vec<&str> = content.split("\r\n").collect();
    let last = lines.pop().expect("one at least");
    let in_lines: String = lines.concat() + last;
    let mut out = String::new();
    for line in &lines {
        let line = if dotted { line.strip_prefix('.').unwrap_or(line) } else { line };
        let line = line.strip_suffix('\r').unwrap_or(line);
        out += &(mended(line, dotted) + "\r\n");
    }
    out += &mended(last, dotted);
    Modelled {
        octets: out.chars().map(|octet| u8::try_from(octet).expect("an octet")).collect(),
        line_feeds: in_lines.matches('\n').count(),
        returns: in_lines.matches('\r').count(),
    }
}

/// What stands between two CRLF.
fn mended(line: &str, dotted: bool) -> String {
    let line = if dotted { line.replace("\n..", "\n.") } else { line.to_owned() };
    line.replace('\r', " ").replace('\n', "\r\n")
}

pub fn check_message(
    message: &Message,
    verdict: &str,
    modelled: &Modelled,
    bare_lf: BareLf,
    max_size: u64,
) {
    let bare = modelled.line_feeds + modelled.returns > 0 && bare_lf == BareLf::Refuse;
    let too_long = modelled.octets.len() as u64 > max_size;
    match (&message.end, verdict.get(..10)) {
        (Some(Ok(mends)), Some("250 2.0.0 ")) => {
            assert!(!bare && !too_long);
            assert_eq!(shown(&message.octets), shown(&modelled.octets));
            let counted = |count: usize, what: &str| match count {
                0 => None,
                1 => Some(format!("1 bare {what}")),
                _ => Some(format!("{count} bare {what}s")),
            };
            let feeds = counted(modelled.line_feeds, "line feed");
            let returns = counted(modelled.returns, "carriage return");
            assert_eq!(*mends, feeds.into_iter().chain(returns).collect::<Vec<_>>());
        }
        (Some(Err(why)), Some("552 5.3.4 ")) => assert!(too_long && why == "too long"),
        (Some(Err(_)), Some("550 5.6.11")) => assert!(bare),
        other => panic!("{other:?}"),
    }
}

/// Where a server sees the end that takes CR, LF and CRLF alike for line ends.
pub fn lenient_end(wire: &[u8]) -> usize {
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

fn rules(bare_lf: BareLf, max_size: u64) -> ReceiverRules {
    ReceiverRules { max_size, bare_lf, recipients: None }
}
