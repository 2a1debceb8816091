//! Who holds the store's lock.
//!
//! Invariant: it is for people to read; nothing depends on it.

use std::path::Path;

/// The processes that hold locks on the store at `path`, other than this one; none where the system does not tell.
///
/// SQLite locks the index of the write-ahead log, or the file itself where a process has it all to itself.
#[cfg(target_os = "linux")]
pub(super) fn of(path: &Path) -> Option<String> {
    use std::os::unix::fs::MetadataExt;

    let mut held = Vec::new();
    let sides = ["", "-shm"].map(|side| {
        let mut name = path.as_os_str().to_owned();
        name.push(side);
        name
    });
    let files: Vec<u64> =
        sides.iter().filter_map(|name| Some(std::fs::metadata(name).ok()?.ino())).collect();
    // `1: POSIX  ADVISORY  WRITE 1234 08:01:5678 120 120`, proc_locks(5)
    for line in std::fs::read_to_string("/proc/locks").ok()?.lines() {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let [_, _, _, "WRITE", pid, file, ..] = fields.as_slice() else { continue };
        let inode = file.rsplit(':').next().and_then(|inode| inode.parse().ok());
        let own = *pid == std::process::id().to_string();
        if own || !inode.is_some_and(|inode| files.contains(&inode)) {
            continue;
        }
        // A confined process does not see others' names.
        let process = match std::fs::read_to_string(format!("/proc/{pid}/comm")) {
            Ok(name) => format!("process {pid} ({})", name.trim()),
            Err(_) => format!("process {pid}"),
        };
        if !held.contains(&process) {
            held.push(process);
        }
    }
    (!held.is_empty()).then(|| held.join(", "))
}

#[cfg(not(target_os = "linux"))]
pub(super) fn of(_: &Path) -> Option<String> {
    None
}
