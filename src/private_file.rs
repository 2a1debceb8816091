//! Files that nobody but their owner may read: keys, the store, what waits in the spool.
//!
//! What gatepost makes itself in its state folder is never a link. What the configuration names may be one, as
//! Kubernetes and Nix lay secrets out: then its target is checked.
//!
//! Invariant: such a file never exists with a wider mode, not even for a moment. What is no regular file is not opened,
//! and what was opened is looked at on its descriptor: of this user or root, and others can't read it; else it is
//! refused, with the command that mends it. Nothing waits for the other end of a pipe, and nothing is read without end.

mod create;
#[cfg(not(unix))]
mod elsewhere;
mod folder;
mod named;
#[cfg(unix)]
mod unix;

use std::fs::{File, FileType, OpenOptions};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

#[cfg(not(unix))]
use elsewhere as rules;
#[cfg(unix)]
use unix as rules;

pub use create::{create, create_new};
pub use folder::{
    check_own_folder, check_state_folder, ensure_folder, ensure_own_folder, ensure_state_folder,
};
pub use named::{Limit, read_named, read_passed, read_regular};
pub use rules::{close_to_others, is_open_to_all, owner};

/// A private file that can't be used.
#[derive(Debug, thiserror::Error)]
pub enum PrivateFileError {
    /// Others can read or write it.
    #[error(
        "{path} may be read by others (mode {mode:o})\nhint: {remedy}",
        path = .path.display(), remedy = .owners.to_hide(path)
    )]
    Exposed {
        /// Which one.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
        /// Whose it is, and who must read it.
        owners: Owners,
    },
    /// A folder in which others can put files, or a file that they can write.
    #[error("{path} may be written by others (mode {mode:o})\nhint: chmod go-w {path}", path = .path.display())]
    Writable {
        /// Which one.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// It is another user's.
    #[error(
        "{path} belongs to user {owner}, and gatepost was started by user {user}\n\
         hint: start it as that user (sudo -u '#{owner}' gatepost ...), or give it to this one: \
         chown -R {user} {path}",
        path = .path.display()
    )]
    Foreign {
        /// Which one.
        path: PathBuf,
        /// The number of its owner.
        owner: u32,
        /// The number of this process's user.
        user: u32,
    },
    /// It is something else than it must be.
    #[error("{path} is {what}\nhint: ls -ld {path}; move it away if you did not put it there", path = .path.display())]
    Unexpected {
        /// Which one.
        path: PathBuf,
        /// What it is.
        what: String,
    },
    /// It has more octets than any of its kind.
    #[error(
        "{path} is longer than {limit}\nhint: ls -lL {path}; name the file that was meant",
        path = .path.display()
    )]
    TooLong {
        /// Which one.
        path: PathBuf,
        /// How long it may be.
        limit: Limit,
    },
    /// It can't be read or made.
    #[error(
        "{path}: {why}\n\
         hint: look whether it is there, and what this user may do with it: ls -ld {path}",
        path = .path.display()
    )]
    Io {
        /// Which one.
        path: PathBuf,
        /// Why.
        why: io::Error,
    },
}

impl PrivateFileError {
    /// The file or folder that it is about.
    pub fn path(&self) -> &Path {
        match self {
            Self::Exposed { path, .. }
            | Self::Writable { path, .. }
            | Self::Foreign { path, .. }
            | Self::Unexpected { path, .. }
            | Self::TooLong { path, .. }
            | Self::Io { path, .. } => path,
        }
    }

    /// Whether there is nothing of that name.
    fn is_absence(&self) -> bool {
        matches!(self, Self::Io { why, .. } if why.kind() == io::ErrorKind::NotFound)
    }
}

/// Whose a file is, and who must read it, by their numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Owners {
    /// The file's owner.
    pub owner: u32,
    /// The user that runs gatepost.
    pub user: u32,
}

impl Owners {
    /// The command after which the user reads the file, and others don't. With the mode alone a file of somebody
    /// else's would be closed to gatepost as well.
    pub fn to_hide(self, path: &Path) -> String {
        let (path, Self { owner, user }) = (path.display(), self);
        match owner == user {
            true => format!("chmod 600 {path}"),
            false => format!("chown {user} {path} && chmod 600 {path}"),
        }
    }

    /// Of a file that this process must read.
    pub fn of(path: &Path) -> Option<Self> {
        Some(Self { owner: owner(path)?, user: rules::user() })
    }
}

/// Who has put a file where it is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Origin {
    /// gatepost: it is no link.
    Own,
    /// An administrator, who may name a link.
    Named,
}

/// What must be at a path.
#[derive(Clone, Copy)]
enum Wanted {
    File,
    Folder,
}

/// Names the file in an error of the system's.
pub fn at(path: &Path) -> impl FnOnce(io::Error) -> PrivateFileError + '_ {
    move |source| PrivateFileError::Io { path: path.to_owned(), why: source }
}

impl From<PrivateFileError> for io::Error {
    fn from(error: PrivateFileError) -> Self {
        match error {
            PrivateFileError::Io { why, .. } => why,
            refused => Self::new(io::ErrorKind::PermissionDenied, refused),
        }
    }
}

/// `false`: there is nothing of that name.
fn unless_absent(checked: Result<(), PrivateFileError>) -> Result<bool, PrivateFileError> {
    match checked {
        Err(error) if error.is_absence() => Ok(false),
        checked => checked.map(|()| true),
    }
}

/// How a file of gatepost's own is opened: made for its owner alone, no link followed, no pipe waited for.
pub fn options() -> OpenOptions {
    let mut options = OpenOptions::new();
    rules::restrict(&mut options, Origin::Own);
    options
}

/// Opens a file of gatepost's own to be read. One that only tells how things are may be open to all.
pub fn open(path: &Path) -> io::Result<File> {
    let file = opened(path, Origin::Own)?;
    rules::check_owner(path, &file)?;
    Ok(file)
}

/// Opens a file to lock it or to add to it, and makes it if there is none.
pub fn open_shared(path: &Path) -> Result<File, PrivateFileError> {
    let opened = options().append(true).create(true).open(path);
    let file = opened.map_err(refused(path, Origin::Own))?;
    rules::check_owner(path, &file)?;
    Ok(file)
}

/// Reads a secret of gatepost's own, which only its owner may read.
pub fn read(path: &Path) -> Result<Vec<u8>, PrivateFileError> {
    read_secret(path, Origin::Own)
}

/// Reads a file of gatepost's own that all may read, and nobody else write: people go by what is in it.
pub fn read_shown(path: &Path, limit: Limit) -> Result<Vec<u8>, PrivateFileError> {
    let file = opened(path, Origin::Own)?;
    rules::check_writers(path, &file)?;
    contents(path, file, limit)
}

fn read_secret(path: &Path, origin: Origin) -> Result<Vec<u8>, PrivateFileError> {
    let file = opened(path, origin)?;
    rules::check(path, &file, origin)?;
    contents(path, file, Limit::SECRET)
}

/// Room beyond a file's size: with less than 32 octets of it the library reads by its stack, and with none it makes a
/// copy. Both leave parts of a secret behind.
const SPARE: usize = 64;

/// In memory of the right size at once.
fn contents(path: &Path, file: File, limit: Limit) -> Result<Vec<u8>, PrivateFileError> {
    let too_long = || PrivateFileError::TooLong { path: path.to_owned(), limit };
    let (size, most) = (file.metadata().map_err(at(path))?.len(), limit.octets());
    if size > most {
        return Err(too_long());
    }
    let mut bytes = Vec::with_capacity(usize::try_from(size).unwrap_or(0).saturating_add(SPARE));
    // It may grow meanwhile, and what the kernel makes up has no size at all.
    let read = file.take(most.saturating_add(1)).read_to_end(&mut bytes).map_err(at(path))?;
    match u64::try_from(read).is_ok_and(|read| read <= most) {
        true => Ok(bytes),
        false => Err(too_long()),
    }
}

/// Refuses a file of gatepost's own that others can read.
pub fn check(path: &Path) -> Result<(), PrivateFileError> {
    rules::check(path, &opened(path, Origin::Own)?, Origin::Own)
}

/// The same for one that may be missing.
pub fn check_if_there(path: &Path) -> Result<(), PrivateFileError> {
    unless_absent(check(path)).map(drop)
}

/// Refuses what somebody has planted in a folder of gatepost's own under a name that begins so.
pub fn refuse_planted(folder: &Path, names: &[&str]) -> Result<(), PrivateFileError> {
    for entry in std::fs::read_dir(folder).map_err(at(folder))? {
        let entry = entry.map_err(at(folder))?;
        let name = entry.file_name();
        if names.iter().any(|begin| name.as_encoded_bytes().starts_with(begin.as_bytes())) {
            let path = entry.path();
            let checked =
                opened(&path, Origin::Own).and_then(|file| rules::check_writers(&path, &file));
            // One that another process has removed meanwhile is gone.
            unless_absent(checked)?;
        }
    }
    Ok(())
}

/// A regular file, open to be read. Devices and pipes act on being opened: they are not.
fn opened(path: &Path, origin: Origin) -> Result<File, PrivateFileError> {
    let is_file = |about: FileType| match about.is_file() {
        true => Ok(()),
        false => Err(unexpected(path, about, Wanted::File)),
    };
    is_file(kind_of(path, origin).map_err(at(path))?)?;
    let mut options = OpenOptions::new();
    rules::restrict(&mut options, origin);
    let file = options.read(true).open(path).map_err(refused(path, origin))?;
    is_file(file.metadata().map_err(at(path))?.file_type())?;
    Ok(file)
}

fn kind_of(path: &Path, origin: Origin) -> io::Result<FileType> {
    let about = match origin {
        Origin::Own => std::fs::symlink_metadata(path),
        Origin::Named => std::fs::metadata(path),
    };
    about.map(|about| about.file_type())
}

/// What the system refuses to open may be no file at all.
fn refused(path: &Path, origin: Origin) -> impl FnOnce(io::Error) -> PrivateFileError + '_ {
    move |source| match kind_of(path, origin) {
        Ok(about) if rules::is_refused(&source) && !about.is_file() => {
            unexpected(path, about, Wanted::File)
        }
        _ => at(path)(source),
    }
}

fn unexpected(path: &Path, found: FileType, wanted: Wanted) -> PrivateFileError {
    let what = match wanted {
        Wanted::File if found.is_symlink() => {
            "a symbolic link: gatepost follows none here".to_owned()
        }
        Wanted::File => format!("{}, where a file must be", rules::kind(found)),
        Wanted::Folder => format!("{}, where a folder must be", rules::kind(found)),
    };
    PrivateFileError::Unexpected { path: path.to_owned(), what }
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
        assert!(error.ends_with(&format!("\nhint: chmod 600 {}", path.display())), "{error}");
        let roots = Owners { owner: 0, user: 998 };
        assert_eq!(roots.to_hide(Path::new("/k")), "chown 998 /k && chmod 600 /k");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }
}
