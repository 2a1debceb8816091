//! Folders of gatepost's own.
//!
//! Invariant: nobody else may put files there, so that nothing is planted between a check and what relies on it.

use std::path::{Path, PathBuf};

use super::{Origin, PrivateFileError, at, rules, unless_absent};

/// Makes a folder that only its owner may enter, if there is none.
pub fn ensure_folder(path: &Path) -> Result<(), PrivateFileError> {
    if path.is_dir() {
        return Ok(());
    }
    let mut builder = std::fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(path).map_err(at(path))
}

/// The same for the state folder, and it is refused if others may write there.
pub fn ensure_state_folder(path: &Path) -> Result<(), PrivateFileError> {
    ensure(path, Origin::Named).map(drop)
}

/// The same for a folder in the state folder; whether it was made just now.
pub fn ensure_own_folder(path: &Path) -> Result<bool, PrivateFileError> {
    ensure(path, Origin::Own)
}

fn ensure(path: &Path, origin: Origin) -> Result<bool, PrivateFileError> {
    if is_good_folder(path, origin)? {
        return Ok(false);
    }
    ensure_folder(path)?;
    is_good_folder(path, origin)
}

/// Refuses what [`ensure_state_folder`] does, and makes nothing. Whether the folder is there.
pub fn check_state_folder(path: &Path) -> Result<bool, PrivateFileError> {
    is_good_folder(path, Origin::Named)
}

/// The same for a folder in the state folder.
pub fn check_own_folder(path: &Path) -> Result<bool, PrivateFileError> {
    is_good_folder(path, Origin::Own)
}

fn is_good_folder(path: &Path, origin: Origin) -> Result<bool, PrivateFileError> {
    // With a slash at its end a link would not be seen as one.
    let path: PathBuf = path.components().collect();
    unless_absent(rules::check_folder(&path, origin))
}
