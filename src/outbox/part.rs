//! The parts of a MIME message (RFC 2046 section 5.1) and where their octets stand.
//!
//! The values of fields are mail-parser's to read. The structure is read here, because mail-parser decodes
//! every part at once, takes a boundary in the middle of a line for one, and gives nested messages a nested
//! value, whose end overflows the stack: a message of 7 MB that is nothing but `Content-Type: message/rfc822`
//! would end the process.
//!
//! Invariant: no more of the message is in memory than a header and a window, and both the number of parts and their
//! depth are bounded. Ranges lie within the message, and those of parts of one multipart don't overlap.

use std::io;
use std::ops::Range;

use mail_parser::{MessageParser, MimeHeaders};

use super::content::Content;
use super::header::{Header, first_line, without_line_end};
use super::window::{Window, head};

/// Exchange Online takes 250 parts; a message of more than four times as many is none that people send.
const MAX_PARTS: usize = 1000;

/// Multiparts in multiparts: Exchange Online's limit for messages in messages is 30. What is deeper is read
/// as a part without parts.
const MAX_DEPTH: usize = 30;

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

/// The parts of a message in its order, and the limit that ended the list early. It blocks.
pub(super) fn parts(message: &Content) -> io::Result<(Vec<Part>, Option<Limit>)> {
    let parser = MessageParser::new().with_mime_headers();
    let window = Window::new(message);
    let mut reader = Reader {
        message,
        window,
        parser,
        parts: Vec::new(),
        open: Vec::new(),
        unended: Vec::new(),
    };
    let limit = reader.run()?.err();
    reader.end_above(None, message.length(), message.length());
    Ok((reader.parts, limit))
}

struct Reader<'a> {
    message: &'a Content,
    window: Window<'a>,
    parser: MessageParser,
    parts: Vec<Part>,
    /// Multiparts whose delimiters count, outermost first, with `--` and their boundary.
    open: Vec<(usize, Vec<u8>)>,
    /// Parts whose end has not been seen, outermost first.
    unended: Vec<usize>,
}

/// A line that may delimit parts.
struct Candidate {
    at: usize,
    line: Vec<u8>,
    /// Its end is in it.
    whole: bool,
}

/// A line that delimits parts of the multipart at this place in `open`.
struct Delimiter {
    level: usize,
    /// The last one (`--boundary--`).
    closes: bool,
}

impl Reader<'_> {
    fn run(&mut self) -> io::Result<Result<(), Limit>> {
        let mut at = match self.begin(None, 0, 0)? {
            Ok(at) => at,
            Err(limit) => return Ok(Err(limit)),
        };
        let mut at_line = true;
        while let Some(Candidate { at: line_at, line, whole }) = self.next_candidate(at, at_line)? {
            (at, at_line) = (line_at + line.len(), whole);
            let delimiter = self.delimiter(&line).filter(|_| whole);
            let Some(Delimiter { level, closes }) = delimiter else { continue };
            let Some(&(multipart, _)) = self.open.get(level) else { continue };
            let body_end = self.before_line_end(line_at)?;
            self.end_above(Some(multipart), line_at, body_end);
            self.open.truncate(level + usize::from(!closes));
            if !closes {
                at = match self.begin(Some(multipart), line_at, at)? {
                    Ok(at) => at,
                    Err(limit) => return Ok(Err(limit)),
                };
            }
        }
        Ok(Ok(()))
    }

    /// Reads a part's header; gives where its body begins.
    fn begin(
        &mut self,
        parent: Option<usize>,
        whole: usize,
        at: usize,
    ) -> io::Result<Result<usize, Limit>> {
        if self.parts.len() >= MAX_PARTS {
            return Ok(Err(Limit::Parts));
        }
        let is_delimiter = |line: &[u8]| self.delimiter(line).is_some();
        let Some(head) = head(self.message, at, is_delimiter)? else {
            return Ok(Err(Limit::Header));
        };
        let fields_at = if at == 0 { Header::read(&head).fields_at() } else { 0 };
        let header = Header::read_from(&head, fields_at, is_delimiter);
        let body_at = at + header.body_at();
        let digest = parent
            .and_then(|it| self.parts.get(it))
            .is_some_and(|it| it.kind == "multipart/digest");
        let (part, boundary) = self.part(&header, digest);
        let header = at + fields_at..at + fields_at + header.octets().len();
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
        Ok(Ok(body_at))
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

    /// The next line that begins with `--`. A delimiter can stand at the very beginning of a body.
    fn next_candidate(
        &mut self,
        mut at: usize,
        mut at_line: bool,
    ) -> io::Result<Option<Candidate>> {
        if self.open.is_empty() {
            return Ok(None);
        }
        loop {
            let octets = self.window.look(at)?;
            if octets.is_empty() {
                return Ok(None);
            }
            let line = first_line(octets);
            let ends = line.ends_with(b"\n");
            if at_line && line.starts_with(b"--") {
                let line = line.to_vec();
                let whole = ends || at + line.len() >= self.message.length();
                return Ok(Some(Candidate { at, line, whole }));
            }
            (at, at_line) = (at + line.len(), ends);
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

    fn before_line_end(&self, line_at: usize) -> io::Result<usize> {
        let before = self.message.at(line_at.saturating_sub(2)..line_at)?;
        Ok(line_at - (before.len() - without_line_end(&before).len()))
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
    use crate::outbox::header::LONGEST_HEADER;
    use crate::outbox::window::{FIRST_LOOK, LONGEST_LINE, WINDOW};

    fn parts(message: &[u8]) -> (Vec<Part>, Option<Limit>) {
        super::parts(&Content::of_octets(message.to_vec())).unwrap()
    }

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

    /// Wherever one look at the message ends and the next one begins.
    #[test]
    fn delimiters_and_headers_anywhere() {
        for more in 0..120 {
            let text = "x".repeat(WINDOW - 100 + more);
            let lines = "xy\r\n".repeat((WINDOW - 100) / 4) + &"z".repeat(more);
            for text in [text, lines] {
                let message = format!(
                    "Content-Type: multipart/mixed; boundary=b\n\n--b\n\n{text}\n--b\nContent-Type: a/b\n\ntwo\n--b--\n"
                );
                let expected = [("text/plain", text.as_str()), ("a/b", "two")];
                let expected = expected.map(|(kind, body)| (kind.to_owned(), body.to_owned()));
                assert_eq!(leaves(&message.replace("\r\n", "\n")), expected, "{more}");
            }
            let long = format!("X: {}\n", "y".repeat(FIRST_LOOK - 100 + more));
            let message = format!(
                "{long}Content-Type: multipart/mixed; boundary=b\n\n--b\n{long}Content-Type: a/b\n\ntwo\n--b--\n"
            );
            assert_eq!(leaves(&message), [("a/b".to_owned(), "two".to_owned())], "{more}");
        }
    }

    #[test]
    fn a_line_that_is_longer_than_all_delimits_nothing() {
        let blanks = " ".repeat(WINDOW + LONGEST_LINE);
        let message = format!(
            "Content-Type: multipart/mixed; boundary=b\n\n--b\n\none\n--b{blanks}x--b\ntwo\n--b--\n"
        );
        assert_eq!(leaves(&message).len(), 1);
        let many = "Content-Type: multipart/mixed; boundary=b\r\n\r\n".to_owned()
            + &"--\r\n".repeat(2_000_000);
        assert_eq!(parts(many.as_bytes()).0.len(), 1);
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
        let header = "a:\r\n".repeat(LONGEST_HEADER);
        assert_eq!(parts(header.as_bytes()).1, Some(Limit::Header));
    }
}
