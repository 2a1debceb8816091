//! What was measured, as a table in Markdown: medians, with the least and the greatest in parentheses.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use clap::ValueEnum;
use serde_json::{Value, json};

use crate::peers::Kind;
use crate::statistic::Statistic;

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub(crate) enum Row {
    Login,
    Rate,
    Idle,
    Down,
    Up,
    Start,
    Rest,
}

/// gatepost's bars: of a peer's figure, or of its own.
const BARS: [(Row, Bar); 7] = [
    (Row::Login, Bar::MostOf(0.5, Kind::Haproxy)),
    (Row::Rate, Bar::LeastOf(0.95, Kind::Direct)),
    (Row::Idle, Bar::Most(10.0)),
    (Row::Down, Bar::MostOf(0.7, Kind::Haproxy)),
    (Row::Up, Bar::MostOf(0.7, Kind::Haproxy)),
    (Row::Start, Bar::Most(10.0)),
    (Row::Rest, Bar::Most(8.0)),
];

#[derive(Clone, Copy)]
enum Bar {
    Most(f64),
    MostOf(f64, Kind),
    LeastOf(f64, Kind),
}

/// Results of all rounds.
#[derive(Default)]
pub(crate) struct Table {
    values: BTreeMap<(Row, Kind), Vec<f64>>,
    /// Sessions that failed, of how many.
    failed: BTreeMap<Kind, (usize, usize)>,
}

impl Row {
    /// As the table has it.
    fn name(self) -> &'static str {
        match self {
            Self::Login => "login session, CPU ms",
            Self::Rate => "login sessions a second, 32 at once",
            Self::Idle => "idle session, KiB",
            Self::Down => "relay down, CPU s/GB",
            Self::Up => "relay up, CPU s/GB",
            Self::Start => "start until it listens, ms",
            Self::Rest => "memory at rest, MiB",
        }
    }
}

impl Table {
    pub(crate) fn add(&mut self, row: Row, kind: Kind, value: f64) {
        self.values.entry((row, kind)).or_default().push(value);
    }

    pub(crate) fn add_failed(&mut self, kind: Kind, failed: usize, of: usize) {
        let (failures, all) = self.failed.entry(kind).or_default();
        *failures += failed;
        *all += of;
    }

    /// One line a row, one column a proxy.
    pub(crate) fn markdown(&self, rows: &[Row], kinds: &[Kind]) -> String {
        let mut text = String::from("| |");
        for kind in kinds {
            let _ = write!(text, " {} |", kind.name());
        }
        text += &format!("\n|-|{}\n", "-|".repeat(kinds.len()));
        for row in rows {
            let _ = write!(text, "| {} |", row.name());
            for kind in kinds {
                let _ = write!(text, " {} |", self.cell(*row, *kind));
            }
            text.push('\n');
        }
        text
    }

    /// Where gatepost is by its bars.
    pub(crate) fn bars(&self) -> String {
        let mut text = String::new();
        for (row, bar) in BARS {
            let Some(own) = self.median(row, Kind::Gatepost) else { continue };
            let of = |kind| self.median(row, kind).map(|other| (own / other, kind));
            let (figure, bar, good) = match bar {
                Bar::Most(most) => (number(own), format!("at most {most}"), own <= most),
                Bar::MostOf(most, kind) => {
                    let Some((ratio, kind)) = of(kind) else { continue };
                    (number(ratio), format!("at most {most} of {}'s", kind.name()), ratio <= most)
                }
                Bar::LeastOf(least, kind) => {
                    let Some((ratio, kind)) = of(kind) else { continue };
                    (number(ratio), format!("at least {least} of {}", kind.name()), ratio >= least)
                }
            };
            let verdict = if good { "" } else { ": MISSED" };
            let _ = writeln!(text, "- {}: {figure}, {bar}{verdict}", row.name());
        }
        text
    }

    /// All values, for other programs.
    pub(crate) fn json(&self) -> Value {
        let entries = self.values.iter().map(|((row, kind), values)| {
            json!({ "row": row.name(), "proxy": kind.name(), "values": values })
        });
        Value::Array(entries.collect())
    }

    fn median(&self, row: Row, kind: Kind) -> Option<f64> {
        Some(Statistic::of(self.values.get(&(row, kind))?)?.median)
    }

    fn cell(&self, row: Row, kind: Kind) -> String {
        let values = self.values.get(&(row, kind)).map(Vec::as_slice).unwrap_or_default();
        let Some(Statistic { median, min, max }) = Statistic::of(values) else {
            return String::new();
        };
        let mut text = number(median);
        if values.len() > 1 {
            text += &format!(" ({}–{})", number(min), number(max));
        }
        match self.failed.get(&kind) {
            Some((failed, of)) if row == Row::Rate && *failed > 0 => {
                text + &format!(", {failed} of {of} fail")
            }
            _ => text,
        }
    }
}

/// With about three digits.
fn number(value: f64) -> String {
    match value {
        value if value >= 99.5 => format!("{value:.0}"),
        value if value >= 9.95 => format!("{value:.1}"),
        value => format!("{value:.2}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cell_has_the_median_and_both_ends() {
        let mut table = Table::default();
        for value in [0.8, 1.2, 0.9] {
            table.add(Row::Login, Kind::Gatepost, value);
        }
        table.add(Row::Login, Kind::Haproxy, 2.0);
        let text = table.markdown(&[Row::Login], &[Kind::Haproxy, Kind::Gatepost]);
        assert_eq!(
            text,
            "| | HAProxy | gatepost |\n|-|-|-|\n| login session, CPU ms | 2.00 | 0.90 (0.80–1.20) |\n"
        );
        assert_eq!(table.bars(), "- login session, CPU ms: 0.45, at most 0.5 of HAProxy's\n");
    }
}
