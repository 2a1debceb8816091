//! What a process and all its descendants have used: CPU and memory, as the kernel counts them.
//!
//! CPU is utime + stime of those that live, and of those that have ended and were waited for, which their parent keeps.
//! Memory is the proportional set size (PSS): what several share is counted once. What the kernel holds for sockets is
//! in neither.

use std::collections::HashMap;
use std::fs;
use std::time::Duration;

use anyhow::{Context, Result};

/// Of the times in /proc/PID/stat, in a second: on Linux always 100 (USER_HZ, time(7)).
const TICKS: u32 = 100;

/// What stands in /proc/PID/stat.
struct Stat {
    parent: u32,
    /// In clock ticks.
    cpu: u64,
}

/// CPU time of a process and its descendants.
pub(crate) fn cpu(root: u32) -> Result<Duration> {
    let stats = stats()?;
    let ticks: u64 =
        tree(root, &stats).iter().filter_map(|id| stats.get(id)).map(|it| it.cpu).sum();
    Ok(Duration::from_secs(ticks) / TICKS)
}

/// Memory of a process and its descendants, in octets.
pub(crate) fn memory(root: u32) -> Result<u64> {
    let members = tree(root, &stats()?);
    // One that has just ended has none.
    let kib = members.iter().filter_map(|id| pss(*id)).sum::<u64>();
    anyhow::ensure!(kib > 0, "/proc/{root}/smaps_rollup can't be read: run as root or as its user");
    Ok(kib * 1024)
}

/// The process and its descendants.
pub(crate) fn members(root: u32) -> Vec<u32> {
    stats().map(|stats| tree(root, &stats)).unwrap_or_default()
}

fn pss(id: u32) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/{id}/smaps_rollup")).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("Pss:"))?;
    line.trim().strip_suffix("kB")?.trim().parse().ok()
}

fn tree(root: u32, stats: &HashMap<u32, Stat>) -> Vec<u32> {
    let mut found = vec![root];
    let mut looked_at = 0;
    while let Some(parent) = found.get(looked_at).copied() {
        found.extend(stats.iter().filter(|(_, it)| it.parent == parent).map(|(id, _)| *id));
        looked_at += 1;
    }
    found
}

fn stats() -> Result<HashMap<u32, Stat>> {
    let processes =
        fs::read_dir("/proc").context("there is no /proc: this measures on Linux alone")?;
    let ids = processes.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok());
    Ok(ids.filter_map(|id| Some((id, stat(id)?))).collect())
}

/// proc(5): the name is in parentheses and may have any character; behind it state, ppid, …, and at 14 to 17 the times.
fn stat(id: u32) -> Option<Stat> {
    let text = fs::read_to_string(format!("/proc/{id}/stat")).ok()?;
    let (_, behind) = text.rsplit_once(')')?;
    let fields: Vec<_> = behind.split_whitespace().collect();
    let number = |at: usize| fields.get(at - 3)?.parse::<u64>().ok();
    let cpu = (14..=17).filter_map(number).sum();
    Some(Stat { parent: u32::try_from(number(4)?).ok()?, cpu })
}
