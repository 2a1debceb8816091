//! `growth`: what a login costs, and what memory there is, as sessions and accounts become more.
//!
//! A size at which gatepost does not start, or logs nobody in, ends its curve, and its reason is in the data.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use crate::client::{Door, Protocol};
use crate::crowd::{Cost, Crowd, at_most, cost, share_of_a_core};
use crate::ground::{Ground, allow_files};
use crate::peers::gatepost::{Grant, Settings, prepare_with};
use crate::peers::{Kind, Peer, Programs, Running};
use crate::say::progress;
use crate::seed::seed;
use crate::upstream::Apart;

const SESSIONS: [usize; 6] = [1, 100, 300, 1_000, 3_000, 10_000];

const ACCOUNTS: [usize; 6] = [1, 10, 100, 1_000, 10_000, 100_000];

/// With so many accounts gatepost is watched while nothing happens.
const WATCHED_FROM: usize = 1_000;

/// For so long: it looks at each account's token every half minute at least.
const WATCHED: Duration = Duration::from_secs(35);

/// Clients don't wait longer for a restart than this.
const READY: Duration = Duration::from_secs(90);

/// Measures up to so many sessions and accounts, and writes the data.
pub(crate) async fn measure(
    ground: &Ground,
    programs: &Programs,
    [sessions, accounts]: [usize; 2],
    to: &Path,
) -> Result<()> {
    let upstream = Apart::start(ground).await?;
    let by_sessions = grow_sessions(ground, programs, &upstream, sessions).await?;
    let mut data = json!({ "sessions": by_sessions });
    for (name, grant) in [("app", Grant::App), ("people", Grant::People)] {
        let mut curve = Vec::new();
        for size in ACCOUNTS.into_iter().filter(|size| *size <= accounts) {
            progress(&format!("{size} accounts ({name})"));
            match at_size(ground, programs, &upstream, size, grant).await {
                Ok(point) => curve.push(point),
                Err(error) => {
                    progress(&format!("{size} accounts ({name}): {error:#}"));
                    curve.push(json!({ "size": size, "error": format!("{error:#}") }));
                    break;
                }
            }
        }
        if let Some(data) = data.as_object_mut() {
            data.insert(name.into(), curve.into());
        }
    }
    if let Some(folder) = to.parent() {
        fs::create_dir_all(folder)?;
    }
    fs::write(to, serde_json::to_string_pretty(&data)? + "\n")?;
    Ok(())
}

async fn grow_sessions(
    ground: &Ground,
    programs: &Programs,
    upstream: &Apart,
    most: usize,
) -> Result<Value> {
    let peer = Peer::prepare(Kind::Gatepost, ground, upstream.ports.into(), programs)?;
    let running = peer.start().await?;
    let (mut crowd, mut curve) = (Crowd::default(), Vec::new());
    let most = most.min(at_most(allow_files()?));
    for size in SESSIONS.map(|size| size.min(most)) {
        progress(&format!("{size} sessions"));
        crowd.grow(&peer.door, size).await.with_context(|| running.tail())?;
        let cost = cost(&running, std::slice::from_ref(&peer.door)).await?;
        curve.push(point(size, &cost, &json!({})));
        if size == most {
            break;
        }
    }
    Ok(curve.into())
}

async fn at_size(
    ground: &Ground,
    programs: &Programs,
    upstream: &Apart,
    size: usize,
    grant: Grant,
) -> Result<Value> {
    let more = (1..size).map(|number| format!("m{number}@c.example")).collect();
    let settings = Settings { more, grant, ..Settings::default() };
    let gatepost = prepare_with(ground, upstream.ports.into(), &programs.gatepost, &settings)?;
    let doors = seed(&gatepost).await.context("the store could not be written")?;
    let running = gatepost.peer.start().await?;
    let started_in = running.started_in.as_secs_f64() * 1e3;
    let first_login = first_login(&running, &doors).await.with_context(|| running.tail())?;
    let cost = cost(&running, &doors).await.with_context(|| running.tail())?;
    let idle = match size >= WATCHED_FROM {
        true => Some(share_of_a_core(&running, WATCHED).await?),
        false => None,
    };
    let more = json!({
        "start_ms": started_in,
        "first_login_ms": first_login.as_secs_f64() * 1e3,
        "idle_share_of_a_core": idle,
    });
    Ok(point(size, &cost, &more))
}

/// From the start of gatepost to the first login that it lets through.
async fn first_login(running: &Running, doors: &[Door]) -> Result<Duration> {
    let door = doors.first().context("no account")?;
    loop {
        match door.time_login(Protocol::Imap).await {
            Ok(_) => return Ok(running.age()),
            Err(error) if running.age() > READY => return Err(error),
            Err(_) => {}
        }
    }
}

fn point(size: usize, cost: &Cost, more: &Value) -> Value {
    let Cost { memory, cpu, median, slowest } = cost;
    let mut point = json!({
        "size": size,
        "memory_mib": memory,
        "login_cpu_ms": cpu,
        "login_ms": median,
        "login_ms_99": slowest,
    });
    if let (Some(point), Some(more)) = (point.as_object_mut(), more.as_object()) {
        point.extend(more.clone());
    }
    point
}
