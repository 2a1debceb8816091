//! A message on its way into the spool.
//!
//! Invariant: it is in the queue, whole and synced, or nowhere. Whatever fails, and whoever goes away before the
//! commit, its file is removed. The header waits in memory until it is whole, because it is mended before anything is
//! written: what is on the disk is what is sent. No more than that and a piece is in memory, and a small message comes
//! to the disk in one go.

use std::io;
use std::sync::Arc;

use tracing::{Span, info};

use super::entry::{Entry, Progress, Source};
use super::error::SpoolError;
use super::files::Files;
use super::header::{LONGEST_HEADER, end_of_header};
use super::incoming_file::IncomingFile;
use super::mend::{MendRules, mend};
use super::spool::Spool;
use crate::protocol::Envelope;

/// Octets that are written at once.
const PIECE: usize = 64 << 10;

/// Octets in which the end of the header is looked for at once.
const HEADER_PIECE: usize = 4 << 10;

/// A message that is being taken. When it is dropped before its commit, there is nothing of it.
#[derive(Debug)]
pub struct Incoming {
    spool: Spool,
    /// None: a write has failed, or was given up.
    taking: Option<Taking>,
}

/// What a message consists of so far.
#[derive(Debug)]
struct Taking {
    source: Source,
    /// Its id is the file's.
    entry: Entry,
    /// Not yet mended and written; empty once it is.
    header: Vec<u8>,
    stage: Stage,
    /// Not yet written.
    piece: Vec<u8>,
    file: Option<IncomingFile>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// The header is not yet whole.
    Header,
    /// It is, and is to be mended.
    Body,
    /// All is written as it comes.
    AsItIs,
}

impl Spool {
    /// Begins to take a message.
    pub async fn receive(
        &self,
        source: Source,
        envelope: Envelope,
    ) -> Result<Incoming, SpoolError> {
        // At least an octet: a full spool is told before the message is sent.
        if !self.files().has_room() {
            self.run(|files| files.take_room(1, false).map(|()| files.room.give_back(1))).await?;
        }
        Ok(self.begin(source, envelope, false))
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
        let mut incoming = self.begin(source, envelope, bounce);
        incoming.write(message).await?;
        incoming.commit(Vec::new()).await
    }

    fn begin(&self, source: Source, envelope: Envelope, bounce: bool) -> Incoming {
        let entry = Entry {
            id: String::new(),
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
        let stage = if bounce { Stage::AsItIs } else { Stage::Header };
        let (header, piece) = (Vec::new(), Vec::new());
        let taking = Taking { source, entry, header, stage, piece, file: None };
        Incoming { spool: self.clone(), taking: Some(taking) }
    }
}

impl Incoming {
    /// More octets of the message: CRLF line ends, no dot-stuffing. After an error, or when this is cancelled, the
    /// message can't be committed any more.
    pub async fn write(&mut self, mut bytes: &[u8]) -> Result<(), SpoolError> {
        while !bytes.is_empty() {
            let taking = self.taking.as_mut().ok_or_else(|| given_up(&self.spool))?;
            let length = if taking.stage == Stage::Header { HEADER_PIECE } else { PIECE };
            let (now, later) = bytes.split_at(bytes.len().min(length));
            bytes = later;
            match taking.stage {
                Stage::Header => taking.add_to_header(now),
                Stage::Body | Stage::AsItIs => taking.piece.extend_from_slice(now),
            }
            if taking.piece.len() >= PIECE {
                self.flush().await?;
            }
        }
        Ok(())
    }

    /// Makes it a message of the queue, and says so in the log. `mends`: what was changed while it was read. Once
    /// begun, it goes to its end, even if nobody waits for it any more.
    pub async fn commit(mut self, mends: Vec<String>) -> Result<Entry, SpoolError> {
        let taking = self.taking.take().ok_or_else(|| given_up(&self.spool))?;
        let (files, span) = (Arc::clone(self.spool.files()), Span::current());
        let finish = move |_: &Files| {
            let entry = taking.finish(&files, mends)?;
            span.in_scope(|| log(&entry));
            files.changed();
            Ok(entry)
        };
        self.spool.run(finish).await
    }

    async fn flush(&mut self) -> Result<(), SpoolError> {
        let taking = self.taking.take().ok_or_else(|| given_up(&self.spool))?;
        let files = Arc::clone(self.spool.files());
        let (taking, file) = self.spool.run(move |_| taking.flush(&files)).await?;
        self.taking = Some(Taking { file: Some(file), ..taking });
        Ok(())
    }
}

fn given_up(spool: &Spool) -> SpoolError {
    SpoolError::at(&spool.files().incoming.path)(io::Error::other("a write has failed"))
}

impl Taking {
    /// Up to its empty line. What is behind that belongs to the body.
    fn add_to_header(&mut self, octets: &[u8]) {
        let from = self.header.len().saturating_sub(3);
        self.header.extend_from_slice(octets);
        if let Some(end) = end_of_header(&self.header, from) {
            self.piece = self.header.split_off(end);
            self.stage = Stage::Body;
        } else if self.header.len() > LONGEST_HEADER {
            self.piece = std::mem::take(&mut self.header);
            self.stage = Stage::AsItIs;
            self.entry.mends.push("header left as it is: it has more than 256 KiB".into());
        }
    }

    /// Writes what there is, and gives the file. It blocks.
    fn flush(mut self, files: &Arc<Files>) -> Result<(Self, IncomingFile), SpoolError> {
        let mut file = match self.file.take() {
            Some(file) => file,
            None => IncomingFile::new(files, self.entry.bounce)?,
        };
        if self.stage != Stage::AsItIs {
            self.mend(files, &file.id);
        }
        file.write(&self.piece)?;
        self.entry.size += u64::try_from(self.piece.len()).unwrap_or(u64::MAX);
        self.piece.clear();
        Ok((self, file))
    }

    /// The header is whole, or all that there is: mended, it stands before the body.
    fn mend(&mut self, files: &Files, queue_id: &str) {
        let Source { mailbox, sender, .. } = &self.source;
        let rules = MendRules { mailbox, sender, now: files.clock.now(), queue_id };
        let header = std::mem::take(&mut self.header);
        let mut mended = mend(&header, &self.entry.envelope.sender, &rules);
        self.entry.envelope.sender = mended.sender;
        self.entry.mends.append(&mut mended.mends);
        mended.header.append(&mut self.piece);
        self.piece = mended.header;
        self.stage = Stage::AsItIs;
    }

    /// With its foot, into the queue. It blocks.
    fn finish(self, files: &Arc<Files>, mut mends: Vec<String>) -> Result<Entry, SpoolError> {
        let (Self { mut entry, .. }, mut file) = self.flush(files)?;
        mends.append(&mut entry.mends);
        entry.mends = mends;
        entry.id.clone_from(&file.id);
        entry.arrived = files.clock.now();
        let foot = entry.foot().map_err(io::Error::from);
        file.write(&foot.map_err(SpoolError::at(&files.incoming.path))?)?;
        file.keep()?;
        Ok(entry)
    }
}

fn log(entry: &Entry) {
    let Entry { id, mailbox, device, envelope, size, mends, .. } = entry;
    let peer = entry.peer.map(tracing::field::display);
    let recipients = envelope.recipients.len();
    let (sender, mends) = (&envelope.sender, mends.join("; "));
    info!(id, mailbox, device, peer, sender, recipients, size, mends, "message accepted");
}
