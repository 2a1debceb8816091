//! The spool: a folder of messages that gatepost has taken and will deliver.
//!
//! `incoming/` has what is being written, `queue/` what waits, `failed/` what can't be delivered. A message is the
//! file that bears its id; beside it may be `ID.progress`, `ID.now` when a person wants it tried at once, and `ID.begun`,
//! what is at the provider and would have to be taken back.
//!
//! Invariant: a message is in `queue/` or `failed/`, whole and synced, before anybody hears that it was accepted, and
//! until it was delivered or dropped by a person. What can't be read is never removed.

use std::fs::{File, TryLockError};
use std::io::{self, Read};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::content::Content;
use super::entry::{self, Damaged, Entry, Place};
use super::error::SpoolError;
use super::files::{Files, Stamp, Survey};
use super::header::end_of_header;
use super::journal::{Journal, What};
use super::listing::{Listing, NOW, PROGRESS};
use super::room::Room;
use crate::clock::Clock;
use crate::config::SpoolSettings;
use crate::private_file;

/// The folder in the state folder.
const FOLDER: &str = "spool";

/// The spool of one state folder. Clones are the same one.
#[derive(Clone, Debug)]
pub struct Spool(Arc<Files>);

/// Until it is dropped, no other process delivers.
#[derive(Debug)]
pub struct SpoolLock {
    file: File,
    spool: Spool,
}

impl Drop for SpoolLock {
    fn drop(&mut self) {
        self.spool.0.delivers.store(false, Ordering::SeqCst);
        // Closing it does not do while a helper is being started: until that is in its own program, it has the file open.
        let _ = self.file.unlock();
    }
}

impl Spool {
    /// Opens the spool, and makes its folders the first time.
    pub fn open(
        state_dir: &Path,
        settings: &SpoolSettings,
        clock: Clock,
    ) -> Result<Self, SpoolError> {
        let root = state_dir.join(FOLDER);
        let files = Files::new(root, Room::new(settings.size), clock);
        files.make_folders(state_dir)?;
        files.find_newest()?;
        files.recount()?;
        Ok(Self(Arc::new(files)))
    }

    /// Refuses what [`Self::open`] would refuse of what is there already, and makes nothing.
    pub fn check_place(state_dir: &Path, settings: &SpoolSettings) -> Result<(), SpoolError> {
        let root = state_dir.join(FOLDER);
        Files::new(root, Room::new(settings.size), Clock::system()).refuse_planted()
    }

    /// Whether a state folder has a spool: commands need not make one to say that it is empty.
    pub fn exists(state_dir: &Path) -> bool {
        state_dir.join(FOLDER).exists()
    }

    /// Other settings, after the configuration has changed.
    pub fn set(&self, settings: &SpoolSettings) {
        self.0.room.set_limit(settings.size);
    }

    /// What waits, in order of arrival.
    pub async fn waiting(&self) -> Result<Vec<Entry>, SpoolError> {
        self.survey().await.map(|survey| survey.entries)
    }

    /// The same, and what can't be read just now.
    pub(super) async fn survey(&self) -> Result<Survey, SpoolError> {
        self.run(|files| files.survey(Place::Queue)).await
    }

    /// What has failed, in order of arrival.
    pub async fn failed(&self) -> Result<Vec<Entry>, SpoolError> {
        self.run(|files| files.survey(Place::Failed).map(|survey| survey.entries)).await
    }

    /// Files that can't be read as messages, wherever they are.
    pub async fn damaged(&self) -> Result<Vec<Damaged>, SpoolError> {
        self.run(Files::damaged).await
    }

    /// A message by its id. A damaged one is an error.
    pub async fn find(&self, id: &str) -> Result<Option<(Entry, Place)>, SpoolError> {
        let id = id.to_owned();
        self.run(move |files| files.find(&id)).await
    }

    /// The ids, of damaged files too, that begin or end with what a person wrote; one that is equal to it, alone.
    pub async fn ids_like(&self, written: &str) -> Result<Vec<String>, SpoolError> {
        let written = entry::normalized(written);
        self.run(move |files| {
            let mut ids = Listing::of(&files.queue.path)?.ids;
            ids.extend(Listing::of(&files.failed.path)?.ids);
            if ids.contains(&written) {
                return Ok(vec![written]);
            }
            ids.retain(|id| id.starts_with(&written) || id.ends_with(&written));
            Ok(ids.into_iter().collect())
        })
        .await
    }

    /// The message itself, opened: it can be read to its end even if it is dropped meanwhile.
    pub async fn content(&self, entry: &Entry) -> Result<Content, SpoolError> {
        let (id, size) = (entry.id.clone(), entry.size);
        self.run(move |files| {
            let (file, path) = files.opened(&id)?;
            let length = file.metadata().map_err(SpoolError::at(&path))?.len();
            match length >= size {
                true => Ok(Content::of_file(file, size)),
                false => Err(SpoolError::Damaged { id, why: "it is cut off".into() }),
            }
        })
        .await
    }

    /// The same of any file by its id; of one that is damaged, all that there is.
    pub async fn content_of(&self, id: &str) -> Result<Content, SpoolError> {
        let id = id.to_owned();
        self.run(move |files| {
            let (file, path) = files.opened(&id)?;
            let size = match Entry::read(&id, &file).map_err(SpoolError::at(&path))? {
                Ok(entry) => entry.size,
                Err(_) => file.metadata().map_err(SpoolError::at(&path))?.len(),
            };
            Ok(Content::of_file(file, size))
        })
        .await
    }

    /// The header with its empty line, but no more than `limit` octets.
    pub async fn header(&self, entry: &Entry, limit: usize) -> Result<Vec<u8>, SpoolError> {
        let (id, size) = (entry.id.clone(), entry.size);
        self.run(move |files| {
            let (file, path) = files.opened(&id)?;
            let mut octets = Vec::new();
            let limit = size.min(u64::try_from(limit).unwrap_or(u64::MAX));
            let read = file.take(limit).read_to_end(&mut octets);
            read.map_err(SpoolError::at(&path))?;
            octets.truncate(end_of_header(&octets, 0).unwrap_or(octets.len()));
            Ok(octets)
        })
        .await
    }

    /// Writes `entry.progress`. It is synced when it is `lasting`, and whenever it tells of recipients that were served
    /// or refused: without that they would be served twice.
    pub async fn note(&self, entry: &Entry, lasting: bool) -> Result<(), SpoolError> {
        let lasting = lasting || entry.progress.is_precious();
        let entry = entry.clone();
        self.run(move |files| {
            let gone = || !files.queue.file(&entry.id).exists();
            if gone() {
                return Err(SpoolError::Gone(entry.id.clone()));
            }
            files.write_progress(Place::Queue, &entry.id, &entry.progress, lasting)?;
            files.remove_side(Place::Queue, &entry.id, NOW)?;
            if gone() {
                files.remove_side(Place::Queue, &entry.id, PROGRESS)?;
                return Err(SpoolError::Gone(entry.id));
            }
            if lasting { files.sync(&[Place::Queue]) } else { Ok(()) }
        })
        .await
    }

    /// All its recipients are served: it goes from the queue. One that was dropped meanwhile was delivered all the same.
    pub async fn delivered(&self, entry: &Entry, said: &str) -> Result<(), SpoolError> {
        let (entry, said) = (entry.clone(), said.to_owned());
        self.run(move |files| {
            files.remove(Place::Queue, &entry.id)?;
            files.journal.write(files.clock.now(), &entry, What::Delivered, &said);
            files.sync(&[Place::Queue])
        })
        .await
    }

    /// It can't be delivered: to the failed folder, with its progress.
    pub async fn fail(&self, entry: &Entry) -> Result<(), SpoolError> {
        let entry = entry.clone();
        self.run(move |files| {
            let id = &entry.id;
            files.write_progress(Place::Failed, id, &entry.progress, true)?;
            if let Err(error) = files.shift(id, Place::Queue, Place::Failed) {
                files.remove_side(Place::Failed, id, PROGRESS)?;
                return Err(error);
            }
            let said = entry.progress.last_error.as_deref().unwrap_or_default();
            files.journal.write(files.clock.now(), &entry, What::Failed, said);
            files.sync(&[Place::Failed, Place::Queue])
        })
        .await
    }

    /// What became of messages.
    pub fn journal(&self) -> &Journal {
        &self.0.journal
    }

    /// Changes when another process has put in, retried or dropped something; cheap to ask.
    pub fn stamp(&self) -> Stamp {
        self.0.stamp()
    }

    /// Takes the turn at delivering, and clears away what was left unfinished; `None`: another process has it.
    pub fn lock(&self) -> io::Result<Option<SpoolLock>> {
        let path = self.0.root.join("lock");
        let file = private_file::open_shared(&path)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Ok(None),
            Err(TryLockError::Error(error)) => return Err(error),
        }
        self.0.delivers.store(true, Ordering::SeqCst);
        self.0.clear_leftovers();
        Ok(Some(SpoolLock { file, spool: self.clone() }))
    }

    pub(super) fn files(&self) -> &Arc<Files> {
        &self.0
    }

    /// Off the runtime: a disk may take its time.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Files) -> Result<T, SpoolError> + Send + 'static,
    ) -> Result<T, SpoolError> {
        let files = Arc::clone(&self.0);
        let done = tokio::task::spawn_blocking(move || work(&files)).await;
        done.unwrap_or_else(|error| Err(SpoolError::at(&self.0.root)(io::Error::other(error))))
    }
}
