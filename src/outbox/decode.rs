//! The octets of an encoded part, piece by piece.
//!
//! Invariant: no more than a piece and what it is decoded from is in memory, however large the part is.

use std::io;
use std::ops::Range;

use base64::Engine;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use mail_parser::decoders::quoted_printable::quoted_printable_decode;
use tokio::task::spawn_blocking;

use super::content::Content;
use super::part::Encoding;

/// Octets that are read at once.
const READ: usize = 64 << 10;

/// Symbols of base64 that are decoded at once: whole groups of four.
const BLOCK: usize = 4096;

/// A longer line of quoted-printable is none: RFC 2045 section 6.7 has 76 characters.
const LONGEST_LINE: usize = 1 << 20;

/// Takes what a careless encoder left in the last bits.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new()
        .with_decode_allow_trailing_bits(true)
        .with_decode_padding_mode(DecodePaddingMode::RequireNone),
);

/// The part is not encoded as it says.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Damage;

/// A part that is being decoded.
#[derive(Debug)]
pub(super) struct Decoding {
    content: Content,
    /// What is still to be read.
    left: Range<usize>,
    encoding: Encoding,
    /// Read and not decoded yet: symbols of base64, or a line that is not whole.
    held: Vec<u8>,
    /// Decoded and not taken yet.
    decoded: Vec<u8>,
}

impl Decoding {
    /// Of the octets of a body.
    pub(super) fn new(content: &Content, body: Range<usize>, encoding: Encoding) -> Self {
        let (held, decoded) = (Vec::new(), Vec::new());
        Self { content: content.clone(), left: body, encoding, held, decoded }
    }

    /// How many octets it has in all. It blocks.
    pub(super) fn count(mut self) -> io::Result<Result<usize, Damage>> {
        let mut size = 0;
        while self.left.start < self.left.end {
            if self.read()?.is_err() {
                return Ok(Err(Damage));
            }
            size += self.decoded.len();
            self.decoded.clear();
        }
        Ok(Ok(size))
    }

    /// The next so many octets; fewer, or none: that was all. Off the runtime: decoding takes a while.
    pub(super) async fn next(mut self, size: usize) -> io::Result<(Vec<u8>, Self)> {
        let take = move || {
            // Once, and no more than it takes: what a piece grows through stays with the process.
            let most = size.min(self.left.len()) + READ;
            self.decoded.reserve_exact(most.saturating_sub(self.decoded.len()));
            while self.decoded.len() < size && self.left.start < self.left.end {
                let decoded = self.read()?;
                decoded.map_err(|Damage| io::Error::other("a part is damaged"))?;
            }
            let behind = self.decoded.split_off(size.min(self.decoded.len()));
            Ok((std::mem::replace(&mut self.decoded, behind), self))
        };
        spawn_blocking(take).await.map_err(io::Error::other)?
    }

    fn read(&mut self) -> io::Result<Result<(), Damage>> {
        let end = self.left.end.min(self.left.start + READ);
        let octets = self.content.at(self.left.start..end)?.into_owned();
        self.left.start = end;
        let is_last = end == self.left.end;
        Ok(match self.encoding {
            Encoding::Identity => {
                self.decoded.extend_from_slice(&octets);
                Ok(())
            }
            Encoding::Base64 => self.base64(&octets, is_last),
            Encoding::QuotedPrintable => self.quoted_printable(&octets, is_last),
            Encoding::Unknown => Err(Damage),
        })
    }

    /// RFC 2045 section 6.8: what is not of the alphabet is passed over. Some devices encode block by block, each
    /// with its padding.
    fn base64(&mut self, octets: &[u8], is_last: bool) -> Result<(), Damage> {
        let is_symbol = |octet: u8| octet.is_ascii_alphanumeric() || octet == b'+' || octet == b'/';
        for &octet in octets {
            if is_symbol(octet) {
                self.held.push(octet);
            }
            if octet == b'=' || self.held.len() == BLOCK {
                self.base64_block()?;
            }
        }
        if is_last { self.base64_block() } else { Ok(()) }
    }

    fn base64_block(&mut self) -> Result<(), Damage> {
        BASE64.decode_vec(&self.held, &mut self.decoded).map_err(|_| Damage)?;
        self.held.clear();
        Ok(())
    }

    /// Line by line, because what stands in one means nothing for the next.
    fn quoted_printable(&mut self, octets: &[u8], is_last: bool) -> Result<(), Damage> {
        self.held.extend_from_slice(octets);
        let lines_end = match is_last {
            true => self.held.len(),
            false => self.held.iter().rposition(|&octet| octet == b'\n').map_or(0, |at| at + 1),
        };
        let behind = self.held.split_off(lines_end);
        let lines = std::mem::replace(&mut self.held, behind);
        // Half a character at the end of a line.
        let is_cut = lines.trim_ascii_end().iter().rev().nth(1) == Some(&b'=');
        if self.held.len() > LONGEST_LINE || (is_cut && !is_last) {
            return Err(Damage);
        }
        self.decoded.extend(quoted_printable_decode(&lines).ok_or(Damage)?);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn decoded(text: &[u8], encoding: Encoding, size: usize) -> Option<Vec<u8>> {
        let text = [b"before", text, b"behind"].concat();
        let content = Content::of_octets(text.clone());
        let part = || Decoding::new(&content, 6..text.len() - 6, encoding);
        let count = part().count().unwrap();
        let (mut all, mut decoding) = (Vec::new(), part());
        loop {
            let Ok((piece, rest)) = decoding.next(size).await else {
                assert_eq!(count, Err(Damage));
                return None;
            };
            if piece.is_empty() {
                assert_eq!(count, Ok(all.len()));
                return Some(all);
            }
            all.extend(piece);
            assert!(all.len() % size == 0 || Ok(all.len()) == count, "a piece is too short");
            decoding = rest;
        }
    }

    #[tokio::test]
    async fn pieces_are_the_whole() {
        let octets: Vec<u8> = (0..300_000_u32).map(|n| (n ^ (n >> 7)).to_le_bytes()[0]).collect();
        let mut base64 = String::new();
        let mut quoted = String::new();
        for line in octets.chunks(25) {
            // Each line with its padding, and with what is of no alphabet.
            base64 += &(base64::prelude::BASE64_STANDARD.encode(line) + " \r\n");
            quoted += &line.iter().map(|octet| format!("={octet:02X}")).collect::<String>();
            quoted += "=\r\n";
        }
        let whole = Some(octets.clone());
        for size in [1 << 20, 65_536, 4096, 1000] {
            assert!(decoded(base64.as_bytes(), Encoding::Base64, size).await == whole);
            assert!(decoded(quoted.as_bytes(), Encoding::QuotedPrintable, size).await == whole);
            assert!(decoded(&octets, Encoding::Identity, size).await == whole);
        }
        let text = "words, words  \r\n".repeat(20_000);
        let trimmed = "words, words\r\n".repeat(20_000).into_bytes();
        assert!(decoded(text.as_bytes(), Encoding::QuotedPrintable, 7000).await == Some(trimmed));
        for (damaged, encoding) in [
            (base64.clone() + "a", Encoding::Base64),
            (quoted.clone() + "=zz", Encoding::QuotedPrintable),
            ("x".repeat(2 << 20), Encoding::QuotedPrintable),
            ("words, =4\r\n".repeat(20_000), Encoding::QuotedPrintable),
            (base64, Encoding::Unknown),
        ] {
            assert_eq!(decoded(damaged.as_bytes(), encoding, 4096).await, None);
        }
        assert_eq!(decoded(b"", Encoding::Base64, 7).await, Some(Vec::new()));
    }
}
