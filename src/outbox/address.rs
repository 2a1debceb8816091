//! The addresses of a field such as `From` (RFC 5322 section 3.4), and where they stand in it.
//!
//! Invariant: what cannot be read as an address is none: an address that comes out of here has a local part
//! and a domain, and no octet with which it could leave angle brackets or its line.

use std::ops::Range;

/// One mailbox of a list.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Mailbox {
    /// As written; `None`: there are words, but no address.
    pub(super) address: Option<String>,
    /// Where the address stands in the value.
    pub(super) place: Range<usize>,
    /// The words beside it, raw, without their quotes.
    pub(super) words: Vec<u8>,
    /// It stands where RFC 5322 has it, so that it can be replaced in its place.
    pub(super) well_formed: bool,
}

/// Those of a field's value, groups opened.
pub(super) fn mailboxes(value: &[u8]) -> Vec<Mailbox> {
    let mut found = Vec::new();
    let mut tokens = Vec::new();
    for token in (Tokens { value, at: 0 }) {
        match token.kind {
            Kind::Comma => found.extend(mailbox(value, &std::mem::take(&mut tokens))),
            // The name of a group (RFC 5322 section 3.4).
            Kind::Colon => tokens.clear(),
            Kind::Word | Kind::Angle => tokens.push(token),
        }
    }
    found.extend(mailbox(value, &tokens));
    found
}

/// Whether this can stand as an envelope's or a field's address.
pub(super) fn is_address(text: &str) -> bool {
    let Some((local, domain)) = text.rsplit_once('@') else { return false };
    let quoted = local.len() > 2 && local.starts_with('"') && local.ends_with('"');
    let plain = |c: char| !c.is_control() && !c.is_whitespace() && !"<>(),;:\\\"@".contains(c);
    let literal = domain.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    let in_literal = |c: char| c.is_ascii_alphanumeric() || ".:-".contains(c);
    let local_is_good = match quoted {
        true => !local.chars().any(|c| c.is_control() || "<>\\".contains(c)),
        false => !local.is_empty() && local.chars().all(plain),
    };
    let domain_is_good = match literal {
        Some(literal) => !literal.is_empty() && literal.chars().all(in_literal),
        None => !domain.is_empty() && domain.chars().all(|c| plain(c) && !"[]".contains(c)),
    };
    // RFC 5321 section 4.5.3.1.3: a path has 256 octets with its brackets.
    text.len() <= 254 && local_is_good && domain_is_good
}

/// Whether an answer to this address could arrive: its domain is one of the public names. The others are
/// reserved for local or no use (RFC 2606, RFC 6762 appendix G, RFC 8375, and `internal`).
pub(super) fn is_routable(address: &str) -> bool {
    const LOCAL: [&str; 14] = [
        "local",
        "localdomain",
        "localhost",
        "lan",
        "internal",
        "intranet",
        "private",
        "home",
        "corp",
        "arpa",
        "invalid",
        "test",
        "example",
        "workgroup",
    ];
    let Some((_, domain)) = address.rsplit_once('@') else { return false };
    let domain = domain.to_ascii_lowercase();
    let Some((name, top)) = domain.rsplit_once('.') else { return false };
    let number = top.bytes().all(|octet| octet.is_ascii_digit());
    !name.is_empty()
        && !top.is_empty()
        && !number
        && !domain.starts_with('[')
        && !LOCAL.contains(&top)
}

fn mailbox(value: &[u8], tokens: &[Token]) -> Option<Mailbox> {
    let first = tokens.first()?;
    let angle = tokens.iter().find(|token| token.kind == Kind::Angle);
    let at_sign = |token: &&Token| token.kind != Kind::Angle && raw(value, token).contains(&b'@');
    let bearer = angle.or_else(|| tokens.iter().find(at_sign));
    let place = bearer.map_or(first.range.start..first.range.start, |token| inner(value, token));
    let text = str::from_utf8(value.get(place.clone()).unwrap_or_default()).unwrap_or_default();
    let address = is_address(text).then(|| text.to_owned());
    let beside = tokens
        .iter()
        .filter(|token| token.kind != Kind::Angle && (address.is_none() || Some(*token) != bearer));
    let words: Vec<_> = beside.map(|token| unquoted(value, token)).collect();
    let well_formed = address.is_some()
        && match angle {
            Some(angle) => is_closed(value, angle) && tokens.last() == Some(angle),
            None => tokens.len() == 1,
        };
    Some(Mailbox { address, place, words: words.join(&b' '), well_formed })
}

fn raw<'a>(value: &'a [u8], token: &Token) -> &'a [u8] {
    value.get(token.range.clone()).unwrap_or_default()
}

fn is_closed(value: &[u8], angle: &Token) -> bool {
    raw(value, angle).ends_with(b">")
}

/// An address without angle brackets, blanks and a route (RFC 5322 section 4.4).
fn inner(value: &[u8], token: &Token) -> Range<usize> {
    let Range { mut start, mut end } = token.range.clone();
    if token.kind == Kind::Angle {
        start += 1;
        end -= usize::from(is_closed(value, token));
    }
    let inside = value.get(start..end).unwrap_or_default();
    if let (true, Some(colon)) = (inside.starts_with(b"@"), inside.iter().position(|&o| o == b':'))
    {
        start += colon + 1;
    }
    let inside = value.get(start..end).unwrap_or_default();
    start += inside.len() - inside.trim_ascii_start().len();
    start..(start + inside.trim_ascii().len())
}

fn unquoted(value: &[u8], token: &Token) -> Vec<u8> {
    let raw = raw(value, token);
    let mut words = Vec::with_capacity(raw.len());
    let mut escaped = false;
    for &octet in raw {
        let syntax = !escaped && (octet == b'"' || octet == b'\\');
        escaped = !escaped && octet == b'\\';
        if !syntax && octet != b'\r' && octet != b'\n' {
            words.push(octet);
        }
    }
    words
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// Up to a blank or a special; a quoted string within belongs to it.
    Word,
    /// `<…>`, or `<…` up to the end.
    Angle,
    /// Between mailboxes: a comma, or the semicolon behind a group.
    Comma,
    Colon,
}

#[derive(Debug, PartialEq, Eq)]
struct Token {
    kind: Kind,
    range: Range<usize>,
}

/// Blanks and comments are passed over.
struct Tokens<'a> {
    value: &'a [u8],
    at: usize,
}

impl Iterator for Tokens<'_> {
    type Item = Token;

    fn next(&mut self) -> Option<Token> {
        loop {
            let start = self.at;
            let kind = match self.value.get(start)? {
                b' ' | b'\t' | b'\r' | b'\n' => {
                    self.at += 1;
                    continue;
                }
                b'(' => {
                    self.pass_comment();
                    continue;
                }
                b',' | b';' => self.one(Kind::Comma),
                b':' => self.one(Kind::Colon),
                b'<' => self.angle(),
                _ => self.word(),
            };
            return Some(Token { kind, range: start..self.at });
        }
    }
}

impl Tokens<'_> {
    fn one(&mut self, kind: Kind) -> Kind {
        self.at += 1;
        kind
    }

    fn angle(&mut self) -> Kind {
        while let Some(octet) = self.value.get(self.at) {
            match octet {
                b'"' => self.pass_quoted(),
                _ => self.at += 1,
            }
            if *octet == b'>' {
                break;
            }
        }
        Kind::Angle
    }

    fn word(&mut self) -> Kind {
        // An address literal has colons: `scan@[IPv6:fe80::1]`.
        let mut in_literal = false;
        while let Some(octet) = self.value.get(self.at) {
            match octet {
                b'"' => {
                    self.pass_quoted();
                    continue;
                }
                b'[' => in_literal = true,
                b']' => in_literal = false,
                b':' if in_literal => {}
                b' ' | b'\t' | b'\r' | b'\n' | b'(' | b',' | b';' | b':' | b'<' => break,
                _ => {}
            }
            self.at += 1;
        }
        Kind::Word
    }

    fn pass_quoted(&mut self) {
        self.at += 1;
        while let Some(octet) = self.value.get(self.at) {
            self.at += if *octet == b'\\' { 2 } else { 1 };
            if *octet == b'"' {
                break;
            }
        }
        self.at = self.at.min(self.value.len());
    }

    /// Comments may be nested (RFC 5322 section 3.2.2).
    fn pass_comment(&mut self) {
        let mut depth = 0_usize;
        while let Some(octet) = self.value.get(self.at) {
            self.at += if *octet == b'\\' { 2 } else { 1 };
            match octet {
                b'(' => depth += 1,
                b')' => depth = depth.saturating_sub(1),
                _ => {}
            }
            if depth == 0 {
                break;
            }
        }
        self.at = self.at.min(self.value.len());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(value: &str) -> Vec<(Option<String>, String, bool)> {
        let text = |words: Vec<u8>| String::from_utf8(words).unwrap();
        let boxes = mailboxes(value.as_bytes()).into_iter();
        boxes.map(|it| (it.address, text(it.words), it.well_formed)).collect()
    }

    #[test]
    fn one_mailbox_in_many_forms() {
        let cases = [
            ("scan@x.local", "scan@x.local", "", true),
            (" <scan@x.local>\r\n", "scan@x.local", "", true),
            ("Scanner <scan@x.local>", "scan@x.local", "Scanner", true),
            ("\"Floor 3, \\\"A\\\"\" <scan@x.local> (new)", "scan@x.local", "Floor 3, \"A\"", true),
            ("=?utf-8?q?B=C3=BCro?= <b@x.de>", "b@x.de", "=?utf-8?q?B=C3=BCro?=", true),
            ("scan@x.local (Scanner (3rd, floor))", "scan@x.local", "", true),
            ("\"john doe\"@x.de", "\"john doe\"@x.de", "", true),
            ("<@a.b,@c.d:scan@x.de>", "scan@x.de", "", true),
            ("scan@[192.168.1.5]", "scan@[192.168.1.5]", "", true),
            ("scan@[IPv6:fe80::1]", "scan@[IPv6:fe80::1]", "", true),
            ("Staff: a@x.de;", "a@x.de", "", true),
            ("\"a@b\" <c@x.de>", "c@x.de", "a@b", true),
            ("<scan@x.local> Scanner", "scan@x.local", "Scanner", false),
            ("Scanner scan@x.local", "scan@x.local", "Scanner", false),
            ("scan@x.local Scanner 3", "scan@x.local", "Scanner 3", false),
            ("Scanner <scan@x.local", "scan@x.local", "Scanner", false),
        ];
        for (value, address, words, well_formed) in cases {
            let expected = vec![(Some(address.to_owned()), words.to_owned(), well_formed)];
            assert_eq!(read(value), expected, "{value}");
            let place = mailboxes(value.as_bytes()).remove(0).place;
            assert_eq!(&value[place], address);
        }
    }

    #[test]
    fn lists_groups_and_what_is_no_address() {
        let addresses = |value: &str| {
            read(value).into_iter().map(|it| it.0.unwrap_or_default()).collect::<Vec<_>>()
        };
        assert_eq!(addresses("a@x.de, \"b, c\" <b@x.de>,, G: c@x.de, d@x.de; e@x.de").len(), 5);
        assert_eq!(addresses("undisclosed-recipients:;"), [""; 0]);
        assert_eq!(addresses(""), [""; 0]);
        for none in
            ["scan", "<>", "Scanner <>", "scan@", "@x.de", "<a b@x.de>", "<a@x\r\nBcc: b@c>"]
        {
            assert_eq!(read(none)[0].0, None, "{none}");
        }
        assert_eq!(read("3rd Floor <scan>")[0].1, "3rd Floor");
        for odd in ["\"", "(", "<", "a\\", "\"a\\", "(\\", ";:,", "[", "<\""] {
            mailboxes(odd.as_bytes());
        }
    }

    #[test]
    fn where_an_answer_could_arrive() {
        for routable in ["a@contoso.com", "a@sub.Contoso.co.uk"] {
            assert!(is_routable(routable), "{routable}");
        }
        let not = [
            "a@printer",
            "a@x.local",
            "a@x.LAN",
            "a@[10.0.0.1]",
            "a@10.0.0.1",
            "a@x.home.arpa",
            "a",
        ];
        for local in not {
            assert!(!is_routable(local), "{local}");
        }
    }
}
