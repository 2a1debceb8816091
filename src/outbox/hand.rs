//! What people do with spooled messages, beside a running gatepost.
//!
//! Invariant: a waiting message's progress is written by the process that delivers and by nobody else, so that what it
//! knows of served recipients is never overwritten: a person leaves it a mark.

use super::entry::{Entry, Place, Progress};
use super::error::SpoolError;
use super::files::Files;
use super::journal::What;
use super::spool::Spool;

impl Spool {
    /// Has a failed message tried again, at the recipients that were not served; a waiting one is due now. `false`:
    /// there is none of this id.
    pub async fn retry(&self, id: &str) -> Result<bool, SpoolError> {
        let id = id.to_owned();
        self.run(move |files| retry(files, &id)).await
    }

    /// Removes a message for good; what is being sent of it at this moment may still arrive. `false`: there is none of
    /// this id.
    pub async fn drop_message(&self, id: &str) -> Result<bool, SpoolError> {
        let id = id.to_owned();
        self.run(move |files| remove(files, &id)).await
    }
}

fn retry(files: &Files, id: &str) -> Result<bool, SpoolError> {
    let Some((entry, place)) = files.find(id)? else { return Ok(false) };
    match place {
        Place::Queue => files.mark_now(id)?,
        Place::Failed => {
            let done = entry.progress.done;
            let renewed = Some(files.clock.now());
            let fresh = Progress { done, renewed, ..Progress::default() };
            // First what it must not forget, then itself.
            files.write_progress(Place::Queue, id, &fresh, true)?;
            files.shift(id, Place::Failed, Place::Queue)?;
            files.sync(&[Place::Queue, Place::Failed])?;
        }
    }
    files.changed();
    Ok(true)
}

fn remove(files: &Files, id: &str) -> Result<bool, SpoolError> {
    let Some(place) = files.place_of(id) else { return Ok(false) };
    let entry: Option<Entry> = match files.find(id) {
        Ok(found) => found.map(|(entry, _)| entry),
        // One that is damaged can be dropped too.
        Err(SpoolError::Damaged { .. }) => None,
        Err(error) => return Err(error),
    };
    if !files.remove(place, id)? {
        return Ok(false);
    }
    if let Some(entry) = entry {
        let said = entry.progress.last_error.as_deref().unwrap_or_default();
        files.journal.write(files.clock.now(), &entry, What::Dropped, said);
    }
    files.sync(&[place])?;
    files.changed();
    Ok(true)
}
