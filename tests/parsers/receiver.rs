//! What must hold for any input of the Receiver. The dialogues of `tests/dialogues/smtp-receiver-*.txt` show
//! what it does one by one.
//!
//! Invariant: the models here look at the message as a whole and know nothing of states.

use crate::fuzz::case::Split;
use crate::fuzz::smtp_receiver::{Outcome, assert_sound};
use gatepost::protocol::{
    Closing, Envelope, Frontend, FrontendStep, LocalTls, Receiver, ReceiverRules, ReceiverStep,
    Recipient, spool_keywords,
};
use gatepost::vocabulary::{BareLf, Protocol};
use proptest::prelude::*;
use proptest::sample::select;

const BEFORE: &[u8] = b"MAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\n";

proptest! {
    #![proptest_config(ProptestConfig { cases: 2048, failure_persistence: None, ..ProptestConfig::default() })]

    /// DATA ends where the model says, chunks are no commands, what comes out is what the model says, and sent on it
    /// has one end.
    #[test]
    fn content_is_as_the_model_says(choices in any::<[u8; 3]>(), wire in adversarial()) {
        crate::fuzz::smtp_content::check(&[&choices[..], &wire].concat());
    }

    /// Any bytes of a client.
    #[test]
    fn any_client(choices in any::<[u8; 3]>(), input in input()) {
        crate::fuzz::smtp_receiver::check(&[&choices[..], &input].concat());
    }

    /// What stands in brackets of MAIL, whatever it is, is refused or comes out fit for brackets.
    #[test]
    fn any_path(path in "[ -~äß\\t]{0,12}|[a-c@.<>\" :,\\\\]{0,12}", behind in "|[ -~]{0,8}| RET=FULL") {
        for (mail, rcpt) in [(format!("<{path}>{behind}"), "<c@d>"), ("<a@b>".into(), &*format!("{path}{behind}"))] {
            let input = format!("MAIL FROM:{mail}\r\nRCPT TO:{rcpt}\r\nDATA\r\n.\r\n");
            let outcome = run(&rules(BareLf::Refuse, 60), input.as_bytes(), YES);
            outcome.messages.iter().for_each(|message| assert_sound(&message.envelope));
        }
    }
}

#[test]
fn no_content_is_held() {
    const PUSH: usize = 64 * 1024;
    let line = [&[b'x'; 76][..], b"\r\n"].concat();
    let octets: Vec<u8> = line.iter().copied().cycle().take(line.len() * 200_000).collect();
    let mut receiver = Receiver::new(rules(BareLf::Refuse, u64::MAX));
    receiver.push(&[BEFORE, b"DATA\r\n"].concat());
    let mut pushes = octets.chunks(PUSH).chain([&b".\r\n"[..]]);
    let (mut size, mut ended) = (0, false);
    while !ended {
        match receiver.step() {
            ReceiverStep::Read => receiver.push(pushes.next().unwrap()),
            ReceiverStep::Content(..) => receiver.go_on(),
            ReceiverStep::Chunk(chunk) => {
                assert!(chunk.len() <= PUSH + 4);
                size += chunk.len();
            }
            ReceiverStep::End(mends) => ended = mends.is_empty(),
            ReceiverStep::Write(_) => {}
            step => panic!("{step:?}"),
        }
    }
    assert_eq!(size, octets.len());
}

#[test]
fn at_most_500_recipients_are_taken() {
    let recipients = b"RCPT TO:<c@d>\r\n".repeat(620);
    let input = [b"MAIL FROM:<a@b>\r\n", &recipients[..], b"DATA\r\n.\r\nQUIT\r\n"].concat();
    let outcome = run(&rules(BareLf::Refuse, 60), &input, YES);
    assert_eq!(outcome.messages[0].envelope.recipients.len(), 500);
    assert_eq!(
        outcome.replies().iter().filter(|reply| reply.starts_with("452 4.5.3")).count(),
        120
    );
    assert_eq!(outcome.end, Some(Closing::Quit));
}

/// Postfix counts errors since the last message in the same way.
#[test]
fn a_message_that_was_taken_makes_errors_forgotten() {
    let errors = b"FOO\r\n".repeat(19);
    let message = [BEFORE, b"DATA\r\n.\r\n"].concat();
    let input = [&errors[..], &message, &errors, &message, b"QUIT\r\n"].concat();
    let whole = |decisions| run(&rules(BareLf::Refuse, 60), &input, decisions).end;
    assert_eq!(whole(YES), Some(Closing::Quit));
    assert_eq!(whole(YES << 1), Some(Closing::TooManyErrors));
}

/// A device without a login: what the Frontend did not read begins the Receiver's session, and both list the
/// same keywords.
#[test]
fn a_device_goes_on_where_the_frontend_has_stopped() {
    let keywords = spool_keywords(60);
    let mut frontend =
        Frontend::new(Protocol::Smtp, LocalTls::Never, keywords.clone().into()).open_to_device();
    frontend
        .push(b"EHLO x\r\nMAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\nDATA\r\nhello\r\n.\r\nEHLO x\r\n");
    let FrontendStep::Write(before) = frontend.step() else { panic!("no answer") };
    assert!(matches!(frontend.step(), FrontendStep::Device));
    assert!(matches!(frontend.step(), FrontendStep::Device), "it was read");
    let unread = frontend.into_unread();
    let outcome = run(&rules(BareLf::Refuse, 60), &unread, YES);
    assert_eq!(outcome.messages[0].octets, b"hello\r\n");

    let listed = |text: &str| -> Vec<String> {
        let lines = text.lines().skip(1).filter_map(|line| line.get(4..));
        lines.filter(|keyword| !keyword.starts_with("AUTH")).map(str::to_owned).collect()
    };
    let replies = outcome.replies();
    let behind = replies[replies.len() - keywords.len() - 1..].join("\r\n");
    assert_eq!(listed(&String::from_utf8(before).unwrap()), keywords);
    assert_eq!(listed(&behind), keywords);
}

#[test]
fn an_envelope_survives_its_file() {
    let envelope = Envelope {
        sender: "a@b".into(),
        parameters: vec!["RET=FULL".into()],
        recipients: vec![Recipient { address: "ü@d".into(), parameters: Vec::new() }],
    };
    let json = serde_json::to_string(&envelope).unwrap();
    assert_eq!(serde_json::from_str::<Envelope>(&json).unwrap(), envelope);
}

/// The spool says yes to all questions.
const YES: u32 = u32::MAX;

fn run(rules: &ReceiverRules, wire: &[u8], decisions: u32) -> Outcome {
    crate::fuzz::smtp_receiver::run(rules, wire, Split::Sizes(7), decisions)
}

fn rules(bare_lf: BareLf, max_size: u64) -> ReceiverRules {
    ReceiverRules { max_size, bare_lf, recipients: None }
}

/// Content made of what its end is made of.
fn adversarial() -> impl Strategy<Value = Vec<u8>> {
    let parts = ["\r\n", "\r\n", "\r", "\n", ".", ".", "a", "b", "\0", ".\r\n", "\r\n.\r\n"];
    prop::collection::vec(select(parts.to_vec()), 0..24)
        .prop_map(|parts| parts.concat().into_bytes())
}

/// Words that lead deep into a session.
fn input() -> impl Strategy<Value = Vec<u8>> {
    let words = [
        "EHLO x\r\n",
        "HELO\r\n",
        "MAIL FROM:<a@b>\r\n",
        "mail from: Scanner a@b RET=FULL\n",
        "MAIL FROM:<> SIZE=61\r\n",
        "MAIL FROM:<",
        "RCPT TO:",
        "RCPT TO:<c@d>\r\n",
        "RCPT TO:<ü@ü.de> NOTIFY=NEVER\r\n",
        "RCPT TO:<c@e>\r\n",
        "MAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\n",
        "DATA\r\n",
        "BDAT 3\r\n",
        "BDAT 9 LAST\r\n",
        "BDAT 70\r\n",
        "BDAT 0 LAST\r\n",
        "BDAT 99999999999999999999\r\n",
        "RSET\r\n",
        "QUIT\r\n",
        "NOOP\r\n",
        "\r\n.\r\n",
        ".\r\n",
        "\r\n",
        "\n",
        "\r",
        ".",
        "\"",
        "<",
        ">",
        "a@d",
        "\0",
        "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx",
    ];
    let word = select(words.to_vec()).prop_map(|word| word.as_bytes().to_vec());
    let noise = prop::collection::vec(any::<u8>(), 0..8);
    let part = prop_oneof![14 => word, 1 => noise];
    prop::collection::vec(part, 0..40).prop_map(|parts| parts.concat())
}
