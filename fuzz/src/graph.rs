//! Any answer of Microsoft Graph, and whom it would send any message to.

use std::collections::BTreeSet;
use std::time::Duration;

use gatepost::outbox::{Outcome, Verdict, add_hidden_recipients, graph_refusal, header_recipients};
use gatepost::protocol::{Envelope, Recipient};

use super::case::Case;
use super::mend::{RULES, mended, with_line_ends};
use super::wire::{assert_words, shown};

/// What a refusal of Graph's means, in words on one line; for good only if Graph itself says so of the message.
pub fn check_answer(data: &[u8]) {
    let Some(case) = Case::of(data) else { return };
    let statuses = [302, 400, 401, 403, 404, 408, 413, 423, 429, 500, 502, 503, 507, 599];
    let status = statuses[usize::from(case.flags) % statuses.len()];
    let wait = Some(Duration::from_secs(u64::from(case.seed)));
    match graph_refusal(status, wait, case.wire, "jane@contoso.com", 2) {
        Outcome::Answered(verdicts) => {
            assert_eq!(verdicts.len(), 2);
            for verdict in verdicts {
                let (Verdict::Delivered(said) | Verdict::Later(said) | Verdict::Refused(said)) =
                    &verdict;
                assert_words(said, 3000);
                assert!(!matches!(verdict, Verdict::Delivered(_)), "an error delivers nothing");
                let is_gateways = !shown(case.wire).contains(['\\', 'e']);
                assert!(!is_gateways || !matches!(verdict, Verdict::Refused(_)), "{said}");
            }
        }
        Outcome::Held { reason: said, .. }
        | Outcome::Closed { said }
        | Outcome::Unsuited { said }
        | Outcome::Broken { reason: said } => assert_words(&said, 3000),
    }
}

/// Graph sends to whom the header names: after the recipients that it doesn't name were added, those are the
/// envelope's and nobody else, or the message does not go.
pub fn check_recipients(data: &[u8]) {
    let Some(case) = Case::of(data) else { return };
    // As it stands in the spool.
    let mut message = mended(&with_line_ends(case.wire), "a@x.com", &RULES[0]).header;
    let named = header_recipients(&message);
    let mut wanted: Vec<String> =
        named.iter().filter(|_| !case.flag(0)).cloned().chain(["z@contoso.com".into()]).collect();
    if case.flag(1) {
        wanted.rotate_left(1);
    }
    let recipient =
        |address: &String| Recipient { address: address.clone(), parameters: Vec::new() };
    let recipients = wanted.iter().map(recipient).collect();
    let envelope = Envelope { recipients, ..Envelope::default() };
    match add_hidden_recipients(&mut message, &envelope) {
        Ok(()) => {
            let meant: BTreeSet<_> = wanted.iter().map(|address| address.to_lowercase()).collect();
            assert_eq!(header_recipients(&message), meant, "{:?}", shown(&message));
        }
        Err(said) => assert!(!said.is_empty() && case.flag(0), "{said}"),
    }
}
