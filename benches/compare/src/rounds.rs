//! `table`: all proxies in turn, several rounds, so that what else the machine does meets each of them.

use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use tokio::task::JoinSet;
use tokio::time::sleep;

use crate::client::{Protocol, append, fetch};
use crate::ground::Ground;
use crate::peers::backend::Backend;
use crate::peers::{Kind, Peer, Programs, Running, Target};
use crate::say::progress;
use crate::statistic::{Statistic, count, mebi};
use crate::table::{Row, Table};
use crate::upstream::{Ports, Upstream};

/// Clients at the same time, for logins a second.
const AT_ONCE: usize = 32;

/// Starts of a round, of which the median counts.
const STARTS: usize = 5;

/// For what a proxy does after it listens.
const SETTLE: Duration = Duration::from_secs(1);

/// What is measured, of whom.
pub(crate) struct Rounds {
    pub(crate) rounds: u32,
    pub(crate) kinds: Vec<Kind>,
    pub(crate) rows: Vec<Row>,
    pub(crate) programs: Programs,
}

/// How much of it, so that the kernel's clock ticks of 10 ms don't matter and a slow proxy ends.
struct Effort {
    warm_up: usize,
    logins: usize,
    visits: usize,
    idle: usize,
    messages: usize,
}

impl Effort {
    fn of(kind: Kind) -> Self {
        match kind {
            Kind::EmailOauth2Proxy => {
                Self { warm_up: 2, logins: 20, visits: 44, idle: 100, messages: 4 }
            }
            _ => Self { warm_up: 50, logins: 1000, visits: 2000, idle: 1000, messages: 24 },
        }
    }
}

impl Rounds {
    pub(crate) async fn run(&self, ground: &Ground) -> Result<Table> {
        let upstream = Upstream::start(Ports::new(ground)?)?;
        let light = Target::from(upstream.ports);
        let mut table = Table::default();
        for round in 1..=self.rounds {
            // All of them by one measure, then by the next: what is compared is measured within a minute.
            for kind in &self.kinds {
                progress(&format!("round {round}: {} at rest", kind.name()));
                let peer = Peer::prepare(*kind, ground, light, &self.programs)?;
                self.at_rest(&peer, &mut table).await.with_context(|| kind.name())?;
            }
            for kind in &self.kinds {
                progress(&format!("round {round}: {} at work", kind.name()));
                let peer = Peer::prepare(*kind, ground, light, &self.programs)?;
                upstream.resumed();
                self.at_work(&peer, &mut table).await.with_context(|| kind.name())?;
                progress(&format!("  {}", upstream.resumed()));
            }
            if !self.has(Row::Rate) {
                continue;
            }
            // It would share its libraries with the others, and make them look smaller at rest.
            let backend = Backend::start(ground).await?;
            for kind in &self.kinds {
                progress(&format!("round {round}: {}, logins a second", kind.name()));
                let target = Target { imap: backend.port, ..light };
                let peer = Peer::prepare(*kind, ground, target, &self.programs)?;
                rate(&peer, &mut table).await.with_context(|| kind.name())?;
            }
        }
        Ok(table)
    }

    fn has(&self, row: Row) -> bool {
        self.rows.contains(&row)
    }

    /// Starts, memory at rest, memory of idle sessions.
    async fn at_rest(&self, peer: &Peer, table: &mut Table) -> Result<()> {
        if !peer.is_process() {
            return Ok(());
        }
        if self.has(Row::Start) {
            let mut starts = Vec::new();
            for _ in 0..STARTS {
                starts.push(peer.start().await?.started_in.as_secs_f64() * 1e3);
            }
            let median = Statistic::of(&starts).context("no starts")?.median;
            table.add(Row::Start, peer.kind, median);
        }
        if !self.has(Row::Rest) && !self.has(Row::Idle) {
            return Ok(());
        }
        let running = peer.start().await?;
        sleep(SETTLE).await;
        if self.has(Row::Rest) {
            table.add(Row::Rest, peer.kind, mebi(running.memory()?));
        }
        if self.has(Row::Idle) {
            table.add(Row::Idle, peer.kind, idle(peer, &running).await?);
        }
        Ok(())
    }

    /// Logins and messages, by the light upstream.
    async fn at_work(&self, peer: &Peer, table: &mut Table) -> Result<()> {
        let rows = [Row::Login, Row::Down, Row::Up];
        if !peer.is_process() || !rows.iter().any(|row| self.has(*row)) {
            return Ok(());
        }
        let running = peer.start().await?;
        warm_up(peer, &running).await?;
        let effort = Effort::of(peer.kind);
        if self.has(Row::Login) {
            let before = running.cpu()?;
            for _ in 0..effort.logins {
                peer.door.visit().await?;
            }
            let used = (running.cpu()? - before).as_secs_f64();
            table.add(Row::Login, peer.kind, used * 1e3 / count(effort.logins));
        }
        for row in [Row::Down, Row::Up] {
            if self.has(row) {
                table.add(row, peer.kind, relay(row, peer, &running, effort.messages).await?);
            }
        }
        Ok(())
    }
}

/// What is done once, is done: keys, tokens, sessions of TLS.
async fn warm_up(peer: &Peer, running: &Running) -> Result<()> {
    for _ in 0..Effort::of(peer.kind).warm_up {
        peer.door.visit().await.with_context(|| running.tail())?;
    }
    Ok(())
}

/// KiB for each session in IDLE.
async fn idle(peer: &Peer, running: &Running) -> Result<f64> {
    warm_up(peer, running).await?;
    sleep(SETTLE).await;
    let before = running.memory()?;
    let sessions = Effort::of(peer.kind).idle;
    let mut open = Vec::new();
    for _ in 0..sessions {
        open.push(peer.door.idle().await?);
    }
    sleep(SETTLE).await;
    let grown = running.memory()?.saturating_sub(before);
    Ok(mebi(grown) * 1024.0 / count(sessions))
}

/// Seconds of CPU for a gigabyte.
async fn relay(row: Row, peer: &Peer, running: &Running, messages: usize) -> Result<f64> {
    let mut wire = peer.door.log_in(Protocol::Imap).await?;
    let before = running.cpu()?;
    let mut octets = 0;
    for _ in 0..messages {
        octets += match row {
            Row::Up => append(&mut wire).await?,
            _ => fetch(&mut wire).await?,
        };
    }
    let used = (running.cpu()? - before).as_secs_f64();
    Ok(used * 1e9 / count(octets))
}

/// Sessions a second, of clients that come again at once.
async fn rate(peer: &Peer, table: &mut Table) -> Result<()> {
    let running = match peer.is_process() {
        true => Some(peer.start().await?),
        false => None,
    };
    let effort = Effort::of(peer.kind);
    for _ in 0..effort.warm_up {
        peer.door
            .visit()
            .await
            .with_context(|| running.as_ref().map(Running::tail).unwrap_or_default())?;
    }
    let left = Arc::new(AtomicUsize::new(effort.visits));
    let mut clients = JoinSet::new();
    let begun = Instant::now();
    for _ in 0..AT_ONCE {
        let (door, left) = (peer.door.clone(), Arc::clone(&left));
        clients.spawn(async move {
            let mut good = 0;
            while left.fetch_update(Relaxed, Relaxed, |left| left.checked_sub(1)).is_ok() {
                good += usize::from(door.visit().await.is_ok());
            }
            good
        });
    }
    let good: usize = clients.join_all().await.into_iter().sum();
    let taken = begun.elapsed().as_secs_f64();
    ensure!(good > 0, "no session of {} was good", effort.visits);
    table.add(Row::Rate, peer.kind, count(good) / taken);
    table.add_failed(peer.kind, effort.visits - good, effort.visits);
    Ok(())
}
