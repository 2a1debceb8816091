//! What is in a folder of the spool, by the names alone.
//!
//! Invariant: nothing is opened, and what has no name of the spool's is not seen.

use std::collections::BTreeSet;
use std::path::Path;

use super::entry;
use super::error::SpoolError;

/// Of the side files: how far a message's delivery is, that a person wants it tried now, and what was begun of it at
/// the provider.
pub(super) const PROGRESS: &str = "progress";
pub(super) const NOW: &str = "now";
pub(super) const BEGUN: &str = "begun";

/// The names in a folder.
#[derive(Default)]
pub(super) struct Listing {
    pub(super) ids: BTreeSet<String>,
    pub(super) progress: BTreeSet<String>,
    pub(super) now: BTreeSet<String>,
}

impl Listing {
    pub(super) fn of(folder: &Path) -> Result<Self, SpoolError> {
        let mut listing = Self::default();
        for file in std::fs::read_dir(folder).map_err(SpoolError::at(folder))? {
            let name = file.map_err(SpoolError::at(folder))?.file_name();
            let Some(name) = name.to_str() else { continue };
            let (id, kind) = name.split_once('.').unwrap_or((name, ""));
            let names = match kind {
                "" => &mut listing.ids,
                PROGRESS => &mut listing.progress,
                NOW => &mut listing.now,
                _ => continue,
            };
            if entry::millis_of(id).is_some() {
                names.insert(id.to_owned());
            }
        }
        Ok(listing)
    }
}
