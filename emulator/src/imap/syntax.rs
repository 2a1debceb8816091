//! The words of a command (RFC 3501 section 9), and sequence sets.
//!
//! Invariant: a command's words are read once, in order; what does not fit is [`Failure::Bad`].

use std::collections::VecDeque;

use super::Failure;

/// One command, whole.
pub(super) struct Command {
    pub(super) tag: String,
    /// In upper case, without `UID` before it.
    pub(super) name: String,
    pub(super) by_uid: bool,
    pub(super) words: Words,
}

/// A word, and whether it was quoted or a literal. Parentheses are words too.
type Word = (Vec<u8>, bool);

/// Words, added at one end and taken from the other.
#[derive(Default)]
pub(super) struct Words(VecDeque<Word>);

impl Words {
    /// Takes a line; the answer is `None` for bad syntax, else the size of the literal that follows, if
    /// any, and whether the client waits for leave to send it.
    pub(super) fn add_line(&mut self, line: &[u8]) -> Option<Option<(usize, bool)>> {
        let mut rest = line.trim_ascii_start();
        while let Some((&first, tail)) = rest.split_first() {
            let (word, after) = match first {
                b'"' => quoted(tail)?,
                b'{' => {
                    let text = str::from_utf8(tail).ok()?.strip_suffix('}')?;
                    let digits = text.strip_suffix('+');
                    return Some(Some((digits.unwrap_or(text).parse().ok()?, digits.is_none())));
                }
                _ => {
                    let end = tail.iter().position(|octet| b" ()\"{".contains(octet));
                    let end = if b"()".contains(&first) { 0 } else { end.unwrap_or(tail.len()) };
                    let (atom, after) = rest.split_at_checked(end + 1)?;
                    ((atom.to_vec(), false), after)
                }
            };
            self.0.push_back(word);
            rest = after.trim_ascii_start();
        }
        Some(None)
    }

    pub(super) fn add_literal(&mut self, octets: Vec<u8>) {
        self.0.push_back((octets, true));
    }

    /// The tag, or `*` if there is none to answer to.
    pub(super) fn tag(&self) -> String {
        self.0.front().map_or_else(|| "*".to_owned(), |(tag, _)| lossy(tag))
    }

    pub(super) fn into_command(mut self) -> Option<Command> {
        let (tag, mut name) = (self.atom().ok()?, self.keyword().ok()?);
        let by_uid = name == "UID";
        if by_uid {
            name = self.keyword().ok()?;
        }
        Some(Command { tag, name, by_uid, words: self })
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn next_is(&self, atom: &str) -> bool {
        self.0.front().is_some_and(|(own, quoted)| !quoted && own == atom.as_bytes())
    }

    /// Whether the next word is this parenthesis; if so, it is taken.
    pub(super) fn take(&mut self, parenthesis: &str) -> bool {
        self.next_is(parenthesis) && self.0.pop_front().is_some()
    }

    pub(super) fn atom(&mut self) -> Result<String, Failure> {
        let atom = self.0.pop_front_if(|(_, quoted)| !*quoted).ok_or(Failure::Bad)?;
        Ok(lossy(&atom.0))
    }

    /// An atom in upper case.
    pub(super) fn keyword(&mut self) -> Result<String, Failure> {
        self.atom().map(|atom| atom.to_ascii_uppercase())
    }

    /// An `astring`, as octets.
    pub(super) fn octets(&mut self) -> Result<Vec<u8>, Failure> {
        self.0.pop_front().map(|(octets, _)| octets).ok_or(Failure::Bad)
    }

    /// An `astring`, as text.
    pub(super) fn text(&mut self) -> Result<String, Failure> {
        self.octets().map(|octets| lossy(&octets))
    }

    /// A list in parentheses, or the one word that may stand for it.
    pub(super) fn list(&mut self) -> Result<Vec<String>, Failure> {
        let (open, mut items) = (self.take("("), Vec::new());
        while open && !self.take(")") || !open && items.is_empty() {
            items.push(self.text()?);
        }
        Ok(items)
    }

    pub(super) fn set(&mut self) -> Result<Set, Failure> {
        Set::parse(&self.atom()?).ok_or(Failure::Bad)
    }
}

/// A sequence set; `u32::MAX` stands for `*`.
pub(super) struct Set(Vec<(u32, u32)>);

impl Set {
    pub(super) fn all() -> Self {
        Self(vec![(1, u32::MAX)])
    }

    pub(super) fn parse(text: &str) -> Option<Self> {
        let number = |text: &str| match text {
            "*" => Some(u32::MAX),
            digits => digits.parse().ok().filter(|number| *number > 0),
        };
        let range = |part: &str| {
            let (from, to) = part.split_once(':').unwrap_or((part, part));
            Some((number(from)?, number(to)?))
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

fn lossy(octets: &[u8]) -> String {
    String::from_utf8_lossy(octets).into_owned()
}

/// A quoted string behind its first quote, and what follows it.
fn quoted(rest: &[u8]) -> Option<(Word, &[u8])> {
    let mut text = Vec::new();
    let mut octets = rest.iter();
    loop {
        match octets.next()? {
            b'"' => return Some(((text, true), octets.as_slice())),
            b'\\' => text.push(*octets.next()?),
            other => text.push(*other),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)] // a failure to parse is what this test looks for
mod tests {
    use super::*;

    #[test]
    fn words_literals_and_sets() {
        let mut words = Words::default();
        assert_eq!(words.add_line(br#"a uid append "x\"y" {3+}"#), Some(Some((3, false))));
        words.add_literal(b"a\r\n".to_vec());
        assert_eq!(words.add_line(b" (c d)"), Some(None));
        let mut command = words.into_command().unwrap();
        assert!(command.by_uid && command.tag == "a" && command.name == "APPEND");
        assert_eq!(command.words.text().unwrap(), "x\"y");
        assert_eq!(command.words.octets().unwrap(), b"a\r\n");
        assert_eq!(command.words.list().unwrap(), ["c", "d"]);
        assert_eq!(Words::default().add_line(b"a \"open"), None);
        let set = Set::parse("2,9:*").unwrap();
        assert!(set.holds(2, 6) && set.holds(6, 6) && !set.holds(3, 6));
        assert!(Set::parse("0").is_none() && Set::parse("1,").is_none());
    }
}
