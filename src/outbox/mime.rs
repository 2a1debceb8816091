//! What Microsoft Graph needs to know of a message, and how a large one is cut for it: the message without
//! its largest attachments as a draft, these by upload.
//!
//! Invariant: a cut loses nothing. What stays keeps its octets, but for the header of a message that is an
//! attachment as a whole; what goes is decoded byte for byte, and what can't be decoded stays.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use base64::Engine;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use mail_parser::decoders::quoted_printable::quoted_printable_decode;

use super::address::mailboxes;
use super::header::Header;
use super::part::{Encoding, Limit, Part, parts};

/// A message in pieces.
#[derive(Debug)]
pub struct Cut {
    /// The message without its largest attachments.
    pub rest: Vec<u8>,
    /// These, the largest first.
    pub attachments: Vec<Attachment>,
}

/// What was cut out.
#[derive(Debug, PartialEq, Eq)]
pub struct Attachment {
    /// File name, made up where the message has none.
    pub name: String,
    /// `application/pdf`
    pub content_type: String,
    /// Shown within the text, which names it by its `content_id`.
    pub inline: bool,
    /// Without angle brackets.
    pub content_id: Option<String>,
    /// Decoded.
    pub octets: Vec<u8>,
}

/// Why a message can't be cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
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
}

/// Whether altering a message would break a signature or an encryption, and which.
pub fn sealed(message: &[u8]) -> Option<&'static str> {
    seal(message, &parts(message).0)
}

/// The addresses that To, Cc and Bcc name, in lower case.
pub fn header_recipients(header: &[u8]) -> BTreeSet<String> {
    let header = Header::read(header);
    let names = |field: &&super::Field<'_>| ["To", "Cc", "Bcc"].iter().any(|name| field.is(name));
    let named = header.fields().iter().filter(names).flat_map(|field| mailboxes(field.value()));
    named.filter_map(|mailbox| Some(mailbox.address?.to_lowercase())).collect()
}

/// Takes out the largest attachments until what is left has at most `limit` octets.
pub fn cut(message: &[u8], limit: usize) -> Result<Cut, CannotCut> {
    if message.len() <= limit {
        return Ok(Cut { rest: message.to_vec(), attachments: Vec::new() });
    }
    let (parts, stopped) = parts(message);
    if let Some(seal) = seal(message, &parts) {
        return Err(CannotCut::Sealed(seal));
    }
    if let Some(Limit::Parts | Limit::Header) = stopped {
        return Err(CannotCut::TooComplex);
    }
    let mut cutting = Cutting { message, parts: &parts, out: BTreeSet::new() };
    let mut attachments = Vec::new();
    for place in cutting.candidates() {
        if cutting.left() <= limit {
            break;
        }
        let Some(octets) = parts.get(place).and_then(|part| decode(message, part)) else {
            continue;
        };
        attachments.extend(cutting.take_out(place, octets));
    }
    match cutting.left() {
        octets if octets > limit => Err(CannotCut::TextTooLarge { octets }),
        _ => Ok(Cut { rest: cutting.rest(), attachments }),
    }
}

fn seal(message: &[u8], parts: &[Part]) -> Option<&'static str> {
    let whole = parts.first().and_then(|part| match part.kind.as_str() {
        "application/pkcs7-mime" | "application/x-pkcs7-mime" => {
            Some("signed or encrypted by S/MIME (application/pkcs7-mime)")
        }
        "application/pgp" | "application/pgp-encrypted" | "application/x-pgp-message" => {
            Some("signed or encrypted by PGP (application/pgp)")
        }
        _ => None,
    });
    let within = parts.iter().find_map(|part| match part.kind.as_str() {
        "multipart/signed" => Some("signed (multipart/signed)"),
        "multipart/encrypted" => Some("encrypted (multipart/encrypted)"),
        "text/plain" if is_pgp_text(message, part) => {
            Some("signed or encrypted by PGP in its text")
        }
        _ => None,
    });
    whole.or(within)
}

/// RFC 9580 section 6.2 and 7.
fn is_pgp_text(message: &[u8], part: &Part) -> bool {
    let body = message.get(part.body.clone()).unwrap_or_default().trim_ascii_start();
    body.starts_with(b"-----BEGIN PGP SIGNED MESSAGE-----")
        || body.starts_with(b"-----BEGIN PGP MESSAGE-----")
}

/// A message and the parts that are out of it.
struct Cutting<'a> {
    message: &'a [u8],
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

    fn take_out(&mut self, place: usize, octets: Vec<u8>) -> Option<Attachment> {
        let part = self.parts.get(place)?;
        self.out.insert(place);
        // One that the text doesn't name would be shown nowhere.
        let inline = part.content_id.is_some() && part.disposition.as_deref() != Some("attachment");
        Some(Attachment {
            name: file_name(part, self.out.len()),
            content_type: part.kind.clone(),
            inline,
            content_id: part.content_id.clone(),
            octets,
        })
    }

    fn left(&self) -> usize {
        self.edits()
            .iter()
            .fold(self.message.len(), |left, (range, text)| left + text.len() - range.len())
    }

    fn rest(&self) -> Vec<u8> {
        let mut rest = Vec::with_capacity(self.left());
        let mut copied = 0;
        for (range, text) in self.edits() {
            rest.extend_from_slice(self.message.get(copied..range.start).unwrap_or_default());
            rest.extend_from_slice(&text);
            copied = range.end;
        }
        rest.extend_from_slice(self.message.get(copied..).unwrap_or_default());
        rest
    }

    /// What is replaced by what, in the order of the message.
    fn edits(&self) -> Vec<(Range<usize>, Vec<u8>)> {
        let mut stay = BTreeMap::new();
        for (place, part) in self.parts.iter().enumerate() {
            *stay.entry(part.parent).or_insert(0) += usize::from(!self.out.contains(&place));
        }
        let mut edits = Vec::new();
        for part in self.out.iter().filter_map(|&place| self.parts.get(place)) {
            let Some(parent) = part.parent else {
                edits.push((part.header.start..part.body.end, self.empty_message(part)));
                continue;
            };
            // The first one that is out of a multipart with none left stands for all.
            let first = stay.insert(Some(parent), 1) == Some(0);
            let delimiter =
                self.message.get(part.whole.start..part.header.start).unwrap_or_default();
            let text = if first { [delimiter, EMPTY_TEXT, b"\r\n"].concat() } else { Vec::new() };
            edits.push((part.whole.clone(), text));
        }
        edits
    }

    /// The header of a message that is an attachment, without what told of that.
    fn empty_message(&self, part: &Part) -> Vec<u8> {
        let header = self.message.get(part.header.clone()).unwrap_or_default();
        let mut text = Vec::with_capacity(header.len() + EMPTY_TEXT.len());
        for field in Header::read(header).fields() {
            let begin = field.name().get(..8).unwrap_or_default();
            if !begin.eq_ignore_ascii_case("Content-") {
                text.extend_from_slice(field.raw());
            }
        }
        text.extend_from_slice(EMPTY_TEXT);
        text
    }
}

/// Takes what a careless encoder left in the last bits.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new()
        .with_decode_allow_trailing_bits(true)
        .with_decode_padding_mode(DecodePaddingMode::RequireNone),
);

/// `None`: the part is damaged.
fn decode(message: &[u8], part: &Part) -> Option<Vec<u8>> {
    let octets = message.get(part.body.clone())?;
    match part.encoding {
        Encoding::Identity => Some(octets.to_vec()),
        Encoding::QuotedPrintable => quoted_printable_decode(octets),
        Encoding::Base64 => decode_base64(octets),
        Encoding::Unknown => None,
    }
}

/// RFC 2045 section 6.8: what is not of the alphabet is passed over. Some devices encode block by block, each
/// with its padding.
fn decode_base64(octets: &[u8]) -> Option<Vec<u8>> {
    /// Whole groups of four.
    const BLOCK: usize = 4096;
    let is_symbol = |octet: &u8| octet.is_ascii_alphanumeric() || *octet == b'+' || *octet == b'/';
    let mut decoded = Vec::with_capacity(octets.len() / 4 * 3);
    let mut block = Vec::with_capacity(BLOCK);
    for padded in octets.split(|&octet| octet == b'=') {
        for &octet in padded.iter().filter(|octet| is_symbol(octet)) {
            block.push(octet);
            if block.len() == BLOCK {
                BASE64.decode_vec(&block, &mut decoded).ok()?;
                block.clear();
            }
        }
        BASE64.decode_vec(&block, &mut decoded).ok()?;
        block.clear();
    }
    Some(decoded)
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
