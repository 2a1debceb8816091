//! New files, whole or not at all.
//!
//! Invariant: what has its name is synced, and so is the name; nothing that was there before is changed.

use std::fs::File;
use std::io::{self, Write};
use std::path::Path;

use super::{PrivateFileError, at, options};

/// Makes the file with these bytes, if there is none; whole or not at all, also against another process
/// that does the same.
pub fn create(path: &Path, bytes: &[u8]) -> Result<(), PrivateFileError> {
    create_new(path, bytes).map(drop)
}

/// The same; `false` if there is one, which is left as it is.
pub fn create_new(path: &Path, bytes: &[u8]) -> Result<bool, PrivateFileError> {
    let draft = path.with_extension(format!("{}-{}.new", std::process::id(), fastrand::u32(..)));
    let made = write_draft(&draft, bytes).and_then(|()| match std::fs::hard_link(&draft, path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        linked => sync_folder_of(path).map(|()| linked.is_ok()),
    });
    // The draft has done its work, or has failed to; a leftover is harmless.
    let _ = std::fs::remove_file(&draft);
    made.map_err(at(path))
}

fn write_draft(draft: &Path, bytes: &[u8]) -> io::Result<()> {
    // One of a former process with the same id.
    let _ = std::fs::remove_file(draft);
    let mut file = options().write(true).create_new(true).open(draft)?;
    file.write_all(bytes)?;
    file.sync_all()
}

/// So that a new name in a folder outlives a power cut.
fn sync_folder_of(path: &Path) -> io::Result<()> {
    match path.parent() {
        Some(folder) if cfg!(unix) && !folder.as_os_str().is_empty() => {
            File::open(folder)?.sync_all()
        }
        _ => Ok(()),
    }
}
