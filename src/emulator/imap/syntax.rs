//! The words of a command (RFC 3501 section 9), and sequence sets.
//!
//! Invariant: a command's arguments are read once, in order; what does not fit is [`Failure::Bad`].

use std::collections::VecDeque;

use super::Failure;

/// One command, whole.
#[derive(Debug)]
pub(super) struct Command {
    pub(super) tag: String,
    /// In upper case; `UID` is joined with what it is about, `UID FETCH`.
    pub(super) name: String,
    pub(super) args: Args,
}

/// A word of a command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Word {
    Atom(String),
    /// A quoted string or a literal.
    Text(Vec<u8>),
    Open,
    Close,
}

/// A literal announced at the end of a line.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Literal {
    pub(super) size: usize,
    pub(super) non_synchronizing: bool,
}

/// The words of a command that is still being read.
#[derive(Debug, Default)]
pub(super) struct Words(VecDeque<Word>);

/// The words behind a command's name.
#[derive(Debug)]
pub(super) struct Args(VecDeque<Word>);

impl Words {
    /// Takes a line; `Some` if a literal follows it.
    pub(super) fn add_line(&mut self, line: &[u8]) -> Result<Option<Literal>, Failure> {
        let mut rest = line;
        while let Some((&first, tail)) = rest.split_first() {
            rest = match first {
                b' ' => tail,
                b'(' => self.push(Word::Open, tail),
                b')' => self.push(Word::Close, tail),
                b'"' => {
                    let (text, tail) = quoted(tail).ok_or(Failure::Bad)?;
                    self.push(Word::Text(text), tail)
                }
                b'{' => return literal(tail).ok_or(Failure::Bad).map(Some),
                _ => {
                    let end = rest
                        .iter()
                        .position(|octet| b" ()\"{".contains(octet))
                        .unwrap_or(rest.len());
                    let (atom, tail) = rest.split_at_checked(end).ok_or(Failure::Bad)?;
                    self.push(Word::Atom(String::from_utf8_lossy(atom).into_owned()), tail)
                }
            };
        }
        Ok(None)
    }

    fn push<'a>(&mut self, word: Word, rest: &'a [u8]) -> &'a [u8] {
        self.0.push_back(word);
        rest
    }

    pub(super) fn add_literal(&mut self, octets: Vec<u8>) {
        self.0.push_back(Word::Text(octets));
    }

    /// The tag, or `*` if there is none to answer to.
    pub(super) fn tag(&self) -> String {
        match self.0.front() {
            Some(Word::Atom(tag)) => tag.clone(),
            _ => "*".to_owned(),
        }
    }

    pub(super) fn into_command(self) -> Result<Command, String> {
        let tag = self.tag();
        let mut args = Args(self.0);
        let mut read = || {
            args.atom()?;
            let name = args.atom()?.to_ascii_uppercase();
            let also = if name == "UID" {
                format!(" {}", args.atom()?.to_ascii_uppercase())
            } else {
                String::new()
            };
            Ok::<_, Failure>(name + &also)
        };
        match read() {
            Ok(name) => Ok(Command { tag, name, args }),
            Err(_) => Err(tag),
        }
    }
}

impl Args {
    pub(super) fn next(&mut self) -> Option<Word> {
        self.0.pop_front()
    }

    pub(super) fn peek(&self) -> Option<&Word> {
        self.0.front()
    }

    /// Whether the next word is this one; if so, it is taken.
    pub(super) fn take(&mut self, word: &Word) -> bool {
        let found = self.peek() == Some(word);
        if found {
            self.next();
        }
        found
    }

    pub(super) fn atom(&mut self) -> Result<String, Failure> {
        match self.next() {
            Some(Word::Atom(atom)) => Ok(atom),
            _ => Err(Failure::Bad),
        }
    }

    /// An `astring`, as octets.
    pub(super) fn octets(&mut self) -> Result<Vec<u8>, Failure> {
        match self.next() {
            Some(Word::Atom(atom)) => Ok(atom.into_bytes()),
            Some(Word::Text(text)) => Ok(text),
            _ => Err(Failure::Bad),
        }
    }

    /// An `astring`, as text.
    pub(super) fn text(&mut self) -> Result<String, Failure> {
        self.octets().map(|octets| String::from_utf8_lossy(&octets).into_owned())
    }

    /// A list in parentheses, or words up to the end.
    pub(super) fn list(&mut self) -> Result<Vec<String>, Failure> {
        let mut items = Vec::new();
        let open = self.take(&Word::Open);
        while !(open && self.take(&Word::Close)) {
            if !open && self.peek().is_none() {
                break;
            }
            items.push(self.text()?);
        }
        Ok(items)
    }

    pub(super) fn set(&mut self) -> Result<Set, Failure> {
        Set::parse(&self.atom()?).ok_or(Failure::Bad)
    }

    /// Nothing may be left.
    pub(super) fn end(&self) -> Result<(), Failure> {
        if self.0.is_empty() { Ok(()) } else { Err(Failure::Bad) }
    }
}

/// A sequence set; `u32::MAX` stands for `*`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Set(Vec<(u32, u32)>);

impl Set {
    pub(super) fn parse(text: &str) -> Option<Self> {
        let number = |text: &str| match text {
            "*" => Some(u32::MAX),
            digits => digits.parse().ok().filter(|number| *number > 0),
        };
        let range = |part: &str| match part.split_once(':') {
            Some((from, to)) => Some((number(from)?, number(to)?)),
            None => number(part).map(|number| (number, number)),
        };
        text.split(',').map(range).collect::<Option<_>>().map(Self)
    }

    /// Whether it holds this number, where `largest` is the largest in use. `559:*` always holds the
    /// largest (RFC 3501 section 6.4.8).
    pub(super) fn holds(&self, number: u32, largest: u32) -> bool {
        let fixed = |end: u32| if end == u32::MAX { largest } else { end };
        self.0.iter().any(|(from, to)| {
            let (from, to) = (fixed(*from), fixed(*to));
            (from.min(to)..=from.max(to)).contains(&number)
        })
    }
}

/// The content of a quoted string behind its first quote, and what follows it.
fn quoted(rest: &[u8]) -> Option<(Vec<u8>, &[u8])> {
    let mut text = Vec::new();
    let mut octets = rest.iter().enumerate();
    while let Some((at, &octet)) = octets.next() {
        match octet {
            b'"' => return Some((text, rest.get(at + 1..)?)),
            b'\\' => text.push(*octets.next()?.1),
            other => text.push(other),
        }
    }
    None
}

/// `12}` or `12+}`, at the end of the line.
fn literal(rest: &[u8]) -> Option<Literal> {
    let text = std::str::from_utf8(rest).ok()?.strip_suffix('}')?;
    let digits = text.strip_suffix('+');
    Some(Literal {
        size: digits.unwrap_or(text).parse().ok()?,
        non_synchronizing: digits.is_some(),
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)] // a failure to parse is what these tests look for
mod tests {
    use super::*;

    #[test]
    fn words_of_a_fetch() {
        let mut words = Words::default();
        assert_eq!(
            words.add_line(b"a uid fetch 1:* (UID BODY.PEEK[HEADER.FIELDS (\"Date\")]<0.9>)"),
            Ok(None)
        );
        let mut command = words.into_command().unwrap();
        assert_eq!((command.tag.as_str(), command.name.as_str()), ("a", "UID FETCH"));
        assert!(command.args.set().unwrap().holds(7, 7));
        assert_eq!(command.args.0.len(), 8);
    }

    #[test]
    fn literals_and_quotes() {
        let mut words = Words::default();
        let literal = Literal { size: 3, non_synchronizing: true };
        assert_eq!(words.add_line(br#"a APPEND "x\"y" {3+}"#), Ok(Some(literal)));
        words.add_literal(b"a\r\n".to_vec());
        assert_eq!(words.add_line(b""), Ok(None));
        let mut command = words.into_command().unwrap();
        assert_eq!(command.args.text().unwrap(), "x\"y");
        assert_eq!(command.args.octets().unwrap(), b"a\r\n");
        assert!(Words::default().add_line(b"a \"open").is_err());
    }

    #[test]
    fn sets() {
        let set = Set::parse("2,4:*").unwrap();
        let held: Vec<u32> = (1..=6).filter(|number| set.holds(*number, 6)).collect();
        assert_eq!(held, [2, 4, 5, 6]);
        assert!(Set::parse("9:*").unwrap().holds(6, 6));
        assert_eq!(Set::parse("0"), None);
        assert_eq!(Set::parse("1,"), None);
    }
}
