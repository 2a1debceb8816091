//! What a courier has begun at the provider and would have to take back: it stands beside the message, so that whoever
//! tries it next finds it, whatever has happened meanwhile.
//!
//! Invariant: it is on the disk before anything is done with what it names. It goes with the message, or when what it
//! names is gone.

use super::entry::Place;
use super::error::SpoolError;
use super::folder;
use super::listing::BEGUN;
use super::spool::Spool;

/// Of one message.
#[derive(Clone, Debug, Default)]
pub struct Begun(Option<(Spool, String)>);

impl Begun {
    /// Of the waiting message with this id. The default is of none, and nothing is kept.
    pub(super) fn of(spool: &Spool, id: &str) -> Self {
        Self(Some((spool.clone(), id.to_owned())))
    }

    /// What was begun, in the courier's words.
    pub async fn read(&self) -> Option<String> {
        let (spool, id) = self.0.clone()?;
        // What can't be read now may be the next time.
        let read = spool.run(move |files| Ok(files.begun(&id))).await;
        read.ok().flatten()
    }

    /// Keeps it, and syncs it.
    pub async fn keep(&self, what: &str) -> Result<(), SpoolError> {
        let Some((spool, id)) = self.0.clone() else { return Ok(()) };
        let what = what.to_owned();
        let keep = move |files: &super::files::Files| {
            let path = files.side(Place::Queue, &id, BEGUN);
            folder::replace(&path, what.as_bytes(), true).map_err(SpoolError::at(&path))?;
            files.sync(&[Place::Queue])
        };
        spool.run(keep).await
    }

    /// This is gone; something that was begun later stays.
    pub async fn forget(&self, what: &str) -> Result<(), SpoolError> {
        let Some((spool, id)) = self.0.clone() else { return Ok(()) };
        let what = what.to_owned();
        let forget = move |files: &super::files::Files| match files.begun(&id) {
            Some(known) if known == what => files.remove_side(Place::Queue, &id, BEGUN),
            _ => Ok(()),
        };
        spool.run(forget).await
    }
}
