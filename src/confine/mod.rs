//! The confinement of the process: what it could do beyond its work, it gives up at its start.
//!
//! On Linux: no core dumps and no debugger, files outside of the configuration's folders by Landlock, programs and the
//! system calls that attacks need by seccomp. Elsewhere there is nothing of it, and the log says so.
//!
//! The network is left alone: a configuration that is loaded anew may name other ports, and systemd's unit bounds the
//! address families.
//!
//! Invariant: it is never taken back, and it holds for threads that begin after it; so it comes before the runtime.
//! What the kernel does not have is named, and everything else holds all the same.

#[cfg(target_os = "linux")]
mod calls;
#[cfg(target_os = "linux")]
mod files;

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

/// What this process may open; none: everything.
static REACH: OnceLock<Vec<PathBuf>> = OnceLock::new();

/// This process has given something up.
static IN_FORCE: AtomicBool = AtomicBool::new(false);

/// What a person does when a confined process can't open a file that its configuration names.
pub const OUTSIDE: &str =
    "outside of what the running gatepost may open; restart gatepost (systemctl restart gatepost)";

/// What the process needs of the file system, besides the system's own files.
#[derive(Clone, Debug, Default)]
pub struct Reach {
    /// Files that are read. With each one its folder may be read: files are replaced while gatepost runs.
    pub files: Vec<PathBuf>,
    /// Folders in which files are made, written and removed.
    pub state: Vec<PathBuf>,
}

/// What became of the confinement.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Confinement {
    /// Which files are opened.
    pub files: Guard,
    /// Which system calls are made.
    pub calls: Guard,
}

/// One part of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Guard {
    /// By this.
    InForce(String),
    /// Why not.
    Missing(String),
}

impl fmt::Display for Guard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::InForce(by) => f.write_str(by),
            Self::Missing(why) => write!(f, "not confined: {why}"),
        }
    }
}

/// No core dump has the secrets of this process, and no other process of the same user reads its memory.
#[cfg(target_os = "linux")]
pub fn keep_memory_private() {
    use rustix::process::{DumpableBehavior, Resource, Rlimit, set_dumpable_behavior, setrlimit};
    // Neither is refused to a process that only gives something up.
    let _ = set_dumpable_behavior(DumpableBehavior::NotDumpable);
    let _ = setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) });
}

/// Elsewhere the limit alone.
#[cfg(all(unix, not(target_os = "linux")))]
pub fn keep_memory_private() {
    use rustix::process::{Resource, Rlimit, setrlimit};
    let _ = setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) });
}

/// Windows writes none that an administrator has not asked for.
#[cfg(not(unix))]
pub fn keep_memory_private() {}

/// Confines this thread, and those that it starts from now on.
#[cfg(target_os = "linux")]
pub fn confine(reach: &Reach) -> Confinement {
    let folders = folders(reach);
    let files = match files::restrict(&folders, &reach.state) {
        Ok(guard) => guard,
        Err(error) => Guard::Missing(error.to_string()),
    };
    if matches!(files, Guard::InForce(_)) {
        let mut all = folders;
        all.extend(reach.state.iter().cloned());
        // A process is confined once.
        let _ = REACH.set(all.iter().map(|path| whole(path)).collect());
    }
    let calls = match calls::restrict() {
        Ok(()) => Guard::InForce("seccomp".into()),
        Err(error) => Guard::Missing(error.to_string()),
    };
    let in_force = |guard: &Guard| matches!(guard, Guard::InForce(_));
    IN_FORCE.store(in_force(&files) || in_force(&calls), Ordering::Relaxed);
    Confinement { files, calls }
}

/// Elsewhere there is nothing to confine with.
#[cfg(not(target_os = "linux"))]
pub fn confine(_: &Reach) -> Confinement {
    let missing = Guard::Missing("there is nothing for it on this system".into());
    Confinement { files: missing.clone(), calls: missing }
}

/// Whether this process is confined, by one part at least: it starts no programs then.
pub fn is_in_force() -> bool {
    IN_FORCE.load(Ordering::Relaxed)
}

/// Whether this process can't open the file because it is confined.
pub fn forbids(path: &Path) -> bool {
    let Some(reach) = REACH.get() else { return false };
    let path = whole(path);
    !reach.iter().any(|allowed| path.starts_with(allowed))
}

/// The system's "permission denied" in the words that help, if the confinement is why.
pub fn explain(path: &Path, error: io::Error) -> io::Error {
    match error.kind() == io::ErrorKind::PermissionDenied && forbids(path) {
        true => io::Error::new(io::ErrorKind::PermissionDenied, OUTSIDE),
        false => error,
    }
}

/// Where a path leads to in the end.
fn whole(path: &Path) -> PathBuf {
    std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned())
}

/// The folders of these files and of what they lead to; of one in the root folder, it alone.
#[cfg(target_os = "linux")]
fn folders(reach: &Reach) -> Vec<PathBuf> {
    let mut folders: Vec<PathBuf> = files::SYSTEM.iter().map(PathBuf::from).collect();
    let resolver = PathBuf::from("/etc/resolv.conf");
    for file in reach.files.iter().chain([&resolver]) {
        let named = std::path::absolute(file).unwrap_or_else(|_| file.clone());
        for path in [whole(&named), named] {
            match path.parent() {
                Some(folder) if folder.parent().is_some() => folders.push(folder.to_owned()),
                _ => folders.push(path),
            }
        }
    }
    // As rustls-native-certs has it: an administrator's roots in the place of the system's.
    for variable in ["SSL_CERT_FILE", "SSL_CERT_DIR"] {
        let value = std::env::var_os(variable).unwrap_or_default();
        folders.extend(std::env::split_paths(&value).filter(|path| !path.as_os_str().is_empty()));
    }
    folders.sort();
    folders.dedup();
    folders
}
