//! The octets of a message, in pieces.
//!
//! Invariant: no more than is asked for is in memory, and what is `async` here reads off the runtime.

use std::borrow::Cow;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::ops::Range;
use std::sync::Arc;

/// Octets that are read at once.
const PIECE: u64 = 64 << 10;

/// A message that can be read, from its beginning on and as often as needed. Clones are read one at a time.
#[derive(Clone, Debug)]
pub struct Content {
    octets: Octets,
    /// Octets of the message.
    pub size: u64,
    at: u64,
    piece: Vec<u8>,
}

#[derive(Clone, Debug)]
enum Octets {
    /// At its beginning stands the message.
    File(Arc<File>),
    Memory(Arc<[u8]>),
}

impl Content {
    /// The first `size` octets of a file.
    pub fn of_file(file: File, size: u64) -> Self {
        Self { octets: Octets::File(Arc::new(file)), size, at: 0, piece: Vec::new() }
    }

    /// Octets that are in memory anyway.
    pub fn of_octets(octets: Vec<u8>) -> Self {
        let size = u64::try_from(octets.len()).unwrap_or(u64::MAX);
        Self { octets: Octets::Memory(octets.into()), size, at: 0, piece: Vec::new() }
    }

    /// The next piece; empty: that was all. When this is cancelled, the same piece comes the next time.
    pub async fn piece(&mut self) -> io::Result<&[u8]> {
        let length = PIECE.min(self.size.saturating_sub(self.at));
        let piece = std::mem::take(&mut self.piece);
        self.piece = self.read(piece, self.at, length).await?;
        self.at += length;
        Ok(&self.piece)
    }

    /// The next piece is the first one again.
    pub fn rewind(&mut self) {
        self.at = 0;
    }

    /// Whether its file was removed, by a person, since it was opened. Where the system does not tell: no.
    pub fn is_dropped(&self) -> bool {
        match &self.octets {
            Octets::File(file) => has_no_name(file),
            Octets::Memory(_) => false,
        }
    }

    /// The whole message, wherever the pieces are.
    pub async fn read_all(&mut self) -> io::Result<Vec<u8>> {
        self.read(Vec::new(), 0, self.size).await
    }

    /// How many octets it has, for ranges.
    pub(super) fn length(&self) -> usize {
        usize::try_from(self.size).unwrap_or(usize::MAX)
    }

    /// Octets of the message; fewer where it ends before. It blocks.
    pub(super) fn at(&self, range: Range<usize>) -> io::Result<Cow<'_, [u8]>> {
        let end = range.end.min(self.length());
        let begin = range.start.min(end);
        match &self.octets {
            Octets::Memory(octets) => Ok(octets.get(begin..end).unwrap_or_default().into()),
            Octets::File(file) => {
                let (begin, length) = (begin as u64, (end - begin) as u64);
                from_file(file, Vec::new(), begin, length).map(Cow::Owned)
            }
        }
    }

    async fn read(&self, mut into: Vec<u8>, at: u64, length: u64) -> io::Result<Vec<u8>> {
        into.clear();
        let wanted = usize::try_from(length).map_err(io::Error::other)?;
        match &self.octets {
            _ if wanted == 0 => {}
            Octets::Memory(octets) => {
                let begin = usize::try_from(at).map_err(io::Error::other)?;
                into.extend(octets.iter().skip(begin).take(wanted));
            }
            Octets::File(file) => {
                let file = Arc::clone(file);
                let read = move || from_file(&file, into, at, length);
                into = tokio::task::spawn_blocking(read).await.map_err(io::Error::other)??;
            }
        }
        Ok(into)
    }
}

/// All of so many octets.
fn from_file(mut file: &File, mut into: Vec<u8>, at: u64, length: u64) -> io::Result<Vec<u8>> {
    let wanted = usize::try_from(length).map_err(io::Error::other)?;
    into.reserve_exact(wanted);
    file.seek(SeekFrom::Start(at))?;
    file.take(length).read_to_end(&mut into)?;
    match into.len() == wanted {
        true => Ok(into),
        false => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}

#[cfg(unix)]
fn has_no_name(file: &File) -> bool {
    file.metadata().is_ok_and(|file| std::os::unix::fs::MetadataExt::nlink(&file) == 0)
}

#[cfg(not(unix))]
fn has_no_name(_file: &File) -> bool {
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn pieces_rewind_and_all() {
        let octets: Vec<u8> = (0..200_000_u32).map(|n| n.to_le_bytes()[0]).collect();
        let path = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(path.path(), [octets.as_slice(), b"the foot"].concat()).unwrap();
        let file = Content::of_file(File::open(path.path()).unwrap(), 200_000);
        for mut content in [file, Content::of_octets(octets.clone())] {
            for _ in 0..2 {
                let mut got = Vec::new();
                let mut pieces = 0;
                loop {
                    let piece = content.piece().await.unwrap();
                    if piece.is_empty() {
                        break;
                    }
                    got.extend_from_slice(piece);
                    pieces += 1;
                }
                assert!(got == octets && pieces == 4, "{} octets in {pieces}", got.len());
                content.rewind();
            }
            for range in [0..200_000, 0..0, 70_000..70_003, 199_999..300_000, 200_001..200_002] {
                let begin = range.start.min(200_000);
                let expected = &octets[begin..range.end.min(200_000)];
                assert_eq!(&*content.at(range).unwrap(), expected);
            }
        }
        let cut = Content::of_file(File::open(path.path()).unwrap(), 300_000);
        assert_eq!(cut.at(0..300_000).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }
}
