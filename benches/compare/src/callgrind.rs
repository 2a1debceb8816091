//! `callgrind`: instructions of a login session, which are the same whatever else the machine does.
//!
//! gatepost runs twice under Valgrind, with few logins and with more: the difference is theirs alone. A figure is
//! committed; `--check` compares with it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, ensure};

use crate::ground::Ground;
use crate::peers::Programs;
use crate::peers::gatepost::{Settings, prepare_with};
use crate::say::{progress, result};
use crate::upstream::{Ports, Upstream};

/// Logins of the two runs. The first are dearer: no session of TLS to resume, nothing known of the upstream.
const LOGINS: [u64; 2] = [20, 120];

/// By how much a figure may differ from the committed one. Ten in a hundred is what a change of a compiler costs.
const TOLERANCE: f64 = 0.1;

/// Measures; with a build to `check` also compares, and the exit status says whether it is as good as before.
pub(crate) async fn measure(
    ground: &Ground,
    programs: &Programs,
    check: Option<&str>,
) -> Result<ExitCode> {
    let upstream = Upstream::start(Ports::new(ground)?)?;
    let mut counts = Vec::new();
    for logins in LOGINS {
        progress(&format!("{logins} logins"));
        counts.push(count(ground, programs, &upstream, logins).await?);
    }
    let more = counts.pop().zip(counts.pop()).and_then(|(more, few)| more.checked_sub(few));
    let [few_logins, more_logins] = LOGINS;
    let each = more.context("more logins took fewer instructions")? / (more_logins - few_logins);
    result(&each.to_string());
    match check {
        Some(build) => compare(each, build),
        None => Ok(ExitCode::SUCCESS),
    }
}

/// Instructions of a whole run with so many logins.
async fn count(
    ground: &Ground,
    programs: &Programs,
    upstream: &Upstream,
    logins: u64,
) -> Result<u64> {
    let settings = Settings { confine: false, ..Settings::default() };
    let target = upstream.ports.into();
    let gatepost = prepare_with(ground, target, &programs.gatepost, &settings)?;
    let peer = gatepost.peer.environment("GATEPOST_WORKERS", "1");
    let file = ground.folder("callgrind")?.join("callgrind.out");
    let valgrind = ["valgrind", "--quiet", "--tool=callgrind"].map(Into::into);
    let to = format!("--callgrind-out-file={}", file.display()).into();
    let running = peer.start_under(&[&valgrind[..], &[to]].concat()).await?;
    for _ in 0..logins {
        peer.door.visit().await.with_context(|| running.tail())?;
    }
    drop(running);
    total(&file)
}

/// The sum at the end of Callgrind's output, of all threads.
fn total(file: &Path) -> Result<u64> {
    let text = fs::read_to_string(file).context("Valgrind has written nothing")?;
    let line = text.lines().rev().find_map(|line| line.strip_prefix("totals:"));
    line.and_then(|total| total.trim().parse().ok()).context("Valgrind has written no totals")
}

#[allow(clippy::cast_precision_loss, reason = "far below 2^52")]
fn compare(each: u64, build: &str) -> Result<ExitCode> {
    let file = committed();
    let text = fs::read_to_string(&file).with_context(|| file.display().to_string())?;
    let line = text.lines().find_map(|line| line.strip_prefix(build));
    let line = line.with_context(|| format!("{} has no figure for {build}", file.display()))?;
    let before: u64 = line.trim().parse().with_context(|| file.display().to_string())?;
    ensure!(before > 0, "{} has no figure for {build}", file.display());
    let change = each as f64 / before as f64 - 1.0;
    let said = format!(
        "a login takes {each} instructions, {:+.1} % of the committed {before}",
        change * 100.0
    );
    match change {
        change if change > TOLERANCE => {
            result(&format!("{said}: slower. Mend it, or commit the new figure and say why"));
            return Ok(ExitCode::FAILURE);
        }
        change if change < -TOLERANCE => result(&format!("{said}: faster. Commit the new figure")),
        _ => result(&said),
    }
    Ok(ExitCode::SUCCESS)
}

fn committed() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("instructions.txt")
}
