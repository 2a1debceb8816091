//! One reply of an SMTP server.
//!
//! Invariant: on the wire it is one line of printable ASCII, whatever words it was made of.

use std::fmt;

use super::super::refusal::printable;

/// Longest text: a reply line has at most 512 octets with its code and line end (RFC 5321 section
/// 4.5.3.1.5).
const MAX_TEXT: usize = 500;

/// An SMTP reply with its enhanced code: `452 4.3.1 no room`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    /// Three digits (RFC 5321 section 4.2).
    pub code: u16,
    /// The enhanced code (RFC 3463) and words.
    pub text: String,
}

impl Reply {
    /// `code` and `text` as they are.
    pub fn new(code: u16, text: impl Into<String>) -> Self {
        Self { code, text: text.into() }
    }

    /// Done.
    pub fn is_positive(&self) -> bool {
        (200..300).contains(&self.code)
    }

    /// Refused for now: to be tried again.
    pub fn is_transient(&self) -> bool {
        (400..500).contains(&self.code)
    }

    /// Refused because a command is wrong, unknown or out of turn (RFC 5321 section 4.2.2).
    pub(super) fn is_error(&self) -> bool {
        (500..505).contains(&self.code)
    }

    /// As it is sent.
    pub(super) fn line(&self) -> Vec<u8> {
        format!("{:03} {}\r\n", self.code, printable(&self.text, MAX_TEXT)).into_bytes()
    }
}

impl fmt::Display for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.code, self.text)
    }
}

/// The enhanced status code at the beginning of a reply's text; empty: there is none.
pub(super) fn status_of(text: &str) -> &str {
    text.split(' ').next().filter(|word| is_status(word)).unwrap_or_default()
}

/// Whether this is an enhanced status code (RFC 3463 section 2).
pub fn is_status(word: &str) -> bool {
    let mut parts = word.split('.');
    let class = matches!(parts.next(), Some("2" | "4" | "5"));
    let number = |part: Option<&str>| {
        part.is_some_and(|part| {
            (1..=3).contains(&part.len()) && part.bytes().all(|byte| byte.is_ascii_digit())
        })
    };
    class && number(parts.next()) && number(parts.next()) && parts.next().is_none()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reply_is_one_printable_line() {
        let reply = Reply::new(550, format!("5.1.1 a\r\nb\0ü{}", "x".repeat(600)));
        let line = reply.line();
        let text = line.strip_suffix(b"\r\n").unwrap();
        assert!(line.len() <= 512 && text.iter().all(|octet| (32..127).contains(octet)));
        assert!(line.starts_with(b"550 5.1.1 a??b??xx"));
    }

    #[test]
    fn kinds_are_told_by_the_first_digit() {
        let kinds = [250, 354, 452, 550].map(|code| {
            let reply = Reply::new(code, "");
            (reply.is_positive(), reply.is_transient())
        });
        assert_eq!(kinds, [(true, false), (false, false), (false, true), (false, false)]);
    }

    #[test]
    fn an_enhanced_code_is_told_from_a_word() {
        assert!(["2.0.0", "4.7.500", "5.1.90"].iter().all(|word| is_status(word)));
        assert!(
            !["", "5.7", "3.0.0", "5.7.60;", "10.0.0.1", "5.7.6000"].iter().any(|w| is_status(w))
        );
    }
}
