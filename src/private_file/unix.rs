//! The rules of systems with owners and modes.

use std::fs::{File, FileType, Metadata, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;

use rustix::fs::OFlags;
use rustix::io::Errno;

use super::{Origin, Owners, PrivateFileError, Wanted, at, unexpected};

/// The superuser, who reads everything anyway.
const ROOT: u32 = 0;

pub(super) fn restrict(options: &mut OpenOptions, origin: Origin) {
    let flags = match origin {
        Origin::Own => OFlags::NONBLOCK | OFlags::NOFOLLOW,
        Origin::Named => OFlags::NONBLOCK,
    };
    // A terminal must not become this process's.
    let flags = flags | OFlags::NOCTTY;
    options.mode(0o600).custom_flags(flags.bits().cast_signed());
}

/// How the system says that there is a link, a socket, a pipe that nobody reads, or a folder.
pub(super) fn is_refused(error: &io::Error) -> bool {
    let known = [Errno::LOOP, Errno::MLINK, Errno::NXIO, Errno::OPNOTSUPP, Errno::ISDIR];
    known.iter().any(|errno| error.raw_os_error() == Some(errno.raw_os_error()))
}

pub(super) fn kind(file: FileType) -> &'static str {
    match file {
        _ if file.is_symlink() => "a symbolic link",
        _ if file.is_dir() => "a folder",
        _ if file.is_fifo() => "a pipe",
        _ if file.is_socket() => "a socket",
        _ if file.is_file() => "a file",
        _ => "a device",
    }
}

/// The pipe that the process was started with and that is named so: `--config <(...)` of a shell, `/dev/stdin`.
pub(super) fn passed_pipe(path: &Path) -> Option<io::Result<File>> {
    let is_passed = ["/dev/fd", "/proc/self/fd"].iter().any(|of| path.starts_with(of));
    if !is_passed && path != Path::new("/dev/stdin") {
        return None;
    }
    let about = std::fs::metadata(path).ok()?;
    about.file_type().is_fifo().then(|| File::open(path))
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
        false => Err(unexpected(path, about.file_type(), Wanted::File)),
    }
}

/// The same, and nobody else can write to it.
pub(super) fn check_writers(path: &Path, file: &File) -> Result<(), PrivateFileError> {
    check_owner(path, file)?;
    not_writable(path, &file.metadata().map_err(at(path))?)
}

fn not_writable(path: &Path, about: &Metadata) -> Result<(), PrivateFileError> {
    match about.mode() & 0o022 {
        0 => Ok(()),
        _ => Err(PrivateFileError::Writable { path: path.to_owned(), mode: bits(about) }),
    }
}

/// A link to the state folder is root's, and gatepost is not root: so systemd lays out the folders of services
/// whose user comes and goes.
pub(super) fn check_folder(path: &Path, origin: Origin) -> Result<(), PrivateFileError> {
    let link = std::fs::symlink_metadata(path).map_err(at(path))?;
    if link.is_symlink() && (link.uid() != ROOT || user() == ROOT) {
        return Err(match origin {
            Origin::Own => unexpected(path, link.file_type(), Wanted::Folder),
            Origin::Named => PrivateFileError::Unexpected {
                path: path.to_owned(),
                what: "a symbolic link: name the folder that it leads to".into(),
            },
        });
    }
    if link.is_symlink() && !path.exists() {
        let what = "a symbolic link that leads nowhere".into();
        return Err(PrivateFileError::Unexpected { path: path.to_owned(), what });
    }
    let about = std::fs::metadata(path).map_err(at(path))?;
    if !about.is_dir() {
        return Err(unexpected(path, about.file_type(), Wanted::Folder));
    }
    trust_owner(path, &about)?;
    not_writable(path, &about)
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

/// The number of a file's owner; none: there is no file, or the system has no such numbers.
pub fn owner(path: &Path) -> Option<u32> {
    std::fs::metadata(path).map(|about| about.uid()).ok()
}

/// Whether everybody on this machine can read it. Others' files are often their group's too, which says so on purpose.
pub fn is_open_to_all(path: &Path) -> bool {
    std::fs::metadata(path).is_ok_and(|about| about.permissions().mode() & 0o007 != 0)
}

/// For a folder that was made by hand, or restored from a copy: nobody but its owner enters it from now on.
pub fn close_to_others(folder: &Path) -> io::Result<()> {
    match std::fs::metadata(folder)?.permissions().mode() & 0o077 {
        0 => Ok(()),
        _ => std::fs::set_permissions(folder, Permissions::from_mode(0o700)),
    }
}
