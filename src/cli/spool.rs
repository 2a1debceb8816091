//! `gatepost spool`: the mail that gatepost has taken, beside a running proxy, which sees a change within a second.

use std::path::Path;

use anyhow::{Context, Result, bail};
use clap::Subcommand;
use serde::Serialize;

use super::{UsageError, ui};
use crate::clock::{Clock, Timestamp};
use crate::config::Config;
use crate::outbox::{Damaged, Entry, Event, Fill, Place, Spool, SpoolError, Summary, What};

/// Fewest characters of an id that drop a message: the last four tell the messages of a quarter of an hour apart.
const SHORTEST: usize = 4;

#[derive(Subcommand)]
pub(super) enum Command {
    /// Show the messages that wait, and those that could not be delivered
    List {
        /// These alone
        #[arg(long)]
        failed: bool,
        /// For machines
        #[arg(long)]
        json: bool,
    },
    /// Show what is known of a message, and what to do; of one that is gone, what became of it
    Show {
        /// Its id, or the beginning or the end of it
        id: String,
        /// The message itself instead, on standard output
        #[arg(long)]
        message: bool,
        /// For machines
        #[arg(long, conflicts_with = "message")]
        json: bool,
    },
    /// Try messages again: failed ones anew, waiting ones now
    Retry {
        /// Their ids, or the beginnings or the ends of them
        #[arg(conflicts_with = "all")]
        ids: Vec<String>,
        /// All of them
        #[arg(long)]
        all: bool,
    },
    /// Remove messages for good, without a report to anybody
    Drop {
        /// Their ids, or the beginnings or the ends of them
        #[arg(conflicts_with = "all_failed")]
        ids: Vec<String>,
        /// All that failed
        #[arg(long)]
        all_failed: bool,
    },
}

pub(super) async fn spool(file: &Path, command: Command) -> Result<()> {
    let config = Config::load_without_secrets(file)?;
    match command {
        Command::List { failed, json } => list(&config, failed, json).await,
        Command::Show { id, message, json } => show(&config, &id, message, json).await,
        Command::Retry { ids, all } => retry(&config, ids, all).await,
        Command::Drop { ids, all_failed } => remove(&config, ids, all_failed).await,
    }
}

/// None: nothing was ever spooled here.
fn open(config: &Config) -> Result<Option<Spool>> {
    if !Spool::exists(&config.state_dir) {
        return Ok(None);
    }
    Ok(Some(Spool::open(&config.state_dir, &config.spool, Clock::system())?))
}

/// What `--json` lists.
#[derive(Default, Serialize)]
struct List {
    waiting: Vec<Entry>,
    failed: Vec<Entry>,
    damaged: Vec<Damaged>,
}

async fn list(config: &Config, failed_only: bool, json: bool) -> Result<()> {
    let mut list = List::default();
    if let Some(spool) = open(config)? {
        if !failed_only {
            list.waiting = spool.waiting().await?;
        }
        list.failed = spool.failed().await?;
        list.damaged = spool.damaged().await?;
    }
    if json {
        return ui::out(&serde_json::to_string_pretty(&list)?);
    }
    let titles = ["ID", "MAILBOX", "FROM", "TO", "SIZE", "AGE", "STATE"];
    let mut rows = vec![titles.map(String::from).to_vec()];
    let now = Clock::system().now();
    rows.extend(list.waiting.iter().map(|entry| row(entry, Place::Queue, now)));
    rows.extend(list.failed.iter().map(|entry| row(entry, Place::Failed, now)));
    for Damaged { id, size, .. } in &list.damaged {
        let unknown = || String::from("?");
        let size = octets(*size);
        rows.push(vec![
            id.clone(),
            unknown(),
            unknown(),
            unknown(),
            size,
            unknown(),
            "damaged".into(),
        ]);
    }
    ui::table(&rows)
}

fn row(entry: &Entry, place: Place, now: Timestamp) -> Vec<String> {
    let age = ui::duration(now.saturating_since(entry.arrived));
    let to = match entry.envelope.recipients.as_slice() {
        [] => String::new(),
        [only] => only.address.clone(),
        [first, others @ ..] => format!("{} and {} more", first.address, others.len()),
    };
    let (id, mailbox, device) = (entry.id.clone(), entry.mailbox.clone(), entry.device.clone());
    vec![id, mailbox, device, to, octets(entry.size), age, state(entry, place, now)]
}

fn state(entry: &Entry, place: Place, now: Timestamp) -> String {
    let attempts = match entry.progress.attempts {
        0 => String::new(),
        1 => ", tried once".into(),
        attempts => format!(", tried {attempts} times"),
    };
    match (place, entry.progress.next_try) {
        (Place::Failed, _) => format!("failed{attempts}"),
        (Place::Queue, Some(next)) if next > now => {
            format!("next in {}{attempts}", ui::duration(next.saturating_since(now)))
        }
        // Tried, and then not the message's own next attempt is awaited, but its mailbox's.
        (Place::Queue, None) if entry.progress.last_try.is_some() => format!("held{attempts}"),
        (Place::Queue, _) => format!("due{attempts}"),
    }
}

fn octets(size: u64) -> String {
    bytesize::ByteSize(size).display().si().to_string()
}

async fn show(config: &Config, written: &str, message: bool, json: bool) -> Result<()> {
    let Some(spool) = open(config)? else { bail!(unknown(written)) };
    match spool.ids_like(written).await?.as_slice() {
        [] => show_gone(&spool, written, message, json),
        [id] if message => print_message(&spool, id).await,
        [id] => match spool.find(id).await? {
            Some((entry, place)) => show_entry(&entry, place, json),
            None => bail!(SpoolError::Gone(id.clone())),
        },
        several => bail!(ambiguous(written, several)),
    }
}

/// What the journal has of it.
fn show_gone(spool: &Spool, written: &str, message: bool, json: bool) -> Result<()> {
    match spool.journal().recent(written) {
        Some(event) if message => {
            bail!("message {} is gone: it was {}", event.id, event.event.name())
        }
        Some(event) => show_event(&event, json),
        None => bail!(unknown(written)),
    }
}

/// A damaged one too: that is how to get at it.
async fn print_message(spool: &Spool, id: &str) -> Result<()> {
    let mut content = spool.content_of(id).await?;
    loop {
        let piece = content.piece().await.context("the message can't be read")?;
        if piece.is_empty() {
            return Ok(());
        }
        ui::out_octets(piece)?;
    }
}

fn show_entry(entry: &Entry, place: Place, json: bool) -> Result<()> {
    let remedy = entry.remedy();
    if json {
        let shown = serde_json::json!({"place": place, "message": entry, "remedy": remedy});
        return ui::out(&serde_json::to_string_pretty(&shown)?);
    }
    let now = Clock::system().now();
    let Entry { progress, envelope, .. } = entry;
    let line = |name: &str, value: &str| ui::out(&format!("{name:9}  {value}"));
    line("id", &entry.id)?;
    line("state", &state(entry, place, now))?;
    line("mailbox", &entry.mailbox)?;
    let peer = entry.peer.map(|peer| format!(" ({peer})")).unwrap_or_default();
    line("from", &format!("{}{peer}", entry.device))?;
    line("arrived", &entry.arrived.text())?;
    line("size", &octets(entry.size))?;
    line("sender", &format!("<{}>", envelope.sender))?;
    for recipient in &envelope.recipients {
        let address = &recipient.address;
        let refused = progress.refused.iter().find(|(refused, _)| refused == address);
        let state = match refused {
            Some((_, said)) => format!(": refused: {said}"),
            None if progress.done.contains(address) => ": delivered".into(),
            None => String::new(),
        };
        line("recipient", &format!("<{address}>{state}"))?;
    }
    for mend in &entry.mends {
        line("mended", mend)?;
    }
    if let (Some(at), Some(error)) = (progress.last_try, &progress.last_error) {
        line("last said", &format!("{} ago: {error}", ui::duration(now.saturating_since(at))))?;
    }
    remedy.map_or(Ok(()), |remedy| line("remedy", &remedy))
}

fn show_event(event: &Event, json: bool) -> Result<()> {
    if json {
        let shown = serde_json::json!({"place": null, "event": event});
        return ui::out(&serde_json::to_string_pretty(&shown)?);
    }
    let Event { at, id, mailbox, device, event, said } = event;
    let said = if said.is_empty() { String::new() } else { format!(": {said}") };
    let what = event.name();
    ui::out(&format!("{id} of {mailbox} ({device}) was {what} at {}{said}", at.text()))
}

async fn retry(config: &Config, ids: Vec<String>, all: bool) -> Result<()> {
    some_named(&ids, all, "gatepost spool retry ID..., or --all")?;
    let Some(spool) = open(config)? else { return nothing(&ids) };
    let ids = match all {
        true => all_ids(&spool).await?,
        false => named(&spool, ids, 1).await?,
    };
    for id in &ids {
        match spool.retry(id).await? {
            true => ui::say(&format!("message {id} is tried again")),
            // Delivered just now.
            false if all => {}
            false => bail!(unknown(id)),
        }
    }
    if ids.is_empty() {
        ui::say("the spool is empty");
    }
    Ok(())
}

async fn all_ids(spool: &Spool) -> Result<Vec<String>> {
    let mut entries = spool.failed().await?;
    entries.extend(spool.waiting().await?);
    Ok(entries.into_iter().map(|entry| entry.id).collect())
}

async fn remove(config: &Config, ids: Vec<String>, all_failed: bool) -> Result<()> {
    some_named(&ids, all_failed, "gatepost spool drop ID..., or --all-failed")?;
    let Some(spool) = open(config)? else { return nothing(&ids) };
    let ids = match all_failed {
        true => failed_ids(&spool).await?,
        false => named(&spool, ids, SHORTEST).await?,
    };
    for id in &ids {
        if !spool.drop_message(id).await? {
            bail!(unknown(id));
        }
        ui::say(&format!("message {id} dropped"));
    }
    if ids.is_empty() {
        ui::say("no message has failed");
    }
    Ok(())
}

/// Damaged ones stay: each must be named.
async fn failed_ids(spool: &Spool) -> Result<Vec<String>> {
    Ok(spool.failed().await?.into_iter().map(|entry| entry.id).collect())
}

fn some_named(ids: &[String], all: bool, hint: &str) -> Result<()> {
    match ids.is_empty() && !all {
        false => Ok(()),
        true => Err(UsageError::new("no message is named", hint).into()),
    }
}

/// All of them, before anything is done to one.
async fn named(spool: &Spool, written: Vec<String>, shortest: usize) -> Result<Vec<String>> {
    let mut ids = Vec::new();
    for written in written {
        if written.trim().len() < shortest {
            let problem = format!("{written:?} is too short for an id");
            let hint = format!("write {shortest} characters of it or more: gatepost spool list");
            return Err(UsageError::new(problem, hint).into());
        }
        match spool.ids_like(&written).await?.as_slice() {
            [] => bail!(match spool.journal().recent(&written) {
                Some(Event { id, event, .. }) if event != What::Failed => {
                    format!("message {id} was {} already", event.name())
                }
                _ => unknown(&written),
            }),
            [id] if ids.contains(id) => {}
            [id] => ids.push(id.clone()),
            several => bail!(ambiguous(&written, several)),
        }
    }
    Ok(ids)
}

/// There is no spool.
fn nothing(ids: &[String]) -> Result<()> {
    match ids.first() {
        Some(id) => bail!(unknown(id)),
        None => {
            ui::say("the spool is empty");
            Ok(())
        }
    }
}

fn unknown(id: &str) -> String {
    format!("the spool has no message {id:?}\nhint: gatepost spool list")
}

fn ambiguous(written: &str, ids: &[String]) -> String {
    let some = ids.iter().take(5).map(String::as_str).collect::<Vec<_>>().join(", ");
    let more = if ids.len() > 5 { ", …" } else { "" };
    format!("{written:?} may be {some}{more}\nhint: write more of it")
}

/// What `gatepost status` says of each mailbox that has any, and the files of which nobody knows whose they are.
pub(super) async fn status(config: &Config) -> Result<SpoolStatus> {
    let Some(spool) = open(config)? else { return Ok(SpoolStatus::default()) };
    let (mailboxes, damaged) = (spool.summaries().await?, spool.damaged().await?);
    Ok(SpoolStatus { mailboxes, damaged, fill: Some(spool.fill()) })
}

/// The same, of a spool that devices will soon find full.
pub(super) fn show_fill(fill: Option<&Fill>) -> Result<()> {
    let Some(fill) = fill.filter(|fill| fill.is_near()) else { return Ok(()) };
    ui::out(&format!("spool: {}", fill.text()))?;
    ui::out("spool: remedy: gatepost spool list; make room on the disk, or raise size in [spool]")
}

/// See [`status`].
#[derive(Default)]
pub(super) struct SpoolStatus {
    pub(super) mailboxes: Vec<Summary>,
    pub(super) damaged: Vec<Damaged>,
    /// None: there is no spool.
    pub(super) fill: Option<Fill>,
}

/// Mail that was accepted and stays undelivered until a person looks at it.
pub(super) fn show_damaged(files: &[Damaged]) -> Result<()> {
    for Damaged { id, why, .. } in files {
        ui::out(&format!("spool: the file of message {id} is damaged, and not delivered: {why}"))?;
        ui::out(&format!("spool: remedy: gatepost spool show {id} --message"))?;
    }
    Ok(())
}

/// The lines of it, for people.
pub(super) fn show_status(mailboxes: &[Summary], now: Timestamp) -> Result<()> {
    for Summary { mailbox, waiting, failed, oldest_at, .. } in mailboxes {
        let oldest = oldest_at.map(|at| ui::duration(now.saturating_since(at)));
        let oldest = oldest.map(|age| format!(", the oldest for {age}")).unwrap_or_default();
        ui::out(&format!("{mailbox}: spool: {waiting} waiting{oldest}; {failed} failed"))?;
    }
    for status in mailboxes {
        let mailbox = &status.mailbox;
        if let (Some(error), Some(at)) = (&status.last_error, status.last_error_at) {
            let ago = ui::duration(now.saturating_since(at));
            ui::out(&format!("{mailbox}: spool: {ago} ago: {error}"))?;
        }
        if let Some(remedy) = &status.remedy {
            ui::out(&format!("{mailbox}: spool: remedy: {remedy}"))?;
        }
    }
    Ok(())
}
