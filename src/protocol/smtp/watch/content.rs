//! The octets of a message on their way (RFC 5321 section 4.1.1.4), looked at in bulk and not kept.
//!
//! Invariant: only CRLF.CRLF ends them, however they are split.

use memchr::{memchr_iter, memchr2_iter};

/// Where a message's octets stand.
pub(super) struct Content {
    /// The last four octets; those of the DATA command's line end, before any came.
    last: [u8; 4],
}

/// What came of a look at more octets.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Seen {
    /// All of them belong to the message.
    More,
    /// So many do, with the end.
    End(usize),
    /// So many do, then a line feed stands alone, or a carriage return has stood alone (strict only).
    BareLineEnd(usize),
}

impl Content {
    pub(super) fn new() -> Self {
        Self { last: [0, 0, b'\r', b'\n'] }
    }

    /// Looks at the next octets. `strict`: no bare CR or LF may be among them, because another server may take
    /// `LF . LF` for the end (RFC 5321 section 2.3.8), and what comes behind for commands.
    pub(super) fn look(&mut self, bytes: &[u8], strict: bool) -> Seen {
        let seen = if strict { self.strict(bytes) } else { self.lenient(bytes) };
        let passed = match seen {
            Seen::End(count) | Seen::BareLineEnd(count) => bytes.get(..count).unwrap_or_default(),
            Seen::More => bytes,
        };
        for octet in passed.iter().skip(passed.len().saturating_sub(4)) {
            let [_, b, c, d] = self.last;
            self.last = [b, c, d, *octet];
        }
        seen
    }

    fn lenient(&self, bytes: &[u8]) -> Seen {
        let end = memchr_iter(b'\n', bytes).find(|at| self.ends(bytes, *at));
        end.map_or(Seen::More, |at| Seen::End(at + 1))
    }

    fn strict(&self, bytes: &[u8]) -> Seen {
        if self.before(bytes, 0, 1) == b'\r' && bytes.first().is_some_and(|first| *first != b'\n') {
            return Seen::BareLineEnd(0);
        }
        for at in memchr2_iter(b'\r', b'\n', bytes) {
            match bytes.get(at) {
                Some(b'\r') if bytes.get(at + 1).is_some_and(|next| *next != b'\n') => {
                    return Seen::BareLineEnd(at + 1);
                }
                Some(b'\r') => {}
                _ if self.ends(bytes, at) => return Seen::End(at + 1),
                _ if self.before(bytes, at, 1) != b'\r' => return Seen::BareLineEnd(at),
                _ => {}
            }
        }
        Seen::More
    }

    /// Whether the line feed at `at` is the last octet of CRLF.CRLF.
    fn ends(&self, bytes: &[u8], at: usize) -> bool {
        let before = |back| self.before(bytes, at, back);
        // In this order, since few lines end with a dot.
        before(1) == b'\r' && before(2) == b'.' && before(3) == b'\n' && before(4) == b'\r'
    }

    /// The octet that is `back` before `at`; up to four of them may be from before.
    fn before(&self, bytes: &[u8], at: usize, back: usize) -> u8 {
        let octet = match at.checked_sub(back) {
            Some(index) => bytes.get(index),
            None => self.last.get((4 + at).saturating_sub(back)),
        };
        octet.copied().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn look(octets: &[u8], piece: usize, strict: bool) -> Seen {
        let mut content = Content::new();
        let mut before = 0;
        for bytes in octets.chunks(piece) {
            match content.look(bytes, strict) {
                Seen::More => before += bytes.len(),
                Seen::End(count) => return Seen::End(before + count),
                Seen::BareLineEnd(count) => return Seen::BareLineEnd(before + count),
            }
        }
        Seen::More
    }

    #[test]
    fn only_crlf_dot_crlf_ends() {
        for (octets, lenient, strict) in [
            (&b".\r\nQUIT\r\n"[..], Seen::End(3), Seen::End(3)),
            (b"a\r\n.\r\nb", Seen::End(6), Seen::End(6)),
            (b"\r\n\r\n.\r\n.\r\n", Seen::End(7), Seen::End(7)),
            (b"..\r\n.a\r\n. \r\n", Seen::More, Seen::More),
            (b"a\n.\r\n", Seen::More, Seen::BareLineEnd(1)),
            (b"a\r\n.\n", Seen::More, Seen::BareLineEnd(4)),
            (b"a\n.\n", Seen::More, Seen::BareLineEnd(1)),
            (b"a\r.\r\n", Seen::More, Seen::BareLineEnd(2)),
            (b"a\r\n.\r.\r\n", Seen::More, Seen::BareLineEnd(5)),
            (b"a\r\r\n.\r\n", Seen::End(7), Seen::BareLineEnd(2)),
            (b"a\r\n.\r\n\n", Seen::End(6), Seen::End(6)),
            (b"\n.\r\n", Seen::More, Seen::BareLineEnd(0)),
        ] {
            for piece in 1..=octets.len() {
                let shown = String::from_utf8_lossy(octets);
                assert_eq!(look(octets, piece, false), lenient, "{shown:?} by {piece}");
                assert_eq!(look(octets, piece, true), strict, "{shown:?} by {piece}, strict");
            }
        }
    }
}
