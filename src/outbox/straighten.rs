//! A block of lines as a device sent it, made a header: fields, then an empty line.
//!
//! Invariant: no text is lost. A line that is no field becomes a part of the field before it or of the body.

use std::collections::BTreeSet;

use super::header::{Ending, Field, Header, first_line};
use super::mend::shown;

/// Gives a block that has fields, then an empty line or its end. A block that is one already comes out octet
/// for octet.
pub(super) fn straighten(mut block: Vec<u8>, mends: &mut Vec<String>) -> Vec<u8> {
    let mbox = Header::read(&block).fields_at();
    if mbox > 0 {
        block.drain(..mbox);
        mends.push("the line of an mbox at the top removed".into());
    }
    let header = Header::read_from(&block, 0, |_| false);
    if !header.fields().iter().any(is_known) {
        // RFC 5322 knows no field here, and mail programs would show none of it: it is text.
        if header.ending() != Ending::EmptyLine || !header.fields().is_empty() {
            mends.push("there was no header: the message is text from its first line on".into());
            block.splice(0..0, *b"\r\n");
        }
        return block;
    }
    if header.ending() == Ending::NoField {
        block = without_strays(&block, mends);
    }
    close_colons(block, mends)
}

/// Whether mail has fields of this name: a device's text such as `Warning: no paper` looks like a field too.
fn is_known(field: &Field<'_>) -> bool {
    const NAMES: [&str; 27] = [
        "Auto-Submitted",
        "Bcc",
        "Cc",
        "Comments",
        "Date",
        "Disposition-Notification-To",
        "Errors-To",
        "From",
        "Importance",
        "In-Reply-To",
        "Keywords",
        "Mailer",
        "Message-ID",
        "MIME-Version",
        "Organization",
        "Precedence",
        "Priority",
        "Received",
        "References",
        "Reply-To",
        "Return-Path",
        "Return-Receipt-To",
        "Sender",
        "Sensitivity",
        "Subject",
        "To",
        "User-Agent",
    ];
    const FAMILIES: [&str; 5] = ["Content-", "DKIM-", "List-", "Resent-", "X-"];
    let begins = |family: &str| {
        let begin = field.name().get(..family.len());
        begin.is_some_and(|begin| begin.eq_ignore_ascii_case(family))
    };
    NAMES.iter().any(|name| field.is(name)) || FAMILIES.iter().any(|family| begins(family))
}

/// Lines that are no fields: before further fields that matter they were folded wrongly; behind all of those
/// the text begins without its empty line.
fn without_strays(block: &[u8], mends: &mut Vec<String>) -> Vec<u8> {
    /// Those of the structure, without which an attachment would be shown as text, and those that hardly
    /// begin a line of text.
    const TELLING: [&str; 8] = [
        "Content-Transfer-Encoding",
        "Content-Type",
        "From",
        "Message-ID",
        "MIME-Version",
        "Reply-To",
        "Subject",
        "To",
    ];
    let is_telling = |field: &Field<'_>| TELLING.iter().any(|name| field.is(name));
    let mut strays = Vec::new();
    let mut joined = 0;
    let mut at = 0;
    loop {
        let header = Header::read_from(block, at, |_| false);
        if header.fields().iter().any(is_telling) {
            joined = strays.len();
        }
        if header.ending() != Ending::NoField {
            break;
        }
        let stray = block.len() - header.behind().len();
        strays.push(stray);
        at = stray + first_line(header.behind()).len();
    }
    let mut octets = Vec::with_capacity(block.len() + joined + 2);
    let mut copied = 0;
    for (number, &stray) in strays.iter().enumerate().take(joined + 1) {
        octets.extend_from_slice(block.get(copied..stray).unwrap_or_default());
        octets.extend_from_slice(if number < joined { b" " } else { b"\r\n" });
        copied = stray;
    }
    octets.extend_from_slice(block.get(copied..).unwrap_or_default());
    if joined > 0 {
        mends.push(format!(
            "lines within the header that are no fields joined to those before: {joined}"
        ));
    }
    if joined < strays.len() {
        mends.push("the empty line between header and text was missing".into());
    }
    octets
}

/// RFC 5322 section 4.5 lets nobody write blanks before the colon any more, and some readers end the
/// header there.
fn close_colons(block: Vec<u8>, mends: &mut Vec<String>) -> Vec<u8> {
    let header = Header::read_from(&block, 0, |_| false);
    let wide = header.fields().iter().filter(|field| field.has_blank_before_colon());
    let wide: BTreeSet<_> = wide.map(Field::name).collect();
    if wide.is_empty() {
        return block;
    }
    let names: Vec<_> = wide.into_iter().collect();
    mends.push(format!("blanks before a colon removed: {}", shown(&names.join(", "))));
    let mut octets = Vec::with_capacity(block.len());
    for field in header.fields() {
        let colon = field.value_range().start - 1;
        octets.extend_from_slice(field.name().as_bytes());
        octets.extend_from_slice(field.raw().get(colon..).unwrap_or_default());
    }
    octets.extend_from_slice(header.behind());
    octets
}
