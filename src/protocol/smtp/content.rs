//! The octets of a message, from the wire of DATA or BDAT to what is kept.
//!
//! Invariant: what comes out has CRLF for every line end and neither CR nor LF elsewhere, so that nobody who
//! gets it later can see an end of line that was not seen here. DATA ends with the octets CRLF "." CRLF and
//! with nothing else; the line end of the command DATA counts for the first of them. Who sends the message
//! on doubles the dots of its lines anew, so that the next server sees that end alone, too (no smuggling).
//!
//! What a bare line feed begins is a line of the message, but not of the wire: a lone dot there is content.

use memchr::memchr2;

use super::parameters::too_long;
use super::reply::Reply;
use crate::vocabulary::BareLf;

/// Why a message is void, whatever else comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// It has more octets than are allowed.
    TooLong,
    /// It has a bare line feed or carriage return, and none is accepted.
    Bare,
}

impl Fault {
    /// For the log.
    pub(super) fn text(self) -> &'static str {
        match self {
            Self::TooLong => "too long",
            Self::Bare => "a bare line feed or carriage return",
        }
    }

    /// For the client.
    pub(super) fn reply(self, max_size: u64) -> Reply {
        match self {
            Self::TooLong => too_long(max_size),
            Self::Bare => Reply::new(
                550,
                "5.6.11 a bare line feed or carriage return in the message; if the device can't do \
                 otherwise: bare_lf = \"accept\" on this listener",
            ),
        }
    }
}

/// What has become of some octets of the wire.
pub(super) struct Fed {
    /// How many of them belong to the message.
    pub(super) used: usize,
    /// Octets of the message. At most twice as many, if they were all line feeds.
    pub(super) out: Vec<u8>,
    /// The end of DATA has been seen.
    pub(super) end: bool,
}

/// Reads one message.
pub(super) struct Decoder {
    /// DATA: a dot begins a doubled dot or the end. BDAT has no such thing (RFC 3030 section 2).
    dotted: bool,
    bare_lf: BareLf,
    /// Octets that may still come out.
    room: u64,
    place: Place,
    fault: Option<Fault>,
    line_feeds: u64,
    returns: u64,
}

/// What the octets read last were. Those of [`Place::Dot`] and the like are held back until the next one
/// tells what they mean.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// CRLF, or the beginning.
    Start,
    /// CRLF and a dot.
    Dot,
    /// CRLF, a dot and CR.
    DotReturn,
    /// Anything in a line.
    Line,
    /// CR.
    Return,
    /// Two CR, of which the first is known to be bare.
    Returns,
    /// A bare line feed.
    Feed,
    /// A bare line feed and a dot.
    FeedDot,
}

impl Decoder {
    /// For the content of DATA.
    pub(super) fn data(bare_lf: BareLf, max_size: u64) -> Self {
        Self::new(true, bare_lf, max_size)
    }

    /// For the chunks of BDAT, in one.
    pub(super) fn chunks(bare_lf: BareLf, max_size: u64) -> Self {
        Self::new(false, bare_lf, max_size)
    }

    fn new(dotted: bool, bare_lf: BareLf, room: u64) -> Self {
        let place = Place::Start;
        Self { dotted, bare_lf, room, place, fault: None, line_feeds: 0, returns: 0 }
    }

    /// Why the message is void, if it is.
    pub(super) fn fault(&self) -> Option<Fault> {
        self.fault
    }

    /// Octets that may still come out.
    pub(super) fn room(&self) -> u64 {
        self.room
    }

    /// Takes octets of the wire, up to the end of DATA.
    pub(super) fn feed(&mut self, octets: &[u8]) -> Fed {
        let mut out = Vec::with_capacity(octets.len().saturating_add(HELD));
        let mut rest = octets;
        let mut end = false;
        while let Some((&octet, behind)) = rest.split_first() {
            if matches!(self.place, Place::Start | Place::Line) {
                let (run, after) = rest.split_at(self.run(rest));
                if !run.is_empty() {
                    out.extend_from_slice(run);
                    rest = after;
                    continue;
                }
            }
            rest = behind;
            if self.octet(octet, &mut out) {
                end = true;
                break;
            }
        }
        Fed { used: octets.len() - rest.len(), out: self.account(out), end }
    }

    /// The last chunk of BDAT is over: what was held back.
    pub(super) fn finish(&mut self) -> Vec<u8> {
        let mut out = Vec::new();
        self.bare_returns(&mut out);
        self.place = Place::Start;
        self.account(out)
    }

    /// What was mended, in words.
    pub(super) fn mends(&self) -> Vec<String> {
        let counted = |count: u64, what: &str| match count {
            0 => None,
            1 => Some(format!("1 bare {what}")),
            _ => Some(format!("{count} bare {what}s")),
        };
        let all = [counted(self.line_feeds, "line feed"), counted(self.returns, "carriage return")];
        all.into_iter().flatten().collect()
    }

    /// How many octets at the start come out as they are: whole lines and the beginning of one. A message
    /// without faults consists of them, but for its doubled dots.
    fn run(&mut self, octets: &[u8]) -> usize {
        let mut length = 0;
        loop {
            let rest = octets.get(length..).unwrap_or_default();
            match rest.first() {
                None => return length,
                Some(b'.') if self.dotted && self.place == Place::Start => return length,
                Some(_) => self.place = Place::Line,
            }
            let Some(offset) = memchr2(b'\r', b'\n', rest) else { return octets.len() };
            length += offset;
            if !rest.get(offset..).unwrap_or_default().starts_with(b"\r\n") {
                return length;
            }
            length += 2;
            self.place = Place::Start;
        }
    }

    /// Takes one octet that is no part of a run; true: it ends the message.
    fn octet(&mut self, octet: u8, out: &mut Vec<u8>) -> bool {
        // First what was held back: what it is depends on this octet.
        match (self.place, octet) {
            (Place::DotReturn, b'\n') => return true,
            (Place::Dot, b'\r') => {
                self.place = Place::DotReturn;
                return false;
            }
            // CR CR LF is a line end that went through a text mode once too often: a space for the first CR
            // would make the empty line behind the header one with a space, and the body a part of the header.
            (Place::Return | Place::Returns, b'\n') => {
                out.extend_from_slice(b"\r\n");
                self.place = Place::Start;
                return false;
            }
            (Place::Return | Place::DotReturn, b'\r') => {
                self.bare_return(out);
                self.place = Place::Returns;
                return false;
            }
            (Place::Returns, b'\r') => {
                self.bare_return(out);
                out.push(b' ');
                return false;
            }
            (Place::FeedDot, b'.') => {
                // Who doubles the dots behind line feeds, too, doubled this one.
                out.push(b'.');
                self.place = Place::Line;
                return false;
            }
            (Place::FeedDot, _) => out.push(b'.'),
            _ => self.bare_returns(out),
        }
        match (self.place, octet) {
            (Place::Start, b'.') if self.dotted => self.place = Place::Dot,
            (Place::Feed, b'.') if self.dotted => self.place = Place::FeedDot,
            (_, b'\r') => self.place = Place::Return,
            (_, b'\n') => {
                self.bare(out);
                self.line_feeds += 1;
                out.extend_from_slice(b"\r\n");
                self.place = Place::Feed;
            }
            _ => {
                out.push(octet);
                self.place = Place::Line;
            }
        }
        false
    }

    /// The carriage returns that were held back belong to no line end: a space each, as in Postfix.
    fn bare_returns(&mut self, out: &mut Vec<u8>) {
        match self.place {
            Place::Return | Place::DotReturn => {
                self.bare_return(out);
                out.push(b' ');
            }
            Place::Returns => {
                self.bare_return(out);
                out.extend_from_slice(b"  ");
            }
            _ => {}
        }
    }

    fn bare_return(&mut self, out: &[u8]) {
        self.bare(out);
        self.returns += 1;
    }

    /// The first fault is the one that counts, wherever the input was split: that `out` is too long is told
    /// at its end.
    fn bare(&mut self, out: &[u8]) {
        if self.bare_lf == BareLf::Refuse && self.fault.is_none() {
            self.fault = Some(if self.fits(out) { Fault::Bare } else { Fault::TooLong });
        }
    }

    fn fits(&self, out: &[u8]) -> bool {
        u64::try_from(out.len()).is_ok_and(|length| length <= self.room)
    }

    /// Counts what comes out; of a void message nothing does.
    fn account(&mut self, out: Vec<u8>) -> Vec<u8> {
        if self.fault.is_none() && !self.fits(&out) {
            self.fault = Some(Fault::TooLong);
        }
        if self.fault.is_some() {
            return Vec::new();
        }
        self.room = self.room.saturating_sub(u64::try_from(out.len()).unwrap_or(u64::MAX));
        out
    }
}

/// Most octets that come out for one, with those that were held back: two spaces and CRLF.
const HELD: usize = 4;
