//! `gatepost explain`: what an error code or a mail server's reply means, and what to do. It needs neither
//! configuration nor network.

use std::io::{self, IsTerminal, Read};

use anyhow::{Context, Result, bail};
use serde::Serialize;

use super::ui;
use crate::explain::{self, Entry, Who};

#[derive(clap::Args)]
pub(super) struct Args {
    /// A code (AADSTS50173, invalid_grant, 5.7.139, one of the doctor's), a log line or a reply; - or nothing:
    /// standard input
    #[arg(value_name = "CODE", allow_hyphen_values = true)]
    text: Vec<String>,
    /// For machines
    #[arg(long)]
    json: bool,
}

/// Most that is read from standard input: a log of some days, and still at once.
const LONGEST_INPUT: u64 = 16 * 1024 * 1024;

/// What each code of the doctor means: the page is in the program, for machines without the documents.
const TROUBLESHOOTING: &str = include_str!("../../docs/troubleshooting.md");

/// Stands in a remedy for a mailbox that is not known here.
const MAILBOX: &str = "MAILBOX";

pub(super) fn explain(args: &Args) -> Result<()> {
    let text = match args.text.as_slice() {
        [] => read_input()?,
        [only] if only == "-" => read_input()?,
        words => words.join(" "),
    };
    let found = explain::explain(&text);
    let section = section(text.trim()).filter(|_| !args.json);
    if let Some(section) = section {
        ui::out(section)?;
    }
    if args.json {
        let findings: Vec<_> = found.iter().map(|entry| Finding::of(entry)).collect();
        ui::out(&serde_json::to_string_pretty(&findings)?)?;
    } else {
        let shown: Vec<_> = found.iter().map(|entry| show(entry)).collect();
        if !shown.is_empty() {
            ui::out(&shown.join("\n\n"))?;
        }
    }
    let unknown = explain::unknown(&text);
    match (found.is_empty() && section.is_none(), unknown.as_slice()) {
        (true, []) => bail!(
            "nothing in it is a known code or reply\nhint: give a code as AADSTS50173, invalid_grant, \
             5.7.139 or sign_in_needed, or the whole line from gatepost's log or the mail client"
        ),
        (true, unknown) => bail!("{}", not_known(unknown)),
        (false, []) => Ok(()),
        (false, unknown) => {
            ui::say(&not_known(unknown));
            Ok(())
        }
    }
}

/// The section of a doctor's code.
fn section(code: &str) -> Option<&'static str> {
    let (_, behind) = TROUBLESHOOTING.split_once(&format!("\n## `{code}`\n"))?;
    behind.split("\n## ").next().map(str::trim)
}

/// A log may be piped; a person is told what is awaited.
fn read_input() -> Result<String> {
    if io::stdin().is_terminal() {
        ui::say("paste the error, then press Enter and Ctrl-D (Ctrl-Z and Enter on Windows)");
    }
    let mut input = Vec::new();
    io::stdin().lock().take(LONGEST_INPUT).read_to_end(&mut input).context("standard input")?;
    if u64::try_from(input.len()) == Ok(LONGEST_INPUT) {
        ui::say("note: only the first 16 MiB were read");
    }
    Ok(String::from_utf8_lossy(&input).into_owned())
}

/// An entry, as `--json` has it.
#[derive(Serialize)]
struct Finding<'a> {
    code: &'a str,
    title: &'a str,
    meaning: &'a str,
    remedy: String,
    who: Who,
    transient: bool,
}

impl<'a> Finding<'a> {
    fn of(entry: &'a Entry) -> Self {
        let Entry { code, title, meaning, who, transient, .. } = entry;
        let remedy = entry.remedy_for(MAILBOX);
        Self { code, title, meaning, remedy, who: *who, transient: *transient }
    }
}

/// An entry for a person: code and title, meaning, remedy.
fn show(entry: &Entry) -> String {
    let who = match entry.who {
        Who::User => "Remedy (user):",
        Who::Admin => "Remedy (administrator):",
        Who::Nobody => "Passes by itself:",
    };
    let remedy = format!("{who} {}", entry.marked_remedy(MAILBOX, explain::A_CREDENTIAL));
    let head = format!("{}: {}", entry.code, entry.title);
    format!("{head}\n{}\n{}", ui::wrapped(&entry.meaning), ui::wrapped(&remedy))
}

fn not_known(numbers: &[String]) -> String {
    let lines = numbers.iter().map(|number| {
        format!(
            "AADSTS{number} is not known here\nhint: Microsoft's page tells it: \
             https://login.microsoftonline.com/error?code={number}"
        )
    });
    lines.collect::<Vec<_>>().join("\n")
}
