//! How the spool stands, mailbox by mailbox: for `gatepost status` and the doctor.

use std::collections::BTreeMap;

use bytesize::ByteSize;
use serde::Serialize;

use super::room::disk_has;
use super::{Entry, Place, Spool, SpoolError};
use crate::clock::Timestamp;
use crate::explain;

/// One mailbox's spooled mail.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Summary {
    /// Whose it is.
    pub mailbox: String,
    /// Messages that wait.
    pub waiting: u64,
    /// Messages that could not be delivered.
    pub failed: u64,
    /// When the oldest of the waiting ones was accepted, in milliseconds since 1970.
    pub oldest_at: Option<Timestamp>,
    /// What was said last.
    pub last_error: Option<String>,
    /// When, in milliseconds since 1970.
    pub last_error_at: Option<Timestamp>,
    /// What to do about it.
    pub remedy: Option<String>,
}

/// How full the spool is.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Fill {
    /// Octets of all messages, the failed ones too.
    pub used: u64,
    /// How many there may be.
    pub size: u64,
    /// The disk has no more room.
    pub disk_full: bool,
}

impl Fill {
    /// Whether messages are refused, or soon will be: from nine tenths on.
    pub fn is_near(&self) -> bool {
        self.disk_full || self.used / 9 >= self.size / 10
    }

    /// For people.
    pub fn text(&self) -> String {
        let (used, size) = (ByteSize::b(self.used), ByteSize::b(self.size));
        match self.disk_full {
            true => "the disk has no room for more messages".into(),
            false => format!("{used} of {size} are used; then devices are answered 452 4.3.1"),
        }
    }
}

impl Spool {
    /// How full it is.
    pub fn fill(&self) -> Fill {
        let (used, size) = self.files().room.used();
        Fill { used, size, disk_full: !disk_has(&self.files().root, 1) }
    }

    /// Of each mailbox that has any mail here.
    pub async fn summaries(&self) -> Result<Vec<Summary>, SpoolError> {
        let mut mailboxes: BTreeMap<String, Summary> = BTreeMap::new();
        let waiting = self.waiting().await?.into_iter().map(|entry| (entry, Place::Queue));
        let failed = self.failed().await?.into_iter().map(|entry| (entry, Place::Failed));
        for (entry, place) in waiting.chain(failed) {
            let summary = mailboxes.entry(entry.mailbox.clone()).or_default();
            summary.mailbox.clone_from(&entry.mailbox);
            match place {
                Place::Queue => {
                    summary.waiting += 1;
                    summary.oldest_at.get_or_insert(entry.arrived);
                }
                Place::Failed => summary.failed += 1,
            }
            if entry.progress.last_error.is_some()
                && entry.progress.last_try > summary.last_error_at
            {
                summary.last_error_at = entry.progress.last_try;
                summary.remedy = entry.remedy();
                summary.last_error = entry.progress.last_error;
            }
        }
        Ok(mailboxes.into_values().collect())
    }
}

/// So many, in words for people.
pub fn messages(count: u64) -> String {
    match count {
        1 => "1 message".into(),
        count => format!("{count} messages"),
    }
}

impl Entry {
    /// What to do about what was last said of it, if that is known. Of a recipient that was refused earlier only when
    /// nothing else stands in the way: it would be read as the remedy for the words beside it.
    pub fn remedy(&self) -> Option<String> {
        let refused = self.progress.refused.last().map(|(_, said)| said);
        let known = explain::best(self.progress.last_error.as_ref().or(refused)?)?;
        Some(known.remedy_for(&self.mailbox))
    }
}
