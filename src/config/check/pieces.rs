//! A file of many accounts, read a piece at a time and by all cores.
//!
//! A parser of TOML makes a tree of the whole document first. That of a hundred thousand accounts takes longer than all
//! else that a start does with them, and most of it is memory that is touched once.
//!
//! Invariant: what is read in pieces means what the whole means. The text before the accounts, and each piece of them,
//! must be a document by itself: so each ends between two tables and nowhere else. Whatever is otherwise, or wrong, is for
//! the reading as a whole, which says what and where.

use std::panic::resume_unwind;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::{self, ScopedJoinHandle};

/// Octets of a piece, or a little more: its tree stays in a core's cache.
const PIECE: usize = 64 * 1024;

/// The text of a file with its accounts taken out.
pub(super) struct Cut<'a> {
    /// All else, where it stood: spaces are in the accounts' place.
    pub(super) rest: String,
    /// Some accounts each.
    pub(super) accounts: Vec<&'a str>,
}

impl<'a> Cut<'a> {
    /// None: there are few accounts, or they stand in more than one place.
    pub(super) fn of(text: &'a str) -> Option<Self> {
        let mut headers = headers(text).skip_while(|(_, line)| !begins_account(line));
        let (first, _) = headers.next()?;
        let mut end = text.len();
        let mut cuts = vec![first];
        for (at, line) in headers {
            if begins_account(line) {
                if at - cuts.last()? >= PIECE {
                    cuts.push(at);
                }
            } else if !line.starts_with("[account.") {
                end = at;
                break;
            }
        }
        if cuts.len() == 1 || toml::de::DeTable::parse(&text[..first]).is_err() {
            return None;
        }
        let ends = cuts.iter().skip(1).copied().chain([end]);
        let accounts = cuts.iter().zip(ends).map(|(&from, to)| &text[from..to]).collect();
        let rest = [&text[..first], &" ".repeat(end - first), &text[end..]].concat();
        Some(Self { rest, accounts })
    }
}

/// The lines that look like the head of a table, and where they begin.
fn headers(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let mut at = 0;
    let lines = text.split_inclusive('\n').map(move |line| {
        let begins = at;
        at += line.len();
        (begins, line.trim_start())
    });
    lines.filter(|(_, line)| line.starts_with('['))
}

fn begins_account(line: &str) -> bool {
    line.starts_with("[[account]]")
}

/// What `read` makes of each, in their order.
pub(super) fn read_all<T: Send, E: Send>(
    pieces: &[&str],
    read: impl Fn(&str) -> Result<T, E> + Sync,
) -> Result<Vec<T>, E> {
    let next = AtomicUsize::new(0);
    let work = || {
        let mut done = Vec::new();
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            let Some(piece) = pieces.get(number) else { return Ok(done) };
            done.push((number, read(piece)?));
        }
    };
    let others = thread::available_parallelism().map_or(0, |cores| cores.get() - 1);
    let done = thread::scope(|scope| {
        let start = |_| thread::Builder::new().spawn_scoped(scope, work).ok();
        let others: Vec<_> = (0..others).filter_map(start).collect();
        let mut done = vec![work()];
        let join = |other: ScopedJoinHandle<'_, _>| {
            other.join().unwrap_or_else(|panic| resume_unwind(panic))
        };
        done.extend(others.into_iter().map(join));
        done.into_iter().collect::<Result<Vec<_>, _>>()
    });
    let mut done: Vec<_> = done?.into_iter().flatten().collect();
    done.sort_unstable_by_key(|(number, _)| *number);
    Ok(done.into_iter().map(|(_, made)| made).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As many accounts as two pieces need, and more.
    fn accounts() -> String {
        let account = |number| {
            format!(
                "[[account]]\nmailbox = \"{number}@contoso.com\"\napp = \"a\"\n[account.limits]\nwait = \"1s\"\n"
            )
        };
        (0..4_000).map(account).collect()
    }

    #[test]
    fn accounts_are_cut_where_one_begins() {
        let text = format!("spare_connections = 1\n{}[app.a]\n", accounts());
        let cut = Cut::of(&text).unwrap();
        assert_eq!(cut.accounts.concat(), accounts());
        assert!(cut.accounts.len() > 2 && cut.accounts.iter().all(|piece| begins_account(piece)));
        assert!(cut.accounts.iter().all(|piece| piece.len() < PIECE + 100));
        assert_eq!(cut.rest.len(), text.len());
        assert_eq!(cut.rest.split_whitespace().collect::<String>(), "spare_connections=1[app.a]");
    }

    #[test]
    fn few_accounts_are_read_at_once() {
        assert!(Cut::of("[[account]]\nmailbox = \"a@b\"\napp = \"a\"\n").is_none());
        assert!(Cut::of("").is_none());
    }

    #[test]
    fn what_a_string_begins_before_them_is_no_document() {
        let text = format!("on_attention = [\"\"\"\n{}\"\"\"]\n", accounts());
        assert!(Cut::of(&text).is_none());
    }

    #[test]
    fn all_are_read_in_their_order_or_none() {
        let numbers: Vec<_> = (0..1_000).map(|number| number.to_string()).collect();
        let pieces: Vec<_> = numbers.iter().map(String::as_str).collect();
        let read = |piece: &str| piece.parse::<usize>().map_err(drop);
        assert_eq!(read_all(&pieces, read), Ok((0..1_000).collect()));
        let wrong = |piece: &str| if piece == "700" { Err(()) } else { read(piece) };
        assert_eq!(read_all(&pieces, wrong), Err(()));
    }
}
