//! A message that is read from a place on, some of it at a time.
//!
//! Invariant: no more of it is in memory than a header or a window.

use std::borrow::Cow;
use std::io;

use super::content::Content;
use super::header::{Header, LONGEST_HEADER, first_line};

/// Of a header that is read at first: most have less.
pub(super) const FIRST_LOOK: usize = 8 * 1024;

/// Octets that are read at once.
pub(super) const WINDOW: usize = 64 * 1024;

/// A longer line delimits nothing: a boundary has 70 characters (RFC 2046 section 5.1.1).
pub(super) const LONGEST_LINE: usize = 4096;

/// Where in the message it is being read.
pub(super) struct Window<'a> {
    message: &'a Content,
    at: usize,
    octets: Cow<'a, [u8]>,
}

impl<'a> Window<'a> {
    pub(super) fn new(message: &'a Content) -> Self {
        Self { message, at: 0, octets: Cow::Borrowed(b"") }
    }

    /// What stands there, at least [`LONGEST_LINE`] unless the message ends before.
    pub(super) fn look(&mut self, at: usize) -> io::Result<&[u8]> {
        let end = self.at + self.octets.len();
        let has = at >= self.at && at <= end;
        if !has || (end - at < LONGEST_LINE && end < self.message.length()) {
            self.octets = self.message.at(at..at.saturating_add(WINDOW))?;
            self.at = at;
        }
        Ok(self.octets.get(at - self.at..).unwrap_or_default())
    }
}

/// The octets of a header that begins at a place, and some behind it; `None`: it is longer than Exchange takes. A line
/// for which `stop` says so is no field.
pub(super) fn head<'a>(
    message: &'a Content,
    at: usize,
    stop: impl Fn(&[u8]) -> bool,
) -> io::Result<Option<Cow<'a, [u8]>>> {
    let mut size = FIRST_LOOK;
    loop {
        let octets = message.at(at..at.saturating_add(size))?;
        let fields_at = if at == 0 { Header::read(&octets).fields_at() } else { 0 };
        let header = Header::read_from(&octets, fields_at, &stop);
        // What ends it is there as a whole.
        let seen = fields_at + header.octets().len() + first_line(header.behind()).len();
        if seen < octets.len() || at.saturating_add(octets.len()) >= message.length() {
            return Ok(Some(octets));
        }
        if size >= LONGEST_HEADER {
            return Ok(None);
        }
        size = LONGEST_HEADER.min(size * 8);
    }
}
