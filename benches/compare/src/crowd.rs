//! Many idle sessions at once, and what a login costs among them.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use crate::client::{Door, Protocol};
use crate::peers::Running;
use crate::statistic::{Statistic, count, mebi};
use crate::wire::Wire;

/// Sessions that begin at the same time.
const AT_ONCE: usize = 32;

/// Logins whose time is taken.
const TIMED: usize = 200;

/// Logins whose CPU is: at half a millisecond each, thirty clock ticks.
const COUNTED: usize = 600;

/// For what is still under way.
const SETTLE: Duration = Duration::from_secs(2);

/// Files that a process has open besides its sessions'.
const OTHER_FILES: u64 = 200;

/// Open sessions, each in IDLE.
#[derive(Default)]
pub(crate) struct Crowd {
    sessions: Vec<Wire>,
}

/// What logins cost at some size of the crowd.
pub(crate) struct Cost {
    /// Of the proxy, MiB.
    pub(crate) memory: f64,
    /// CPU of a session of login and LOGOUT, ms.
    pub(crate) cpu: f64,
    /// From connecting to the answer to the login, ms.
    pub(crate) median: f64,
    /// The same, of the slowest of a hundred.
    pub(crate) slowest: f64,
}

/// As many sessions as a proxy with so many files can have: two each.
pub(crate) fn at_most(files: u64) -> usize {
    usize::try_from(files.saturating_sub(OTHER_FILES) / 2).unwrap_or(usize::MAX)
}

impl Crowd {
    /// Opens sessions until there are so many.
    pub(crate) async fn grow(&mut self, door: &Door, size: usize) -> Result<()> {
        while self.sessions.len() < size {
            let mut opening = JoinSet::new();
            for _ in 0..AT_ONCE.min(size - self.sessions.len()) {
                let door = door.clone();
                opening.spawn(async move { door.idle().await });
            }
            while let Some(opened) = opening.join_next().await {
                let number = self.sessions.len() + 1;
                self.sessions.push(opened?.with_context(|| format!("session {number}"))?);
            }
        }
        Ok(())
    }
}

/// What logins by these doors, in turn, cost now.
pub(crate) async fn cost(running: &Running, doors: &[Door]) -> Result<Cost> {
    ensure!(!doors.is_empty(), "no account");
    let mut doors = doors.iter().cycle();
    sleep(SETTLE).await;
    let memory = mebi(running.memory()?);
    let mut times = Vec::new();
    for door in doors.by_ref().take(TIMED) {
        times.push(door.time_login(Protocol::Imap).await?.as_secs_f64() * 1e3);
    }
    sleep(SETTLE).await;
    let before = running.cpu()?;
    for door in doors.take(COUNTED) {
        door.visit().await?;
    }
    let used = running.cpu()? - before;
    let median = Statistic::of(&times).context("no logins")?.median;
    let slowest = Statistic::quantile(&times, 0.99).context("no logins")?;
    Ok(Cost { memory, cpu: used.as_secs_f64() * 1e3 / count(COUNTED), median, slowest })
}

/// The share of a core that a process takes while nothing happens.
pub(crate) async fn share_of_a_core(running: &Running, time: Duration) -> Result<f64> {
    let (before, begun) = (running.cpu()?, Instant::now());
    sleep(time).await;
    Ok((running.cpu()? - before).as_secs_f64() / begun.elapsed().as_secs_f64())
}
