//! What became of messages, also of those that are gone: for people who ask.
//!
//! Invariant: nothing depends on it. It is not synced, its errors are logged only, and it has two files of about a
//! megabyte at most.

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use tracing::warn;

use super::entry::{Entry, normalized};
use super::folder;
use crate::clock::Timestamp;
use crate::private_file;

/// A file that has more is put aside, and the one put aside before is gone.
const LONGEST: u64 = 1 << 20;

/// Longest words of an event, in characters: a mail server's reply line has 512 octets (RFC 5321 section 4.5.3.1.5).
const LONGEST_WORDS: usize = 1000;

/// The journal of a spool.
#[derive(Clone, Debug)]
pub struct Journal {
    path: PathBuf,
}

/// Something that became of a message.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// When.
    pub at: Timestamp,
    /// Of which message.
    pub id: String,
    /// Its mailbox.
    pub mailbox: String,
    /// Who handed it over.
    pub device: String,
    /// What.
    pub event: What,
    /// The provider's words, or a reason.
    pub said: String,
}

/// What can become of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum What {
    /// The provider has it.
    Delivered,
    /// It is in the failed folder.
    Failed,
    /// A person dropped it.
    Dropped,
}

impl What {
    /// For people.
    pub fn name(self) -> &'static str {
        match self {
            Self::Delivered => "delivered",
            Self::Failed => "failed",
            Self::Dropped => "dropped",
        }
    }
}

impl Journal {
    pub(super) fn new(path: PathBuf) -> Self {
        Self { path }
    }

    /// Adds an event of a message.
    pub(super) fn write(&self, at: Timestamp, entry: &Entry, event: What, said: &str) {
        let Entry { id, mailbox, device, .. } = entry.clone();
        let said = said.chars().take(LONGEST_WORDS).collect();
        let event = Event { at, id, mailbox, device, event, said };
        if let Err(error) = self.append(&event) {
            warn!(path = %self.path.display(), %error, "the spool's journal can't be written");
        }
    }

    fn append(&self, event: &Event) -> io::Result<()> {
        let mut line = serde_json::to_vec(event)?;
        line.push(b'\n');
        let mut file = private_file::open_shared(&self.path)?;
        if file.metadata()?.len() > LONGEST {
            std::fs::rename(&self.path, self.former())?;
            file = private_file::open_shared(&self.path)?;
        }
        file.write_all(&line)
    }

    /// The last event of a message; `None`: there is none, or it is long ago.
    pub fn recent(&self, id: &str) -> Option<Event> {
        let id = &normalized(id);
        [&self.path, &self.former()].into_iter().find_map(|path| last_of(path, id))
    }

    /// What was delivered from then on, oldest first: the messages that still count towards the provider's minute.
    pub fn delivered_since(&self, at: Timestamp) -> Vec<Event> {
        let mut events: Vec<_> = [&self.path, &self.former()]
            .into_iter()
            .filter_map(|path| folder::read(path).ok())
            .flat_map(|text| {
                backwards(&text).take_while(|event| event.at >= at).collect::<Vec<_>>()
            })
            .filter(|event| event.event == What::Delivered)
            .collect();
        events.reverse();
        events
    }

    fn former(&self) -> PathBuf {
        self.path.with_extension("1")
    }
}

fn last_of(path: &Path, id: &str) -> Option<Event> {
    let text = folder::read(path).ok()?;
    backwards(&text).find(|event| event.id == id)
}

/// The newest first. A line that was cut off by a crash is none.
fn backwards(text: &[u8]) -> impl Iterator<Item = Event> + '_ {
    let lines = text.split(|&octet| octet == b'\n').rev();
    lines.filter_map(|line| serde_json::from_slice::<Event>(line).ok())
}
