//! `gatepost doctor`: finds what is wrong and names the remedy.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use serde::Serialize;

use super::{account, ui};
use crate::clock::Clock;
use crate::config::Config;
use crate::doctor::{self, Finding, Level, Wish};
use crate::private_file::{self, Limit};

/// Where each code has a heading.
const DOCUMENT: &str = "docs/troubleshooting.md";

#[derive(clap::Args)]
pub(super) struct Args {
    /// Look at this mailbox alone
    mailbox: Option<String>,
    /// For machines: an array of findings, the error that explains the others first
    #[arg(long)]
    json: bool,
    /// Send a message from each mailbox to itself: a missing "Send As" shows only then
    #[arg(long)]
    send: bool,
    /// Write what support needs into a new file: no secret is in it
    #[arg(long, value_name = "FILE")]
    bundle: Option<PathBuf>,
}

/// For people who help.
#[derive(Serialize)]
struct Bundle<'a> {
    gatepost: &'static str,
    system: String,
    time: String,
    /// As it is written: it names its secrets' places, and holds none.
    configuration: Option<String>,
    findings: &'a [Finding],
}

pub(super) async fn doctor(file: &Path, args: Args) -> Result<()> {
    if let (Some(mailbox), Ok(config)) = (&args.mailbox, Config::load_without_secrets(file)) {
        account(&config, mailbox)?;
    }
    let wish = Wish { mailbox: args.mailbox.as_deref(), send: args.send };
    let findings = doctor::examine(file, wish).await;
    if let Some(path) = &args.bundle {
        write_bundle(file, path, &findings)?;
    }
    match args.json {
        true => ui::out(&serde_json::to_string_pretty(&findings)?)?,
        false => show(&findings)?,
    }
    let count = |level| findings.iter().filter(|finding| finding.level == level).count();
    match (count(Level::Error), count(Level::Warning)) {
        (0, 0) => ui::say("all is well"),
        (0, warnings) => ui::say(&format!("no error, {warnings} to look at")),
        (1, _) => bail!("one thing is wrong"),
        (errors, _) => {
            bail!("{errors} things are wrong; begin with the first, it may explain the others")
        }
    }
    Ok(())
}

fn show(findings: &[Finding]) -> Result<()> {
    for Finding { code, level, subject, what, remedy } in findings {
        let mark = match level {
            Level::Ok => "ok     ",
            Level::Warning => "warning",
            Level::Error => "ERROR  ",
        };
        match level {
            Level::Ok => ui::out(&format!("{mark}  {code}  {subject}: {what}"))?,
            _ => {
                ui::out(&format!("{mark}  {code}  {subject}"))?;
                ui::out(&ui::wrapped(what))?;
                if !remedy.is_empty() {
                    ui::out(&ui::wrapped(&format!("Remedy: {remedy}")))?;
                }
                ui::out(&ui::wrapped(&format!(
                    "More: `gatepost explain {code}`, {DOCUMENT}#{code}"
                )))?;
            }
        }
    }
    Ok(())
}

/// The configuration as it is written; none: it can't be read, which is a finding.
fn written(file: &Path) -> Option<String> {
    let octets = private_file::read_regular(file, Limit::CONFIGURATION).ok()?;
    String::from_utf8(octets).ok()
}

fn write_bundle(file: &Path, path: &Path, findings: &[Finding]) -> Result<()> {
    if path.exists() {
        bail!("{} is there already\nhint: name a new file", path.display());
    }
    let bundle = Bundle {
        gatepost: env!("CARGO_PKG_VERSION"),
        system: format!("{} {}", std::env::consts::OS, std::env::consts::ARCH),
        time: Clock::system().now().text(),
        configuration: written(file),
        findings,
    };
    private_file::create(path, serde_json::to_string_pretty(&bundle)?.as_bytes())
        .context("the bundle can't be written")?;
    ui::say(&format!(
        "{} is written: look through it, then give it to your support",
        path.display()
    ));
    Ok(())
}
