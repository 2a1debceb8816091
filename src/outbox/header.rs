//! A message's header, read leniently: the fields and where their octets stand.
//!
//! Invariant: nothing is decoded or altered here. The fields stand one behind the other from `fields_at` to
//! `fields_end`, so that whoever writes them again one by one, in order, writes the same octets.

use std::ops::Range;

/// Longest header that is read as one: Exchange Online takes 256 KB ("Exchange Online limits", message header size).
pub(super) const LONGEST_HEADER: usize = 256 << 10;

/// See the module.
#[derive(Debug)]
pub struct Header<'a> {
    octets: &'a [u8],
    fields: Vec<Field<'a>>,
    fields_at: usize,
    fields_end: usize,
    ending: Ending,
}

/// What ends the fields.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ending {
    /// The empty line.
    EmptyLine,
    /// A line that is no field.
    NoField,
    /// The end of the octets.
    Octets,
}

/// One field (RFC 5322 section 2.2).
#[derive(Clone, Copy, Debug)]
pub struct Field<'a> {
    raw: &'a [u8],
    colon: usize,
}

impl<'a> Header<'a> {
    /// Reads the fields up to the empty line, or to the first line that is no field. A line of an mbox's
    /// envelope (`From jane Thu Jan  1 …`) at the top is passed over.
    pub fn read(octets: &'a [u8]) -> Self {
        let fields_at = mbox_line(octets);
        let mut header = Self::read_from(octets, fields_at, |_| false);
        header.fields_at = fields_at;
        header
    }

    /// The same from a place on, and a line for which `stop` says so is no field.
    pub(super) fn read_from(
        octets: &'a [u8],
        fields_at: usize,
        stop: impl Fn(&[u8]) -> bool,
    ) -> Self {
        let mut fields = Vec::new();
        let mut at = fields_at;
        let ending = loop {
            let rest = octets.get(at..).unwrap_or_default();
            let line = first_line(rest);
            if line.is_empty() {
                break Ending::Octets;
            }
            if without_line_end(line).is_empty() {
                break Ending::EmptyLine;
            }
            let Some(colon) = colon(line).filter(|_| !stop(line)) else { break Ending::NoField };
            let raw = with_continuations(rest);
            fields.push(Field { raw, colon });
            at += raw.len();
        };
        Self { octets, fields, fields_at, fields_end: at, ending }
    }

    /// In the order of the message.
    pub fn fields(&self) -> &[Field<'a>] {
        &self.fields
    }

    /// The first of this name, in any case.
    pub fn field(&self, name: &str) -> Option<&Field<'a>> {
        self.fields.iter().find(|field| field.is(name))
    }

    /// The octets of the fields, without an mbox's line and without the empty line.
    pub(super) fn octets(&self) -> &'a [u8] {
        self.octets.get(self.fields_at..self.fields_end).unwrap_or_default()
    }

    /// Where the body begins: behind the empty line, or at the line that is no field.
    pub(super) fn body_at(&self) -> usize {
        let rest = self.octets.get(self.fields_end..).unwrap_or_default();
        let empty = if self.ending == Ending::EmptyLine { first_line(rest).len() } else { 0 };
        self.fields_end + empty
    }

    /// The octets behind the fields, with the empty line if there is one.
    pub(super) fn behind(&self) -> &'a [u8] {
        self.octets.get(self.fields_end..).unwrap_or_default()
    }

    pub(super) fn ending(&self) -> Ending {
        self.ending
    }

    /// Length of an mbox's line at the top.
    pub(super) fn fields_at(&self) -> usize {
        self.fields_at
    }
}

impl<'a> Field<'a> {
    /// The name as written, without blanks before the colon.
    pub fn name(&self) -> &'a str {
        let name = self.raw.get(..self.colon).unwrap_or_default().trim_ascii_end();
        str::from_utf8(name).unwrap_or_default()
    }

    /// Whether it has this name, in any case.
    pub fn is(&self, name: &str) -> bool {
        self.name().eq_ignore_ascii_case(name)
    }

    /// The octets of the whole field, with folds and the line end.
    pub fn raw(&self) -> &'a [u8] {
        self.raw
    }

    /// The octets behind the colon, with folds, without the line end.
    pub fn value(&self) -> &'a [u8] {
        self.raw.get(self.value_range()).unwrap_or_default()
    }

    /// The value on one line: folds are opened (RFC 5322 section 2.2.3), and what is not UTF-8 is replaced.
    pub fn text(&self) -> String {
        let value = String::from_utf8_lossy(self.value());
        value.replace(['\r', '\n'], "").trim().to_owned()
    }

    /// Where the value stands in [`Field::raw`].
    pub(super) fn value_range(&self) -> Range<usize> {
        let begin = self.colon + 1;
        begin..without_line_end(self.raw).len().max(begin)
    }

    /// Whether there are blanks before the colon, which RFC 5322 has in its obsolete syntax only (4.5).
    pub(super) fn has_blank_before_colon(&self) -> bool {
        self.name().len() != self.colon
    }
}

/// The first line with its end; all, if there is none.
pub(super) fn first_line(octets: &[u8]) -> &[u8] {
    let end = octets.iter().position(|&octet| octet == b'\n').map_or(octets.len(), |at| at + 1);
    octets.get(..end).unwrap_or_default()
}

pub(super) fn without_line_end(line: &[u8]) -> &[u8] {
    let line = line.strip_suffix(b"\n").unwrap_or(line);
    line.strip_suffix(b"\r").unwrap_or(line)
}

/// Behind the first empty line, if it ends at `from` or later. The octets are a header's, with CRLF line ends.
pub(super) fn end_of_header(octets: &[u8], from: usize) -> Option<usize> {
    if octets.starts_with(b"\r\n") {
        return Some(2);
    }
    let behind = octets.get(from..)?;
    behind.windows(4).position(|four| four == b"\r\n\r\n").map(|at| from + at + 4)
}

/// A field is its first line and those behind it that begin with a blank.
fn with_continuations(octets: &[u8]) -> &[u8] {
    let mut end = first_line(octets).len();
    while let Some(rest) =
        octets.get(end..).filter(|rest| rest.starts_with(b" ") || rest.starts_with(b"\t"))
    {
        end += first_line(rest).len();
    }
    octets.get(..end).unwrap_or_default()
}

/// Where the colon behind a field's name stands; `None`: the line is no field. A name has visible ASCII
/// (RFC 5322 section 3.6.8).
fn colon(line: &[u8]) -> Option<usize> {
    let colon = line.iter().position(|&octet| octet == b':')?;
    let name = line.get(..colon)?.trim_ascii_end();
    (!name.is_empty() && name.iter().all(u8::is_ascii_graphic)).then_some(colon)
}

/// Length of an mbox's line at the top, also of one that was quoted.
fn mbox_line(octets: &[u8]) -> usize {
    let is_mbox = octets.starts_with(b"From ") || octets.starts_with(b">From ");
    let line = first_line(octets);
    if is_mbox && colon(line).is_none() { line.len() } else { 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_keep_their_octets_and_folds() {
        let block = b"Subject: a\r\n\tb\r\n  c\r\nx-odd :  \xff\r\nEmpty:\r\n\r\nbody: no\r\n";
        let header = Header::read(block);
        let raw: Vec<u8> = header.fields().iter().flat_map(|field| field.raw()).copied().collect();
        assert_eq!(raw, header.octets());
        assert_eq!(header.octets(), b"Subject: a\r\n\tb\r\n  c\r\nx-odd :  \xff\r\nEmpty:\r\n");
        let names: Vec<_> = header.fields().iter().map(Field::name).collect();
        assert_eq!(names, ["Subject", "x-odd", "Empty"]);
        let subject = header.field("SUBJECT").unwrap();
        assert_eq!(
            (subject.text().as_str(), subject.value()),
            ("a\tb  c", &b" a\r\n\tb\r\n  c"[..])
        );
        assert_eq!(header.field("empty").unwrap().text(), "");
        assert_eq!(block.get(header.body_at()..).unwrap(), b"body: no\r\n");
        assert_eq!(header.ending(), Ending::EmptyLine);
    }

    #[test]
    fn what_is_no_field_ends_the_header() {
        let cases: [(&[u8], usize, Ending); 8] = [
            (b"A: b\r\nhello there\r\n\r\n", 1, Ending::NoField),
            (b"A: b\r\ntwo words: x\r\n", 1, Ending::NoField),
            (b"hello\r\n", 0, Ending::NoField),
            (b" folded: at the top\r\n", 0, Ending::NoField),
            (b": no name\r\n", 0, Ending::NoField),
            (b"\r\nA: b\r\n", 0, Ending::EmptyLine),
            (b"A: b", 1, Ending::Octets),
            (b"", 0, Ending::Octets),
        ];
        for (block, fields, ending) in cases {
            let header = Header::read(block);
            assert_eq!((header.fields().len(), header.ending()), (fields, ending), "{block:?}");
        }
    }

    #[test]
    fn the_line_of_an_mbox_is_passed_over_and_a_field_is_not() {
        let mbox = Header::read(b"From jane@x Thu Jan  1 1970\r\nA: b\r\n\r\n");
        assert_eq!((mbox.fields().len(), mbox.octets()), (1, &b"A: b\r\n"[..]));
        let field = Header::read(b"From : jane@x\r\nA: b\r\n\r\n");
        assert_eq!(field.fields().len(), 2);
        assert!(
            field.fields().iter().any(|field| field.is("From") && field.has_blank_before_colon())
        );
    }
}
