//! The upstream's replies (RFC 5321 section 4.2), read off the stream as they pass.
//!
//! Invariant: no more of a reply is kept than people are told of it.

use memchr::memchr;

use super::super::super::refusal::printable;
use super::super::super::upstream::MAX_SAID;
use super::super::upstream::reply_code;

/// Enough of a line to see its code and its reason.
const MAX_LINE: usize = 512;

/// A reply that is whole.
pub(super) struct Answer {
    pub(super) code: u16,
    /// With its code, on one line.
    pub(super) said: String,
}

/// Where the stream of replies stands.
#[derive(Default)]
pub(super) struct Replies {
    /// Of the line that is coming in.
    line: Vec<u8>,
    /// Of the reply that is coming in.
    said: String,
}

impl Replies {
    /// Reads up to the end of a reply: how many octets that were, and the reply if it has ended. `Some(None)`:
    /// that was no reply.
    pub(super) fn read(&mut self, bytes: &[u8]) -> (usize, Option<Option<Answer>>) {
        let mut passed = 0;
        loop {
            let rest = bytes.get(passed..).unwrap_or_default();
            let Some(end) = memchr(b'\n', rest) else {
                self.keep(rest);
                return (bytes.len(), None);
            };
            self.keep(rest.get(..end).unwrap_or_default());
            passed += end + 1;
            let line = std::mem::take(&mut self.line);
            let line = String::from_utf8_lossy(line.trim_ascii_end()).into_owned();
            let Some((code, last)) = reply_code(&line) else { return (passed, Some(None)) };
            self.note(&line);
            if last {
                let said = std::mem::take(&mut self.said);
                return (passed, Some(Some(Answer { code, said })));
            }
        }
    }

    /// Nothing of a reply has come that is not whole.
    pub(super) fn at_boundary(&self) -> bool {
        self.line.is_empty() && self.said.is_empty()
    }

    fn keep(&mut self, bytes: &[u8]) {
        let room = MAX_LINE.saturating_sub(self.line.len());
        self.line.extend(bytes.iter().take(room));
    }

    /// Servers spread the reason over several lines.
    fn note(&mut self, line: &str) {
        let text = match self.said.is_empty() {
            true => line.to_owned(),
            false => line.get(4..).map(|text| format!(" {text}")).unwrap_or_default(),
        };
        let room = MAX_SAID.saturating_sub(self.said.len());
        self.said += &printable(&text, room);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replies_of_several_lines() {
        let all = b"250-one\r\n250-two\r\n250 three\r\n354\r\nwhat?\r\n";
        for piece in 1..=all.len() {
            let mut replies = Replies::default();
            let mut seen = Vec::new();
            for bytes in all.chunks(piece) {
                let mut rest = bytes;
                while !rest.is_empty() {
                    let (passed, reply) = replies.read(rest);
                    rest = rest.get(passed..).unwrap();
                    seen.extend(reply.map(|reply| reply.map(|reply| (reply.code, reply.said))));
                }
            }
            let wanted = [Some((250, "250-one two three".into())), Some((354, "354".into())), None];
            assert_eq!(seen, wanted, "by {piece}");
            assert!(replies.at_boundary());
        }
    }
}
