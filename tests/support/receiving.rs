//! Plays a dialogue of `tests/dialogues/` against a Receiver.
//!
//! Invariant: everything that the Receiver does is an event, and every event must be expected. Chunks of a
//! message that follow each other are one event; those of one that turns out to be void are none.

use std::collections::VecDeque;

use gatepost::protocol::{AllowedRecipients, Envelope, Receiver, ReceiverRules, ReceiverStep};

use crate::session::Split;
use crate::transcript::{Dialogue, Item, Settings};

/// Plays it; an error begins with the file and the line of the first difference.
pub(crate) fn play(dialogue: &Dialogue, split: Split) -> Result<(), String> {
    let mut session = Session::new(&dialogue.settings, split);
    dialogue.play(|item| match item {
        Some(item) => session.play(item),
        None => session.nothing_left(),
    })
}

#[derive(Debug)]
enum Event {
    Line(Vec<u8>),
    Chunk(Vec<u8>),
    Told(String),
}

struct Session {
    receiver: Receiver,
    split: Split,
    /// Chunks that the client has sent and the Receiver has not read.
    unfed: VecDeque<Vec<u8>>,
    events: VecDeque<Event>,
    /// The Receiver waits for an answer, or has ended.
    stopped: bool,
}

impl Session {
    fn new(settings: &Settings, split: Split) -> Self {
        let receiver = Receiver::new(ReceiverRules {
            max_size: settings.max_size,
            bare_lf: settings.bare_lf,
            recipients: settings.recipients.clone().map(AllowedRecipients::new),
        });
        Self { receiver, split, unfed: VecDeque::new(), events: VecDeque::new(), stopped: false }
    }

    fn play(&mut self, item: &Item) -> Result<(), String> {
        match item {
            Item::Send(octets) => {
                self.nothing_left()?;
                if self.stopped {
                    return Err("the Receiver reads nothing now".into());
                }
                self.unfed = self.split.chunks(octets);
            }
            Item::GoOn => self.receiver.go_on(),
            Item::RefuseContent(reply) => self.receiver.refuse(reply),
            Item::Finish(reply) => self.receiver.finish(reply),
            _ => return self.expect(item),
        }
        self.stopped = false;
        self.pump()
    }

    fn expect(&mut self, item: &Item) -> Result<(), String> {
        let event = self.events.pop_front();
        let matches = match (item, &event) {
            (Item::Line(expected), Some(Event::Line(line))) => line == expected,
            (Item::Contains(part), Some(Event::Line(line))) => {
                line.windows(part.len()).any(|window| window == part.as_slice())
            }
            (Item::Told(expected), Some(Event::Told(told))) => expected == told.as_bytes(),
            (Item::Told(expected), Some(Event::Chunk(octets))) => {
                expected.strip_prefix(b"chunk ") == Some(octets)
            }
            _ => false,
        };
        if matches { Ok(()) } else { Err(format!("expected {}, came {event:?}", shown(item))) }
    }

    fn nothing_left(&self) -> Result<(), String> {
        match self.events.front() {
            Some(event) => Err(format!("nothing more is expected, came {event:?}")),
            None => Ok(()),
        }
    }

    fn pump(&mut self) -> Result<(), String> {
        while !self.stopped {
            match self.receiver.step() {
                ReceiverStep::Read => match self.unfed.pop_front() {
                    Some(chunk) => self.receiver.push(&chunk),
                    None => return Ok(()),
                },
                ReceiverStep::Write(octets) => self.say(&octets)?,
                ReceiverStep::Content(envelope, mends) => {
                    self.told(format!("content {}", told(&envelope)));
                    mends.iter().for_each(|mend| self.told(format!("mend {mend}")));
                    self.stopped = true;
                }
                ReceiverStep::Chunk(octets) => match self.events.back_mut() {
                    Some(Event::Chunk(before)) => before.extend(octets),
                    _ => self.events.push_back(Event::Chunk(octets)),
                },
                ReceiverStep::End(mends) => {
                    self.told("end".into());
                    mends.iter().for_each(|mend| self.told(format!("mend {mend}")));
                    self.stopped = true;
                }
                ReceiverStep::Abort(why) => {
                    self.events.retain(|event| !matches!(event, Event::Chunk(_)));
                    self.told(format!("abort {why}"));
                }
                ReceiverStep::Close(closing) => {
                    let goodbye = self.receiver.goodbye(closing);
                    self.say(&goodbye)?;
                    self.told(format!("close {closing:?}"));
                    self.stopped = true;
                }
            }
        }
        Ok(())
    }

    fn told(&mut self, what: String) {
        self.events.push_back(Event::Told(what));
    }

    /// Whatever gatepost says is whole lines of printable ASCII.
    fn say(&mut self, octets: &[u8]) -> Result<(), String> {
        let lines = octets.strip_suffix(b"\r\n").ok_or("a line without its end")?;
        for line in String::from_utf8_lossy(lines).split("\r\n") {
            if line.len() > 510 || !line.bytes().all(|octet| (32..127).contains(&octet)) {
                return Err(format!("not a line of SMTP: {line:?}"));
            }
            self.events.push_back(Event::Line(line.as_bytes().to_vec()));
        }
        Ok(())
    }
}

/// `<a@b> RET=HDRS | <c@d> NOTIFY=NEVER | <e@f>`
fn told(envelope: &Envelope) -> String {
    let one = |address: &str, parameters: &[String]| {
        let parameters: String = parameters.iter().map(|one| format!(" {one}")).collect();
        format!("<{address}>{parameters}")
    };
    let recipients = envelope.recipients.iter();
    let recipients = recipients.map(|recipient| one(&recipient.address, &recipient.parameters));
    let all = std::iter::once(one(&envelope.sender, &envelope.parameters)).chain(recipients);
    all.collect::<Vec<_>>().join(" | ")
}

fn shown(item: &Item) -> String {
    match item {
        Item::Line(octets) | Item::Contains(octets) | Item::Told(octets) => {
            format!("{:?}", String::from_utf8_lossy(octets))
        }
        other => format!("{other:?}"),
    }
}
