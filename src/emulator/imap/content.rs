//! What FETCH shows of a message: sections, ENVELOPE, BODYSTRUCTURE.
//!
//! Invariant: a section is a copy of the message's own octets, never something written anew.

use super::{
    Failure,
    desk::quote,
    syntax::{Args, Word},
};

/// Parts inside parts that are described; what is deeper is shown as octets.
const DEPTH: usize = 32;

/// One thing to fetch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Item {
    Flags,
    Uid,
    InternalDate,
    Size,
    Envelope,
    /// `BODY` or `BODYSTRUCTURE`.
    Structure(String),
    Section {
        /// As the response names it.
        label: String,
        section: Section,
        peek: bool,
    },
}

/// Which octets of a message: `1.2.HEADER<0.100>`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Section {
    part: Vec<usize>,
    what: What,
    partial: Option<(usize, usize)>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum What {
    All,
    Header,
    /// Some fields, or (`true`) all but these.
    Fields(Vec<String>, bool),
    Text,
    Mime,
}

/// Reads FETCH's items.
pub(super) struct Parser<'a>(pub(super) &'a mut Args);

impl Item {
    pub(super) fn marks_seen(&self) -> bool {
        matches!(self, Self::Section { peek: false, .. })
    }
}

impl Parser<'_> {
    pub(super) fn items(&mut self) -> Result<Vec<Item>, Failure> {
        let mut items = Vec::new();
        let open = self.0.take(&Word::Open);
        while !(open && self.0.take(&Word::Close)) {
            self.item(&mut items)?;
            if !open {
                break;
            }
        }
        self.0.end()?;
        Ok(items)
    }

    fn item(&mut self, items: &mut Vec<Item>) -> Result<(), Failure> {
        let name = self.0.atom()?.to_ascii_uppercase();
        let fast = || [Item::Flags, Item::InternalDate, Item::Size];
        let whole = |what, peek| {
            let section = Section { part: Vec::new(), what, partial: None };
            Item::Section { label: name.clone(), section, peek }
        };
        items.extend(match name.as_str() {
            "FLAGS" => vec![Item::Flags],
            "UID" => vec![Item::Uid],
            "INTERNALDATE" => vec![Item::InternalDate],
            "RFC822.SIZE" => vec![Item::Size],
            "ENVELOPE" => vec![Item::Envelope],
            "BODY" | "BODYSTRUCTURE" => vec![Item::Structure(name)],
            "RFC822" => vec![whole(What::All, false)],
            "RFC822.HEADER" => vec![whole(What::Header, true)],
            "RFC822.TEXT" => vec![whole(What::Text, false)],
            "FAST" => fast().to_vec(),
            "ALL" => fast().into_iter().chain([Item::Envelope]).collect(),
            "FULL" => fast()
                .into_iter()
                .chain([Item::Envelope, Item::Structure("BODY".to_owned())])
                .collect(),
            _ => vec![self.section(&name)?],
        });
        Ok(())
    }

    /// `BODY.PEEK[HEADER.FIELDS (A B)]<0.9>`, whose list makes three or more words of it.
    fn section(&mut self, name: &str) -> Result<Item, Failure> {
        let (body, rest) = name.split_once('[').ok_or(Failure::Bad)?;
        let peek = match body {
            "BODY" => false,
            "BODY.PEEK" => true,
            _ => return Err(Failure::Bad),
        };
        let (spec, tail, fields) = match rest.split_once(']') {
            Some((spec, tail)) => (spec, tail.to_owned(), Vec::new()),
            None => {
                let fields = self.0.list()?;
                let tail = self.0.atom()?.strip_prefix(']').ok_or(Failure::Bad)?.to_owned();
                (rest, tail, fields)
            }
        };
        let mut shown = spec.to_owned();
        if !fields.is_empty() {
            shown.push_str(&format!(" ({})", fields.join(" ").to_ascii_uppercase()));
        }
        let (part, what) = specification(spec, fields)?;
        let partial = partial(&tail)?;
        let origin = partial.map_or_else(String::new, |(origin, _)| format!("<{origin}>"));
        let section = Section { part, what, partial };
        Ok(Item::Section { label: format!("BODY[{shown}]{origin}"), section, peek })
    }
}

fn specification(spec: &str, fields: Vec<String>) -> Result<(Vec<usize>, What), Failure> {
    let mut part = Vec::new();
    let mut rest = spec;
    while rest.starts_with(|first: char| first.is_ascii_digit()) {
        let (number, tail) = rest.split_once('.').unwrap_or((rest, ""));
        part.push(number.parse().ok().filter(|number| *number > 0).ok_or(Failure::Bad)?);
        rest = tail;
    }
    let what = match rest {
        "" => What::All,
        "HEADER" => What::Header,
        "HEADER.FIELDS" if !fields.is_empty() => What::Fields(fields, false),
        "HEADER.FIELDS.NOT" if !fields.is_empty() => What::Fields(fields, true),
        "TEXT" => What::Text,
        "MIME" if !part.is_empty() => What::Mime,
        _ => return Err(Failure::Bad),
    };
    Ok((part, what))
}

fn partial(tail: &str) -> Result<Option<(usize, usize)>, Failure> {
    if tail.is_empty() {
        return Ok(None);
    }
    let read = || {
        let (from, count) = tail.strip_prefix('<')?.strip_suffix('>')?.split_once('.')?;
        Some((from.parse().ok()?, count.parse().ok()?))
    };
    read().map(Some).ok_or(Failure::Bad)
}

impl Section {
    /// The octets of this section; `None` if the message has no such part.
    pub(super) fn of(&self, message: &[u8]) -> Option<Vec<u8>> {
        let mut part = message;
        for (depth, number) in self.part.iter().enumerate() {
            let parts = children(part);
            // a message that is not multipart has one part, its body
            match parts.get(number - 1) {
                Some(child) => part = child,
                None if parts.is_empty() && *number == 1 && depth + 1 == self.part.len() => {}
                None => return None,
            }
        }
        // HEADER and TEXT of a part are those of the message inside it (RFC 3501 section 6.4.5)
        let enclosed = !self.part.is_empty() && !matches!(self.what, What::All | What::Mime);
        let (header, body) = split(if enclosed { split(part).1 } else { part });
        let octets = match &self.what {
            What::All if self.part.is_empty() => part.to_vec(),
            What::All | What::Text => body.to_vec(),
            What::Header | What::Mime => header.to_vec(),
            What::Fields(names, other) => {
                let wanted =
                    |field: &&[u8]| names.iter().any(|name| is_named(field, name)) != *other;
                let mut octets = fields(header)
                    .into_iter()
                    .filter(wanted)
                    .flatten()
                    .copied()
                    .collect::<Vec<u8>>();
                octets.extend_from_slice(b"\r\n");
                octets
            }
        };
        let Some((from, count)) = self.partial else { return Some(octets) };
        Some(octets.into_iter().skip(from).take(count).collect())
    }
}

/// The header with its empty line, and the body.
pub(super) fn split(message: &[u8]) -> (&[u8], &[u8]) {
    if message.starts_with(b"\r\n") {
        return message.split_at(2);
    }
    let end =
        message.windows(4).position(|four| four == b"\r\n\r\n").map_or(message.len(), |at| at + 4);
    message.split_at_checked(end).unwrap_or((message, b""))
}

/// The value of a header field, unfolded.
pub(super) fn field(header: &[u8], name: &str) -> Option<String> {
    let found = fields(header).into_iter().find(|field| is_named(field, name))?;
    let text = String::from_utf8_lossy(found.get(name.len() + 1..)?).replace("\r\n", "");
    Some(text.trim().to_owned())
}

/// The fields of a header with their folded lines, without the empty line at its end.
fn fields(header: &[u8]) -> Vec<&[u8]> {
    let mut fields = Vec::new();
    let (mut start, mut at) = (0, 0);
    for line in header.split_inclusive(|octet| *octet == b'\n') {
        let goes_on = line.starts_with(b" ") || line.starts_with(b"\t");
        if !goes_on && at > start {
            fields.extend(header.get(start..at));
            start = at;
        }
        if line == b"\r\n" {
            return fields;
        }
        at += line.len();
    }
    fields.extend(header.get(start..at).filter(|field| !field.is_empty()));
    fields
}

fn is_named(field: &[u8], name: &str) -> bool {
    field
        .split(|octet| *octet == b':')
        .next()
        .is_some_and(|own| own.eq_ignore_ascii_case(name.as_bytes()))
}

/// A header value and its parameters: `text/plain; charset=utf-8`.
fn parameters(value: &str) -> (String, Vec<(String, String)>) {
    let mut pieces = value.split(';').map(str::trim);
    let first = pieces.next().unwrap_or("").to_ascii_uppercase();
    let pair = |piece: &str| {
        let (name, value) = piece.split_once('=')?;
        Some((name.trim().to_ascii_uppercase(), value.trim().trim_matches('"').to_owned()))
    };
    (first, pieces.filter_map(pair).collect())
}

/// Type, subtype and parameters; plain text if there is no Content-Type (RFC 2045 section 5.2).
fn kind(header: &[u8]) -> (String, String, Vec<(String, String)>) {
    let value =
        field(header, "Content-Type").unwrap_or_else(|| "text/plain; charset=us-ascii".to_owned());
    let (full, parameters) = parameters(&value);
    let (kind, subtype) = full.split_once('/').unwrap_or(("TEXT", "PLAIN"));
    (kind.to_owned(), subtype.to_owned(), parameters)
}

/// The parts of a multipart message, in order (RFC 2046 section 5.1.1).
fn children(message: &[u8]) -> Vec<&[u8]> {
    let (header, body) = split(message);
    let (kind, _, parameters) = kind(header);
    let boundary = parameters.into_iter().find(|(name, _)| name == "BOUNDARY");
    let Some((_, boundary)) = boundary.filter(|_| kind == "MULTIPART") else { return Vec::new() };
    let (open, close) = (format!("--{boundary}"), format!("--{boundary}--"));
    let mut parts = Vec::new();
    let (mut start, mut at) = (None, 0);
    for line in body.split_inclusive(|octet| *octet == b'\n') {
        let bare = line.trim_ascii_end();
        if bare == open.as_bytes() || bare == close.as_bytes() {
            // the line end before a boundary belongs to the boundary
            parts.extend(start.and_then(|start| body.get(start..at.max(start + 2) - 2)));
            start = (bare == open.as_bytes()).then_some(at + line.len());
        }
        at += line.len();
    }
    parts
}

/// ENVELOPE, RFC 3501 section 7.4.2.
pub(super) fn envelope(message: &[u8]) -> String {
    let header = split(message).0;
    let text = |name| nstring(field(header, name));
    let people = |name: &str| addresses(field(header, name));
    let from = people("From");
    let or_from =
        |name| Some(people(name)).filter(|list| list != "NIL").unwrap_or_else(|| from.clone());
    format!(
        "({} {} {from} {} {} {} {} {} {} {})",
        text("Date"),
        text("Subject"),
        or_from("Sender"),
        or_from("Reply-To"),
        people("To"),
        people("Cc"),
        people("Bcc"),
        text("In-Reply-To"),
        text("Message-ID"),
    )
}

fn nstring(text: Option<String>) -> String {
    text.map_or_else(|| "NIL".to_owned(), |text| quote(&text))
}

/// Addresses of a header field; groups and comments are not looked for.
fn addresses(value: Option<String>) -> String {
    let Some(value) = value else { return "NIL".to_owned() };
    let mut quoted = false;
    let parts = value.split(|next: char| {
        quoted ^= next == '"';
        next == ',' && !quoted
    });
    let address = |part: &str| {
        let (name, address) = match part.rsplit_once('<') {
            Some((name, rest)) => {
                (name.trim().trim_matches('"'), rest.trim_end().trim_end_matches('>'))
            }
            None => ("", part.trim()),
        };
        let (local, domain) = address.rsplit_once('@')?;
        let name = nstring(Some(name.to_owned()).filter(|name| !name.is_empty()));
        Some(format!("({name} NIL {} {})", quote(local), quote(domain)))
    };
    let all: String = parts.filter_map(address).collect();
    if all.is_empty() { "NIL".to_owned() } else { format!("({all})") }
}

/// BODY, or with `extended` BODYSTRUCTURE, RFC 3501 section 7.4.2.
pub(super) fn structure(message: &[u8], extended: bool) -> String {
    structure_within(message, extended, DEPTH)
}

fn structure_within(message: &[u8], extended: bool, depth: usize) -> String {
    let (header, body) = split(message);
    let (mut kind, mut subtype, parameters) = kind(header);
    if depth == 0 {
        (kind, subtype) = ("APPLICATION".to_owned(), "OCTET-STREAM".to_owned());
    }
    let inside = |part| structure_within(part, extended, depth.saturating_sub(1));
    let disposition = || {
        let Some(value) = field(header, "Content-Disposition") else { return "NIL".to_owned() };
        let (name, parameters) = self::parameters(&value);
        format!("({} {})", quote(&name), list(&parameters))
    };
    let parts = if depth == 0 { Vec::new() } else { children(message) };
    if !parts.is_empty() {
        let inner: String = parts.into_iter().map(inside).collect();
        let more = if extended {
            format!(" {} {} NIL NIL", list(&parameters), disposition())
        } else {
            String::new()
        };
        return format!("({inner} {}{more})", quote(&subtype));
    }
    let encoding = field(header, "Content-Transfer-Encoding").unwrap_or_else(|| "7BIT".to_owned());
    let lines = body.iter().filter(|octet| **octet == b'\n').count();
    let by_kind = match (kind.as_str(), subtype.as_str()) {
        ("TEXT", _) => format!(" {lines}"),
        ("MESSAGE", "RFC822") => format!(" {} {} {lines}", envelope(body), inside(body)),
        _ => String::new(),
    };
    let more = if extended { format!(" NIL {} NIL NIL", disposition()) } else { String::new() };
    format!(
        "({} {} {} {} {} {} {}{by_kind}{more})",
        quote(&kind),
        quote(&subtype),
        list(&parameters),
        nstring(field(header, "Content-ID")),
        nstring(field(header, "Content-Description")),
        quote(&encoding.to_ascii_uppercase()),
        body.len(),
    )
}

fn list(parameters: &[(String, String)]) -> String {
    if parameters.is_empty() {
        return "NIL".to_owned();
    }
    let pairs: Vec<String> = parameters
        .iter()
        .map(|(name, value)| format!("{} {}", quote(name), quote(value)))
        .collect();
    format!("({})", pairs.join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NESTED: &[u8] = b"Subject: a\r\n b\r\nContent-Type: multipart/mixed; boundary=x\r\n\r\n--x\r\n\r\none\r\n--x\r\n\
        Content-Type: message/rfc822\r\n\r\nSubject: inner\r\n\r\ntwo\r\n--x--\r\n";

    fn section(spec: &str) -> Option<Vec<u8>> {
        let (part, what) = specification(spec, vec!["subject".into()]).ok()?;
        Section { part, what, partial: None }.of(NESTED)
    }

    #[test]
    fn sections() {
        assert_eq!(section("1").as_deref(), Some(b"one".as_slice()));
        assert_eq!(section("2").as_deref(), Some(b"Subject: inner\r\n\r\ntwo".as_slice()));
        assert_eq!(section("3"), None);
        assert_eq!(
            section("HEADER.FIELDS").as_deref(),
            Some(b"Subject: a\r\n b\r\n\r\n".as_slice())
        );
        assert_eq!(section("2.TEXT").as_deref(), Some(b"two".as_slice()));
        assert_eq!(section("").as_deref(), Some(NESTED));
        assert_eq!(field(NESTED, "subject").as_deref(), Some("a b"));
    }

    #[test]
    fn descriptions() {
        let shown = structure(NESTED, false);
        assert!(
            shown.starts_with(
                "((\"TEXT\" \"PLAIN\" (\"CHARSET\" \"us-ascii\") NIL NIL \"7BIT\" 3 0)(\"MESSAGE\""
            ),
            "{shown}"
        );
        assert!(shown.ends_with("\"MIXED\")"), "{shown}");
        let shown = addresses(Some("\"Doe, A\" <a@b>, c@d".into()));
        assert_eq!(shown, "((\"Doe, A\" NIL \"a\" \"b\")(NIL NIL \"c\" \"d\"))");
    }
}
