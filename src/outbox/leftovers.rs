//! What processes that ended have left in the spool.
//!
//! Invariant: nothing that was accepted is cleared away, and nothing that somebody may still be at work with.

use std::path::Path;

use tracing::debug;

use super::files::Files;
use crate::private_file;

/// How old a leftover is before it is cleared away, in milliseconds: whoever made it would have gone on by then.
const LEFTOVER: i64 = 10 * 60 * 1000;

impl Files {
    /// What was left by processes that ended: messages that were never accepted, drafts of small files, and what
    /// stands beside messages that are gone.
    pub(super) fn clear_leftovers(&self) {
        let now = self.clock.now().as_millis();
        for folder in [&self.incoming, &self.queue, &self.failed] {
            let Ok(files) = std::fs::read_dir(&folder.path) else { continue };
            for path in files.filter_map(|file| Some(file.ok()?.path())) {
                let message = folder.path == self.incoming.path && is_free(&path);
                let side = path.extension().is_some() && !path.with_extension("").exists();
                let draft = path.extension().is_some_and(|kind| kind == "new");
                if (message || side || draft)
                    && age_at(&path, now).is_some_and(|age| age > LEFTOVER)
                {
                    debug!(path = %path.display(), "a leftover of the spool is cleared away");
                    // The next time, if not now.
                    let _ = std::fs::remove_file(&path);
                }
            }
        }
    }
}

/// Whether no process writes it: whoever does has it locked.
fn is_free(path: &Path) -> bool {
    private_file::open(path).is_ok_and(|file| file.try_lock().is_ok())
}

/// In milliseconds.
fn age_at(path: &Path, now: i64) -> Option<i64> {
    let modified = std::fs::metadata(path).ok()?.modified().ok()?;
    let since = modified.duration_since(std::time::UNIX_EPOCH).ok()?;
    Some(now - i64::try_from(since.as_millis()).ok()?)
}
