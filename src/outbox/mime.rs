//! What Microsoft Graph needs to know of a message, and how a large one is cut for it: the message without
//! its largest attachments as a draft, these by upload.
//!
//! Invariant: a cut loses nothing. What stays keeps its octets, but for the header of a message that is an
//! attachment as a whole; what goes is decoded byte for byte, and what can't be decoded stays. What goes is never in
//! memory as a whole.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::ops::Range;

use super::address::mailboxes;
use super::content::Content;
use super::decode::Decoding;
use super::header::Header;
use super::part::{Encoding, Limit, Part, parts};
use super::window::head;

/// A message in pieces.
#[derive(Debug)]
pub struct Cut {
    /// The message without its largest attachments.
    pub rest: Vec<u8>,
    /// These, the largest first.
    pub attachments: Vec<Attachment>,
}

/// What was cut out.
#[derive(Debug)]
pub struct Attachment {
    /// File name, made up where the message has none.
    pub name: String,
    /// `application/pdf`
    pub content_type: String,
    /// Shown within the text, which names it by its `content_id`.
    pub inline: bool,
    /// Without angle brackets.
    pub content_id: Option<String>,
    /// How many octets it has, decoded.
    pub size: usize,
    decoding: Decoding,
}

impl Attachment {
    /// The next so many octets, decoded, and the rest; fewer, or none: that was all.
    pub async fn next(mut self, size: usize) -> io::Result<(Vec<u8>, Self)> {
        let (octets, decoding) = self.decoding.next(size).await?;
        self.decoding = decoding;
        Ok((octets, self))
    }
}

/// Why a message can't be cut.
#[derive(Debug, thiserror::Error)]
pub enum CannotCut {
    /// Nobody could check or read it afterwards.
    #[error("the message is {0}, which taking attachments out would break; send it by SMTP")]
    Sealed(&'static str),
    /// The attachments are not what is large.
    #[error("{octets} octets are left when all attachments are out, too many; send it by SMTP")]
    TextTooLarge {
        /// What is left at least.
        octets: usize,
    },
    /// See `part.rs`.
    #[error("the message has more parts, or a longer header, than Exchange takes")]
    TooComplex,
    /// It can't be read, for now.
    #[error("it can't be read: {0}")]
    Unreadable(#[from] io::Error),
}

/// Whether altering a message would break a signature or an encryption, and which. It blocks.
pub fn sealed(message: &Content) -> io::Result<Option<&'static str>> {
    seal(message, &parts(message)?.0)
}

/// The addresses that To, Cc and Bcc name, in lower case.
pub fn header_recipients(header: &[u8]) -> BTreeSet<String> {
    let header = Header::read(header);
    let names = |field: &&super::Field<'_>| ["To", "Cc", "Bcc"].iter().any(|name| field.is(name));
    let named = header.fields().iter().filter(names).flat_map(|field| mailboxes(field.value()));
    named.filter_map(|mailbox| Some(mailbox.address?.to_lowercase())).collect()
}

/// The octets of a message's header, and some behind it; `None`: it is longer than Exchange takes. It blocks.
pub(super) fn header_of(message: &Content) -> io::Result<Option<Cow<'_, [u8]>>> {
    head(message, 0, |_| false)
}

/// Takes out the largest attachments until what is left has at most `limit` octets. It blocks.
pub fn cut(message: &Content, limit: usize) -> Result<Cut, CannotCut> {
    if message.length() <= limit {
        let rest = message.at(0..limit)?.into_owned();
        return Ok(Cut { rest, attachments: Vec::new() });
    }
    let (parts, stopped) = parts(message)?;
    if let Some(seal) = seal(message, &parts)? {
        return Err(CannotCut::Sealed(seal));
    }
    if let Some(Limit::Parts | Limit::Header) = stopped {
        return Err(CannotCut::TooComplex);
    }
    let mut cutting = Cutting { message, parts: &parts, out: BTreeSet::new() };
    let mut attachments = Vec::new();
    for place in cutting.candidates() {
        if cutting.left()? <= limit {
            break;
        }
        let Some(part) = parts.get(place) else { continue };
        let decoding = || Decoding::new(message, part.body.clone(), part.encoding);
        if let Ok(size) = decoding().count()? {
            attachments.push(cutting.take_out(place, part, size, decoding()));
        }
    }
    match cutting.left()? {
        octets if octets > limit => Err(CannotCut::TextTooLarge { octets }),
        _ => Ok(Cut { rest: cutting.rest()?, attachments }),
    }
}

fn seal(message: &Content, parts: &[Part]) -> io::Result<Option<&'static str>> {
    let whole = parts.first().and_then(|part| match part.kind.as_str() {
        "application/pkcs7-mime" | "application/x-pkcs7-mime" => {
            Some("signed or encrypted by S/MIME (application/pkcs7-mime)")
        }
        "application/pgp" | "application/pgp-encrypted" | "application/x-pgp-message" => {
            Some("signed or encrypted by PGP (application/pgp)")
        }
        _ => None,
    });
    if whole.is_some() {
        return Ok(whole);
    }
    for part in parts {
        let seal = match part.kind.as_str() {
            "multipart/signed" => "signed (multipart/signed)",
            "multipart/encrypted" => "encrypted (multipart/encrypted)",
            "text/plain" if is_pgp_text(message, part)? => "signed or encrypted by PGP in its text",
            _ => continue,
        };
        return Ok(Some(seal));
    }
    Ok(None)
}

/// RFC 9580 section 6.2 and 7.
fn is_pgp_text(message: &Content, part: &Part) -> io::Result<bool> {
    /// Blanks in front of it, as many as nobody writes.
    const LOOK: usize = 4096;
    let begin = part.body.start;
    let body = message.at(begin..part.body.end.min(begin + LOOK))?;
    let body = body.trim_ascii_start();
    Ok(body.starts_with(b"-----BEGIN PGP SIGNED MESSAGE-----")
        || body.starts_with(b"-----BEGIN PGP MESSAGE-----"))
}

/// A message and the parts that are out of it.
struct Cutting<'a> {
    message: &'a Content,
    parts: &'a [Part],
    out: BTreeSet<usize>,
}

/// In place of parts, so that a message or a multipart is never without any (RFC 2046 section 5.1.1).
const EMPTY_TEXT: &[u8] = b"Content-Type: text/plain; charset=us-ascii\r\n\r\n";

impl Cutting<'_> {
    /// The largest first.
    fn candidates(&self) -> Vec<usize> {
        let parts = self.parts.iter().enumerate();
        let mut places: Vec<_> =
            parts.filter(|(_, part)| self.is_attachment(part)).map(|(place, _)| place).collect();
        let size = |place: &usize| self.parts.get(*place).map_or(0, |part| part.body.len());
        places.sort_by_key(|place| std::cmp::Reverse(size(place)));
        places
    }

    /// What a mail program would list as a file, and whose absence leaves the rest what it was.
    fn is_attachment(&self, part: &Part) -> bool {
        let parent = part.parent.and_then(|place| self.parts.get(place));
        let first_of = |place: usize| self.parts.iter().find(|part| part.parent == Some(place));
        let is_first = || part.parent.and_then(first_of).is_some_and(|it| std::ptr::eq(it, part));
        let attached = part.disposition.as_deref() == Some("attachment");
        let is_text = matches!(
            part.kind.as_str(),
            "text/plain" | "text/html" | "text/calendar" | "text/enriched" | "text/richtext"
        );
        let is_shown = match parent.map(|parent| parent.kind.as_str()) {
            // A report's parts mean nothing without each other (RFC 6522).
            Some("multipart/report") => return false,
            Some("multipart/alternative") => true,
            Some("multipart/related") => is_first() || (is_text && part.name.is_none()),
            Some(_) => is_text && part.name.is_none(),
            None => is_text,
        };
        let is_leaf = !part.kind.starts_with("multipart/");
        is_leaf && (attached || !is_shown) && part.encoding != Encoding::Unknown
    }

    fn take_out(
        &mut self,
        place: usize,
        part: &Part,
        size: usize,
        decoding: Decoding,
    ) -> Attachment {
        self.out.insert(place);
        // One that the text doesn't name would be shown nowhere.
        let inline = part.content_id.is_some() && part.disposition.as_deref() != Some("attachment");
        Attachment {
            name: file_name(part, self.out.len()),
            content_type: part.kind.clone(),
            inline,
            content_id: part.content_id.clone(),
            size,
            decoding,
        }
    }

    fn left(&self) -> io::Result<usize> {
        let edits = self.edits()?;
        let left = |left, edit: &Edit| left + edit.length() - edit.instead_of.len();
        Ok(edits.iter().fold(self.message.length(), left))
    }

    fn rest(&self) -> io::Result<Vec<u8>> {
        let mut rest = Vec::with_capacity(self.left()?);
        let mut copied = 0;
        for Edit { instead_of, kept, text } in self.edits()? {
            rest.extend_from_slice(&self.message.at(copied..instead_of.start)?);
            rest.extend_from_slice(&self.message.at(kept)?);
            rest.extend_from_slice(&text);
            copied = instead_of.end;
        }
        rest.extend_from_slice(&self.message.at(copied..self.message.length())?);
        Ok(rest)
    }

    /// In the order of the message.
    fn edits(&self) -> io::Result<Vec<Edit>> {
        let mut stay = BTreeMap::new();
        for (place, part) in self.parts.iter().enumerate() {
            *stay.entry(part.parent).or_insert(0) += usize::from(!self.out.contains(&place));
        }
        let mut edits = Vec::new();
        for part in self.out.iter().filter_map(|&place| self.parts.get(place)) {
            let Some(parent) = part.parent else {
                let instead_of = part.header.start..part.body.end;
                edits.push(Edit { instead_of, kept: 0..0, text: self.empty_message(part)? });
                continue;
            };
            // The first one that is out of a multipart with none left stands for all.
            let first = stay.insert(Some(parent), 1) == Some(0);
            let delimiter = part.whole.start..part.header.start;
            let (kept, text) = match first {
                true => (delimiter, [EMPTY_TEXT, b"\r\n"].concat()),
                false => (0..0, Vec::new()),
            };
            edits.push(Edit { instead_of: part.whole.clone(), kept, text });
        }
        Ok(edits)
    }

    /// The header of a message that is an attachment, without what told of that.
    fn empty_message(&self, part: &Part) -> io::Result<Vec<u8>> {
        let header = self.message.at(part.header.clone())?;
        let mut text = Vec::with_capacity(header.len() + EMPTY_TEXT.len());
        for field in Header::read(&header).fields() {
            let begin = field.name().get(..8).unwrap_or_default();
            if !begin.eq_ignore_ascii_case("Content-") {
                text.extend_from_slice(field.raw());
            }
        }
        text.extend_from_slice(EMPTY_TEXT);
        Ok(text)
    }
}

/// What stands instead of some octets of the message: some of them, and a text.
struct Edit {
    instead_of: Range<usize>,
    kept: Range<usize>,
    text: Vec<u8>,
}

impl Edit {
    fn length(&self) -> usize {
        self.kept.len() + self.text.len()
    }
}

/// The last path component, because some devices send theirs (RFC 2183 section 2.3), or a made-up name.
fn file_name(part: &Part, number: usize) -> String {
    let given = part.name.as_deref().unwrap_or_default();
    let last = given.rsplit(['/', '\\']).next().unwrap_or_default();
    let name: String = last.chars().filter(|c| !c.is_control()).collect();
    let name = name.trim();
    if !name.is_empty() && name != "." && name != ".." {
        return name.to_owned();
    }
    let ending = match part.kind.as_str() {
        "application/pdf" => "pdf",
        "application/zip" => "zip",
        "application/xml" | "text/xml" => "xml",
        "image/bmp" => "bmp",
        "image/gif" => "gif",
        "image/jpeg" | "image/jpg" => "jpg",
        "image/png" => "png",
        "image/tiff" => "tif",
        "message/rfc822" => "eml",
        "text/calendar" => "ics",
        "text/csv" => "csv",
        "text/html" => "html",
        "text/plain" => "txt",
        _ => "bin",
    };
    format!("attachment-{number}.{ending}")
}
