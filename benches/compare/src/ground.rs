//! What all measurements stand on: a temporary folder, free ports, the certificates of the tests.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process;
use std::sync::atomic::{AtomicU16, Ordering};

use anyhow::{Result, bail};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tempfile::TempDir;

use crate::say::progress;

/// Where ports are looked for: below those that the kernel takes for outgoing connections, of which one could sit on a
/// port between its choice and the server's bind.
const PORTS: std::ops::Range<u16> = 20_000..32_000;

/// The folder of a run, which ends with it.
pub(crate) struct Ground {
    folder: TempDir,
    next_port: AtomicU16,
    next_folder: AtomicU16,
}

impl Ground {
    /// With a folder that stays, if `keep`.
    pub(crate) fn new(keep: bool) -> Result<Self> {
        let mut builder = tempfile::Builder::new();
        let folder = builder.prefix("gatepost-compare-").disable_cleanup(keep).tempdir()?;
        if keep {
            progress(&format!("logs and configurations are kept in {}", folder.path().display()));
        }
        open_to_all(folder.path())?;
        let spread = u16::try_from(process::id() % 11_000)?;
        let (next_port, next_folder) = (AtomicU16::new(PORTS.start + spread), AtomicU16::new(1));
        Ok(Self { folder, next_port, next_folder })
    }

    /// A new folder, which other users can read.
    pub(crate) fn folder(&self, name: &str) -> Result<PathBuf> {
        let number = self.next_folder.fetch_add(1, Ordering::Relaxed);
        let made = self.folder.path().join(format!("{number:03}-{name}"));
        fs::create_dir(&made)?;
        open_to_all(&made)?;
        Ok(made)
    }

    /// A port that is free on both loopbacks, handed out once.
    pub(crate) fn port(&self) -> Result<u16> {
        for _ in PORTS {
            let port = self.next_port.fetch_add(1, Ordering::Relaxed);
            if port >= PORTS.end {
                self.next_port.store(PORTS.start, Ordering::Relaxed);
                continue;
            }
            if ["127.0.0.1", "::1"].iter().all(|host| TcpListener::bind((*host, port)).is_ok()) {
                return Ok(port);
            }
        }
        bail!("no port from {} to {} is free", PORTS.start, PORTS.end)
    }
}

/// A file of certs/, which the tests use too.
pub(crate) fn certificate(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../certs").join(name)
}

/// Lets this process and those that it starts have as many files open as it may; how many that is.
pub(crate) fn allow_files() -> Result<u64> {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum })?;
    Ok(maximum.unwrap_or(u64::MAX))
}

fn open_to_all(folder: &Path) -> Result<()> {
    Ok(fs::set_permissions(folder, fs::Permissions::from_mode(0o755))?)
}
