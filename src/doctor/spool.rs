//! Mail that gatepost has taken: what waits for long, and what could not be delivered.

use std::time::Duration;

use super::{Case, Code, Finding, with_hint};
use crate::clock::Clock;
use crate::outbox::{Fill, Spool, Summary, messages};

/// An outage that is shorter than this is none that a person must know of: the schedule of the attempts reaches an hour
/// after the fourth.
const LONG: Duration = Duration::from_secs(3600);

pub(super) async fn examine(case: &Case) -> Vec<Finding> {
    if !Spool::exists(&case.config.state_dir) {
        return Vec::new();
    }
    let spool = Spool::open(&case.config.state_dir, &case.config.spool, Clock::system());
    let looked_at = match spool {
        Ok(spool) => spool.summaries().await.map(|summaries| (summaries, spool.fill())),
        Err(error) => Err(error),
    };
    match looked_at {
        Ok((summaries, fill)) => {
            let ours = |summary: &Summary| {
                case.accounts.iter().any(|account| account.covers(&summary.mailbox))
            };
            let of_mailboxes = summaries.into_iter().filter(ours).flat_map(of_mailbox);
            of_mailboxes.chain(nearly_full(fill)).collect()
        }
        Err(error) => {
            let (what, hint) = with_hint(&error.to_string());
            vec![Finding::error(Code::Spool, "the spool", what, hint)]
        }
    }
}

fn nearly_full(fill: Fill) -> Option<Finding> {
    let remedy = "`gatepost spool list` shows what it holds; make room on the disk, or raise size in [spool]";
    fill.is_near().then(|| Finding::warning(Code::Spool, "the spool", fill.text(), remedy))
}

fn of_mailbox(summary: Summary) -> Vec<Finding> {
    let Summary { mailbox, waiting, failed, oldest_at, last_error, remedy, .. } = summary;
    let said =
        last_error.map(|error| format!("; the last answer was: {error}")).unwrap_or_default();
    let mut findings = Vec::new();
    let age = oldest_at.map(|at| Clock::system().now().saturating_since(at));
    if let Some(age) = age.filter(|age| *age >= LONG) {
        let hours = age.as_secs() / 3600;
        let what = format!("{}: the oldest waits for {hours} h{said}", messages(waiting));
        let otherwise = "`gatepost spool list` shows them; gatepost goes on trying";
        let remedy = remedy.clone().unwrap_or_else(|| otherwise.into());
        findings.push(Finding::warning(Code::MailWaiting, &mailbox, what, remedy));
    }
    if failed > 0 {
        let what = format!("{} could not be delivered{said}", messages(failed));
        let cause = remedy.map(|remedy| format!("{} ", sentence(&remedy))).unwrap_or_default();
        let again =
            "`gatepost spool list --failed` shows them, `gatepost spool retry ID` tries one again";
        let remedy = cause + again;
        findings.push(Finding::warning(Code::MailFailed, &mailbox, what, remedy));
    }
    findings
}

/// With the full stop that a command alone does not have.
fn sentence(remedy: &str) -> String {
    format!("{}.", remedy.trim_end_matches('.'))
}
