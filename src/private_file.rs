//! Files that nobody but their owner may read: keys, the store, what waits in the spool.
//!
//! What gatepost makes itself in its state folder is never a link. What the configuration names may be one, as
//! Kubernetes and Nix lay secrets out: then its target is checked.
//!
//! Invariant: such a file never exists with a wider mode, not even for a moment. What is opened is looked at on the
//! open descriptor: a regular file, of this user or root, which others can't read; else it is refused, with the
//! command that mends it. Nothing waits for the other end of a pipe.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

#[cfg(not(unix))]
use elsewhere as rules;
#[cfg(unix)]
use unix as rules;

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
    /// A folder in which others can put files.
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
        what: &'static str,
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

/// The number of a file's owner; none: there is no file, or the system has no such numbers.
#[cfg(unix)]
pub fn owner(path: &Path) -> Option<u32> {
    use std::os::unix::fs::MetadataExt;

    std::fs::metadata(path).map(|about| about.uid()).ok()
}

/// Elsewhere there are none.
#[cfg(not(unix))]
pub fn owner(_: &Path) -> Option<u32> {
    None
}

/// Who has put a file where it is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Origin {
    /// gatepost: it is no link.
    Own,
    /// An administrator, who may name a link.
    Named,
}

/// Names the file in an error of the system's.
fn at(path: &Path) -> impl FnOnce(io::Error) -> PrivateFileError + '_ {
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

/// The same for a folder of gatepost's own: the state folder and those in it. Nobody else may put files there, so
/// that nothing is planted between a check and what relies on it.
pub fn ensure_own_folder(path: &Path) -> Result<(), PrivateFileError> {
    // With a slash at its end a link would not be seen as one.
    let path: PathBuf = path.components().collect();
    if std::fs::symlink_metadata(&path).is_err_and(|error| error.kind() == io::ErrorKind::NotFound)
    {
        ensure_folder(&path)?;
    }
    rules::check_folder(&path)
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
    let file = options().append(true).create(true).open(path).map_err(refused(path))?;
    rules::check_owner(path, &file)?;
    Ok(file)
}

/// Reads a file of gatepost's own that only its owner may read.
pub fn read(path: &Path) -> Result<Vec<u8>, PrivateFileError> {
    read_as(path, Origin::Own)
}

/// Reads a file that the configuration names: a link is followed to what must be readable by its owner alone. One of
/// root's may also be readable by its group, in which a service is to read it (systemd's credentials look so).
pub fn read_named(path: &Path) -> Result<Vec<u8>, PrivateFileError> {
    read_as(path, Origin::Named)
}

/// Reads a file that the configuration names, whoever may read it besides: a link is followed, but only a regular
/// file is read, so that nothing waits for the other end of a pipe.
pub fn read_regular(path: &Path) -> io::Result<Vec<u8>> {
    contents(opened(path, Origin::Named)?)
}

fn read_as(path: &Path, origin: Origin) -> Result<Vec<u8>, PrivateFileError> {
    let file = opened(path, origin)?;
    rules::check(path, &file, origin)?;
    contents(file).map_err(at(path))
}

/// In memory of the right size at once: what grows leaves copies of a secret behind.
fn contents(mut file: File) -> io::Result<Vec<u8>> {
    let size = usize::try_from(file.metadata()?.len()).unwrap_or(0);
    let mut bytes = Vec::with_capacity(size.saturating_add(1));
    file.read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Refuses a file of gatepost's own that others can read.
pub fn check(path: &Path) -> Result<(), PrivateFileError> {
    rules::check(path, &opened(path, Origin::Own)?, Origin::Own)
}

/// Refuses what somebody has planted in a folder of gatepost's own under a name that begins so.
pub fn refuse_planted(folder: &Path, names: &[&str]) -> Result<(), PrivateFileError> {
    for entry in std::fs::read_dir(folder).map_err(at(folder))? {
        let entry = entry.map_err(at(folder))?;
        let name = entry.file_name();
        if names.iter().any(|begin| name.as_encoded_bytes().starts_with(begin.as_bytes())) {
            match opened(&entry.path(), Origin::Own) {
                // Another process has removed it meanwhile.
                Err(PrivateFileError::Io { why, .. }) if why.kind() == io::ErrorKind::NotFound => {}
                opened => rules::check_owner(&entry.path(), &opened?)?,
            }
        }
    }
    Ok(())
}

/// A regular file, open to be read.
fn opened(path: &Path, origin: Origin) -> Result<File, PrivateFileError> {
    let mut options = OpenOptions::new();
    rules::restrict(&mut options, origin);
    let file = options.read(true).open(path).map_err(refused(path))?;
    let about = file.metadata().map_err(at(path))?;
    match about.is_file() {
        true => Ok(file),
        false => Err(unexpected(path, rules::kind(about.file_type()))),
    }
}

/// What the system refuses to open may be no file at all.
fn refused(path: &Path) -> impl FnOnce(io::Error) -> PrivateFileError + '_ {
    move |source| match std::fs::symlink_metadata(path) {
        Ok(about) if rules::is_refused(&source) && !about.is_file() => {
            unexpected(path, rules::kind(about.file_type()))
        }
        _ => at(path)(source),
    }
}

fn unexpected(path: &Path, what: &'static str) -> PrivateFileError {
    PrivateFileError::Unexpected { path: path.to_owned(), what }
}

#[cfg(unix)]
mod unix {
    use std::fs::{File, FileType, Metadata, OpenOptions};
    use std::io;
    use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
    use std::path::Path;

    use rustix::fs::OFlags;
    use rustix::io::Errno;

    use super::{Origin, Owners, PrivateFileError, at, unexpected};

    /// The superuser, who reads everything anyway.
    const ROOT: u32 = 0;

    pub(super) fn restrict(options: &mut OpenOptions, origin: Origin) {
        let flags = match origin {
            Origin::Own => OFlags::NONBLOCK | OFlags::NOFOLLOW,
            Origin::Named => OFlags::NONBLOCK,
        };
        options.mode(0o600).custom_flags(flags.bits().cast_signed());
    }

    /// How the system says that there is a link, a socket, a pipe that nobody reads, or a folder.
    pub(super) fn is_refused(error: &io::Error) -> bool {
        let known = [Errno::LOOP, Errno::MLINK, Errno::NXIO, Errno::OPNOTSUPP, Errno::ISDIR];
        known.iter().any(|errno| error.raw_os_error() == Some(errno.raw_os_error()))
    }

    pub(super) fn kind(file: FileType) -> &'static str {
        match file {
            _ if file.is_symlink() => "a symbolic link: gatepost follows none here",
            _ if file.is_dir() => "a folder, where a file must be",
            _ if file.is_fifo() => "a pipe, where a file must be",
            _ if file.is_socket() => "a socket, where a file must be",
            _ if file.is_file() => "a file, where a folder must be",
            _ => "a device, where a file must be",
        }
    }

    pub(super) fn check(path: &Path, file: &File, origin: Origin) -> Result<(), PrivateFileError> {
        let about = file.metadata().map_err(at(path))?;
        trust_owner(path, &about)?;
        let lent = origin == Origin::Named && about.uid() == ROOT && user() != ROOT;
        let others = if lent { 0o037 } else { 0o077 };
        match about.mode() & others {
            0 => Ok(()),
            _ => {
                let owners = Owners { owner: about.uid(), user: user() };
                Err(PrivateFileError::Exposed { path: path.to_owned(), mode: bits(&about), owners })
            }
        }
    }

    /// What was opened to be written may be a device.
    pub(super) fn check_owner(path: &Path, file: &File) -> Result<(), PrivateFileError> {
        let about = file.metadata().map_err(at(path))?;
        match about.is_file() {
            true => trust_owner(path, &about),
            false => Err(unexpected(path, kind(about.file_type()))),
        }
    }

    /// A link to the state folder is root's, and gatepost is not root: so systemd lays out the folders of services
    /// whose user comes and goes.
    pub(super) fn check_folder(path: &Path) -> Result<(), PrivateFileError> {
        let link = std::fs::symlink_metadata(path).map_err(at(path))?;
        if link.is_symlink() && (link.uid() != ROOT || user() == ROOT) {
            let what = "a symbolic link: name the folder that it leads to";
            return Err(unexpected(path, what));
        }
        let about = std::fs::metadata(path).map_err(at(path))?;
        if !about.is_dir() {
            return Err(unexpected(path, kind(about.file_type())));
        }
        trust_owner(path, &about)?;
        match about.mode() & 0o022 {
            0 => Ok(()),
            _ => Err(PrivateFileError::Writable { path: path.to_owned(), mode: bits(&about) }),
        }
    }

    fn trust_owner(path: &Path, about: &Metadata) -> Result<(), PrivateFileError> {
        let (owner, user) = (about.uid(), user());
        match owner == user || owner == ROOT {
            true => Ok(()),
            false => Err(PrivateFileError::Foreign { path: path.to_owned(), owner, user }),
        }
    }

    fn bits(about: &Metadata) -> u32 {
        about.mode() & 0o7777
    }

    pub(super) fn user() -> u32 {
        rustix::process::geteuid().as_raw()
    }
}

/// Elsewhere the folder's access list, which is the user's own, decides.
#[cfg(not(unix))]
mod elsewhere {
    use std::fs::{File, FileType, OpenOptions};
    use std::io;
    use std::path::Path;

    use super::{Origin, PrivateFileError};

    pub(super) fn restrict(_: &mut OpenOptions, _: Origin) {}

    pub(super) fn is_refused(_: &io::Error) -> bool {
        true
    }

    pub(super) fn kind(_: FileType) -> &'static str {
        "not what must be there"
    }

    pub(super) fn user() -> u32 {
        0
    }

    pub(super) fn check(_: &Path, _: &File, _: Origin) -> Result<(), PrivateFileError> {
        Ok(())
    }

    pub(super) fn check_owner(_: &Path, _: &File) -> Result<(), PrivateFileError> {
        Ok(())
    }

    pub(super) fn check_folder(_: &Path) -> Result<(), PrivateFileError> {
        Ok(())
    }
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
        assert!(error.ends_with(&format!("\nhint: chmod 600 {}", path.display())), "{error}");
        let roots = Owners { owner: 0, user: 998 };
        assert_eq!(roots.to_hide(Path::new("/k")), "chown 998 /k && chmod 600 /k");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }
}
