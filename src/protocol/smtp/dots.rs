//! A message as DATA sends it: RFC 5321 section 4.5.2.
//!
//! Invariant: only the end that [`Dots::finish`] writes is one. Each line that begins with a dot gets another one,
//! and a bare line feed goes out as CRLF, so that no server can see a line where gatepost sees none (RFC 5321
//! section 2.3.8). Nothing else is changed.

use memchr::memchr_iter;

/// A message on its way through DATA, in pieces of any size.
#[derive(Debug)]
pub struct Dots {
    /// The last octet; at the beginning, and behind each line, that is a line feed.
    last: u8,
}

impl Default for Dots {
    fn default() -> Self {
        Self { last: b'\n' }
    }
}

impl Dots {
    /// Appends the next piece of the message to `out`.
    pub fn encode(&mut self, piece: &[u8], out: &mut Vec<u8>) {
        // A dot for a line in some, and an octet for a bare line feed in none.
        out.reserve(piece.len() + piece.len() / 64 + 8);
        if self.last == b'\n' && piece.first() == Some(&b'.') {
            out.push(b'.');
        }
        let mut copied = 0;
        for end in memchr_iter(b'\n', piece) {
            let before = end.checked_sub(1).and_then(|at| piece.get(at)).copied();
            if before.unwrap_or(self.last) != b'\r' {
                out.extend_from_slice(piece.get(copied..end).unwrap_or_default());
                out.push(b'\r');
                copied = end;
            }
            if piece.get(end + 1) == Some(&b'.') {
                out.extend_from_slice(piece.get(copied..=end).unwrap_or_default());
                out.push(b'.');
                copied = end + 1;
            }
        }
        out.extend_from_slice(piece.get(copied..).unwrap_or_default());
        self.last = piece.last().copied().unwrap_or(self.last);
    }

    /// Appends the end: a line that is not at its end gets one.
    pub fn finish(self, out: &mut Vec<u8>) {
        match self.last {
            b'\n' => {}
            b'\r' => out.push(b'\n'),
            _ => out.extend_from_slice(b"\r\n"),
        }
        out.extend_from_slice(b".\r\n");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encoded(message: &[u8], piece: usize) -> Vec<u8> {
        let (mut dots, mut out) = (Dots::default(), Vec::new());
        for piece in message.chunks(piece.max(1)) {
            dots.encode(piece, &mut out);
        }
        dots.finish(&mut out);
        out
    }

    #[test]
    fn dots_at_the_beginning_of_lines_are_doubled() {
        let cases: [(&[u8], &[u8]); 9] = [
            (b"a\r\n", b"a\r\n.\r\n"),
            (b".\r\n", b"..\r\n.\r\n"),
            (b"a\r\n.\r\n.b\r\n", b"a\r\n..\r\n..b\r\n.\r\n"),
            (b"a.b\r\n..\r\n", b"a.b\r\n...\r\n.\r\n"),
            (b"", b".\r\n"),
            (b"a", b"a\r\n.\r\n"),
            (b"a\r", b"a\r\n.\r\n"),
            (b"a\n.\nb\r\n", b"a\r\n..\r\nb\r\n.\r\n"),
            (b"\n\r.\r\0\xff\r\n", b"\r\n\r.\r\0\xff\r\n.\r\n"),
        ];
        for (message, expected) in cases {
            for piece in [1, 2, 3, 100] {
                let got = encoded(message, piece);
                assert_eq!(
                    got,
                    expected,
                    "{message:?} by {piece}: {:?}",
                    String::from_utf8_lossy(&got)
                );
            }
        }
    }
}
