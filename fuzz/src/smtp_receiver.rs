//! Any octets of an SMTP client whose mail goes to the spool.

use gatepost::protocol::{
    AllowedRecipients, Closing, Envelope, Receiver, ReceiverRules, ReceiverStep, Recipient, Reply,
};
use gatepost::vocabulary::BareLf;

use super::case::{Case, Pieces, Split};
use super::wire::{assert_clean, assert_words};

/// Octets of a message, few so that the limit is met.
const MAX_SIZE: u64 = 60;

/// Most that is said for a line of the client, the answer to EHLO, and a line end in a chunk is none.
const MOST_SAID: usize = 600;

/// Wrong commands after which a session ends.
const MOST_ERRORS: usize = 20;

/// A message as the driver saw it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Message {
    pub envelope: Envelope,
    pub octets: Vec<u8>,
    /// `None`: it is not over, `Some(Err(_))`: void, `Some(Ok(_))`: whole, with its mends.
    pub end: Option<Result<Vec<String>, String>>,
}

/// All that can be seen of a session.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    pub said: Vec<u8>,
    pub messages: Vec<Message>,
    pub end: Option<Closing>,
}

impl Outcome {
    pub fn replies(&self) -> Vec<&str> {
        let said = std::str::from_utf8(&self.said).expect("ASCII");
        said.lines().collect()
    }
}

/// A client gets clean replies; messages are whole or void, within the limit, for the recipients that are allowed; and
/// the same ones come however the octets are split and whatever the spool says.
pub fn check(data: &[u8]) {
    let Some(case) = Case::of(data) else { return };
    let recipients = vec!["d".into(), "ü.de".into()];
    let rules = ReceiverRules {
        max_size: MAX_SIZE,
        bare_lf: if case.flag(0) { BareLf::Accept } else { BareLf::Refuse },
        recipients: case.flag(1).then(|| AllowedRecipients::new(recipients)),
    };
    let decisions = if case.flag(2) { u32::MAX } else { u32::from(case.seed) | 0xffff_0000 };
    let whole = case.agree(|split| run(&rules, case.wire, split, decisions));
    assert_clean(&whole.said);
    let lines = case.wire.iter().filter(|&&octet| octet == b'\n').count() + 1;
    assert!(whole.said.len() <= lines * MOST_SAID);
    for reply in whole.replies() {
        assert!(reply.bytes().take(3).all(|octet| octet.is_ascii_digit()), "{reply:?}");
    }
    if whole.end == Some(Closing::TooManyErrors) {
        assert!(lines > MOST_ERRORS, "{lines} lines");
    }
    for message in &whole.messages {
        assert!(!message.envelope.recipients.is_empty());
        assert_sound(&message.envelope);
        assert!(is_clean(&message.octets) && message.octets.len() as u64 <= MAX_SIZE);
        if rules.recipients.is_some() {
            let allowed = |it: &Recipient| {
                it.address.to_lowercase().ends_with("@d") || it.address.ends_with("@ü.de")
            };
            assert!(message.envelope.recipients.iter().all(allowed), "{:?}", message.envelope);
        }
    }
}

/// Drives a Receiver. Each bit of the decisions is for one question of it; behind the last, all are yes.
pub fn run(rules: &ReceiverRules, wire: &[u8], split: Split, mut decisions: u32) -> Outcome {
    let mut receiver = Receiver::new(rules.clone());
    let mut outcome = Outcome::default();
    let mut pieces = Pieces::new(wire, split);
    let mut decide = || {
        let decision = decisions & 1 == 1;
        decisions = decisions >> 1 | 1 << 31;
        decision
    };
    let taken = Reply::new(250, "2.0.0 taken");
    let full = Reply::new(452, "4.3.1 full");
    loop {
        match receiver.step() {
            ReceiverStep::Read => match pieces.next() {
                Some(piece) => receiver.push(piece),
                None => return outcome,
            },
            ReceiverStep::Write(octets) => outcome.said.extend(octets),
            ReceiverStep::Content(envelope, mends) => {
                mends.iter().for_each(|mend| assert_words(mend, 500));
                outcome.messages.push(Message { envelope, ..Message::default() });
                if decide() {
                    receiver.go_on();
                } else {
                    receiver.refuse(&full);
                    outcome.messages.last_mut().unwrap().end = Some(Err("refused".into()));
                }
            }
            ReceiverStep::Chunk(octets) => {
                let message = outcome.messages.last_mut().expect("a chunk of no message");
                assert!(message.end.is_none() && !octets.is_empty());
                message.octets.extend(octets);
            }
            ReceiverStep::End(mends) => {
                let message = outcome.messages.last_mut().expect("an end of no message");
                assert!(message.end.replace(Ok(mends)).is_none(), "ended twice");
                receiver.finish(if decide() { &taken } else { &full });
            }
            ReceiverStep::Abort(why) => {
                let message = outcome.messages.last_mut().expect("no message to drop");
                assert!(message.end.replace(Err(why)).is_none(), "ended twice");
                message.octets.clear();
            }
            ReceiverStep::Close(closing) => {
                outcome.said.extend(receiver.goodbye(closing));
                outcome.end = Some(closing);
                return outcome;
            }
        }
    }
}

/// CRLF line ends, and no other CR or LF.
pub fn is_clean(octets: &[u8]) -> bool {
    let is_half = |at: usize| match octets[at] {
        b'\r' => octets.get(at + 1) != Some(&b'\n'),
        b'\n' => at == 0 || octets[at - 1] != b'\r',
        _ => false,
    };
    !(0..octets.len()).any(is_half)
}

/// It can stand in `MAIL FROM:<…> …` and `RCPT TO:<…> …`.
pub fn assert_sound(envelope: &Envelope) {
    let address = |address: &str| {
        let outside = address.rsplit_once('"').map_or(address, |(_, outside)| outside);
        !address.contains(|c: char| c.is_control() || c == '<' || c == '>')
            && !outside.contains(' ')
            && address.len() <= 254
    };
    let parameter = |parameter: &String| parameter.bytes().all(|octet| octet.is_ascii_graphic());
    let recipient = |recipient: &Recipient| {
        address(&recipient.address)
            && recipient.address.contains('@')
            && recipient.parameters.iter().all(parameter)
    };
    let sound = address(&envelope.sender)
        && envelope.parameters.iter().all(parameter)
        && envelope.recipients.iter().all(recipient);
    assert!(sound, "{envelope:?}");
}
