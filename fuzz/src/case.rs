//! What the fuzzer's octets mean: choices in front, then the wire.
//!
//! Invariant: the wire stands in the input as it is, so that seeds can be read and dictionaries work.

use std::borrow::Cow;
use std::fmt::Debug;

/// Up to this length the wire may come octet by octet: longer ones would make a target slow.
const SHORT: usize = 400;

/// Where the wire in plain text ends and that under TLS begins.
const TLS: &[u8] = b"<TLS>";

/// An input of a target.
#[derive(Clone, Copy)]
pub struct Case<'a> {
    /// Choices, one a bit.
    pub flags: u8,
    /// By which the wire is split.
    pub seed: u16,
    /// The peer's octets.
    pub wire: &'a [u8],
}

impl<'a> Case<'a> {
    /// Three octets of choices, then the wire; `None`: there are too few.
    pub fn of(data: &'a [u8]) -> Option<Self> {
        let [flags, high, low, wire @ ..] = data else { return None };
        Some(Self { flags: *flags, seed: u16::from_be_bytes([*high, *low]), wire })
    }

    /// Whether the choice of this bit is made.
    pub fn flag(&self, bit: u32) -> bool {
        self.flags >> bit & 1 == 1
    }

    /// What `run` brings with the wire in one; splitting it must change nothing.
    pub fn agree<T: PartialEq + Debug>(&self, run: impl Fn(Split) -> T) -> T {
        let (whole, split) = (run(Split::Whole), self.split());
        assert_eq!(run(split), whole, "{split:?}");
        whole
    }

    /// One way of splitting, which the fuzzer chooses. All at once would halve the number of inputs that it tries.
    pub fn split(&self) -> Split {
        let octets = self.seed & 7 == 7 && self.wire.len() <= SHORT;
        if octets { Split::Octets } else { Split::Sizes(self.seed) }
    }
}

/// The part in plain text, and what comes once TLS is on, if anything.
pub fn flights(wire: &[u8]) -> (&[u8], Option<&[u8]>) {
    match wire.windows(TLS.len()).position(|window| window == TLS) {
        Some(at) => (&wire[..at], Some(&wire[at + TLS.len()..])),
        None => (wire, None),
    }
}

/// Both parts in one, for a session with TLS from its beginning or none at all.
pub fn one_flight(wire: &[u8]) -> Cow<'_, [u8]> {
    match flights(wire) {
        (plain, Some(tls)) => [plain, tls].concat().into(),
        (plain, None) => plain.into(),
    }
}

/// How octets come in.
#[derive(Clone, Copy, Debug)]
pub enum Split {
    Whole,
    Octets,
    Sizes(u16),
}

/// Octets in pieces.
pub struct Pieces<'a> {
    rest: &'a [u8],
    split: Split,
    state: u64,
}

impl<'a> Pieces<'a> {
    pub fn new(octets: &'a [u8], split: Split) -> Self {
        let state = if let Split::Sizes(seed) = split { u64::from(seed) } else { 0 };
        Self { rest: octets, split, state }
    }

    pub fn rest(&self) -> &'a [u8] {
        self.rest
    }

    fn size(&mut self) -> usize {
        match self.split {
            Split::Whole => usize::MAX,
            Split::Octets => 1,
            Split::Sizes(seed) => {
                // Knuth's MMIX generator; the seed also tells whether pieces are small or large.
                self.state = self.state.wrapping_mul(6_364_136_223_846_793_005);
                self.state = self.state.wrapping_add(1_442_695_040_888_963_407);
                let most = [3, 12, 60, 1500][usize::from(seed & 3)];
                usize::try_from(self.state >> 33).unwrap_or_default() % most + 1
            }
        }
    }
}

impl<'a> Iterator for Pieces<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        if self.rest.is_empty() {
            return None;
        }
        let (piece, behind) = self.rest.split_at(self.size().min(self.rest.len()));
        self.rest = behind;
        Some(piece)
    }
}
