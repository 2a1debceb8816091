//! The octets of a message, in pieces.
//!
//! Invariant: no more than a piece is in memory, unless all of it is asked for, and the disk is read off the runtime.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::sync::Arc;

/// Octets that are read at once.
const PIECE: u64 = 64 << 10;

/// A message that can be read, from its beginning on and as often as needed.
#[derive(Debug)]
pub struct Content {
    held: Held,
    /// Octets of the message.
    pub size: u64,
    at: u64,
    piece: Vec<u8>,
}

#[derive(Clone, Debug)]
enum Held {
    /// At its beginning stands the message.
    File(Arc<File>),
    Octets(Arc<[u8]>),
}

impl Content {
    /// The first `size` octets of a file.
    pub fn of_file(file: File, size: u64) -> Self {
        Self { held: Held::File(Arc::new(file)), size, at: 0, piece: Vec::new() }
    }

    /// Octets that are in memory anyway.
    pub fn of_octets(octets: Vec<u8>) -> Self {
        let size = u64::try_from(octets.len()).unwrap_or(u64::MAX);
        Self { held: Held::Octets(octets.into()), size, at: 0, piece: Vec::new() }
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
        match &self.held {
            Held::File(file) => has_no_name(file),
            Held::Octets(_) => false,
        }
    }

    /// The whole message, wherever the pieces are.
    pub async fn read_all(&mut self) -> io::Result<Vec<u8>> {
        self.read(Vec::new(), 0, self.size).await
    }

    async fn read(&self, mut into: Vec<u8>, at: u64, length: u64) -> io::Result<Vec<u8>> {
        into.clear();
        let wanted = usize::try_from(length).map_err(io::Error::other)?;
        match &self.held {
            _ if wanted == 0 => {}
            Held::Octets(octets) => {
                let begin = usize::try_from(at).map_err(io::Error::other)?;
                into.extend(octets.iter().skip(begin).take(wanted));
            }
            Held::File(file) => {
                let file = Arc::clone(file);
                let read = move || {
                    let mut file = &*file;
                    into.reserve(wanted);
                    file.seek(SeekFrom::Start(at))?;
                    file.take(length).read_to_end(&mut into).map(|_| into)
                };
                into = tokio::task::spawn_blocking(read).await.map_err(io::Error::other)??;
            }
        }
        match into.len() == wanted {
            true => Ok(into),
            false => Err(io::ErrorKind::UnexpectedEof.into()),
        }
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
            assert!(content.read_all().await.unwrap() == octets);
        }
        let mut cut = Content::of_file(File::open(path.path()).unwrap(), 300_000);
        assert_eq!(cut.read_all().await.unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }
}
