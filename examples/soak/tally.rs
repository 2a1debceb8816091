//! What happened in a soak.
//!
//! Invariant: it grows with the messages that were sent, by their names alone, and with nothing else.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::Mutex;
use std::time::Instant;

use crate::support_ground::{Ground, SIZE, Stop, is_temporary, is_wrong_password, message};

/// Faults of gatepost's that are told.
const TOLD: usize = 50;

/// Characters of a refusal that tell its kind.
const KIND: usize = 110;

/// What gatepost holds.
pub struct Held {
    /// Resident, in KiB; now, and the most so far.
    pub memory: u64,
    pub most: u64,
    pub descriptors: usize,
    /// Of these, the ones that are no connection.
    pub idle: usize,
    at: Instant,
    logins: u64,
}

#[derive(Default)]
pub struct Tally {
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    sessions: u64,
    whole: u64,
    faults: u64,
    ends: BTreeMap<String, u64>,
    /// Whether it was taken, and how often it has arrived.
    messages: HashMap<String, (bool, u32)>,
    violations: Vec<String>,
}

impl Held {
    pub fn now(ground: &Ground) -> Self {
        let process = &ground.process;
        let ((memory, most), descriptors) = (process.memory(), process.descriptors());
        let networks = ground.lanes.iter().flat_map(|lane| {
            let inside = lane.inside.iter().chain([&lane.token, &lane.graph]);
            let inside = inside.map(|network| network.address().port());
            let doors = lane.doors.iter().chain([&lane.spool]).map(|door| door.port());
            inside.chain(doors).chain(lane.tls_ports.clone())
        });
        let open = process.connections(&networks.collect::<Vec<_>>());
        let idle = descriptors.saturating_sub(open);
        let logins = ground.emulator.control().logins();
        Self { memory, most, descriptors, idle, at: Instant::now(), logins }
    }
}

impl Tally {
    /// A session has ended. `promised`: there was no network between it and gatepost, so that a login has an answer.
    pub fn session(&self, what: &str, done: &Result<(), Stop>, promised: bool) {
        let mut inner = self.inner();
        inner.sessions += 1;
        let (end, bad) = match done {
            Ok(()) => {
                inner.whole += 1;
                return;
            }
            Err(Stop::Refused(answer)) => {
                let bad = is_wrong_password(answer) || !is_temporary(answer);
                (format!("refused: {}", kind(answer)), bad)
            }
            Err(Stop::Ended(phase, _)) => {
                (format!("ended in {phase}"), promised && before_session(phase))
            }
            Err(Stop::Hung(phase)) => {
                (format!("no answer in {phase}"), promised && before_session(phase))
            }
            Err(Stop::Odd(phase, line)) => (format!("in {phase}: {}", kind(line)), false),
        };
        if bad {
            inner.note(format!("{what}: {done:?}"));
        }
        *inner.ends.entry(format!("{what}: {end}")).or_default() += 1;
    }

    /// Something else has ended.
    pub fn count(&self, what: &str) {
        *self.inner().ends.entry(what.to_owned()).or_default() += 1;
    }

    pub fn fault(&self) {
        self.inner().faults += 1;
    }

    /// The spool or the server has taken this message.
    pub fn taken(&self, marker: &str) {
        self.inner().messages.entry(marker.to_owned()).or_default().0 = true;
    }

    pub fn violation(&self, what: String) {
        self.inner().note(what);
    }

    pub fn violations(&self) -> Vec<String> {
        self.inner().violations.clone()
    }

    /// What has arrived since the last time; it is removed there.
    pub fn take_in(&self, ground: &Ground) {
        let control = ground.emulator.control();
        for mail in control.take_sent() {
            let text = String::from_utf8_lossy(&mail.data);
            let Some((header, body)) = text.split_once("\r\n\r\n") else {
                self.violation(format!("a message without a body has arrived: {text:?}"));
                continue;
            };
            let subject = header.lines().find_map(|line| line.strip_prefix("Subject: "));
            let marker = subject.unwrap_or("none").to_owned();
            let expected = message("", &marker, 0);
            let whole = body.len() >= SIZE / 2 && expected.ends_with(&last_line(body));
            let mut inner = self.inner();
            if !whole {
                inner.note(format!("{marker} has arrived, but not whole"));
            }
            inner.messages.entry(marker).or_default().1 += 1;
        }
        for lane in &ground.lanes {
            for mailbox in &lane.mailboxes {
                control.empty(mailbox, "Drafts", 0);
                control.empty(mailbox, "Sent Items", 0);
            }
        }
    }

    /// What was taken and has not arrived.
    pub fn missing(&self) -> Vec<String> {
        let inner = self.inner();
        let missing = inner.messages.iter().filter(|(_, (taken, arrived))| *taken && *arrived == 0);
        missing.map(|(marker, _)| marker.clone()).collect()
    }

    /// What is held now, in a line.
    pub fn line(&self, ground: &Ground, start: &Held) -> String {
        let (now, inner) = (Held::now(ground), self.inner());
        let seconds = now.at.duration_since(start.at).as_secs_f64().max(1.0);
        let rate = now.logins.saturating_sub(start.logins) as f64 / seconds;
        let messages = inner.messages.values();
        let (mut taken, mut arrived, mut double) = (0, 0, 0);
        for (was_taken, times) in messages {
            taken += u64::from(*was_taken);
            arrived += u64::from(*times > 0);
            double += u64::from(times.saturating_sub(1));
        }
        format!(
            "{} sessions, {} of them whole; {rate:.1} logins/s upstream; {} faults; memory {} KiB ({} at the start, \
             {} at most); descriptors {} ({} at the start, {} of them no connections); messages {taken} taken, {arrived} \
             arrived, {double} twice; {} token requests; {} violations",
            inner.sessions,
            inner.whole,
            inner.faults,
            now.memory,
            start.memory,
            now.most,
            now.descriptors,
            start.descriptors,
            start.idle,
            ground.emulator.control().token_requests(),
            inner.violations.len(),
        )
    }

    fn inner(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.inner.lock().unwrap()
    }
}

/// How often what has happened.
impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (end, count) in &self.inner().ends {
            writeln!(f, "{count:6} {end}")?;
        }
        Ok(())
    }
}

impl Inner {
    fn note(&mut self, violation: String) {
        if self.violations.len() < TOLD {
            self.violations.push(violation);
        }
    }
}

/// An answer without its numbers.
fn kind(answer: &str) -> String {
    let mut kind = String::new();
    for letter in answer.chars().take(KIND) {
        match letter.is_ascii_digit() {
            true if kind.ends_with('#') => {}
            true => kind.push('#'),
            false => kind.push(letter),
        }
    }
    kind
}

fn last_line(body: &str) -> String {
    let body = body.trim_end();
    format!("{}\r\n", body.rsplit("\r\n").next().unwrap_or_default())
}

fn before_session(phase: &str) -> bool {
    ["connect", "greeting", "login"].contains(&phase)
}
