//! The configuration file, looked at for changes.
//!
//! Editors replace a file or write it in two steps, Kubernetes exchanges a symbolic link above it. So it is looked at
//! by its resolved path, and a change counts when it has been still for a while. A look each second needs no help of
//! the system's, and works on network drives.
//!
//! Invariant: each version of the file is told once, also the one that is missing.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use tokio::time::sleep;

/// How often it is looked at. What two looks in a row find is still.
const LOOK: Duration = Duration::from_secs(1);

/// A file that is watched.
pub struct WatchedFile {
    path: PathBuf,
    /// The version that was told last; none: there is no file.
    told: Option<Version>,
}

/// What differs when the content does.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Version {
    resolved: PathBuf,
    modified: Option<SystemTime>,
    length: u64,
    /// Another file in its place may have the same time and length.
    #[cfg(unix)]
    inode: (u64, u64),
    /// `chmod` makes a file readable that was not, and leaves its times alone.
    #[cfg(unix)]
    changed: (i64, i64),
}

impl WatchedFile {
    /// Its present version is told already: to be called before it is read.
    pub fn new(path: &Path) -> Self {
        Self { path: path.to_owned(), told: Version::of(path) }
    }

    /// The same, before it is read for another reason.
    pub fn read_now(&mut self) {
        self.told = Version::of(&self.path);
    }

    /// Comes to its end when there is another version, which has been still for a while. May be dropped and begun
    /// again.
    pub async fn changed(&mut self) {
        let mut last = self.told.clone();
        loop {
            sleep(LOOK).await;
            let path = self.path.clone();
            // Off the runtime: a network drive may take its time.
            let look = tokio::task::spawn_blocking(move || Version::of(&path));
            let Ok(version) = look.await else { continue };
            if version != self.told && version == last {
                self.told = version;
                return;
            }
            last = version;
        }
    }
}

impl Version {
    fn of(path: &Path) -> Option<Self> {
        let resolved = fs::canonicalize(path).ok()?;
        let metadata = fs::metadata(&resolved).ok()?;
        #[cfg(unix)]
        use std::os::unix::fs::MetadataExt;
        Some(Self {
            resolved,
            modified: metadata.modified().ok(),
            length: metadata.len(),
            #[cfg(unix)]
            inode: (metadata.dev(), metadata.ino()),
            #[cfg(unix)]
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        })
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::{Instant, timeout};

    use super::*;

    async fn is_told(file: &mut WatchedFile) -> bool {
        timeout(Duration::from_millis(3500), file.changed()).await.is_ok()
    }

    #[tokio::test]
    async fn each_version_is_told_once_and_when_it_is_still() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("gatepost.toml");
        fs::write(&path, "one").unwrap();
        let mut file = WatchedFile::new(&path);
        assert!(!is_told(&mut file).await);
        // The same length, by rename.
        fs::write(folder.path().join("new"), "two").unwrap();
        fs::rename(folder.path().join("new"), &path).unwrap();
        assert!(is_told(&mut file).await);
        assert!(!is_told(&mut file).await);
        fs::remove_file(&path).unwrap();
        assert!(is_told(&mut file).await);
        assert!(!is_told(&mut file).await);
        // A writer that takes its time.
        let begun = Instant::now();
        let writer = {
            let path = path.clone();
            tokio::spawn(async move {
                for count in 1..=15 {
                    fs::write(&path, "x".repeat(count)).unwrap();
                    sleep(Duration::from_millis(200)).await;
                }
            })
        };
        timeout(Duration::from_secs(20), file.changed()).await.unwrap();
        assert!(begun.elapsed() >= Duration::from_secs(3), "{:?}", begun.elapsed());
        writer.await.unwrap();
    }

    #[cfg(unix)]
    #[tokio::test]
    async fn a_symbolic_link_above_it_is_followed() {
        use std::os::unix::fs::symlink;
        let folder = tempfile::tempdir().unwrap();
        for version in ["..1", "..2"] {
            fs::create_dir(folder.path().join(version)).unwrap();
            fs::write(folder.path().join(version).join("gatepost.toml"), "same").unwrap();
        }
        symlink("..1", folder.path().join("..data")).unwrap();
        let path = folder.path().join("gatepost.toml");
        symlink("..data/gatepost.toml", &path).unwrap();
        let mut file = WatchedFile::new(&path);
        symlink("..2", folder.path().join("..tmp")).unwrap();
        fs::rename(folder.path().join("..tmp"), folder.path().join("..data")).unwrap();
        assert!(is_told(&mut file).await);
    }
}
