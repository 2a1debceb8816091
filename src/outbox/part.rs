//! The parts of a MIME message (RFC 2046 section 5.1) and where their octets stand.
//!
//! The values of fields are mail-parser's to read. The structure is read here, because mail-parser decodes
//! every part at once, takes a boundary in the middle of a line for one, and gives nested messages a nested
//! value, whose end overflows the stack: a message of 7 MB that is nothing but `Content-Type: message/rfc822`
//! would end the process.
//!
//! Invariant: nothing is copied but the few values of a part's header, and both the number of parts and their
//! depth are bounded. Ranges lie within the message, and those of parts of one multipart don't overlap.

use std::ops::Range;

use mail_parser::{MessageParser, MimeHeaders};

use super::header::{Ending, Header, first_line, without_line_end};

/// Exchange Online takes 250 parts; a message of more than four times as many is none that people send.
const MAX_PARTS: usize = 1000;

/// Multiparts in multiparts: Exchange Online's limit for messages in messages is 30. What is deeper is read
/// as a part without parts.
const MAX_DEPTH: usize = 30;

/// Exchange Online's limit for a header.
const MAX_HEADER: usize = 256 * 1024;

/// One part; the message itself is the first.
#[derive(Debug)]
pub(super) struct Part {
    /// The multipart that it is in, by its place in the list.
    pub(super) parent: Option<usize>,
    /// From the delimiter line in front up to the next one.
    pub(super) whole: Range<usize>,
    /// The fields, without the empty line.
    pub(super) header: Range<usize>,
    /// Without the line end in front of the next delimiter, which belongs to that.
    pub(super) body: Range<usize>,
    /// `application/pdf`, in lower case.
    pub(super) kind: String,
    /// It can have parts.
    pub(super) is_multipart: bool,
    pub(super) encoding: Encoding,
    /// `attachment`, `inline` and others, in lower case.
    pub(super) disposition: Option<String>,
    pub(super) name: Option<String>,
    /// Without its angle brackets.
    pub(super) content_id: Option<String>,
}

/// RFC 2045 section 6.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Encoding {
    /// 7bit, 8bit, binary.
    Identity,
    Base64,
    QuotedPrintable,
    Unknown,
}

/// Why not all parts were read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Limit {
    Parts,
    Header,
}

/// The parts of a message in its order, and the limit that ended the list early.
pub(super) fn parts(message: &[u8]) -> (Vec<Part>, Option<Limit>) {
    let parser = MessageParser::new().with_mime_headers();
    let mut reader =
        Reader { message, parser, parts: Vec::new(), open: Vec::new(), unended: Vec::new() };
    let limit = reader.run().err();
    reader.end_above(None, message.len(), message.len());
    (reader.parts, limit)
}

struct Reader<'a> {
    message: &'a [u8],
    parser: MessageParser,
    parts: Vec<Part>,
    /// Multiparts whose delimiters count, outermost first, with `--` and their boundary.
    open: Vec<(usize, Vec<u8>)>,
    /// Parts whose end has not been seen, outermost first.
    unended: Vec<usize>,
}

/// A line that delimits parts of the multipart at this place in `open`.
struct Delimiter {
    level: usize,
    /// The last one (`--boundary--`).
    closes: bool,
}

impl Reader<'_> {
    fn run(&mut self) -> Result<(), Limit> {
        let mut at = self.begin(None, 0, Header::read(self.head(0)).fields_at())?;
        while let Some(line_at) = self.next_candidate(at) {
            let line = first_line(self.message.get(line_at..).unwrap_or_default());
            at = line_at + line.len();
            let Some(Delimiter { level, closes }) = self.delimiter(line) else { continue };
            let Some(&(multipart, _)) = self.open.get(level) else { continue };
            self.end_above(Some(multipart), line_at, self.before_line_end(line_at));
            self.open.truncate(level + usize::from(!closes));
            if !closes {
                at = self.begin(Some(multipart), line_at, at)?;
            }
        }
        Ok(())
    }

    /// Reads a part's header; gives where its body begins.
    fn begin(
        &mut self,
        parent: Option<usize>,
        whole: usize,
        header_at: usize,
    ) -> Result<usize, Limit> {
        if self.parts.len() >= MAX_PARTS {
            return Err(Limit::Parts);
        }
        let head = self.head(header_at);
        let header = Header::read_from(head, header_at, |line| self.delimiter(line).is_some());
        if header.ending() == Ending::Octets && head.len() < self.message.len() {
            return Err(Limit::Header);
        }
        let body_at = header.body_at();
        let digest = parent
            .and_then(|it| self.parts.get(it))
            .is_some_and(|it| it.kind == "multipart/digest");
        let (part, boundary) = self.part(&header, digest);
        let header = header_at..header_at + header.octets_len();
        let number = self.parts.len();
        if let Some(boundary) = boundary.filter(|_| part.is_multipart) {
            self.open.push((number, [b"--", boundary.trim_end().as_bytes()].concat()));
        }
        self.unended.push(number);
        self.parts.push(Part {
            parent,
            whole: whole..whole,
            header,
            body: body_at..body_at,
            ..part
        });
        Ok(body_at)
    }

    /// The message up to where a header that begins here may reach.
    fn head(&self, header_at: usize) -> &[u8] {
        let end = header_at.saturating_add(MAX_HEADER).min(self.message.len());
        self.message.get(..end).unwrap_or_default()
    }

    /// What the fields say, and the boundary.
    fn part(&self, header: &Header<'_>, in_digest: bool) -> (Part, Option<String>) {
        let mut fields = Vec::new();
        for name in
            ["Content-Type", "Content-Transfer-Encoding", "Content-Disposition", "Content-ID"]
        {
            if let Some(field) = header.field(name) {
                fields.extend_from_slice(&[name.as_bytes(), b":", field.value(), b"\r\n"].concat());
            }
        }
        fields.extend_from_slice(b"\r\n");
        let parsed = self.parser.parse_headers(&fields);
        let parsed = parsed.as_ref().and_then(|message| message.parts.first());
        let content_type = parsed.and_then(|part| part.content_type());
        let kind = match content_type {
            // RFC 2045 section 5.2, RFC 2046 section 5.1.5.
            None if in_digest => "message/rfc822".to_owned(),
            None => "text/plain".to_owned(),
            Some(it) => match (it.ctype(), it.subtype()) {
                (main, Some(sub)) => format!("{main}/{sub}").to_ascii_lowercase(),
                (main, None) if main.eq_ignore_ascii_case("text") => "text/plain".to_owned(),
                (_, None) => "application/octet-stream".to_owned(),
            },
        };
        let encoding = encoding(parsed.and_then(|part| part.content_transfer_encoding()));
        let boundary = content_type.and_then(|it| it.attribute("boundary"));
        let is_multipart = kind.starts_with("multipart/")
            && boundary.is_some_and(|boundary| !boundary.trim_end().is_empty())
            && encoding == Encoding::Identity
            && self.open.len() < MAX_DEPTH;
        let disposition = parsed.and_then(|part| part.content_disposition());
        let part = Part {
            parent: None,
            whole: 0..0,
            header: 0..0,
            body: 0..0,
            kind,
            is_multipart,
            encoding,
            disposition: disposition.map(|it| it.ctype().to_ascii_lowercase()),
            name: parsed.and_then(|part| part.attachment_name()).map(str::to_owned),
            content_id: parsed.and_then(|part| part.content_id()).map(str::to_owned),
        };
        (part, boundary.map(str::to_owned))
    }

    /// Where the next line that begins with `--` stands. A delimiter can stand at the very beginning of a body.
    fn next_candidate(&self, at: usize) -> Option<usize> {
        if self.open.is_empty() {
            return None;
        }
        let mut line_at = at;
        loop {
            let rest = self.message.get(line_at..).filter(|rest| !rest.is_empty())?;
            if rest.starts_with(b"--") {
                return Some(line_at);
            }
            line_at += first_line(rest).len();
        }
    }

    /// The innermost multipart's that fits, because an outer one's delimiter ends the inner ones too.
    fn delimiter(&self, line: &[u8]) -> Option<Delimiter> {
        let line = without_line_end(line);
        let fits = |(level, (_, dashed)): (usize, &(usize, Vec<u8>))| {
            let behind = line.strip_prefix(dashed.as_slice())?.trim_ascii();
            match behind {
                b"" => Some(Delimiter { level, closes: false }),
                b"--" => Some(Delimiter { level, closes: true }),
                _ => None,
            }
        };
        self.open.iter().enumerate().rev().find_map(fits)
    }

    /// The parts within `multipart`, or all, end here.
    fn end_above(&mut self, multipart: Option<usize>, whole: usize, body: usize) {
        while let Some(&last) = self.unended.last().filter(|&&last| Some(last) != multipart) {
            if let Some(part) = self.parts.get_mut(last) {
                part.whole.end = whole;
                part.body.end = body.max(part.body.start);
            }
            self.unended.pop();
        }
    }

    fn before_line_end(&self, line_at: usize) -> usize {
        without_line_end(self.message.get(..line_at).unwrap_or_default()).len()
    }
}

fn encoding(name: Option<&str>) -> Encoding {
    let name = name.unwrap_or_default().trim().to_ascii_lowercase();
    match name.as_str() {
        "" | "7bit" | "8bit" | "binary" => Encoding::Identity,
        "base64" => Encoding::Base64,
        "quoted-printable" => Encoding::QuotedPrintable,
        _ => Encoding::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(message: &str) -> Vec<(String, String)> {
        let message = message.replace('\n', "\r\n");
        let (parts, limit) = parts(message.as_bytes());
        assert_eq!(limit, None);
        let body = |part: &Part| message[part.body.clone()].to_owned();
        parts.iter().map(|part| (part.kind.clone(), body(part))).collect()
    }

    fn leaves(message: &str) -> Vec<(String, String)> {
        let mut found = read(message);
        found.retain(|(kind, _)| !kind.starts_with("multipart/"));
        found
    }

    #[test]
    fn nested_multiparts_whose_boundaries_begin_alike() {
        let message = "Content-Type: multipart/mixed; boundary=\"b\"\n\npreamble --b\n--b\n\
            Content-Type: multipart/related; boundary=b1\n\n--b1\nContent-Type: text/html\n\n<p>--b x\n--b-\n\
            --b1 \nContent-Type: image/png\n\n\n--b1--\nepilogue\n--b\n\nplain\n\n--b--\nend\n--b\nno part\n";
        let expected =
            [("text/html", "<p>--b x\r\n--b-"), ("image/png", ""), ("text/plain", "plain\r\n")];
        assert_eq!(
            leaves(message),
            expected.map(|(kind, body)| (kind.to_owned(), body.to_owned()))
        );
    }

    #[test]
    fn an_outer_delimiter_ends_what_was_left_open() {
        let message = "Content-Type: multipart/mixed; boundary=out\n\n--out\n\
            Content-Type: multipart/mixed; boundary=in\n\n--in\n\none\n--out\nContent-Type: a/b\n\ntwo";
        let expected = [("text/plain", "one"), ("a/b", "two")];
        assert_eq!(
            leaves(message),
            expected.map(|(kind, body)| (kind.to_owned(), body.to_owned()))
        );
    }

    #[test]
    fn parts_without_header_or_empty_line_or_anything() {
        let message = "Content-Type: multipart/digest; boundary=\"--=:\"\n\n----=:\n\nSubject: a\n\nb\n\
            ----=:\nContent-Type: text/plain\nstray\n----=:\n----=:--\n";
        let expected = [
            ("message/rfc822", "Subject: a\r\n\r\nb"),
            ("text/plain", "stray"),
            ("message/rfc822", ""),
        ];
        assert_eq!(
            leaves(message),
            expected.map(|(kind, body)| (kind.to_owned(), body.to_owned()))
        );
    }

    #[test]
    fn hostile_messages_stay_within_the_limits() {
        let nested = "Content-Type: message/rfc822\r\n\r\n".repeat(200_000);
        assert_eq!(parts(nested.as_bytes()).0.len(), 1);
        let many =
            format!("Content-Type: multipart/mixed; boundary=b\r\n\r\n{}", "--b\r\n".repeat(9000));
        assert_eq!(
            (parts(many.as_bytes()).0.len(), parts(many.as_bytes()).1),
            (MAX_PARTS, Some(Limit::Parts))
        );
        let deep: String = (0..5000)
            .map(|n| format!("Content-Type: multipart/mixed; boundary=b{n}\r\n\r\n--b{n}\r\n"))
            .collect();
        assert_eq!(parts(deep.as_bytes()).0.len(), MAX_DEPTH + 1);
        let header = "a:\r\n".repeat(MAX_HEADER);
        assert_eq!(parts(header.as_bytes()).1, Some(Limit::Header));
    }
}
