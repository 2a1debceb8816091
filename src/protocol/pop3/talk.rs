//! A POP3 session behind its login: which commands are not answered yet, and whether an answer goes on.
//!
//! Invariant: a command that is not known ends the looking: nobody knows whether its answer has one line.

use std::collections::VecDeque;

use memchr::memchr;

use super::super::input::split_word;
use super::super::talk::Head;

/// Commands that may be under way (RFC 2449 section 6.6). Nobody sends as many.
const MAX_AWAITED: usize = 128;

/// See the module.
#[derive(Debug, Default)]
pub(in crate::protocol) struct Pop3Talk {
    client: Lines,
    server: Lines,
    awaited: VecDeque<Answer>,
    /// The lines of an answer come.
    within: bool,
    lost: bool,
}

/// What a good answer is; a bad one has one line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Answer {
    Line,
    /// Up to a line with a dot (RFC 1939 section 3).
    Lines,
}

impl Pop3Talk {
    pub(in crate::protocol) fn client(&mut self, bytes: &[u8]) {
        let (awaited, lost) = (&mut self.awaited, &mut self.lost);
        self.client.read(bytes, |line| match answer_to(line) {
            Some(answer) if awaited.len() < MAX_AWAITED && !*lost => awaited.push_back(answer),
            _ => *lost = true,
        });
    }

    pub(in crate::protocol) fn server(&mut self, bytes: &[u8]) {
        let (awaited, within) = (&mut self.awaited, &mut self.within);
        self.server.read(bytes, |line| match *within {
            true => *within = line != b".",
            false => {
                *within = awaited.pop_front() == Some(Answer::Lines) && line.first() == Some(&b'+')
            }
        });
    }

    pub(in crate::protocol) fn is_lost(&self) -> bool {
        self.lost
    }

    pub(in crate::protocol) fn is_settled(&self) -> bool {
        let answered = self.awaited.is_empty() && !self.within;
        answered && self.client.at_start && self.server.at_start
    }
}

/// RFC 1939, RFC 2449 (CAPA), RFC 6856 (UTF8, LANG).
fn answer_to(line: &[u8]) -> Option<Answer> {
    let (name, arguments) = split_word(line.trim_ascii_end());
    let list = if arguments.is_empty() { Answer::Lines } else { Answer::Line };
    match name.to_ascii_uppercase().as_slice() {
        b"STAT" | b"DELE" | b"NOOP" | b"RSET" | b"QUIT" | b"UTF8" => Some(Answer::Line),
        b"RETR" | b"TOP" | b"CAPA" => Some(Answer::Lines),
        b"LIST" | b"UIDL" | b"LANG" => Some(list),
        _ => None,
    }
}

/// What one side sends.
#[derive(Debug)]
struct Lines {
    head: Head,
    at_start: bool,
}

impl Default for Lines {
    fn default() -> Self {
        Self { head: Head::default(), at_start: true }
    }
}

impl Lines {
    /// Calls `line` with the head of each line that is whole, without its end.
    fn read(&mut self, mut bytes: &[u8], mut line: impl FnMut(&[u8])) {
        while !bytes.is_empty() {
            let end = memchr(b'\n', bytes);
            self.head.push(bytes.get(..end.unwrap_or(bytes.len())).unwrap_or_default());
            self.at_start = end.is_some();
            if self.at_start {
                let head = self.head.take();
                line(head.as_slice().strip_suffix(b"\r").unwrap_or(head.as_slice()));
            }
            bytes = end.and_then(|end| bytes.get(end + 1..)).unwrap_or_default();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::talk::tests;
    use crate::vocabulary::Protocol;

    fn settled(talk: &[(&str, bool)]) {
        tests::settled(Protocol::Pop3, talk);
    }

    #[test]
    fn an_answer_of_several_lines_ends_with_a_dot() {
        settled(&[
            (">STAT\r\n", false),
            ("<+OK 1 10\r\n", true),
            (">RETR 1\r\n", false),
            ("<+OK\r\nSubject: x\r\n", false),
            ("<..\r\n.\r\n", true),
            (">retr 9\r\nLIST\r\n", false),
            ("<-ERR none\r\n+OK\r\n", false),
            ("<1 10\r\n.\r\n", true),
            (">LIST 1\r\n", false),
            ("<+OK 1 10\r\n", true),
        ]);
    }

    #[test]
    fn behind_an_unknown_command_nothing_is_settled() {
        settled(&[(">XTND\r\n", false), ("<+OK\r\n", false)]);
    }
}
