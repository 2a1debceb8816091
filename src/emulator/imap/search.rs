//! SEARCH (RFC 3501 section 6.4.4).
//!
//! Invariant: text is compared without regard to case and without decoding; a key that is not known
//! is the client's error, never an empty result.

use super::{
    Failure, content,
    messages::Numbered,
    syntax::{Args, Set, Word},
};
use crate::emulator::calendar;

/// Keys inside keys; no client nests deeper than a few, and each costs stack.
const DEPTH: usize = 32;

/// One search key.
enum Key {
    All,
    Flag(&'static str, bool),
    Keyword(String, bool),
    Header(String, String),
    Body(String),
    Text(String),
    /// Days since 1970: from, and before.
    Received(i64, i64),
    Size(usize, usize),
    Uid(Set),
    Number(Set),
    Not(Box<Key>),
    Or(Box<Key>, Box<Key>),
    And(Vec<Key>),
}

/// The messages that all keys match.
pub(super) fn run<'a>(
    args: &mut Args,
    messages: &'a [Numbered],
) -> Result<Vec<&'a Numbered>, Failure> {
    if matches!(args.peek(), Some(Word::Atom(word)) if word.eq_ignore_ascii_case("CHARSET")) {
        args.atom()?;
        args.text()?;
    }
    let mut keys = Vec::new();
    while args.peek().is_some() {
        keys.push(key(args, DEPTH)?);
    }
    if keys.is_empty() {
        return Err(Failure::Bad);
    }
    let all = Key::And(keys);
    let largest = messages.last().map_or((0, 0), |(number, message)| (*number, message.uid));
    Ok(messages.iter().filter(|message| all.matches(message, largest)).collect())
}

fn key(args: &mut Args, depth: usize) -> Result<Key, Failure> {
    let depth = depth.checked_sub(1).ok_or(Failure::Bad)?;
    if args.take(&Word::Open) {
        let mut keys = Vec::new();
        while !args.take(&Word::Close) {
            keys.push(key(args, depth)?);
        }
        return Ok(Key::And(keys));
    }
    let name = args.atom()?.to_ascii_uppercase();
    Ok(match name.as_str() {
        "ALL" | "OLD" => Key::All,
        "NEW" | "RECENT" => Key::Not(Box::new(Key::All)), // \Recent is never given
        "ANSWERED" => Key::Flag("\\Answered", true),
        "DELETED" => Key::Flag("\\Deleted", true),
        "DRAFT" => Key::Flag("\\Draft", true),
        "FLAGGED" => Key::Flag("\\Flagged", true),
        "SEEN" => Key::Flag("\\Seen", true),
        "UNANSWERED" => Key::Flag("\\Answered", false),
        "UNDELETED" => Key::Flag("\\Deleted", false),
        "UNDRAFT" => Key::Flag("\\Draft", false),
        "UNFLAGGED" => Key::Flag("\\Flagged", false),
        "UNSEEN" => Key::Flag("\\Seen", false),
        "KEYWORD" => Key::Keyword(args.text()?, true),
        "UNKEYWORD" => Key::Keyword(args.text()?, false),
        "SUBJECT" | "FROM" | "TO" | "CC" | "BCC" => Key::Header(name, needle(args)?),
        "HEADER" => Key::Header(args.text()?, needle(args)?),
        "BODY" => Key::Body(needle(args)?),
        "TEXT" => Key::Text(needle(args)?),
        // sent dates are taken for received ones: nothing here is ever delayed
        "ON" | "SENTON" => date(args).map(|day| Key::Received(day, day + 1))?,
        "SINCE" | "SENTSINCE" => Key::Received(date(args)?, i64::MAX),
        "BEFORE" | "SENTBEFORE" => Key::Received(i64::MIN, date(args)?),
        "LARGER" => Key::Size(number(args)?.saturating_add(1), usize::MAX),
        "SMALLER" => Key::Size(0, number(args)?),
        "UID" => Key::Uid(args.set()?),
        "NOT" => Key::Not(Box::new(key(args, depth)?)),
        "OR" => Key::Or(Box::new(key(args, depth)?), Box::new(key(args, depth)?)),
        set => Key::Number(Set::parse(set).ok_or(Failure::Bad)?),
    })
}

fn needle(args: &mut Args) -> Result<String, Failure> {
    Ok(args.text()?.to_lowercase())
}

fn date(args: &mut Args) -> Result<i64, Failure> {
    calendar::parse_date(&args.text()?).ok_or(Failure::Bad)
}

fn number(args: &mut Args) -> Result<usize, Failure> {
    args.atom()?.parse().map_err(|_| Failure::Bad)
}

impl Key {
    fn matches(&self, numbered: &Numbered, largest: (u32, u32)) -> bool {
        let (number, message) = numbered;
        match self {
            Self::All => true,
            Self::Flag(flag, wanted) => message.has(flag) == *wanted,
            Self::Keyword(flag, wanted) => message.has(flag) == *wanted,
            Self::Header(name, text) => content::field(content::split(&message.data).0, name)
                .is_some_and(|value| contains(value.as_bytes(), text)),
            Self::Body(text) => contains(content::split(&message.data).1, text),
            Self::Text(text) => contains(&message.data, text),
            Self::Received(from, before) => {
                (*from..*before).contains(&calendar::days(message.received))
            }
            Self::Size(from, below) => (*from..*below).contains(&message.data.len()),
            Self::Uid(set) => set.holds(message.uid, largest.1),
            Self::Number(set) => set.holds(*number, largest.0),
            Self::Not(key) => !key.matches(numbered, largest),
            Self::Or(one, other) => {
                one.matches(numbered, largest) || other.matches(numbered, largest)
            }
            Self::And(keys) => keys.iter().all(|key| key.matches(numbered, largest)),
        }
    }
}

fn contains(octets: &[u8], text: &str) -> bool {
    String::from_utf8_lossy(octets).to_lowercase().contains(text)
}
