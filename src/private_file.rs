//! Files that nobody but their owner may read: keys and the store.
//!
//! Invariant: such a file never exists with a wider mode, not even for a moment, and one that others can
//! read is refused, with the command that mends it.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// A private file that can't be used.
#[derive(Debug, thiserror::Error)]
pub enum PrivateFileError {
    /// Others can read or write it.
    #[error("{path} may be read by others (mode {mode:o})\nhint: chmod 600 {path}", path = .path.display())]
    Exposed {
        /// Which one.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// It can't be read or made.
    #[error("{path}: {source}", path = .path.display())]
    Io {
        /// Which one.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// Names the file in an error of the system's.
fn at(path: &Path) -> impl FnOnce(io::Error) -> PrivateFileError + '_ {
    move |source| PrivateFileError::Io { path: path.to_owned(), source }
}

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
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let mut file = options.open(draft)?;
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

/// Reads a file that only its owner may read.
pub fn read(path: &Path) -> Result<Vec<u8>, PrivateFileError> {
    check(path)?;
    std::fs::read(path).map_err(at(path))
}

/// Refuses a file that others can read.
#[cfg(unix)]
pub fn check(path: &Path) -> Result<(), PrivateFileError> {
    use std::os::unix::fs::PermissionsExt;

    let mode = std::fs::metadata(path).map_err(at(path))?.permissions().mode() & 0o777;
    match mode & 0o077 {
        0 => Ok(()),
        _ => Err(PrivateFileError::Exposed { path: path.to_owned(), mode }),
    }
}

/// Elsewhere the folder's access list, which is the user's own, decides.
#[cfg(not(unix))]
pub fn check(path: &Path) -> Result<(), PrivateFileError> {
    std::fs::metadata(path).map(drop).map_err(at(path))
}

/// Whether everybody on this machine can read it. Others' files are often their group's too, which says so on purpose.
#[cfg(unix)]
pub fn is_open_to_all(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;

    std::fs::metadata(path).is_ok_and(|about| about.permissions().mode() & 0o007 != 0)
}

/// Elsewhere the folder's access list decides.
#[cfg(not(unix))]
pub fn is_open_to_all(_: &Path) -> bool {
    false
}

#[cfg(all(test, unix))]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn made_once_and_refused_when_exposed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key");
        assert!(create_new(&path, b"one").unwrap());
        assert!(!create_new(&path, b"two").unwrap());
        assert_eq!(read(&path).unwrap(), b"one");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).unwrap();
        let error = read(&path).unwrap_err().to_string();
        assert!(error.contains("chmod 600"), "{error}");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }
}
