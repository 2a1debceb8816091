//! The client's role behind the login, as scripted dialogues and as properties.
//!
//! Invariant: each dialogue is played with the server's octets in whole replies, one by one, and split at random;
//! the same comes out every time.

use std::collections::VecDeque;
use std::time::Duration;

use gatepost::protocol::{
    Encoding, Envelope, Recipient, Submission, SubmissionStep, Submitted, Verdict,
};
use proptest::prelude::*;
use proptest::sample::select;

/// Exchange's.
const ALL: [&str; 7] =
    ["SIZE 1000", "PIPELINING", "DSN", "8BITMIME", "CHUNKING", "SMTPUTF8", "AUTH XOAUTH2"];
const SIZE: u64 = 42;

/// What a played dialogue came to.
#[derive(Debug, PartialEq)]
struct Played {
    said: Vec<String>,
    submitted: Submitted,
    reusable: bool,
    untouched: bool,
}

/// Each answer follows what gatepost writes once; behind the last one the connection ends.
fn play(submission: &mut Submission, answers: &[&str], piece: usize) -> Played {
    let mut answers: VecDeque<_> =
        answers.iter().map(|answer| answer.as_bytes().to_vec()).collect();
    let mut coming: VecDeque<u8> = VecDeque::new();
    let mut said = Vec::new();
    for _ in 0..100_000 {
        match submission.step() {
            SubmissionStep::Read if coming.is_empty() => submission.lost("closed"),
            SubmissionStep::Read => {
                let count = piece.min(coming.len());
                let bytes: Vec<u8> = coming.drain(..count).collect();
                submission.push(&bytes);
            }
            SubmissionStep::Write(bytes) => {
                let text = String::from_utf8(bytes).unwrap();
                assert!(text.ends_with("\r\n"), "{text:?}");
                said.extend(text.split_terminator("\r\n").map(str::to_owned));
                let bdat = text.starts_with("BDAT");
                if !bdat {
                    coming.extend(answers.pop_front().unwrap_or_default());
                }
            }
            SubmissionStep::Content(encoding) => {
                said.push(format!("{encoding:?}"));
                coming.extend(answers.pop_front().unwrap_or_default());
                submission.content_sent();
            }
            SubmissionStep::Done(submitted) => {
                let (reusable, untouched) = (submission.is_reusable(), submission.is_untouched());
                return Played { said, submitted, reusable, untouched };
            }
        }
    }
    panic!("no end: {said:?}");
}

fn envelope(sender: &str, parameters: &[&str], recipients: &[&str]) -> Envelope {
    let owned = |words: &[&str]| words.iter().map(|&word| word.to_owned()).collect();
    let recipient = |text: &&str| {
        let mut words = text.split(' ').map(str::to_owned);
        Recipient { address: words.next().unwrap(), parameters: words.collect() }
    };
    Envelope {
        sender: sender.into(),
        parameters: owned(parameters),
        recipients: recipients.iter().map(recipient).collect(),
    }
}

fn submit(envelope: &Envelope, keywords: &[&str], answers: &[&str]) -> Played {
    let keywords: Vec<String> = keywords.iter().map(|&keyword| keyword.to_owned()).collect();
    let new = || Submission::new(envelope, SIZE, &keywords);
    let played = play(&mut new(), answers, usize::MAX);
    for piece in [1, 2, 7] {
        assert_eq!(play(&mut new(), answers, piece), played, "by {piece}");
    }
    played
}

/// To three recipients.
fn three(keywords: &[&str], answers: &[&str]) -> Played {
    submit(
        &envelope("jane@a.example", &[], &["1@b.example", "2@b.example", "3@b.example"]),
        keywords,
        answers,
    )
}

fn one(keywords: &[&str], answers: &[&str]) -> Played {
    submit(&envelope("jane@a.example", &[], &["1@b.example"]), keywords, answers)
}

fn delivered(text: &str) -> Verdict {
    Verdict::Delivered(text.into())
}

fn later(text: &str) -> Verdict {
    Verdict::Later(text.into())
}

fn refused(text: &str) -> Verdict {
    Verdict::Refused(text.into())
}

const OK3: &str = "250 ok\r\n250 ok\r\n250 ok\r\n250 ok\r\n";

#[test]
fn all_at_once_with_bdat() {
    let played = three(&ALL, &[OK3, "250 2.0.0 <id>\r\n"]);
    assert_eq!(
        played.said,
        [
            "MAIL FROM:<jane@a.example> SIZE=42",
            "RCPT TO:<1@b.example>",
            "RCPT TO:<2@b.example>",
            "RCPT TO:<3@b.example>",
            "BDAT 42 LAST",
            "Plain"
        ]
    );
    assert_eq!(played.submitted, Submitted::Answered(vec![delivered("250 2.0.0 <id>"); 3]));
    assert!(played.reusable);
}

/// A server of 1982: one command at a time, no parameters, DATA.
#[test]
fn one_by_one_with_data() {
    let asked = envelope("", &["BODY=8BITMIME", "RET=HDRS"], &["1@b.example NOTIFY=NEVER"]);
    let played = submit(&asked, &[], &["250 ok\r\n", "250 ok\r\n", "354 go\r\n", "250 taken\r\n"]);
    assert_eq!(played.said, ["MAIL FROM:<>", "RCPT TO:<1@b.example>", "DATA", "Dots"]);
    assert_eq!(played.submitted, Submitted::Answered(vec![delivered("250 taken")]));
    assert!(played.reusable);
}

#[test]
fn parameters_go_to_who_understands_them() {
    let asked = envelope(
        "jane@a.example",
        &["BODY=8BITMIME", "RET=HDRS", "ENVID=1", "AUTH=<>", "SIZE=1", "X=1"],
        &["1@b.example NOTIFY=NEVER ORCPT=rfc822;x@y"],
    );
    let said = |keywords: &[&str]| submit(&asked, keywords, &["250 ok\r\n", "250 ok\r\n"]).said;
    assert_eq!(
        said(&["size", "8bitmime", "dsn", "AUTH PLAIN"])[..2],
        [
            "MAIL FROM:<jane@a.example> SIZE=42 BODY=8BITMIME RET=HDRS ENVID=1",
            "RCPT TO:<1@b.example> NOTIFY=NEVER ORCPT=rfc822;x@y"
        ]
    );
    assert_eq!(said(&["DSNX"])[..2], ["MAIL FROM:<jane@a.example>", "RCPT TO:<1@b.example>"]);
}

#[test]
fn international_mail_needs_its_extension() {
    let declared = envelope("jane@a.example", &["SMTPUTF8"], &["1@b.example"]);
    let undeclared = envelope("jane@a.example", &[], &["jürgen@b.example"]);
    for asked in [&declared, &undeclared] {
        let played = submit(asked, &["SIZE"], &[]);
        assert_eq!(played.said, [""; 0]);
        let Submitted::Answered(verdicts) = &played.submitted else { panic!("{played:?}") };
        assert!(matches!(&verdicts[..], [Verdict::Refused(said)] if said.contains("SMTPUTF8")));
        assert!(played.reusable);
        let played = submit(asked, &["SMTPUTF8"], &["250 ok\r\n"]);
        assert_eq!(played.said[0], "MAIL FROM:<jane@a.example> SMTPUTF8");
    }
}

/// The receiver lets no such address in; this is the second lock.
#[test]
fn an_address_can_not_become_a_command() {
    for address in ["a@b.example>\r\nDATA\r\n", "a@b.example> NOTIFY=NEVER", "a\0@b.example"] {
        let asked = Envelope {
            sender: "jane@a.example".into(),
            parameters: Vec::new(),
            recipients: vec![Recipient { address: address.into(), parameters: Vec::new() }],
        };
        let played = submit(&asked, &ALL, &[OK3]);
        assert_eq!(played.said, [""; 0], "{address:?}");
        assert!(
            matches!(&played.submitted, Submitted::Answered(all) if matches!(all[..], [Verdict::Refused(_)]))
        );
    }
    let asked = envelope("jane@a.example", &["X=1\r\nDATA"], &["1@b.example"]);
    assert_eq!(submit(&asked, &["X"], &["250\r\n"]).said[0], "MAIL FROM:<jane@a.example>");
}

#[test]
fn each_recipient_has_its_verdict() {
    let answers = "250 ok\r\n550 5.1.1 nobody\r\n250 ok\r\n452-4.5.3 too\r\n452 4.5.3 many\r\n";
    let played = three(&ALL, &[answers, "250 taken\r\n"]);
    let verdicts =
        vec![refused("550 5.1.1 nobody"), delivered("250 taken"), later("452 4.5.3 too many")];
    assert_eq!(played.submitted, Submitted::Answered(verdicts));
    let played = three(&ALL, &[answers, "550 5.7.1 spam\r\n", "250 reset\r\n"]);
    let verdicts =
        vec![refused("550 5.1.1 nobody"), refused("550 5.7.1 spam"), later("452 4.5.3 too many")];
    assert_eq!(played.submitted, Submitted::Answered(verdicts));
    assert_eq!(played.said.last().unwrap(), "RSET");
    assert!(played.reusable);
}

#[test]
fn without_a_recipient_nothing_is_sent() {
    let answers = ["250 ok\r\n550 no\r\n451 later\r\n553 no\r\n", "250 reset\r\n"];
    let played = three(&["PIPELINING"], &answers);
    assert_eq!(played.said.last().unwrap(), "RSET");
    assert_eq!(
        played.submitted,
        Submitted::Answered(vec![refused("550 no"), later("451 later"), refused("553 no")])
    );
    assert!(played.reusable);
    let played = three(&["PIPELINING"], &[answers[0], "500 what\r\n"]);
    assert!(!played.reusable, "a transaction that can't be cleared");
}

#[test]
fn what_mail_is_told_counts_for_all() {
    let behind = "503 5.5.1 no\r\n".repeat(3);
    let played = three(&ALL, &[&format!("550 5.7.60 not as this sender\r\n{behind}")]);
    assert_eq!(
        played.submitted,
        Submitted::Answered(vec![refused("550 5.7.60 not as this sender"); 3])
    );
    assert!(played.reusable && played.said.len() == 4, "nothing to reset: {played:?}");
    let played = three(&[], &["451 4.7.1 later\r\n"]);
    assert_eq!(played.submitted, Submitted::Answered(vec![later("451 4.7.1 later"); 3]));
    assert_eq!(played.said, ["MAIL FROM:<jane@a.example>"]);
    assert!(played.reusable);
}

#[test]
fn what_is_said_of_the_mailbox_holds_it() {
    let minute = |said: &str, wait| Submitted::Held { said: said.into(), wait };
    let said = "432 4.3.2 Concurrent connections limit exceeded";
    let line = format!("{said}\r\n");
    let played = one(&ALL, &["250 ok\r\n250 ok\r\n", &line, "250 reset\r\n"]);
    assert_eq!((played.submitted, played.reusable), (minute(said, None), true));
    let played = one(&["PIPELINING"], &["250 ok\r\n250 ok\r\n", "354 go\r\n", &line]);
    assert_eq!((played.submitted, played.reusable), (minute(said, None), true));
    assert_eq!(played.said.last().unwrap(), "Dots", "behind DATA there is nothing to reset");
    let played = three(&ALL, &[&format!("250 ok\r\n{line}250 ok\r\n250 ok\r\n"), "250 reset\r\n"]);
    assert_eq!((played.submitted, played.reusable), (minute(said, None), true));

    let said = "451 4.7.0 throttled. Suggested Backoff Time: 90000 milliseconds";
    let played = one(&[], &[&format!("{said}\r\n")]);
    assert_eq!(played.submitted, minute(said, Some(Duration::from_secs(90))));

    let said = "554 5.2.0 STOREDRV.Submission.Exception:SubmissionQuotaExceededException";
    let played = one(&ALL, &["250\r\n250\r\n", &format!("{said}\r\n"), "250\r\n"]);
    assert_eq!(played.submitted, minute(said, Some(Duration::from_secs(3600))));
}

#[test]
fn a_way_that_is_closed_is_told_from_a_message_that_is_refused() {
    let said = "550 5.7.139 SmtpClientAuthentication is disabled for the Mailbox";
    let played = one(&[], &[&format!("{said}\r\n")]);
    assert_eq!(played.submitted, Submitted::Closed { said: said.into() });
    let said = "554 5.2.252 SendAsDenied; a not allowed to send as b";
    let played = one(&ALL, &["250\r\n250\r\n", &format!("{said}\r\n"), "250\r\n"]);
    assert_eq!(played.submitted, Submitted::Answered(vec![refused(said)]));
}

#[test]
fn a_session_that_is_over_is_not_used_on() {
    let held = Submitted::Held { said: "421 4.3.0 bye".into(), wait: None };
    let over = ["421 4.3.0 bye\r\n"];
    let played = one(&[], &over);
    assert_eq!((&played.submitted, played.reusable, played.untouched), (&held, false, true));
    for before in [&["250\r\n"][..], &["250\r\n", "250\r\n"], &["250\r\n", "250\r\n", "354\r\n"]] {
        let played = one(&[], &[before, &over].concat());
        assert_eq!((&played.submitted, played.reusable, played.untouched), (&held, false, false));
    }
    let played = one(&[], &["530 5.7.57 not logged in\r\n"]);
    assert!(matches!(played.submitted, Submitted::Held { .. }) && !played.reusable);
    assert!(played.untouched);
    // behind a verdict: it stays
    let played = one(&[], &["250\r\n", "550 no\r\n", over[0]]);
    assert_eq!(
        (played.submitted, played.reusable),
        (Submitted::Answered(vec![refused("550 no")]), false)
    );
}

/// Before the content it is the mailbox that waits, then the message: it may be its own fault.
#[test]
fn a_broken_connection() {
    for before in [&[][..], &["250\r\n"], &["250\r\n", "250\r\n"]] {
        let played = one(&[], before);
        assert_eq!(played.submitted, Submitted::Held { said: "closed".into(), wait: None });
        assert_eq!((played.reusable, played.untouched), (false, before.is_empty()));
    }
    let played = one(&[], &["250\r\n", "250\r\n", "354\r\n"]);
    assert_eq!(played.submitted, Submitted::Answered(vec![later("closed")]));
    assert!(!played.reusable && !played.untouched);
}

#[test]
fn a_message_may_have_arrived_without_an_answer() {
    let asked = envelope("jane@a.example", &[], &["1@b.example"]);
    let mut submission = Submission::new(&asked, SIZE, &["CHUNKING".into()]);
    let mut step = || submission.step();
    assert!(matches!(step(), SubmissionStep::Write(_)));
    submission.push(b"250 ok\r\n");
    assert!(matches!(submission.step(), SubmissionStep::Write(_)));
    submission.push(b"250 ok\r\n");
    assert!(matches!(submission.step(), SubmissionStep::Write(_)));
    assert_eq!(submission.step(), SubmissionStep::Content(Encoding::Plain));
    assert!(!submission.is_uncertain());
    submission.content_sent();
    assert_eq!(submission.step(), SubmissionStep::Read);
    assert!(submission.is_uncertain());
    assert_eq!(submission.patience(), Duration::from_secs(600));
    submission.lost("reset");
    assert_eq!(submission.step(), SubmissionStep::Done(Submitted::Answered(vec![later("reset")])));
}

/// The server answers and closes while the content is still going out.
#[test]
fn an_answer_in_mid_content_counts_but_ends_the_session() {
    let begin = || {
        let asked = envelope("jane@a.example", &[], &["1@b.example"]);
        let mut submission = Submission::new(&asked, SIZE, &["PIPELINING".into()]);
        submission.step();
        submission.push(b"250 ok\r\n250 ok\r\n");
        submission.step();
        submission.push(b"354 ok\r\n");
        assert_eq!(submission.step(), SubmissionStep::Content(Encoding::Dots));
        submission
    };
    let mut submission = begin();
    submission.push(b"552 5.3.4 too large\r\n");
    let verdicts = vec![refused("552 5.3.4 too large")];
    assert_eq!(submission.step(), SubmissionStep::Done(Submitted::Answered(verdicts)));
    assert!(!submission.is_reusable());
    let mut submission = begin();
    submission.push(b"250 thanks for nothing\r\n");
    let SubmissionStep::Done(Submitted::Answered(verdicts)) = submission.step() else { panic!() };
    assert!(matches!(&verdicts[..], [Verdict::Later(_)]), "half a message is none: {verdicts:?}");
    assert!(!submission.is_reusable());
}

#[test]
fn nonsense_ends_the_session() {
    for nonsense in ["hello\r\n", "\r\n", "25\r\n", &"250-x\r\n".repeat(200), &"2".repeat(20_000)] {
        let played = one(&[], &[nonsense]);
        assert!(
            matches!(&played.submitted, Submitted::Held { .. }) && !played.reusable,
            "{played:?}"
        );
    }
    // an answer before the question
    let asked = envelope("jane@a.example", &[], &["1@b.example"]);
    let mut submission = Submission::new(&asked, SIZE, &[]);
    submission.push(b"250 ok\r\n");
    assert!(matches!(submission.step(), SubmissionStep::Done(Submitted::Held { .. })));
    assert!(!submission.is_reusable() && submission.is_untouched());
}

#[test]
fn many_recipients_go_in_batches() {
    let names: Vec<String> = (0..250).map(|number| format!("{number}@b.example")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let asked = envelope("jane@a.example", &[], &names);
    let ok = |count| "250 ok\r\n".repeat(count);
    let answers = [ok(101), ok(100), ok(50), "250 taken\r\n".into()];
    let answers: Vec<&str> = answers.iter().map(String::as_str).collect();
    let played = submit(&asked, &ALL, &answers);
    assert_eq!(played.submitted, Submitted::Answered(vec![delivered("250 taken"); 250]));
    assert_eq!(played.said.iter().filter(|line| line.starts_with("RCPT")).count(), 250);
}

#[test]
fn nobody_to_send_to() {
    assert_eq!(
        submit(&envelope("a@b.example", &[], &[]), &ALL, &[]).submitted,
        Submitted::Answered(vec![])
    );
}

const ANSWERS: [&str; 14] = [
    "250 ok\r\n",
    "250 ok\r\n",
    "250 ok\r\n250 ok\r\n",
    "250-a\r\n250 b\r\n",
    "354 go\r\n",
    "421 bye\r\n",
    "432 4.3.2 busy\r\n",
    "451 later\r\n",
    "550 no\r\n",
    "550 5.7.139 off\r\n",
    "nonsense\r\n",
    "250-half\r\n",
    "",
    "2",
];

proptest! {
    #![proptest_config(ProptestConfig { cases: 2048, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever a server says, and however its octets are split: an end, a verdict for each recipient, clean
    /// commands, nothing delivered without a positive answer behind the content, and the same every time.
    #[test]
    fn any_server(
        answers in prop::collection::vec(prop::collection::vec(select(ANSWERS.to_vec()), 0..5), 0..8),
        recipients in 1_usize..5,
        keywords in prop::sample::subsequence(ALL.to_vec(), 0..ALL.len()),
        piece in 1_usize..9,
    ) {
        let names = ["1@b.example", "2@b.example", "ü@b.example", "4@b.example"];
        let asked = envelope("jane@a.example", &[], &names[..recipients]);
        let answers: Vec<String> = answers.iter().map(|some| some.concat()).collect();
        let answers: Vec<&str> = answers.iter().map(String::as_str).collect();
        let keywords: Vec<String> = keywords.into_iter().map(str::to_owned).collect();
        let new = || Submission::new(&asked, SIZE, &keywords);
        let whole = play(&mut new(), &answers, usize::MAX);
        prop_assert_eq!(&play(&mut new(), &answers, piece), &whole);
        prop_assert_eq!(&play(&mut new(), &answers, 1), &whole);
        for line in &whole.said {
            prop_assert!(!line.contains(['\r', '\n', '\0']), "{:?}", line);
        }
        if let Submitted::Answered(verdicts) = &whole.submitted {
            prop_assert_eq!(verdicts.len(), recipients);
            let sent = whole.said.iter().any(|line| line == "Plain" || line == "Dots");
            prop_assert!(sent || !verdicts.iter().any(|verdict| matches!(verdict, Verdict::Delivered(_))));
        }
    }
}
