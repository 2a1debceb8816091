//! An IMAP session behind its login: which commands are not answered yet, and whether either side is within a line or
//! a literal.
//!
//! Invariant: no octet is looked at again when more come. What is no line of text (COMPRESS, another TLS) ends the looking.

use std::mem;

use memchr::{memchr2, memrchr};

use super::super::input::split_word;
use super::super::talk::Head;

/// See the module.
#[derive(Debug, Default)]
pub(in crate::protocol) struct ImapTalk {
    client: Lines,
    server: Lines,
    /// Commands without their tagged answer.
    open: u64,
    /// The last of them is IDLE (RFC 2177), which is answered behind DONE.
    idle: Idle,
    /// It is not understood any more.
    lost: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Idle {
    #[default]
    No,
    Asked,
    Idling,
}

impl ImapTalk {
    pub(in crate::protocol) fn client(&mut self, bytes: &[u8]) {
        let (open, idle) = (&mut self.open, &mut self.idle);
        let mut opaque = false;
        let text = self.client.read(bytes, |line| {
            let (first, rest) = split_word(line);
            let (command, _) = split_word(rest);
            if rest.is_empty() && first.eq_ignore_ascii_case(b"DONE") {
                *idle = Idle::No;
                return;
            }
            *open += 1;
            let is = |name: &[u8]| command.eq_ignore_ascii_case(name);
            if is(b"IDLE") {
                *idle = Idle::Asked;
            }
            // Behind these there are no lines of commands any more.
            opaque |= is(b"COMPRESS") || is(b"STARTTLS") || is(b"AUTHENTICATE");
        });
        self.lost |= opaque || text.is_err();
    }

    pub(in crate::protocol) fn server(&mut self, bytes: &[u8]) {
        let (open, idle, client) = (&mut self.open, &mut self.idle, &mut self.client);
        let text = self.server.read(bytes, |line| match line.first() {
            Some(b'*') => {}
            Some(b'+') => {
                if *idle == Idle::Asked {
                    *idle = Idle::Idling;
                }
            }
            // The command whose literal was refused, before it was whole (RFC 3501 section 7.5).
            _ if *open == 0 => client.give_up_literal(),
            _ => {
                *open -= 1;
                if *open == 0 {
                    *idle = Idle::No;
                }
            }
        });
        self.lost |= text.is_err();
    }

    pub(in crate::protocol) fn is_lost(&self) -> bool {
        self.lost
    }

    pub(in crate::protocol) fn is_settled(&self) -> bool {
        let answered = match self.open {
            0 => true,
            1 => self.idle == Idle::Idling,
            _ => false,
        };
        answered && self.client.at_start() && self.server.at_start()
    }
}

/// What one side sends: lines, which go on behind their literals (RFC 3501 section 4.3).
#[derive(Debug, Default)]
struct Lines {
    head: Head,
    place: Place,
    mark: Mark,
    /// A literal is announced, and its sender waits to be told to go on.
    waits: bool,
}

#[derive(Debug, Default)]
enum Place {
    #[default]
    Start,
    Line,
    Literal(u64),
}

/// The announcement of a literal, `{12}` or `{12+}` (RFC 7888) at a line's end.
#[derive(Clone, Copy, Debug, Default)]
enum Mark {
    #[default]
    None,
    Open,
    Digits(u64),
    Plus(u64),
    Closed {
        octets: u64,
        waits: bool,
    },
}

/// An octet that no line of text has.
struct NoText;

impl Lines {
    /// Calls `line` with the head of each line that is whole.
    fn read(&mut self, mut bytes: &[u8], mut line: impl FnMut(&[u8])) -> Result<(), NoText> {
        while !bytes.is_empty() {
            self.waits = false;
            if let Place::Literal(left) = &mut self.place {
                let count = usize::try_from(*left).unwrap_or(usize::MAX).min(bytes.len());
                *left -= count as u64;
                if *left == 0 {
                    self.place = Place::Line;
                }
                bytes = bytes.get(count..).unwrap_or_default();
                continue;
            }
            let end = memchr2(b'\r', b'\n', bytes).unwrap_or(bytes.len());
            let (text, rest) = bytes.split_at(end);
            self.text(text)?;
            bytes = rest.get(1..).unwrap_or_default();
            if rest.first() == Some(&b'\n')
                && let Some(head) = self.end()
            {
                line(head.as_slice());
            }
        }
        Ok(())
    }

    /// Within a line.
    fn text(&mut self, text: &[u8]) -> Result<(), NoText> {
        if text.iter().any(|octet| *octet < b' ' && *octet != b'\t') {
            return Err(NoText);
        }
        if text.is_empty() {
            return Ok(());
        }
        self.place = Place::Line;
        self.head.push(text);
        // Only what stands behind the last brace can announce a literal.
        let from = memrchr(b'{', text);
        for octet in text.get(from.unwrap_or(0)..).unwrap_or_default() {
            self.mark = self.mark.behind(*octet);
            if matches!(self.mark, Mark::None) {
                break;
            }
        }
        Ok(())
    }

    /// At a line's end; none: it goes on behind a literal.
    fn end(&mut self) -> Option<Head> {
        if let Mark::Closed { octets, waits } = mem::take(&mut self.mark) {
            self.place = if octets == 0 { Place::Line } else { Place::Literal(octets) };
            self.waits = waits;
            return None;
        }
        self.place = Place::Start;
        Some(self.head.take())
    }

    fn at_start(&self) -> bool {
        matches!(self.place, Place::Start)
    }

    fn give_up_literal(&mut self) {
        if self.waits {
            *self = Self::default();
        }
    }
}

impl Mark {
    fn behind(self, octet: u8) -> Self {
        let digit = u64::from(octet.wrapping_sub(b'0'));
        match (self, octet) {
            (_, b'{') => Self::Open,
            (Self::Open, b'0'..=b'9') => Self::Digits(digit),
            (Self::Digits(octets), b'0'..=b'9') => {
                Self::Digits(octets.saturating_mul(10).saturating_add(digit))
            }
            (Self::Digits(octets), b'+') => Self::Plus(octets),
            (Self::Digits(octets), b'}') => Self::Closed { octets, waits: true },
            (Self::Plus(octets), b'}') => Self::Closed { octets, waits: false },
            _ => Self::None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::talk::tests;
    use crate::vocabulary::Protocol;

    fn settled(talk: &[(&str, bool)]) {
        tests::settled(Protocol::Imap, talk);
    }

    #[test]
    fn a_command_is_under_way_until_its_tagged_answer() {
        settled(&[
            (">a NO", false),
            (">OP\r\n", false),
            ("<* 3 EXISTS\r\n", false),
            ("<a OK don", false),
            ("<e\r\n", true),
            ("<* 4 EX", false),
            ("<ISTS\r\n", true),
            (">b NOOP\r\nc SEARCH ALL\r\n", false),
            ("<b OK\r\n", false),
            ("<* SEARCH 1\r\nc OK\r\n", true),
        ]);
    }

    #[test]
    fn idle_is_settled_once_it_is_confirmed() {
        settled(&[
            (">a IDLE\r\n", false),
            ("<+ idling\r\n", true),
            ("<* 4 EXISTS\r\n", true),
            (">DONE\r\n", false),
            ("<a OK\r\n", true),
        ]);
    }

    #[test]
    fn within_a_literal_nothing_is_settled() {
        settled(&[
            (">a FETCH 1 BODY[]\r\n", false),
            ("<* 1 FETCH (BODY[] {14}\r\na OK line\r\n", false),
            ("<abc)\r\n", false),
            ("<a OK\r\n", true),
            (">b APPEND x {5+}\r\nb {9}", false),
            (">\r\n", false),
            ("<b OK\r\n", true),
        ]);
    }

    #[test]
    fn only_a_line_that_ends_with_it_announces_a_literal() {
        settled(&[
            (">a NOOP\r\n", false),
            ("<* OK {5} is no end\r\n", false),
            ("<* OK {5}}\r\n", false),
            ("<* OK {{5\r\n", false),
            ("<* OK {x{2+}\r\nab\r\n", false),
            ("<* OK {0}\r\n\r\n", false),
            ("<a OK\r\n", true),
        ]);
    }

    #[test]
    fn a_literal_that_is_refused_never_comes() {
        settled(&[
            (">a APPEND x {100}\r\n", false),
            ("<a NO too large\r\n", true),
            (">b NOOP\r\n", false),
            ("<b OK\r\n", true),
            (">c NOOP\r\nd APPEND x {3}\r\n", false),
            ("<c OK\r\n", false),
            ("<+ go\r\n", false),
            (">abc\r\n", false),
            ("<d OK\r\n", true),
        ]);
    }

    #[test]
    fn what_is_no_text_is_never_settled() {
        settled(&[(">a COMPRESS DEFLATE\r\n", false), ("<a OK\r\n", false)]);
        settled(&[("<\x02\r\n", false), ("<* OK\r\n", false)]);
    }
}
