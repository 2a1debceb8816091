//! The files of the spool: what is in which folder, and how it gets there.
//!
//! Invariant: a file without a message beside it does nothing, so that the message is what is put in or taken away
//! last, or first.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use tracing::{error, warn};

use super::entry::{self, Damaged, Entry, Place, Progress};
use super::error::SpoolError;
use super::folder::{self, Folder};
use super::journal::Journal;
use super::listing::{BEGUN, Listing, NOW, PROGRESS};
use super::room::{self, Room};
use crate::clock::Clock;
use crate::private_file;

/// How far ahead of the clock an id may be, in milliseconds: the clock was set back. One that is further ahead is no
/// message's, and must not carry all others there.
const AHEAD: u64 = 366 * 24 * 3_600_000;

/// How the names of the files beside the folders begin: whose turn it is, what became of messages, that a command has
/// changed something.
const BESIDE: [&str; 3] = ["lock", "journal", "changed"];

/// The files of one spool, and what this process knows of them.
#[derive(Debug)]
pub(super) struct Files {
    pub(super) root: PathBuf,
    pub(super) incoming: Folder,
    pub(super) queue: Folder,
    pub(super) failed: Folder,
    pub(super) clock: Clock,
    pub(super) room: Room,
    pub(super) journal: Journal,
    /// The newest id, as milliseconds.
    newest: AtomicU64,
    /// Of the queue, as far as they were read: a file there never changes.
    known: Mutex<BTreeMap<String, Entry>>,
    /// What people were told of already.
    told: Mutex<BTreeSet<String>>,
    /// Whether this process delivers.
    pub(super) delivers: AtomicBool,
    /// What the total was counted with.
    counted: Mutex<Option<Stamp>>,
}

/// Differs from an earlier one when another process has changed something.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stamp {
    length: u64,
    modified: Option<std::time::SystemTime>,
}

/// What a folder has.
#[derive(Debug, Default)]
pub(super) struct Survey {
    /// In order of arrival.
    pub(super) entries: Vec<Entry>,
    /// The ids of those that the disk does not give just now.
    pub(super) unread: BTreeSet<String>,
}

impl Files {
    pub(super) fn new(root: PathBuf, room: Room, clock: Clock) -> Self {
        let folder = |name| Folder::new(root.join(name));
        Self {
            incoming: folder("incoming"),
            queue: folder("queue"),
            failed: folder("failed"),
            clock,
            room,
            journal: Journal::new(root.join("journal")),
            newest: AtomicU64::new(0),
            known: Mutex::default(),
            told: Mutex::default(),
            delivers: AtomicBool::new(false),
            counted: Mutex::default(),
            root,
        }
    }

    pub(super) fn make_folders(&self, state_dir: &Path) -> Result<(), SpoolError> {
        let mut is_new = false;
        for folder in self.folders() {
            is_new |= private_file::ensure_own_folder(folder)?;
            private_file::close_to_others(folder).map_err(SpoolError::at(folder))?;
        }
        self.refuse_planted()?;
        // What was there lasts; a sync would take a disk's time at each start.
        for folder in [state_dir, &self.root].into_iter().filter(|_| is_new) {
            folder::sync_folder(folder).map_err(SpoolError::at(folder))?;
        }
        Ok(())
    }

    /// Refuses what somebody else has put into the place of a folder or of a file of the spool's own, and makes nothing.
    pub(super) fn refuse_planted(&self) -> Result<(), SpoolError> {
        for folder in self.folders() {
            private_file::check_own_folder(folder)?;
        }
        if self.root.exists() {
            private_file::refuse_planted(&self.root, &BESIDE)?;
        }
        Ok(())
    }

    fn folders(&self) -> [&PathBuf; 4] {
        [&self.root, &self.incoming.path, &self.queue.path, &self.failed.path]
    }

    pub(super) fn folder(&self, place: Place) -> &Folder {
        match place {
            Place::Queue => &self.queue,
            Place::Failed => &self.failed,
        }
    }

    /// What was done in these folders lasts. It blocks.
    pub(super) fn sync(&self, places: &[Place]) -> Result<(), SpoolError> {
        for folder in places.iter().map(|&place| self.folder(place)) {
            folder.sync().map_err(SpoolError::at(&folder.path))?;
        }
        Ok(())
    }

    /// So that the ids go on behind those of former processes, also when the clock was set back.
    pub(super) fn find_newest(&self) -> Result<(), SpoolError> {
        let now = self.now();
        for folder in [&self.incoming, &self.queue, &self.failed] {
            let ids = Listing::of(&folder.path)?.ids;
            let mut millis = ids.iter().rev().filter_map(|id| entry::millis_of(id));
            let newest = millis.find(|&millis| millis < now + AHEAD).unwrap_or(0);
            self.newest.fetch_max(newest, Ordering::SeqCst);
        }
        Ok(())
    }

    /// Later than all before, also when the clock was set back.
    pub(super) fn new_id(&self) -> String {
        let now = self.now();
        let next = |newest: u64| now.max(newest + 1);
        let update =
            self.newest.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |id| Some(next(id)));
        entry::id_of(update.map_or(now, next))
    }

    fn now(&self) -> u64 {
        u64::try_from(self.clock.now().as_millis()).unwrap_or(0)
    }

    pub(super) fn survey(&self, place: Place) -> Result<Survey, SpoolError> {
        let listing = Listing::of(&self.folder(place).path)?;
        let mut survey = Survey::default();
        for id in &listing.ids {
            match self.listed(place, id, &listing) {
                Ok(entry) => survey.entries.push(entry),
                Err(SpoolError::Gone(_)) => {}
                Err(problem) => {
                    self.tell(place, id, &problem);
                    if !matches!(problem, SpoolError::Damaged { .. }) {
                        survey.unread.insert(id.clone());
                    }
                }
            }
        }
        if place == Place::Queue {
            self.known().retain(|id, _| listing.ids.contains(id));
        }
        Ok(survey)
    }

    fn listed(&self, place: Place, id: &str, listing: &Listing) -> Result<Entry, SpoolError> {
        let mut entry = self.known_entry(place, id)?;
        if listing.progress.contains(id) {
            entry.progress = self.progress(place, id)?;
        }
        if listing.now.contains(id) {
            entry.progress.next_try = None;
        }
        Ok(entry)
    }

    /// Of a listed message, without its progress.
    fn known_entry(&self, place: Place, id: &str) -> Result<Entry, SpoolError> {
        if place == Place::Failed {
            return self.entry(place, id);
        }
        if let Some(entry) = self.known().get(id) {
            return Ok(entry.clone());
        }
        let entry = self.entry(place, id)?;
        self.known().insert(id.to_owned(), entry.clone());
        Ok(entry)
    }

    /// Without its progress.
    fn entry(&self, place: Place, id: &str) -> Result<Entry, SpoolError> {
        let path = self.folder(place).file(id);
        let read = private_file::open(&path).and_then(|file| Entry::read(id, &file));
        match read {
            Ok(Ok(entry)) => Ok(entry),
            Ok(Err(why)) => Err(SpoolError::Damaged { id: id.to_owned(), why }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                Err(SpoolError::Gone(id.to_owned()))
            }
            Err(error) => Err(SpoolError::at(&path)(error)),
        }
    }

    /// A message can't be read. One that is damaged is put aside by the process that delivers; the disk may give another
    /// one some other time. People are told once.
    fn tell(&self, place: Place, id: &str, problem: &SpoolError) {
        let damaged = matches!(problem, SpoolError::Damaged { .. });
        let aside = damaged
            && place == Place::Queue
            && self.delivers.load(Ordering::SeqCst)
            && self.shift(id, Place::Queue, Place::Failed).is_ok();
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        if told.insert(id.to_owned()) {
            error!(id, error = %problem, aside, "a message of the spool can't be read");
        }
    }

    pub(super) fn find(&self, id: &str) -> Result<Option<(Entry, Place)>, SpoolError> {
        if entry::millis_of(id).is_none() {
            return Ok(None);
        }
        // Twice: it may be on its way from one folder to the other.
        for place in [Place::Queue, Place::Failed, Place::Queue] {
            match self.entry(place, id) {
                Ok(mut entry) => {
                    entry.progress = self.progress(place, id)?;
                    if self.side(place, id, NOW).exists() {
                        entry.progress.next_try = None;
                    }
                    return Ok(Some((entry, place)));
                }
                Err(SpoolError::Gone(_)) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(None)
    }

    pub(super) fn damaged(&self) -> Result<Vec<Damaged>, SpoolError> {
        let mut damaged = Vec::new();
        for place in [Place::Queue, Place::Failed] {
            let folder = self.folder(place);
            for id in Listing::of(&folder.path)?.ids {
                if let Err(SpoolError::Damaged { id, why }) = self.entry(place, &id) {
                    let size = std::fs::metadata(folder.file(&id)).map_or(0, |file| file.len());
                    damaged.push(Damaged { id, size, why });
                }
            }
        }
        Ok(damaged)
    }

    /// Where a message is, damaged or not.
    pub(super) fn place_of(&self, id: &str) -> Option<Place> {
        entry::millis_of(id)?;
        [Place::Queue, Place::Failed]
            .into_iter()
            .find(|&place| self.folder(place).file(id).exists())
    }

    pub(super) fn opened(&self, id: &str) -> Result<(File, PathBuf), SpoolError> {
        if entry::millis_of(id).is_none() {
            return Err(SpoolError::Gone(id.to_owned()));
        }
        for place in [Place::Queue, Place::Failed, Place::Queue] {
            let path = self.folder(place).file(id);
            match private_file::open(&path) {
                Ok(file) => return Ok((file, path)),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(SpoolError::at(&path)(error)),
            }
        }
        Err(SpoolError::Gone(id.to_owned()))
    }

    pub(super) fn side(&self, place: Place, id: &str, kind: &str) -> PathBuf {
        self.folder(place).file(&format!("{id}.{kind}"))
    }

    /// One that is damaged can't have been precious: such are synced before they take their name. One that can't be
    /// read may be.
    fn progress(&self, place: Place, id: &str) -> Result<Progress, SpoolError> {
        let path = self.side(place, id, PROGRESS);
        let octets = match folder::read(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Progress::default()),
            read => read.map_err(SpoolError::at(&path))?,
        };
        Ok(serde_json::from_slice(&octets).unwrap_or_else(|error| {
            warn!(path = %path.display(), %error, "a message's progress is damaged");
            Progress::default()
        }))
    }

    pub(super) fn write_progress(
        &self,
        place: Place,
        id: &str,
        progress: &Progress,
        lasting: bool,
    ) -> Result<(), SpoolError> {
        let path = self.side(place, id, PROGRESS);
        let octets = serde_json::to_vec(progress).map_err(io::Error::from);
        let written = octets.and_then(|octets| folder::replace(&path, &octets, lasting));
        written.map_err(SpoolError::at(&path))
    }

    pub(super) fn begun(&self, id: &str) -> Option<String> {
        String::from_utf8(folder::read(&self.side(Place::Queue, id, BEGUN)).ok()?).ok()
    }

    pub(super) fn mark_now(&self, id: &str) -> Result<(), SpoolError> {
        let path = self.side(Place::Queue, id, NOW);
        folder::replace(&path, b"", false).map_err(SpoolError::at(&path))
    }

    pub(super) fn remove_side(&self, place: Place, id: &str, kind: &str) -> Result<(), SpoolError> {
        let path = self.side(place, id, kind);
        folder::remove(&path).map(drop).map_err(SpoolError::at(&path))
    }

    fn remove_sides(&self, place: Place, id: &str) -> Result<(), SpoolError> {
        [PROGRESS, NOW, BEGUN].into_iter().try_for_each(|kind| self.remove_side(place, id, kind))
    }

    /// The message first: what then is left beside it does nothing.
    pub(super) fn remove(&self, place: Place, id: &str) -> Result<bool, SpoolError> {
        let path = self.folder(place).file(id);
        let length = std::fs::metadata(&path).map_or(0, |file| file.len());
        let removed = folder::remove(&path).map_err(SpoolError::at(&path))?;
        if removed {
            self.room.free(length);
        }
        self.known().remove(id);
        self.remove_sides(place, id)?;
        Ok(removed)
    }

    /// From folder to folder; what stands beside it in the former one is no longer true.
    pub(super) fn shift(&self, id: &str, from: Place, to: Place) -> Result<(), SpoolError> {
        let path = self.folder(from).file(id);
        std::fs::rename(&path, self.folder(to).file(id)).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => SpoolError::Gone(id.to_owned()),
            _ => SpoolError::at(&path)(error),
        })?;
        self.known().remove(id);
        self.remove_sides(from, id)
    }

    /// Tells the process that delivers, if that is another one.
    pub(super) fn changed(&self) {
        if self.delivers.load(Ordering::SeqCst) {
            return;
        }
        let path = self.root.join("changed");
        let mut counted = self.counted.lock().unwrap_or_else(PoisonError::into_inner);
        let before = self.stamp();
        let written = private_file::open_shared(&path).map_err(io::Error::from);
        let written = written.and_then(|mut file| io::Write::write_all(&mut file, b"."));
        if let Err(error) = written {
            warn!(path = %path.display(), %error, "a running gatepost can't be told of a change");
        }
        // What this process has done itself it need not count anew.
        let after = self.stamp();
        if *counted == Some(before) && after.length == before.length + 1 {
            *counted = Some(after);
        }
    }

    pub(super) fn stamp(&self) -> Stamp {
        let metadata = std::fs::metadata(self.root.join("changed")).ok();
        metadata.map_or_else(Stamp::default, |file| Stamp {
            length: file.len(),
            modified: file.modified().ok(),
        })
    }

    /// The total, if another process has changed it.
    pub(super) fn recount_if_changed(&self) -> Result<(), SpoolError> {
        let counted = *self.counted.lock().unwrap_or_else(PoisonError::into_inner);
        if counted == Some(self.stamp()) { Ok(()) } else { self.recount() }
    }

    pub(super) fn recount(&self) -> Result<(), SpoolError> {
        let stamp = self.stamp();
        let count = || {
            let mut total = 0;
            for folder in [&self.queue, &self.failed] {
                for file in std::fs::read_dir(&folder.path)? {
                    total += file?.metadata().map_or(0, |file| file.len());
                }
            }
            Ok(total)
        };
        self.room.recount(count).map_err(SpoolError::at(&self.root))?;
        *self.counted.lock().unwrap_or_else(PoisonError::into_inner) = Some(stamp);
        Ok(())
    }

    /// Whether there is some for sure. It does not block.
    pub(super) fn has_room(&self) -> bool {
        room::disk_has(&self.root, 1) && self.room.has(1)
    }

    /// Counts octets that are going to be written, if there is room. The total may be too high by what others removed.
    pub(super) fn take_room(&self, octets: u64, anyway: bool) -> Result<(), SpoolError> {
        if !room::disk_has(&self.root, octets) {
            let why = "the disk of its folder is all but full".to_owned();
            return Err(SpoolError::Full { why });
        }
        if anyway {
            self.room.take_anyway(octets);
            return Ok(());
        }
        if self.room.take(octets) {
            return Ok(());
        }
        self.recount()?;
        match self.room.take(octets) {
            true => Ok(()),
            false => Err(SpoolError::Full { why: "it holds as much as its size permits".into() }),
        }
    }

    fn known(&self) -> MutexGuard<'_, BTreeMap<String, Entry>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
