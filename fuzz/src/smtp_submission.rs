//! Any octets of an SMTP server that a message is handed to.

use gatepost::protocol::{
    Encoding, Envelope, Recipient, Submission, SubmissionStep, Submitted, Verdict,
};

use super::case::{Case, Pieces, Split};
use super::wire::{assert_clean, assert_words, contains};

const CONTENT: &str = "Subject: x\n\nwords\n";

/// All that can be seen of a submission.
#[derive(Debug, PartialEq, Eq)]
struct Outcome {
    said: Vec<u8>,
    contents: usize,
    end: Option<Submitted>,
    reusable: bool,
    untouched: bool,
    unread: Vec<u8>,
}

/// A server gets clean commands, the content once, and each recipient one verdict; nothing counts as delivered without
/// a positive reply behind the whole content.
pub fn check(data: &[u8]) {
    let Some(case) = Case::of(data) else { return };
    let count = usize::from(case.flags >> 4 & 3);
    let whole = case.agree(|split| submit(&case, count, split));
    assert_clean(&whole.said);
    assert!(whole.contents <= 1);
    match &whole.end {
        Some(Submitted::Answered(verdicts)) => {
            assert_eq!(verdicts.len(), count);
            for verdict in verdicts {
                let (Verdict::Delivered(said) | Verdict::Later(said) | Verdict::Refused(said)) =
                    verdict;
                assert_words(said, 1200);
                if let Verdict::Delivered(_) = verdict {
                    assert!(whole.contents == 1 && said.starts_with('2'), "{said:?}");
                }
            }
        }
        Some(Submitted::Held { said, .. } | Submitted::Closed { said }) => assert_words(said, 1200),
        None => assert!(!whole.reusable),
    }
    assert!(!(whole.reusable && whole.untouched));
    assert!(whole.contents == 0 || contains(&whole.said, b"RCPT TO:"), "content for nobody");
}

fn submit(case: &Case<'_>, count: usize, split: Split) -> Outcome {
    let recipient =
        |n| Recipient { address: format!("{n}@d"), parameters: vec!["NOTIFY=NEVER".into()] };
    let recipients = (0..count).map(recipient).collect();
    let envelope =
        Envelope { sender: "a@b".into(), parameters: vec!["RET=HDRS".into()], recipients };
    let offers = ["PIPELINING", "CHUNKING", "SIZE 1000", "DSN"];
    let keywords: Vec<String> =
        (0_u32..).zip(offers).filter(|(bit, _)| case.flag(*bit)).map(|(_, it)| it.into()).collect();
    let mut submission = Submission::new(&envelope, CONTENT.len() as u64, &keywords);
    let mut pieces = Pieces::new(case.wire, split);
    let (mut said, mut contents) = (Vec::new(), 0);
    // A server that says nothing more is lost, or waited for.
    let mut silent = case.flag(6);
    let end = loop {
        match submission.step() {
            SubmissionStep::Read => match pieces.next() {
                Some(piece) => submission.push(piece),
                None if silent => {
                    silent = false;
                    submission.lost("the connection has ended");
                }
                None => break None,
            },
            SubmissionStep::Write(octets) => said.extend(octets),
            SubmissionStep::Content(encoding) => {
                assert_eq!(encoding == Encoding::Plain, case.flag(1));
                contents += 1;
                // The content may break off.
                if !case.flag(7) {
                    submission.content_sent();
                }
            }
            SubmissionStep::Done(end) => break Some(end),
        }
    };
    if let (Some(Submitted::Answered(verdicts)), true) = (&end, case.flag(7)) {
        assert!(!verdicts.iter().any(|verdict| matches!(verdict, Verdict::Delivered(_))));
    }
    let (reusable, untouched) = (submission.is_reusable(), submission.is_untouched());
    let unread = match reusable {
        true => [&submission.into_unread(), pieces.rest()].concat(),
        false => Vec::new(),
    };
    Outcome { said, contents, end, reusable, untouched, unread }
}
