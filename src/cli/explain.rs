//! `gatepost explain`: what an error code or a mail server's reply means, and what to do. It needs neither
//! configuration nor network.

use std::io::{self, IsTerminal, Read};

use anyhow::{Context, Result, bail};
use serde::Serialize;

use super::ui;
use crate::explain::{self, Entry, Who};

#[derive(clap::Args)]
pub(super) struct Args {
    /// A code (AADSTS50173, invalid_grant, 5.7.139), a log line or a reply; - or nothing: standard input
    #[arg(value_name = "CODE", allow_hyphen_values = true)]
    text: Vec<String>,
    /// For machines
    #[arg(long)]
    json: bool,
}

/// Most that is read from standard input: a log of some days, and still at once.
const LONGEST_INPUT: u64 = 16 * 1024 * 1024;

/// Longest line that is written, unless a command is longer.
const WIDTH: usize = 96;

/// How far text stands from the left.
const INDENT: &str = "  ";

/// Stands in a remedy for a mailbox that is not known here.
const MAILBOX: &str = "MAILBOX";

pub(super) fn explain(args: &Args) -> Result<()> {
    let text = match args.text.as_slice() {
        [] => read_input()?,
        [only] if only == "-" => read_input()?,
        words => words.join(" "),
    };
    let found = explain::explain(&text);
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
    match (found.is_empty(), unknown.as_slice()) {
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
    let remedy = format!("{who} {}", entry.remedy.replace("{mailbox}", MAILBOX));
    let head = format!("{}: {}", entry.code, entry.title);
    format!("{head}\n{}\n{}", wrapped(&entry.meaning), wrapped(&remedy))
}

/// Indented lines of at most [`WIDTH`] characters. What stands between backticks is to be typed, so that
/// it stays on one line.
fn wrapped(text: &str) -> String {
    let mut lines = vec![String::new()];
    for unit in units(text) {
        match lines.last_mut() {
            Some(line) if line.is_empty() => *line = format!("{INDENT}{unit}"),
            Some(line) if line.chars().count() + 1 + unit.chars().count() <= WIDTH => {
                line.push(' ');
                line.push_str(&unit);
            }
            _ => lines.push(format!("{INDENT}{unit}")),
        }
    }
    lines.join("\n")
}

/// Words, and commands with what sticks to them.
fn units(text: &str) -> Vec<String> {
    let mut units = vec![String::new()];
    let mut typed = false;
    for c in text.chars() {
        match (c, units.last_mut()) {
            ('`', _) => typed = !typed,
            (' ', _) if !typed => units.push(String::new()),
            (c, Some(unit)) => unit.push(c),
            (_, None) => {}
        }
    }
    units
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_stay_whole() {
        let command = "Set-CASMailbox MAILBOX -SmtpClientAuthenticationDisabled $false";
        let text = wrapped(&format!("{} `{command}`. {}", "word ".repeat(12), "more ".repeat(20)));
        assert!(text.contains(&format!("{command}. ")), "{text}");
        assert!(!text.contains('`') && text.lines().count() > 2, "{text}");
        for line in text.lines() {
            assert!(line.starts_with(INDENT) && line.chars().count() <= WIDTH, "{line}");
        }
    }
}
