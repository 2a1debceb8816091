//! A message on its way into the spool.
//!
//! Invariant: it is in the queue, whole and synced, or nowhere. Whatever fails, and whoever goes away before the
//! commit, its file is removed. The header waits in memory until it is whole, because it is mended before anything is
//! written: what is on the disk is what is sent.

use std::fs::File;
use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use tracing::{Instrument, info};

use super::entry::{Entry, Place, Progress, Source};
use super::error::SpoolError;
use super::folder;
use super::mend::{MendRules, mend};
use super::spool::Spool;
use crate::protocol::Envelope;

/// Octets that are written at once.
const PIECE: usize = 64 << 10;

/// Octets in which the end of the header is looked for at once.
const HEADER_PIECE: usize = 4 << 10;

/// Longest header that is mended: Exchange Online takes 256 KB ("Exchange Online limits", message header size).
const LONGEST_HEADER: usize = 256 << 10;

/// A message that is being taken. When it is dropped before its commit, there is nothing of it.
#[derive(Debug)]
pub struct Incoming {
    spool: Spool,
    source: Source,
    entry: Entry,
    /// Not yet whole; none: it is written.
    header: Option<Vec<u8>>,
    /// Not yet written.
    piece: Vec<u8>,
    draft: Arc<Draft>,
    /// A write has not come to its end, or has failed.
    broken: bool,
}

/// A file in `incoming/`, which goes when this goes: when nobody writes it any more either.
#[derive(Debug)]
struct Draft {
    file: File,
    path: PathBuf,
    spool: Spool,
    /// Whether it is gatepost's own, for which there is always room.
    own: bool,
    /// What it counts for.
    octets: AtomicU64,
    kept: AtomicBool,
}

impl Drop for Draft {
    fn drop(&mut self) {
        if !self.kept.load(Ordering::SeqCst) {
            self.spool.files().room.give_back(self.octets.load(Ordering::SeqCst));
            // If not now, it is cleared away some time: nobody takes it for a message.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

impl Spool {
    /// Begins to take a message.
    pub async fn receive(
        &self,
        source: Source,
        envelope: Envelope,
    ) -> Result<Incoming, SpoolError> {
        self.begin(source, envelope, false).await
    }

    /// Takes a message that is here already, with CRLF line ends; a `bounce` is gatepost's own, so that it needs no
    /// mending, and is taken even if the size of the spool does not permit it: it tells of a message that failed.
    pub async fn enqueue(
        &self,
        source: Source,
        envelope: Envelope,
        message: &[u8],
        bounce: bool,
    ) -> Result<Entry, SpoolError> {
        let mut incoming = self.begin(source, envelope, bounce).await?;
        incoming.write(message).await?;
        incoming.commit(Vec::new()).await
    }

    async fn begin(
        &self,
        source: Source,
        envelope: Envelope,
        bounce: bool,
    ) -> Result<Incoming, SpoolError> {
        let spool = self.clone();
        let begun = self.run(move |files| {
            files.recount_if_changed()?;
            // At least an octet: a full spool is told before the message is sent.
            files.take_room(1, bounce)?;
            files.room.give_back(1);
            let (id, file, path) = spool.new_draft()?;
            let (octets, kept) = (AtomicU64::new(0), AtomicBool::new(false));
            Ok((id, Arc::new(Draft { file, path, spool, own: bounce, octets, kept })))
        });
        let (id, draft) = begun.await?;
        let entry = Entry {
            id,
            mailbox: source.mailbox.clone(),
            device: source.device.clone(),
            peer: source.peer,
            arrived: self.files().clock.now(),
            envelope,
            size: 0,
            bounce,
            mends: Vec::new(),
            progress: Progress::default(),
        };
        let header = (!bounce).then(Vec::new);
        let spool = self.clone();
        Ok(Incoming { spool, source, entry, header, piece: Vec::new(), draft, broken: false })
    }

    /// A new file under a new id. Another process may have had the same thought; once its file has left `incoming/`, it
    /// is in one of the others.
    fn new_draft(&self) -> Result<(String, File, PathBuf), SpoolError> {
        let files = self.files();
        loop {
            let id = files.new_id();
            let path = files.incoming.file(&id);
            let file = match folder::new_file().open(&path) {
                Ok(file) => file,
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => continue,
                Err(error) => return Err(SpoolError::at(&path)(error)),
            };
            if files.place_of(&id).is_none() {
                // So that nobody takes it for a leftover; where nothing can be locked, its age tells.
                let _ = file.try_lock();
                return Ok((id, file, path));
            }
            folder::remove(&path).map_err(SpoolError::at(&path))?;
        }
    }
}

impl Incoming {
    /// The id that it will have.
    pub fn id(&self) -> &str {
        &self.entry.id
    }

    /// More octets of the message: CRLF line ends, no dot-stuffing.
    pub async fn write(&mut self, mut bytes: &[u8]) -> Result<(), SpoolError> {
        while self.header.is_some() && !bytes.is_empty() {
            let (now, later) = bytes.split_at(bytes.len().min(HEADER_PIECE));
            bytes = later;
            self.add_to_header(now);
        }
        self.put(bytes).await
    }

    /// Makes it a message of the queue, and says so in the log. `mends`: what was changed while it was read. Once
    /// begun, it goes to its end, even if nobody waits for it any more.
    pub async fn commit(self, mends: Vec<String>) -> Result<Entry, SpoolError> {
        let path = self.draft.path.clone();
        let done = tokio::spawn(self.commit_alone(mends).in_current_span()).await;
        done.unwrap_or_else(|error| Err(SpoolError::at(&path)(io::Error::other(error))))
    }

    async fn commit_alone(mut self, mut mends: Vec<String>) -> Result<Entry, SpoolError> {
        self.mend_header();
        self.put(&[]).await?;
        self.unbroken()?;
        let Self { spool, mut entry, mut piece, draft, .. } = self;
        entry.size += octets(piece.len());
        mends.append(&mut entry.mends);
        entry.mends = mends;
        entry.arrived = spool.files().clock.now();
        let foot = entry.foot().map_err(io::Error::from).map_err(SpoolError::at(&draft.path))?;
        piece.extend_from_slice(&foot);
        let id = entry.id.clone();
        spool.run(move |_| draft.into_queue(&id, &piece)).await?;
        if let Err(error) = spool.synced(Place::Queue).await {
            // It must not be delivered: whoever sent it hears that it was not accepted.
            let id = entry.id.clone();
            spool.run(move |files| files.remove(Place::Queue, &id)).await?;
            return Err(error);
        }
        log(&entry);
        spool.files().changed();
        Ok(entry)
    }

    /// Up to its empty line. What is behind that waits to be written.
    fn add_to_header(&mut self, octets: &[u8]) {
        let Some(header) = &mut self.header else { return };
        let from = header.len().saturating_sub(3);
        header.extend_from_slice(octets);
        if let Some(end) = end_of_header(header, from) {
            let mut body = header.split_off(end);
            self.mend_header();
            self.piece.append(&mut body);
        } else if header.len() > LONGEST_HEADER {
            self.piece.append(header);
            self.header = None;
            self.entry.mends.push("header left as it is: it has more than 256 KiB".into());
        }
    }

    /// The header is whole, or all that there is.
    fn mend_header(&mut self) {
        let Some(header) = self.header.take() else { return };
        let rules = MendRules {
            mailbox: &self.source.mailbox,
            sender: &self.source.sender,
            now: self.spool.files().clock.now(),
            queue_id: &self.entry.id,
        };
        let mut mended = mend(&header, &self.entry.envelope.sender, &rules);
        self.entry.envelope.sender = mended.sender;
        self.entry.mends.append(&mut mended.mends);
        self.piece.append(&mut mended.header);
    }

    /// Collects octets, and writes whenever there is a piece.
    async fn put(&mut self, mut octets: &[u8]) -> Result<(), SpoolError> {
        loop {
            let (now, later) = octets.split_at(octets.len().min(PIECE));
            self.piece.extend_from_slice(now);
            octets = later;
            if self.piece.len() >= PIECE {
                self.flush().await?;
            }
            if octets.is_empty() {
                return Ok(());
            }
        }
    }

    async fn flush(&mut self) -> Result<(), SpoolError> {
        self.unbroken()?;
        self.broken = true;
        let piece = std::mem::take(&mut self.piece);
        let length = octets(piece.len());
        let draft = Arc::clone(&self.draft);
        self.piece = self.spool.run(move |_| draft.write(&piece).map(|()| piece)).await?;
        self.piece.clear();
        self.entry.size += length;
        self.broken = false;
        Ok(())
    }

    /// Behind a write that failed, or that nobody waited for, nothing may follow.
    fn unbroken(&self) -> Result<(), SpoolError> {
        match self.broken {
            false => Ok(()),
            true => Err(SpoolError::at(&self.draft.path)(io::Error::other("a write has failed"))),
        }
    }
}

impl Draft {
    fn write(&self, piece: &[u8]) -> Result<(), SpoolError> {
        let length = octets(piece.len());
        self.spool.files().take_room(length, self.own)?;
        self.octets.fetch_add(length, Ordering::SeqCst);
        (&self.file).write_all(piece).map_err(SpoolError::at(&self.path))
    }

    /// With its last octets, synced, under its name in the queue.
    fn into_queue(&self, id: &str, rest: &[u8]) -> Result<(), SpoolError> {
        self.write(rest)?;
        self.file.sync_all().map_err(SpoolError::at(&self.path))?;
        let files = self.spool.files();
        std::fs::rename(&self.path, files.queue.file(id)).map_err(SpoolError::at(&self.path))?;
        self.kept.store(true, Ordering::SeqCst);
        files.room.keep(self.octets.load(Ordering::SeqCst));
        Ok(())
    }
}

fn octets(length: usize) -> u64 {
    u64::try_from(length).unwrap_or(u64::MAX)
}

/// Behind the first empty line, if it ends at `from` or later.
fn end_of_header(octets: &[u8], from: usize) -> Option<usize> {
    if octets.starts_with(b"\r\n") {
        return Some(2);
    }
    let behind = octets.get(from..)?;
    behind.windows(4).position(|four| four == b"\r\n\r\n").map(|at| from + at + 4)
}

fn log(entry: &Entry) {
    let Entry { id, mailbox, device, envelope, size, mends, .. } = entry;
    let peer = entry.peer.map(tracing::field::display);
    let recipients = envelope.recipients.len();
    let (sender, mends) = (&envelope.sender, mends.join("; "));
    info!(id, mailbox, device, peer, sender, recipients, size, mends, "message accepted");
}
