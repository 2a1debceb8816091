//! All that is printed.

use std::io::{self, Read, Write};
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::sync::mpsc;
use zeroize::Zeroizing;

use crate::secret::Secret;

/// Most that is read from standard input: a refresh token has a few kilobytes.
const LONGEST_INPUT: u64 = 64 * 1024;

/// How far text stands from the left.
const INDENT: &str = "  ";

/// Longest line that is written, unless a command is longer.
const WIDTH: usize = 96;

/// A line for a script, or the person's result, on standard output.
pub(super) fn out(line: &str) -> Result<()> {
    out_octets(format!("{line}\n").as_bytes())
}

/// Octets as they are, on standard output.
pub(super) fn out_octets(octets: &[u8]) -> Result<()> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(octets).and_then(|()| stdout.flush()) {
        // Whoever reads has read enough, as `head` does.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        written => written.context("standard output"),
    }
}

/// Words for a person, on standard error. If nobody listens, that is no failure.
pub(super) fn say(words: &str) {
    let _ = writeln!(io::stderr().lock(), "{words}");
}

/// An error with its causes.
pub(super) fn error(error: &anyhow::Error) {
    say(&format!("gatepost: {error:#}"));
}

/// One line from standard input, without its end.
pub(super) fn read_secret_line() -> Result<Secret<Vec<u8>>> {
    let mut input = Zeroizing::new(Vec::new());
    io::stdin().lock().take(LONGEST_INPUT).read_to_end(&mut input).context("standard input")?;
    let line = input.split(|&byte| byte == b'\n').next().unwrap_or_default();
    Ok(Secret::new(line.strip_suffix(b"\r").unwrap_or(line).to_vec()))
}

/// The lines of standard input, as they come. The thread that reads them ends with the process.
pub(super) fn lines() -> mpsc::Receiver<Secret<String>> {
    let (sender, lines) = mpsc::channel(1);
    std::thread::spawn(move || {
        for line in io::stdin().lines().map_while(Result::ok) {
            if sender.blocking_send(Secret::new(line)).is_err() {
                return;
            }
        }
    });
    lines
}

/// Opens the person's browser; whether there is one. Where no window can open, a text browser would take the
/// terminal.
pub(super) fn open_browser(url: &str) -> bool {
    let has = |name| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    let windows = cfg!(any(windows, target_os = "macos"));
    let window = windows
        || ["BROWSER", "DISPLAY", "WAYLAND_DISPLAY", "WSL_DISTRO_NAME"].into_iter().any(has);
    window && webbrowser::open(url).is_ok()
}

/// Text on indented lines of at most [`WIDTH`] characters. What stands between backticks is to be typed, so that
/// it stays on one line.
pub(super) fn wrapped(text: &str) -> String {
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

/// `43 min`, `2 d`: as people say it.
pub(super) fn duration(duration: Duration) -> String {
    let seconds = duration.as_secs();
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7200 => format!("{} min", seconds / 60),
        7200..172_800 => format!("{} h", seconds / 3600),
        _ => format!("{} d", seconds / 86_400),
    }
}

/// Columns, wide enough for what is in them.
pub(super) fn table(rows: &[Vec<String>]) -> Result<()> {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column| {
        let cells = rows.iter().filter_map(|row| row.get(column));
        cells.map(|cell: &String| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    for row in rows {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}"));
        out(cells.collect::<Vec<_>>().join("  ").trim_end())?;
    }
    Ok(())
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
