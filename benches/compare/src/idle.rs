//! `idle`: thousands of sessions in IDLE behind one gatepost.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::crowd::{Crowd, at_most, cost, share_of_a_core};
use crate::ground::{Ground, allow_files};
use crate::peers::{Kind, Peer, Programs};
use crate::say::progress;
use crate::statistic::count;
use crate::upstream::Apart;

/// How long the sessions are watched. A clock tick of 10 ms is then less than a thousandth of a core.
const WATCHED: Duration = Duration::from_secs(20);

/// Measures, and answers a table in Markdown.
pub(crate) async fn measure(
    ground: &Ground,
    programs: &Programs,
    sessions: usize,
) -> Result<String> {
    let upstream = Apart::start(ground).await?;
    let files = allow_files()?;
    let size = sessions.min(at_most(files));
    if size < sessions {
        progress(&format!(
            "{size} sessions instead of {sessions}: a process may have {files} files open here"
        ));
    }
    let peer = Peer::prepare(Kind::Gatepost, ground, upstream.ports.into(), programs)?;
    let running = peer.start().await?;
    let doors = [peer.door.clone()];
    let alone = cost(&running, &doors).await.with_context(|| running.tail())?;
    progress(&format!("opening {size} sessions"));
    let (mut crowd, begun) = (Crowd::default(), Instant::now());
    crowd.grow(&peer.door, size).await.with_context(|| running.tail())?;
    let opened = begun.elapsed().as_secs_f64();
    progress("watching them");
    let share = share_of_a_core(&running, WATCHED).await?;
    let among = cost(&running, &doors).await?;
    let each = (among.memory - alone.memory) * 1024.0 / count(size);
    let rate = count(size) / opened;
    Ok(format!(
        "| {size} sessions in IDLE | |
|-|-|
| memory in all, MiB (PSS) | {:.1} |
| of each session, KiB | {each:.1} |
| CPU while they idle, share of a core | {share:.4} |
| a new login, ms: none idle, all idle | {:.2}, {:.2} (slowest of a hundred {:.2}, {:.2}) |
| CPU of a login session, ms: none idle, all idle | {:.2}, {:.2} |
| opened a second | {rate:.0} |
",
        among.memory,
        alone.median,
        among.median,
        alone.slowest,
        among.slowest,
        alone.cpu,
        among.cpu
    ))
}
