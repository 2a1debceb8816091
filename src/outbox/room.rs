//! How much room there is: the `[spool] size`, and the disk.
//!
//! Invariant: what is coming in counts from the moment at which it is written, so that many messages at once don't
//! take more together than there is.

use std::io;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Octets of the disk that are left free: the store, whose write-ahead log has some hundred KiB, and the progress of the
/// messages must be written when no message is taken any more.
const SPARE: u64 = 1 << 20;

/// The octets of a spool.
#[derive(Debug)]
pub(super) struct Room(Mutex<Ledger>);

#[derive(Debug)]
struct Ledger {
    limit: u64,
    /// Of files in the queue and of failed ones.
    kept: u64,
    /// Of files that are being written by this process.
    coming: u64,
    /// How often it changed.
    changes: u64,
}

impl Room {
    pub(super) fn new(limit: u64) -> Self {
        Self(Mutex::new(Ledger { limit, kept: 0, coming: 0, changes: 0 }))
    }

    /// Octets that are kept or coming in, and the limit.
    pub(super) fn used(&self) -> (u64, u64) {
        let ledger = self.ledger();
        (ledger.kept.saturating_add(ledger.coming), ledger.limit)
    }

    pub(super) fn set_limit(&self, limit: u64) {
        self.ledger().limit = limit;
    }

    /// Whether there is room for so many more.
    pub(super) fn has(&self, octets: u64) -> bool {
        self.ledger().has(octets)
    }

    /// Counts octets that are going to be written; `false`: there is no room for them.
    pub(super) fn take(&self, octets: u64) -> bool {
        let mut ledger = self.ledger();
        let fits = ledger.has(octets);
        if fits {
            ledger.coming += octets;
        }
        fits
    }

    /// The same whatever the limit.
    pub(super) fn take_anyway(&self, octets: u64) {
        self.ledger().coming += octets;
    }

    /// Octets that were coming are gone again.
    pub(super) fn give_back(&self, octets: u64) {
        let mut ledger = self.ledger();
        ledger.coming = ledger.coming.saturating_sub(octets);
    }

    /// Octets that were coming are in the queue.
    pub(super) fn keep(&self, octets: u64) {
        let mut ledger = self.ledger();
        ledger.changes += 1;
        ledger.coming = ledger.coming.saturating_sub(octets);
        ledger.kept += octets;
    }

    /// A file is gone.
    pub(super) fn free(&self, octets: u64) {
        let mut ledger = self.ledger();
        ledger.changes += 1;
        ledger.kept = ledger.kept.saturating_sub(octets);
    }

    /// Counts anew what is kept, because others change it too. What this process changes while it counts makes it
    /// begin again, a few times: the rest is corrected the next time.
    pub(super) fn recount(&self, count: impl Fn() -> io::Result<u64>) -> io::Result<()> {
        for last in [false, false, true] {
            let before = self.ledger().changes;
            let kept = count()?;
            let mut ledger = self.ledger();
            if ledger.changes == before || last {
                ledger.kept = kept;
                return Ok(());
            }
        }
        Ok(())
    }

    fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Ledger {
    fn has(&self, octets: u64) -> bool {
        self.kept.saturating_add(self.coming).saturating_add(octets) <= self.limit
    }
}

/// Whether the disk has room for so many octets more. One that does not tell has: its errors will.
pub(super) fn disk_has(folder: &Path, octets: u64) -> bool {
    free_octets(folder).is_none_or(|free| free >= octets.saturating_add(SPARE))
}

#[cfg(unix)]
fn free_octets(folder: &Path) -> Option<u64> {
    let disk = rustix::fs::statvfs(folder).ok()?;
    disk.f_bavail.checked_mul(disk.f_frsize)
}

#[cfg(not(unix))]
fn free_octets(_folder: &Path) -> Option<u64> {
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_coming_counts_until_it_is_gone_or_kept() {
        let room = Room::new(100);
        assert!(room.take(60) && !room.take(41) && room.take(40));
        room.give_back(40);
        room.keep(60);
        assert!(!room.take(41));
        room.free(60);
        assert!(room.take(100) && !room.take(1));
        room.take_anyway(50);
        room.give_back(150);
        room.recount(|| Ok(99)).unwrap();
        assert!(!room.take(2) && room.take(1));
    }

    #[test]
    fn a_count_that_was_overtaken_is_made_again() {
        let room = Room::new(100);
        let counts = std::cell::Cell::new(0);
        let count = || {
            counts.set(counts.get() + 1);
            if counts.get() == 1 {
                room.free(0);
            }
            Ok(10 * counts.get())
        };
        room.recount(count).unwrap();
        assert_eq!(counts.get(), 2);
        assert!(room.take(80) && !room.take(1));
    }
}
