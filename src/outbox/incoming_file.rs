//! The file of a message that is being taken.
//!
//! Invariant: it is in `incoming/` until it is whole and synced, and goes when this goes before that.

use std::fs::File;
use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::Arc;

use super::entry::Place;
use super::error::SpoolError;
use super::files::Files;
use super::folder;

/// See the module. All of it blocks.
#[derive(Debug)]
pub(super) struct IncomingFile {
    pub(super) id: String,
    file: File,
    path: PathBuf,
    files: Arc<Files>,
    /// Whether it is gatepost's own, for which there is always room.
    own: bool,
    /// What it counts for.
    octets: u64,
    kept: bool,
}

impl Drop for IncomingFile {
    fn drop(&mut self) {
        if !self.kept {
            self.files.room.give_back(self.octets);
            // If not now, it is cleared away some time: nobody takes it for a message.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

impl IncomingFile {
    /// A new file under a new id. Another process may have had the same thought; once its file has left `incoming/`, it
    /// is in one of the others.
    pub(super) fn new(files: &Arc<Files>, own: bool) -> Result<Self, SpoolError> {
        files.recount_if_changed()?;
        loop {
            let id = files.new_id();
            let path = files.incoming.file(&id);
            let file = match folder::new_file().open(&path) {
                Ok(file) => file,
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => continue,
                Err(error) => return Err(SpoolError::at(&path)(error)),
            };
            let files = Arc::clone(files);
            let incoming = Self { id, file, path, files, own, octets: 0, kept: false };
            if incoming.files.place_of(&incoming.id).is_none() {
                // So that nobody takes it for a leftover; where nothing can be locked, its age tells.
                let _ = incoming.file.try_lock();
                return Ok(incoming);
            }
        }
    }

    pub(super) fn write(&mut self, octets: &[u8]) -> Result<(), SpoolError> {
        let length = u64::try_from(octets.len()).unwrap_or(u64::MAX);
        self.files.take_room(length, self.own)?;
        self.octets += length;
        self.file.write_all(octets).map_err(SpoolError::at(&self.path))
    }

    /// Synced, and under its name in the queue.
    pub(super) fn keep(mut self) -> Result<(), SpoolError> {
        self.file.sync_all().map_err(SpoolError::at(&self.path))?;
        let kept = self.files.queue.file(&self.id);
        std::fs::rename(&self.path, kept).map_err(SpoolError::at(&self.path))?;
        self.kept = true;
        self.files.room.keep(self.octets);
        if let Err(error) = self.files.sync(&[Place::Queue]) {
            // It must not be delivered: whoever sent it hears that it was not accepted.
            self.files.remove(Place::Queue, &self.id)?;
            return Err(error);
        }
        Ok(())
    }
}
