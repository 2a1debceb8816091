//! The bytes that have come in and were not looked at yet.
//!
//! Invariant: a line longer than [`MAX_LINE`] is refused as soon as that is known, whether or not its end
//! has been seen, so that no peer makes gatepost hold more than that and one read. What was read is wiped: a line
//! may have held a password.

use zeroize::{Zeroize, Zeroizing};

/// Longest line before the login, in octets with its line end. The largest that any of the protocols
/// demands: RFC 4954 section 4 wants 12,288 octets for the lines of a SASL exchange.
pub const MAX_LINE: usize = 12_288;

/// A line or a count of octets is longer than its limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct TooLong;

/// Unread input.
#[derive(Default)]
pub(super) struct Input {
    bytes: Vec<u8>,
    /// Octets at the start of `bytes` that are known to hold no line feed.
    searched: usize,
}

impl Input {
    /// Memory that becomes too small is wiped before it is given back.
    pub(super) fn push(&mut self, bytes: &[u8]) {
        if self.bytes.capacity() - self.bytes.len() < bytes.len() {
            let mut larger =
                Vec::with_capacity((self.bytes.len() + bytes.len()).next_power_of_two());
            larger.extend_from_slice(&self.bytes);
            self.bytes.zeroize();
            self.bytes = larger;
        }
        self.bytes.extend_from_slice(bytes);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    pub(super) fn first(&self) -> Option<u8> {
        self.bytes.first().copied()
    }

    /// The next line without its end, `None` while its end has not come. A bare line feed ends a line
    /// too, as in every mail server: before the login nothing is passed on, so nothing can be smuggled.
    pub(super) fn line(&mut self) -> Result<Option<Zeroizing<Vec<u8>>>, TooLong> {
        let Some(end) = self.line_end() else {
            return if self.searched >= MAX_LINE { Err(TooLong) } else { Ok(None) };
        };
        self.searched = 0;
        if end > MAX_LINE {
            return Err(TooLong);
        }
        let mut line = Zeroizing::new(self.cut(end));
        line.pop();
        if line.last() == Some(&b'\r') {
            line.pop();
        }
        Ok(Some(line))
    }

    /// The next line with its end, left where it is.
    pub(super) fn peek_line(&mut self) -> Option<&[u8]> {
        let end = self.line_end()?;
        self.bytes.get(..end)
    }

    /// Octets up to the end of the next line; none is looked at twice, however small the pieces it comes in.
    fn line_end(&mut self) -> Option<usize> {
        let mut unsearched = self.bytes.iter().skip(self.searched);
        match unsearched.position(|&byte| byte == b'\n') {
            Some(offset) => {
                self.searched += offset;
                Some(self.searched + 1)
            }
            None => {
                self.searched = self.bytes.len();
                None
            }
        }
    }

    /// The next `count` octets, `None` while they have not all come.
    pub(super) fn take(&mut self, count: usize) -> Option<Vec<u8>> {
        if self.bytes.len() < count {
            return None;
        }
        self.searched = 0;
        Some(self.cut(count))
    }

    /// The first octets, and no trace of them where they were.
    fn cut(&mut self, count: usize) -> Vec<u8> {
        let octets = self.bytes.drain(..count).collect();
        if let Some(freed) = self.bytes.spare_capacity_mut().get_mut(..count) {
            freed.zeroize();
        }
        octets
    }

    /// The next octets that are here, at most `count`.
    pub(super) fn take_some(&mut self, count: u64) -> Vec<u8> {
        match usize::try_from(count) {
            Ok(count) => self.take(count).unwrap_or_else(|| self.take_rest()),
            Err(_) => self.take_rest(),
        }
    }

    /// Everything that is left: what the peer sent ahead of the login's end.
    pub(super) fn take_rest(&mut self) -> Vec<u8> {
        self.searched = 0;
        std::mem::take(&mut self.bytes)
    }
}

impl Drop for Input {
    fn drop(&mut self) {
        self.bytes.zeroize();
    }
}

/// Splits at the first run of spaces: `("LOGIN", "a b")` of `LOGIN a b`.
pub(super) fn split_word(line: &[u8]) -> (&[u8], &[u8]) {
    let word_end = line.iter().position(|&byte| byte == b' ').unwrap_or(line.len());
    let (word, rest) = line.split_at(word_end);
    let spaces = rest.iter().take_while(|&&byte| byte == b' ').count();
    (word, rest.split_at(spaces).1)
}

/// Without the spaces at its end. A tab or CR there is no separator but part of what the client said.
pub(super) fn trim_spaces_end(text: &[u8]) -> &[u8] {
    let spaces = text.iter().rev().take_while(|&&byte| byte == b' ').count();
    text.split_at(text.len() - spaces).0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_end_with_crlf_or_lf() {
        let mut input = Input::default();
        input.push(b"one\r\ntwo\nthr");
        assert_eq!(input.line(), Ok(Some(b"one".to_vec().into())));
        assert_eq!(input.line(), Ok(Some(b"two".to_vec().into())));
        assert_eq!(input.line(), Ok(None));
        input.push(b"ee\r\n");
        assert_eq!(input.line(), Ok(Some(b"three".to_vec().into())));
    }

    #[test]
    fn a_long_line_is_refused_with_and_without_its_end() {
        let mut endless = Input::default();
        endless.push(&[b'x'; MAX_LINE]);
        assert_eq!(endless.line(), Err(TooLong));
        let mut ended = Input::default();
        ended.push(&[b'x'; MAX_LINE - 1]);
        assert_eq!(ended.line(), Ok(None));
        ended.push(b"\n");
        assert_eq!(ended.line().map(|line| line.map(|line| line.len())), Ok(Some(MAX_LINE - 1)));
    }

    #[test]
    fn words_are_split_at_spaces() {
        assert_eq!(split_word(b"LOGIN  a b"), (&b"LOGIN"[..], &b"a b"[..]));
        assert_eq!(split_word(b"NOOP"), (&b"NOOP"[..], &b""[..]));
    }
}
