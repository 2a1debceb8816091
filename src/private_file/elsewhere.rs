//! The rules of systems without owners and modes: the folder's access list, which is the user's own, decides.

use std::fs::{File, FileType, OpenOptions};
use std::io;
use std::path::Path;

use super::{Origin, PrivateFileError, Wanted, at, unexpected};

pub(super) fn restrict(_: &mut OpenOptions, _: Origin) {}

pub(super) fn is_refused(_: &io::Error) -> bool {
    true
}

pub(super) fn kind(_: FileType) -> &'static str {
    "something else"
}

pub(super) fn user() -> u32 {
    0
}

pub(super) fn passed_pipe(_: &Path) -> Option<io::Result<File>> {
    None
}

pub(super) fn check(_: &Path, _: &File, _: Origin) -> Result<(), PrivateFileError> {
    Ok(())
}

pub(super) fn check_owner(_: &Path, _: &File) -> Result<(), PrivateFileError> {
    Ok(())
}

pub(super) fn check_writers(_: &Path, _: &File) -> Result<(), PrivateFileError> {
    Ok(())
}

pub(super) fn check_folder(path: &Path, _: Origin) -> Result<(), PrivateFileError> {
    let about = std::fs::metadata(path).map_err(at(path))?;
    match about.is_dir() {
        true => Ok(()),
        false => Err(unexpected(path, about.file_type(), Wanted::Folder)),
    }
}

/// There are no such numbers.
pub fn owner(_: &Path) -> Option<u32> {
    None
}

/// The folder's access list decides.
pub fn is_open_to_all(_: &Path) -> bool {
    false
}

/// The same.
pub fn close_to_others(_: &Path) -> io::Result<()> {
    Ok(())
}
