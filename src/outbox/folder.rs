//! Folders and small files that outlive a power cut.
//!
//! Invariant: a folder's sync serves all who asked before it began, and nobody else; one that failed has failed for
//! all of them, because the system tells of a lost write once only.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use crate::private_file;

/// A folder whose names must last.
#[derive(Debug)]
pub(super) struct Folder {
    pub(super) path: PathBuf,
    /// Who asked so far, by number.
    asked: AtomicU64,
    served: Mutex<Served>,
}

/// Up to which number.
#[derive(Debug, Default)]
struct Served {
    done: u64,
    failed: u64,
}

impl Folder {
    pub(super) fn new(path: PathBuf) -> Self {
        Self { path, asked: AtomicU64::new(0), served: Mutex::default() }
    }

    /// Where the file of this name is.
    pub(super) fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// What was done in the folder until now lasts. Concurrent callers share one sync. It blocks.
    pub(super) fn sync(&self) -> io::Result<()> {
        let number = self.asked.fetch_add(1, Ordering::SeqCst) + 1;
        let mut served = self.served.lock().unwrap_or_else(PoisonError::into_inner);
        if number <= served.failed {
            return Err(io::Error::other("the folder can't be synced"));
        }
        if number <= served.done {
            return Ok(());
        }
        let all = self.asked.load(Ordering::SeqCst);
        match sync_folder(&self.path) {
            Ok(()) => served.done = all,
            Err(error) => {
                served.failed = all;
                return Err(error);
            }
        }
        Ok(())
    }
}

/// Windows has no sync of a folder; its file systems log their names by themselves.
pub(super) fn sync_folder(path: &Path) -> io::Result<()> {
    if cfg!(unix) { File::open(path)?.sync_all() } else { Ok(()) }
}

/// For a new file that only its owner may read.
pub(super) fn new_file() -> OpenOptions {
    let mut options = private_file::options();
    options.write(true).create_new(true);
    options
}

/// All of a small file.
pub(super) fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut octets = Vec::new();
    private_file::open(path)?.read_to_end(&mut octets)?;
    Ok(octets)
}

/// Puts a small file in the place of the former one, whole or not at all. `lasting`: its octets are synced before;
/// its name is not.
pub(super) fn replace(path: &Path, octets: &[u8], lasting: bool) -> io::Result<()> {
    let draft = path.with_extension(format!("{}-{}.new", std::process::id(), fastrand::u32(..)));
    let written = new_file().open(&draft).and_then(|mut file| {
        file.write_all(octets)?;
        if lasting { file.sync_all() } else { Ok(()) }
    });
    let replaced = written.and_then(|()| std::fs::rename(&draft, path));
    if replaced.is_err() {
        // What is left of it is cleared away some time.
        let _ = std::fs::remove_file(&draft);
    }
    replaced
}

/// Removes a file; whether there was one.
pub(super) fn remove(path: &Path) -> io::Result<bool> {
    match std::fs::remove_file(path) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}
