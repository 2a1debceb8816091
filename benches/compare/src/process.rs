//! A process that is measured: started, waited for, ended by its id.
//!
//! Invariant: whatever is started here ends here, also when a measurement fails.

use std::fs::{self, File};
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};
use tokio::net::TcpStream;
use tokio::time::sleep;

use crate::measure::members;

/// For a start. Under Valgrind on a machine that is busy it takes a while.
const START: Duration = Duration::from_secs(120);

/// How often a listener is tried: a tenth of the shortest start.
const TRY_AGAIN: Duration = Duration::from_micros(200);

/// For an end that was asked for, before it is forced.
const STOP: Duration = Duration::from_secs(30);

/// How often it is looked whether it has ended.
const AGAIN: Duration = Duration::from_millis(5);

/// Lines of a log that an error shows.
const TAIL: usize = 20;

/// A running process, its output in a file.
pub(crate) struct Process {
    name: String,
    child: Child,
    log: PathBuf,
    since: Instant,
    /// Where it listens.
    address: Option<SocketAddr>,
}

impl Process {
    /// Starts it; `folder` gets its output.
    pub(crate) fn start(name: &str, folder: &Path, command: &mut Command) -> Result<Self> {
        let log = folder.join(format!("{name}.log"));
        let out = File::options().create(true).append(true).open(&log)?;
        command.stdin(Stdio::null()).stdout(out.try_clone()?).stderr(out);
        let since = Instant::now();
        let child = command.spawn().with_context(|| {
            format!("{} can't be started: is it installed?", command.get_program().display())
        })?;
        Ok(Self { name: name.to_owned(), child, log, since, address: None })
    }

    /// Its id.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// How long ago it was started.
    pub(crate) fn age(&self) -> Duration {
        self.since.elapsed()
    }

    /// Waits until it takes connections; how long that was since its start.
    pub(crate) async fn listening(&mut self, address: SocketAddr) -> Result<Duration> {
        self.address = Some(address);
        loop {
            if TcpStream::connect(address).await.is_ok() {
                return Ok(self.since.elapsed());
            }
            if let Some(status) = self.child.try_wait()? {
                bail!("{} has ended with {status}:\n{}", self.name, self.tail());
            }
            if self.since.elapsed() > START {
                bail!("{} does not listen on {address}:\n{}", self.name, self.tail());
            }
            sleep(TRY_AGAIN).await;
        }
    }

    /// The end of what it wrote.
    pub(crate) fn tail(&self) -> String {
        let text = fs::read(&self.log).unwrap_or_default();
        let text = String::from_utf8_lossy(&text).into_owned();
        let lines: Vec<_> = text.lines().collect();
        lines.get(lines.len().saturating_sub(TAIL)..).unwrap_or_default().join("\n")
    }

    /// Asks it to end, waits, then insists. Its descendants end by themselves a little later, and hold its ports until
    /// then.
    fn stop(&mut self) {
        let (asked, members) = (Instant::now(), members(self.id()));
        if let Ok(None) = self.child.try_wait() {
            self.signal(Signal::TERM);
        }
        while let Ok(None) = self.child.try_wait() {
            if asked.elapsed() > STOP {
                let _ = self.child.kill();
                let _ = self.child.wait();
            }
            thread::sleep(AGAIN);
        }
        let is_alive = |id: &u32| Path::new("/proc").join(id.to_string()).exists();
        let is_taken = |address: &SocketAddr| TcpListener::bind(address).is_err();
        while members.iter().any(is_alive) || self.address.iter().any(is_taken) {
            if asked.elapsed() > 2 * STOP {
                return;
            }
            thread::sleep(AGAIN);
        }
    }

    fn signal(&self, signal: Signal) {
        if let Some(pid) = i32::try_from(self.id()).ok().and_then(Pid::from_raw) {
            let _ = kill_process(pid, signal);
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.stop();
    }
}
