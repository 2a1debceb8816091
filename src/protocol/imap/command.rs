//! One IMAP command, read leniently: literals in any place, any letter case, odd tags and atoms.
//!
//! Invariant: a reader holds at most [`MAX_COMMAND`] octets, and asks for a synchronising literal only
//! if it will take it.

use zeroize::Zeroizing;

use super::super::input::{Input, MAX_LINE, TooLong, split_word};

/// Longest literal before the login. A user name has at most 255 octets; passwords as long as a
/// token have been seen.
const MAX_LITERAL: usize = 4096;

/// Longest command before the login with all its literals.
const MAX_COMMAND: usize = MAX_LINE + 2 * MAX_LITERAL;

/// Longest tag. No client is known to use more than twenty octets.
const MAX_TAG: usize = 64;

/// A part of a command. No `Debug` outside tests: it may be a password.
#[cfg_attr(test, derive(Debug, PartialEq, Eq))]
enum Piece {
    Text(Zeroizing<Vec<u8>>),
    Literal(Zeroizing<Vec<u8>>),
}

/// A whole command.
#[cfg_attr(test, derive(Debug, PartialEq, Eq))]
pub(super) struct Command {
    /// Printable, so that it can be sent back.
    pub(super) tag: String,
    /// As the client spelled it.
    pub(super) name: Vec<u8>,
    arguments: Vec<Piece>,
}

/// What reading leads to.
#[cfg_attr(test, derive(Debug, PartialEq, Eq))]
pub(super) enum Reading {
    /// Send `+`, the client waits for it before its literal.
    Continue,
    /// A whole command.
    Command(Command),
    /// No command: what is wrong with it, and its tag if it had one.
    Bad(Option<String>, &'static str),
}

/// What is wrong with a word alone.
pub(super) const NO_COMMAND: &str = "no command behind the tag";

/// Gathers one command after the other.
#[derive(Default)]
pub(super) struct Reader {
    pieces: Vec<Piece>,
    /// Octets gathered so far.
    size: usize,
    /// Octets of the literal that is under way.
    literal: Option<usize>,
}

impl Reader {
    /// Takes the next line or literal; `None`: it is not all there yet.
    pub(super) fn advance(&mut self, input: &mut Input) -> Result<Option<Reading>, TooLong> {
        loop {
            if let Some(size) = self.literal {
                let Some(literal) = input.take(size) else { return Ok(None) };
                self.literal = None;
                self.pieces.push(Piece::Literal(Zeroizing::new(literal)));
            }
            let Some(mut line) = input.line()? else { return Ok(None) };
            let announced = literal_at_end(&line);
            self.size += line.len() + announced.as_ref().map_or(0, |literal| literal.size);
            let Some(literal) = announced else {
                self.pieces.push(Piece::Text(line));
                self.size = 0;
                return Ok(Some(parse(std::mem::take(&mut self.pieces))));
            };
            if literal.size > MAX_LITERAL || self.size > MAX_COMMAND {
                return self.refuse_literal(&line, literal.synchronising);
            }
            line.truncate(literal.start);
            self.pieces.push(Piece::Text(line));
            self.literal = Some(literal.size);
            if literal.synchronising {
                return Ok(Some(Reading::Continue));
            }
        }
    }

    /// Whether the next line begins a command.
    pub(super) fn is_between_commands(&self) -> bool {
        self.pieces.is_empty() && self.literal.is_none()
    }

    /// Drops the command under way if it is one of `names`; its tag. For a client that waits with its
    /// literal and should not send it.
    pub(super) fn abandon(&mut self, names: [&str; 2]) -> Option<String> {
        let Some(Piece::Text(text)) = self.pieces.first() else { return None };
        let (tag_word, rest) = split_word(text);
        let name = split_word(rest).0;
        if !names.iter().any(|known| name.eq_ignore_ascii_case(known.as_bytes())) {
            return None;
        }
        let tag = tag(tag_word)?;
        *self = Self::default();
        Some(tag)
    }

    /// A client that waits can be told; one that sends at once can't be stopped (RFC 7888 section 4).
    fn refuse_literal(
        &mut self,
        line: &[u8],
        synchronising: bool,
    ) -> Result<Option<Reading>, TooLong> {
        if !synchronising {
            return Err(TooLong);
        }
        let first = match self.pieces.first() {
            Some(Piece::Text(text)) => text,
            _ => line,
        };
        let tag = tag(split_word(first).0);
        *self = Self::default();
        Ok(Some(Reading::Bad(tag, "literal too long")))
    }
}

/// The announcement `{12}` or `{12+}` at the end of a line.
struct Announced {
    start: usize,
    size: usize,
    synchronising: bool,
}

/// A brace inside a word is part of it: clients send odd passwords as atoms.
fn literal_at_end(line: &[u8]) -> Option<Announced> {
    let start = line.iter().rposition(|&byte| byte == b'{')?;
    let before = start.checked_sub(1).and_then(|at| line.get(at));
    if !matches!(before, Some(b' ' | b'(')) {
        return None;
    }
    let inside = line.get(start + 1..)?.strip_suffix(b"}")?;
    let (digits, synchronising) = match inside.strip_suffix(b"+") {
        Some(digits) => (digits, false),
        None => (inside, true),
    };
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    // Whatever is beyond the limit is equally so, also what a usize can't hold or add to.
    let size = std::str::from_utf8(digits).ok()?.parse().unwrap_or(usize::MAX).min(MAX_LITERAL + 1);
    Some(Announced { start, size, synchronising })
}

fn parse(pieces: Vec<Piece>) -> Reading {
    let mut pieces = pieces.into_iter();
    let Some(Piece::Text(text)) = pieces.next() else { return Reading::Bad(None, "no command") };
    let (word, rest) = split_word(&text);
    let Some(tag) = tag(word) else {
        return Reading::Bad(None, "a command begins with a tag");
    };
    let (name, arguments) = split_word(rest);
    if name.is_empty() {
        return Reading::Bad(Some(tag), NO_COMMAND);
    }
    Reading::Command(Command {
        tag,
        name: name.to_vec(),
        arguments: std::iter::once(Piece::Text(arguments.to_vec().into())).chain(pieces).collect(),
    })
}

/// RFC 3501 section 9: a tag has no list wildcards, parentheses, quotes, `+` or control characters.
fn tag(word: &[u8]) -> Option<String> {
    let fits = |byte: &u8| byte.is_ascii_graphic() && !b"(){%*\"\\+".contains(byte);
    let valid = !word.is_empty() && word.len() <= MAX_TAG && word.iter().all(fits);
    valid.then(|| String::from_utf8_lossy(word).into_owned())
}

impl Command {
    /// Whether it is the command `name`, in any letter case.
    pub(super) fn is(&self, name: &str) -> bool {
        self.name.eq_ignore_ascii_case(name.as_bytes())
    }

    /// The arguments as strings: atoms, quoted strings and literals alike. `None` if they are none.
    pub(super) fn strings(&self) -> Option<Vec<Zeroizing<Vec<u8>>>> {
        let mut strings = Vec::new();
        let mut after_literal = false;
        for piece in &self.arguments {
            match piece {
                Piece::Literal(octets) => strings.push(octets.clone()),
                // Between a literal and what follows there is a space.
                Piece::Text(text)
                    if after_literal && !matches!(text.first(), None | Some(b' ')) =>
                {
                    return None;
                }
                Piece::Text(text) => read_strings(text, &mut strings)?,
            }
            after_literal = matches!(piece, Piece::Literal(_));
        }
        Some(strings)
    }
}

fn read_strings(text: &[u8], strings: &mut Vec<Zeroizing<Vec<u8>>>) -> Option<()> {
    let mut rest = text;
    loop {
        match rest.split_first() {
            None => return Some(()),
            Some((b' ', behind)) => rest = behind,
            Some((b'"', quoted)) => {
                let (string, behind) = unquote(quoted)?;
                if !matches!(behind.first(), None | Some(b' ')) {
                    return None;
                }
                strings.push(string.into());
                rest = behind;
            }
            Some(_) => {
                let (atom, behind) = split_word(rest);
                if atom.iter().any(u8::is_ascii_control) {
                    return None;
                }
                strings.push(atom.to_vec().into());
                rest = behind;
            }
        }
    }
}

/// A quoted string, from behind its first quote. A backslash before anything but a quote or a backslash
/// stands for itself: scripts send `"DOMAIN\user"`.
fn unquote(quoted: &[u8]) -> Option<(Vec<u8>, &[u8])> {
    // What grows leaves copies behind.
    let mut string = Vec::with_capacity(quoted.len());
    let mut rest = quoted;
    while let Some((&byte, behind)) = rest.split_first() {
        rest = behind;
        match byte {
            b'"' => return Some((string, rest)),
            b'\\' => match rest.split_first() {
                Some((&escaped @ (b'"' | b'\\'), behind)) => {
                    string.push(escaped);
                    rest = behind;
                }
                _ => string.push(byte),
            },
            _ if byte.is_ascii_control() => return None,
            _ => string.push(byte),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(bytes: &[u8]) -> Vec<Result<Option<Reading>, TooLong>> {
        let mut input = Input::default();
        input.push(bytes);
        let mut reader = Reader::default();
        let mut readings = Vec::new();
        loop {
            let reading = reader.advance(&mut input);
            let done = matches!(reading, Ok(None) | Err(_));
            readings.push(reading);
            if done {
                return readings;
            }
        }
    }

    fn strings(bytes: &[u8]) -> Option<Vec<Vec<u8>>> {
        read(bytes).into_iter().find_map(|reading| match reading {
            Ok(Some(Reading::Command(command))) => {
                command.strings().map(|strings| strings.iter().map(|it| it.to_vec()).collect())
            }
            _ => None,
        })
    }

    #[test]
    fn every_form_of_string() {
        let expected = Some(vec![b"jane".to_vec(), b"p w".to_vec()]);
        assert_eq!(strings(b"1 LOGIN jane \"p w\"\r\n"), expected);
        assert_eq!(strings(b"1 LOGIN {4}\r\njane {3}\r\np w\r\n"), expected);
        assert_eq!(strings(b"1 LOGIN {4+}\r\njane \"p w\"\r\n"), expected);
        assert_eq!(strings(b"1 LOGIN jane {3+}\r\np w\r\n"), expected);
        let odd = Some(vec![br"DOM\jane".to_vec(), br#"a"\b"#.to_vec()]);
        assert_eq!(strings(br#"1 LOGIN "DOM\jane" "a\"\\b""#.iter().chain(b"\r\n").copied().collect::<Vec<_>>().as_slice()), odd);
        assert_eq!(
            strings(b"1 LOGIN jane pass{5}\r\n"),
            Some(vec![b"jane".to_vec(), b"pass{5}".to_vec()])
        );
    }

    #[test]
    fn a_literal_that_is_too_long_is_never_asked_for() {
        let readings = read(b"1 LOGIN {4097}\r\n");
        assert_eq!(
            readings.first(),
            Some(&Ok(Some(Reading::Bad(Some("1".into()), "literal too long"))))
        );
        assert_eq!(read(b"1 LOGIN {99999999999999999999999+}\r\n").first(), Some(&Err(TooLong)));
        assert_eq!(read(b"1 LOGIN {18446744073709551615+}\r\n").first(), Some(&Err(TooLong)));
    }

    #[test]
    fn tags_are_checked() {
        assert!(matches!(read(b"2.12 NOOP\r\n").first(), Some(Ok(Some(Reading::Command(_))))));
        for line in [&b"\r\n"[..], b"+ NOOP\r\n", b"* OK\r\n", b"\x01 NOOP\r\n", b"{3 NOOP\r\n"] {
            assert!(
                matches!(read(line).first(), Some(Ok(Some(Reading::Bad(None, _))))),
                "{line:?}"
            );
        }
    }
}
