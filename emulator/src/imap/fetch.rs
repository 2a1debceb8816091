//! What FETCH shows of a message. MIME is the client's business: it fetches the octets.
//!
//! Invariant: a section is a copy of the message's own octets, never something written anew.

use super::{Failure, syntax::Words};
use crate::mailbox::Message;

/// One thing to fetch.
#[derive(PartialEq, Eq)]
pub(super) enum Item {
    Flags,
    Uid,
    InternalDate,
    Size,
    /// `BODY` or `BODYSTRUCTURE`.
    Structure(String),
    /// As the response names it, what of the message, origin and length, and whether it marks as seen.
    Section(String, Part, (usize, usize), bool),
}

#[derive(PartialEq, Eq)]
pub(super) enum Part {
    All,
    Header,
    Text,
    /// Some fields, or (`true`) all but these.
    Fields(Vec<String>, bool),
}

const WHOLE: (usize, usize) = (0, usize::MAX);

impl Item {
    /// Reads FETCH's items.
    pub(super) fn parse(words: &mut Words) -> Result<Vec<Self>, Failure> {
        let (mut items, list) = (Vec::new(), words.take("("));
        while items.is_empty() || list && !words.take(")") {
            let name = words.keyword()?;
            items.push(match name.as_str() {
                "FLAGS" => Self::Flags,
                "UID" => Self::Uid,
                "INTERNALDATE" => Self::InternalDate,
                "RFC822.SIZE" => Self::Size,
                "BODY" | "BODYSTRUCTURE" => Self::Structure(name),
                "RFC822" => Self::Section(name, Part::All, WHOLE, true),
                "RFC822.HEADER" => Self::Section(name, Part::Header, WHOLE, false),
                _ => Self::section(words, &name)?,
            });
        }
        Ok(items)
    }

    /// `BODY.PEEK[HEADER.FIELDS (A B)]<0.9>`, whose list makes several words of it.
    fn section(words: &mut Words, name: &str) -> Result<Self, Failure> {
        let (body, rest) = name.split_once('[').ok_or(Failure::Bad)?;
        let (mut shown, mut fields, mut tail) = (rest.to_owned(), Vec::new(), String::new());
        if !rest.contains(']') {
            (fields, tail) = (words.list()?, words.atom()?);
            shown.push_str(&format!(" ({})", fields.join(" ")));
        }
        let whole = shown.clone() + &tail;
        let (shown, range) = whole.split_once(']').ok_or(Failure::Bad)?;
        let part = match rest.split(']').next().unwrap_or_default() {
            "" => Part::All,
            "HEADER" => Part::Header,
            "TEXT" | "1" => Part::Text,
            "HEADER.FIELDS" => Part::Fields(fields, false),
            "HEADER.FIELDS.NOT" => Part::Fields(fields, true),
            _ => return Err(Failure::Bad),
        };
        let marks = match body {
            "BODY" => true,
            "BODY.PEEK" => false,
            _ => return Err(Failure::Bad),
        };
        let partial = || {
            let (from, count) = range.strip_prefix('<')?.strip_suffix('>')?.split_once('.')?;
            Some((from.parse().ok()?, count.parse().ok()?))
        };
        if range.is_empty() {
            return Ok(Self::Section(format!("BODY[{shown}]"), part, WHOLE, marks));
        }
        let partial: (usize, usize) = partial().ok_or(Failure::Bad)?;
        Ok(Self::Section(format!("BODY[{shown}]<{}>", partial.0), part, partial, marks))
    }

    pub(super) fn marks_seen(&self) -> bool {
        matches!(self, Self::Section(.., true))
    }

    /// This item of a message, as the response has it.
    pub(super) fn show(&self, message: &Message) -> Vec<u8> {
        let flags = || message.flags.iter().map(String::as_str).collect::<Vec<_>>().join(" ");
        let text = match self {
            Self::Flags => format!("FLAGS ({})", flags()),
            Self::Uid => format!("UID {}", message.uid),
            Self::InternalDate => format!("INTERNALDATE \"{}\"", message.received),
            Self::Size => format!("RFC822.SIZE {}", message.data.len()),
            Self::Structure(name) => {
                // every message passes for one part of plain text
                let body = Part::Text.of(&message.data);
                let lines = body.iter().filter(|octet| **octet == b'\n').count();
                let size = body.len();
                format!("{name} (\"TEXT\" \"PLAIN\" NIL NIL NIL \"8BIT\" {size} {lines})")
            }
            Self::Section(label, part, (from, count), _) => {
                let octets = part.of(&message.data).into_iter().skip(*from).take(*count);
                let octets: Vec<u8> = octets.collect();
                return [format!("{label} {{{}}}\r\n", octets.len()).into_bytes(), octets].concat();
            }
        };
        text.into_bytes()
    }
}

impl Part {
    fn of(&self, message: &[u8]) -> Vec<u8> {
        let end = message.windows(4).position(|four| four == b"\r\n\r\n");
        let end = end.map_or(message.len(), |at| at + 4);
        let (header, body) = message.split_at_checked(end).unwrap_or((message, b""));
        match self {
            Self::All => message.to_vec(),
            Self::Header => header.to_vec(),
            Self::Text => body.to_vec(),
            Self::Fields(names, others) => {
                let named = |name: &[u8]| {
                    names.iter().any(|one| one.as_bytes().eq_ignore_ascii_case(name)) != *others
                };
                fields(header, named)
            }
        }
    }
}

/// The fields whose names are wanted, with their folded lines, and an empty line.
fn fields(header: &[u8], wanted: impl Fn(&[u8]) -> bool) -> Vec<u8> {
    let (mut kept, mut keep) = (Vec::new(), false);
    for line in header.split_inclusive(|octet| *octet == b'\n').filter(|line| *line != b"\r\n") {
        if !line.starts_with(b" ") && !line.starts_with(b"\t") {
            keep = wanted(line.split(|octet| *octet == b':').next().unwrap_or_default());
        }
        if keep {
            kept.extend_from_slice(line);
        }
    }
    kept.extend_from_slice(b"\r\n");
    kept
}

/// Whether a header field holds this text, without regard to case and without decoding.
pub(super) fn field_holds(message: &Message, name: &str, text: &str) -> bool {
    let field = Part::Fields(vec![name.to_owned()], false).of(&message.data);
    String::from_utf8_lossy(&field).to_lowercase().contains(&text.to_lowercase())
}
