//! The header fields of a MIME message, as far as Graph sends by them (RFC 5322).
//!
//! Invariant: octets that are not taken out stay as they are.

/// A message whose header could be read.
pub(super) struct Mime<'a> {
    /// Each field's name, and all of its octets with the line ends.
    fields: Vec<(String, &'a [u8])>,
    /// What is behind the header, the empty line first.
    rest: &'a [u8],
}

impl<'a> Mime<'a> {
    /// `None` if there is a line in the header that is no field, or no field at all.
    pub(super) fn parse(octets: &'a [u8]) -> Option<Self> {
        let (mut fields, mut rest) = (Vec::new(), octets);
        while !rest.is_empty() && !rest.starts_with(b"\r\n") && !rest.starts_with(b"\n") {
            let field;
            (field, rest) = rest.split_at(field_length(rest));
            let colon = field.iter().position(|octet| *octet == b':')?;
            let name = std::str::from_utf8(field.get(..colon)?).ok()?.trim_end();
            // RFC 5322 section 2.2
            if name.is_empty() || !name.bytes().all(|octet| octet.is_ascii_graphic()) {
                return None;
            }
            fields.push((name.to_ascii_lowercase(), field));
        }
        (!fields.is_empty()).then_some(Self { fields, rest })
    }

    /// All addresses in the fields of this name; `Err` is one that is none.
    pub(super) fn addresses(&self, name: &str) -> Result<Vec<String>, String> {
        let own = self.fields.iter().filter(|(own, _)| own == name);
        let values = own.filter_map(|(_, field)| {
            let text = String::from_utf8_lossy(field);
            text.split_once(':').map(|(_, value)| value.replace(['\r', '\n'], ""))
        });
        let all: Vec<String> = values.flat_map(|value| List::read(&value)).collect();
        match all.iter().find(|address| !is_address(address)) {
            Some(wrong) => Err(wrong.clone()),
            None => Ok(all),
        }
    }

    /// The first value of this name, on one line.
    pub(super) fn value(&self, name: &str) -> Option<String> {
        let (_, field) = self.fields.iter().find(|(own, _)| own == name)?;
        let text = String::from_utf8_lossy(field);
        Some(text.split_once(':')?.1.replace(['\r', '\n'], "").trim().to_owned())
    }

    /// The message without `Bcc`.
    pub(super) fn without_bcc(&self) -> Vec<u8> {
        [self.header(|name| name != "bcc").as_slice(), self.rest].concat()
    }

    /// The fields whose names are wanted, without the empty line.
    pub(super) fn header(&self, wanted: impl Fn(&str) -> bool) -> Vec<u8> {
        let kept = self.fields.iter().filter(|(name, _)| wanted(name));
        kept.flat_map(|(_, field)| field.iter().copied()).collect()
    }

    /// The body, with the empty line before it.
    pub(super) fn rest(&self) -> &'a [u8] {
        self.rest
    }
}

/// The length of the field at the beginning, with the lines that continue it.
fn field_length(octets: &[u8]) -> usize {
    let mut length = 0;
    loop {
        let rest = octets.get(length..).unwrap_or_default();
        if length > 0 && !rest.starts_with(b" ") && !rest.starts_with(b"\t") {
            return length;
        }
        length += rest.iter().position(|octet| *octet == b'\n').map_or(rest.len(), |at| at + 1);
        if length >= octets.len() {
            return octets.len();
        }
    }
}

fn is_address(text: &str) -> bool {
    let quoted = text.starts_with('"');
    let plain = |part: &str| !part.is_empty() && !part.contains(char::is_whitespace);
    text.rsplit_once('@').is_some_and(|(local, domain)| {
        plain(domain) && (plain(local) && !local.contains('@') || quoted && local.len() > 2)
    })
}

/// An address list (RFC 5322 section 3.4), taken apart.
#[derive(Default)]
struct List {
    found: Vec<String>,
    /// Outside of angle brackets and comments.
    text: String,
    /// Inside of angle brackets.
    angle: Option<String>,
}

impl List {
    fn read(value: &str) -> Vec<String> {
        let (mut list, mut rest) = (Self::default(), value.chars());
        while let Some(letter) = rest.next() {
            match letter {
                '"' => {
                    let quoted = enclosed(&mut rest, '"');
                    list.text.push_str(&format!("\"{quoted}\""));
                }
                '(' => skip_comment(&mut rest),
                '[' => {
                    let literal = enclosed(&mut rest, ']');
                    list.text.push_str(&format!("[{literal}]"));
                }
                '<' => list.angle = Some(angle(&mut rest)),
                // the name of a group
                ':' => list.text.clear(),
                ',' | ';' => list.end(),
                other => list.text.push(other),
            }
        }
        list.end();
        list.found
    }

    fn end(&mut self) {
        let text = std::mem::take(&mut self.text);
        let found = self.angle.take().unwrap_or(text);
        let found = found.trim();
        if !found.is_empty() {
            self.found.push(found.to_owned());
        }
    }
}

/// What stands before the closing character; a backslash quotes what follows and stays.
fn enclosed(rest: &mut std::str::Chars<'_>, close: char) -> String {
    let mut inside = String::new();
    while let Some(letter) = rest.next().filter(|letter| *letter != close) {
        inside.push(letter);
        if letter == '\\' {
            inside.extend(rest.next());
        }
    }
    inside
}

/// An address up to `>`, without the route that may stand before it (RFC 5322 section 4.4).
fn angle(rest: &mut std::str::Chars<'_>) -> String {
    let mut inside = String::new();
    while let Some(letter) = rest.next().filter(|letter| *letter != '>') {
        match letter {
            '"' => inside.push_str(&format!("\"{}\"", enclosed(rest, '"'))),
            '(' => skip_comment(rest),
            '[' => inside.push_str(&format!("[{}]", enclosed(rest, ']'))),
            ':' => inside.clear(),
            other => inside.push(other),
        }
    }
    inside
}

fn skip_comment(rest: &mut std::str::Chars<'_>) {
    let mut depth = 1;
    while let Some(letter) = rest.next() {
        match letter {
            '\\' => drop(rest.next()),
            '(' => depth += 1,
            ')' => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_addresses() {
        for (value, addresses) in [
            ("a@b.example", &["a@b.example"][..]),
            (" <a@b> , c@d", &["a@b", "c@d"]),
            ("\"Doe, Jane <x@y>\" <a@b>, Bob (not c@d, \\) nor e) <f@g>", &["a@b", "f@g"]),
            ("Friends: a@b, \"C\" <c@d>;, e@f", &["a@b", "c@d", "e@f"]),
            ("undisclosed-recipients:;", &[]),
            ("<@x,@y:a@b>, \"o d\"@b, a@[IPv6:::1]", &["a@b", "\"o d\"@b", "a@[IPv6:::1]"]),
            ("=?utf-8?Q?J=C3=A4ne?= <a@b>,,", &["a@b"]),
            ("", &[]),
        ] {
            assert_eq!(List::read(value), addresses, "{value}");
            assert!(addresses.iter().all(|address| is_address(address)), "{value}");
        }
        for wrong in ["jane", "a b@c", "@c", "a@", "a@b@c"] {
            assert!(!is_address(wrong), "{wrong}");
        }
    }

    #[test]
    fn fields_and_what_goes() {
        let message =
            b"To: a@b,\r\n\tc@d\r\nBCC: e@f,\r\n g@h\r\nSubject:s\nto:<i@j>\r\n\r\nBcc: x@y\r\n";
        let mime = Mime::parse(message).unwrap();
        assert_eq!(mime.addresses("to").unwrap(), ["a@b", "c@d", "i@j"]);
        assert_eq!(mime.addresses("bcc").unwrap(), ["e@f", "g@h"]);
        assert_eq!(mime.addresses("cc").unwrap(), <[&str; 0]>::default());
        assert_eq!(mime.value("subject").unwrap(), "s");
        let without = b"To: a@b,\r\n\tc@d\r\nSubject:s\nto:<i@j>\r\n\r\nBcc: x@y\r\n";
        assert_eq!(mime.without_bcc(), without);
        for wrong in
            [&b""[..], b"\r\nbody", b"no field\r\n\r\n", b" To: a@b\r\n\r\n", b"\xFF: x\r\n"]
        {
            assert!(Mime::parse(wrong).is_none(), "{wrong:?}");
        }
        assert!(Mime::parse(b"Subject: no body").is_some());
    }
}
