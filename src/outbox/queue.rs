//! What waits, in memory: which message goes next, and when.
//!
//! Messages of one device for one mailbox are a lane: they go one at a time, in order of arrival. Lanes of a mailbox
//! go beside each other. A mailbox that can send nothing is held: then one message at a time is tried, by the
//! schedule, and the first that comes through lets all others go.
//!
//! Invariant: no clock, no file and no task in here. A message is given out once, until its end is told.

use std::collections::{BTreeMap, HashSet, VecDeque};
use std::time::Duration;

use super::entry::Entry;
use super::files::Survey;
use crate::clock::Timestamp;
use crate::config::SpoolSettings;

/// Shortest hold, also if the provider says less: no answer may lead to a busy loop.
const SHORTEST_HOLD: Duration = Duration::from_secs(1);

/// Longest hold, also if the provider says more. A person who reads "tomorrow" finds it wrong; more is an error.
const LONGEST_HOLD: Duration = Duration::from_secs(86_400);

/// Messages that have left whose ids are remembered: a late word of their arrival must not bring them back.
const REMEMBERED: usize = 4096;

/// Everything that waits.
pub(super) struct Queue {
    settings: SpoolSettings,
    mailboxes: BTreeMap<String, Mailbox>,
    left: Left,
    /// What was given up and is still in the spool.
    leaving: HashSet<String>,
}

/// A message that is to be delivered now.
#[derive(Clone, Debug)]
pub(super) struct Job {
    pub(super) entry: Entry,
    /// How often its mailbox had been held when it was given out.
    round: u64,
}

/// Why a mailbox can send nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Held {
    pub(super) reason: String,
    /// The provider's own.
    pub(super) wait: Option<Duration>,
    /// What a person must do.
    pub(super) remedy: Option<String>,
}

/// A mailbox that can send nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Hold {
    /// Since when.
    pub(super) since: Timestamp,
    /// Until the next attempt.
    pub(super) until: Timestamp,
    /// Attempts that failed, those that were under way at once as one.
    pub(super) failures: u32,
    /// Whether the provider has told the time: then nobody shortens it.
    told: bool,
    /// The last wait.
    length: Duration,
}

#[derive(Default)]
struct Mailbox {
    lanes: BTreeMap<String, Lane>,
    hold: Option<Hold>,
    /// How often it was held.
    round: u64,
    under_way: usize,
    /// The lane of the last attempt while it was held.
    probed: Option<String>,
}

#[derive(Default)]
struct Lane {
    /// By id, which is in order of arrival.
    waiting: BTreeMap<String, Entry>,
    busy: Option<String>,
}

/// The last ids that have left.
#[derive(Default)]
struct Left {
    ids: HashSet<String>,
    order: VecDeque<String>,
}

impl Queue {
    pub(super) fn new(settings: &SpoolSettings) -> Self {
        Self {
            settings: settings.clone(),
            mailboxes: BTreeMap::new(),
            left: Left::default(),
            leaving: HashSet::new(),
        }
    }

    /// Goes by other settings from now on.
    pub(super) fn set(&mut self, settings: &SpoolSettings) {
        self.settings.clone_from(settings);
    }

    /// A message was accepted.
    pub(super) fn arrived(&mut self, entry: Entry) {
        if !self.left.ids.contains(&entry.id) {
            self.insert(entry);
        }
    }

    /// Takes over what the spool has: after the start, and when another process has changed something.
    pub(super) fn take_over(&mut self, survey: Survey) {
        let Survey { entries, unread } = survey;
        let there: HashSet<&String> =
            entries.iter().map(|entry| &entry.id).chain(&unread).collect();
        for mailbox in self.mailboxes.values_mut() {
            for lane in mailbox.lanes.values_mut() {
                lane.waiting.retain(|id, _| there.contains(id));
            }
        }
        for entry in entries {
            if self.leaving.contains(&entry.id) {
                continue;
            }
            match self.waiting(&entry) {
                // Memory knows at least as much as the disk; what a person wants stands there.
                Some(known) if entry.progress.next_try.is_none() => known.progress.next_try = None,
                Some(_) => {}
                None => self.insert(entry),
            }
        }
    }

    fn waiting(&mut self, entry: &Entry) -> Option<&mut Entry> {
        let lane = self.mailboxes.get_mut(&entry.mailbox)?.lanes.get_mut(&entry.device)?;
        lane.waiting.get_mut(&entry.id)
    }

    /// Everything that is held by the schedule is due: something has changed that may have been the reason.
    pub(super) fn try_now(&mut self) {
        self.mailboxes.values_mut().for_each(Mailbox::try_now);
    }

    fn insert(&mut self, entry: Entry) {
        let mailbox = self.mailboxes.entry(entry.mailbox.clone()).or_default();
        let lane = mailbox.lanes.entry(entry.device.clone()).or_default();
        if lane.busy.as_ref() != Some(&entry.id) {
            lane.waiting.insert(entry.id.clone(), entry);
        }
    }

    pub(super) fn mailboxes(&self) -> Vec<String> {
        self.mailboxes.keys().cloned().collect()
    }

    /// The next message of a mailbox, if one is due.
    pub(super) fn next(&mut self, mailbox: &str, now: Timestamp) -> Option<Job> {
        let horizon = self.longest_wait();
        let mailbox = self.mailboxes.get_mut(mailbox)?;
        let probing = match &mailbox.hold {
            Some(hold) if !hold.is_over(now) || mailbox.under_way > 0 => return None,
            hold => hold.is_some(),
        };
        // One that is set to wait for longer than any schedule was so before the clock was set back.
        let is_due = |entry: &Entry| {
            let next = entry.progress.next_try;
            next.is_none_or(|next| next <= now || next > now.plus(horizon))
        };
        let free = mailbox.lanes.iter().filter(|(_, lane)| lane.busy.is_none());
        let mut due: Vec<(&String, &String)> = free
            .filter_map(|(name, lane)| {
                let first = lane.waiting.values().find(|entry| is_due(entry))?;
                Some((&first.id, name))
            })
            .collect();
        due.sort();
        // What holds a mailbox may be one message after all: then another lane's gets through.
        let former = |lane: &String| probing && mailbox.probed.as_ref() == Some(lane);
        let (id, name) = due.iter().find(|(_, lane)| !former(lane)).or(due.first()).copied()?;
        let (id, name) = (id.clone(), name.clone());
        let lane = mailbox.lanes.get_mut(&name)?;
        let entry = lane.waiting.remove(&id)?;
        lane.busy = Some(id);
        mailbox.under_way += 1;
        mailbox.probed = probing.then_some(name);
        Some(Job { entry, round: mailbox.round })
    }

    /// The message has left the spool, and by an answer of the provider: a hold is over, which is returned.
    pub(super) fn gone(&mut self, job: &Job) -> Option<Hold> {
        self.forget(job);
        self.mailboxes.get_mut(&job.entry.mailbox)?.answered(job.round)
    }

    /// The message has left the spool without having been sent.
    pub(super) fn forget(&mut self, job: &Job) {
        self.left.add(&job.entry.id);
        self.end(&job.entry);
    }

    /// The provider has answered, and the message waits by its own schedule.
    pub(super) fn later(&mut self, job: &Job, entry: Entry) -> Option<Hold> {
        self.end(&entry);
        let mailbox = entry.mailbox.clone();
        self.insert(entry);
        self.mailboxes.get_mut(&mailbox)?.answered(job.round)
    }

    /// The message waits by its own schedule, for a reason that is not the provider's.
    pub(super) fn put_back(&mut self, entry: Entry) {
        self.end(&entry);
        self.insert(entry);
    }

    /// The mailbox can send nothing. How that is then, and what of it has waited for too long.
    pub(super) fn held(
        &mut self,
        job: &Job,
        entry: Entry,
        held: &Held,
        now: Timestamp,
    ) -> (Hold, Vec<Entry>) {
        self.end(&entry);
        let name = entry.mailbox.clone();
        self.insert(entry);
        let settings = &self.settings;
        let mailbox = self.mailboxes.entry(name).or_default();
        let hold = mailbox.hold(job.round, held.wait, &settings.retry, now);
        let expired = mailbox.take_expired(settings, hold.failures, now);
        for entry in &expired {
            self.left.add(&entry.id);
            self.leaving.insert(entry.id.clone());
        }
        (hold, expired)
    }

    /// What was given up has left the spool.
    pub(super) fn given_up(&mut self, id: &str) {
        self.leaving.remove(id);
    }

    /// Whether there is nothing.
    #[cfg(test)]
    fn is_empty(&self) -> bool {
        self.mailboxes.values().all(|mailbox| mailbox.lanes.values().all(Lane::is_empty))
    }

    fn end(&mut self, entry: &Entry) {
        let Some(mailbox) = self.mailboxes.get_mut(&entry.mailbox) else { return };
        let Some(lane) = mailbox.lanes.get_mut(&entry.device) else { return };
        if lane.busy.as_ref() == Some(&entry.id) {
            lane.busy = None;
            mailbox.under_way = mailbox.under_way.saturating_sub(1);
        }
    }

    /// Forgets mailboxes and lanes of which there is nothing to know.
    pub(super) fn tidy(&mut self, now: Timestamp) {
        self.mailboxes.retain(|_, mailbox| {
            mailbox.lanes.retain(|_, lane| !lane.is_empty());
            !mailbox.lanes.is_empty()
                || mailbox.hold.as_ref().is_some_and(|hold| !hold.is_over(now))
        });
    }

    fn longest_wait(&self) -> Duration {
        self.settings.retry.iter().max().copied().unwrap_or(LONGEST_HOLD)
    }
}

impl Mailbox {
    /// The provider talks, in answer to something that was sent after the last hold began.
    fn answered(&mut self, round: u64) -> Option<Hold> {
        if round == self.round { self.hold.take() } else { None }
    }

    fn hold(
        &mut self,
        round: u64,
        told: Option<Duration>,
        retry: &[Duration],
        now: Timestamp,
    ) -> Hold {
        let former = self.hold.take();
        // What was under way when the hold began is no further failure.
        let known = former.is_some() && round != self.round;
        let failures = former.as_ref().map_or(0, |hold| hold.failures) + u32::from(!known);
        let length = match told {
            Some(told) => told.clamp(SHORTEST_HOLD, LONGEST_HOLD),
            None => wait(retry, failures),
        };
        let mut hold = Hold {
            since: former.as_ref().map_or(now, |hold| hold.since),
            until: now.plus(length),
            failures,
            told: told.is_some(),
            length,
        };
        if let Some(former) = former.filter(|former| known && former.until > hold.until) {
            (hold.until, hold.told, hold.length) = (former.until, former.told, former.length);
        }
        if !known {
            self.round += 1;
        }
        self.hold = Some(hold.clone());
        hold
    }

    fn take_expired(
        &mut self,
        settings: &SpoolSettings,
        failures: u32,
        now: Timestamp,
    ) -> Vec<Entry> {
        let is_old = |entry: &Entry| is_expired(settings, entry, failures, now);
        let mut expired = Vec::new();
        for lane in self.lanes.values_mut() {
            let old = lane.waiting.extract_if(.., |_, entry| is_old(entry));
            expired.extend(old.map(|(_, entry)| entry));
        }
        expired
    }

    fn try_now(&mut self) {
        if let Some(hold) = self.hold.as_mut().filter(|hold| !hold.told) {
            hold.length = Duration::ZERO;
            hold.until = hold.since;
        }
    }
}

impl Lane {
    fn is_empty(&self) -> bool {
        self.waiting.is_empty() && self.busy.is_none()
    }
}

impl Hold {
    /// A hold that is longer than it was made has come to that because the clock was set back.
    fn is_over(&self, now: Timestamp) -> bool {
        self.until <= now || self.until > now.plus(self.length)
    }
}

impl Left {
    fn add(&mut self, id: &str) {
        if self.ids.insert(id.to_owned()) {
            self.order.push_back(id.to_owned());
        }
        while self.order.len() > REMEMBERED {
            if let Some(oldest) = self.order.pop_front() {
                self.ids.remove(&oldest);
            }
        }
    }
}

/// When a message is tried again that was tried so often; none: not again.
pub(super) fn next_try(
    settings: &SpoolSettings,
    entry: &Entry,
    now: Timestamp,
) -> Option<Timestamp> {
    let attempts = entry.progress.attempts;
    let again = !is_expired(settings, entry, attempts, now);
    again.then(|| now.plus(wait(&settings.retry, attempts)))
}

/// Behind so many attempts.
fn wait(retry: &[Duration], attempts: u32) -> Duration {
    let index = usize::try_from(attempts.saturating_sub(1)).unwrap_or(usize::MAX);
    let wait = retry.get(index).or(retry.last()).copied();
    wait.unwrap_or(LONGEST_HOLD).max(SHORTEST_HOLD)
}

/// Whether it has waited for too long. Time alone does not tell: gatepost may have been off, or the clock wrong when the
/// message came. So the waits of the schedule that fit into that time come first.
fn is_expired(settings: &SpoolSettings, entry: &Entry, attempts: u32, now: Timestamp) -> bool {
    let waits = settings.retry.iter().scan(Duration::ZERO, |sum, wait| {
        *sum = sum.saturating_add(*wait);
        (*sum <= settings.give_up).then_some(())
    });
    let fewest = u32::try_from(waits.count()).unwrap_or(u32::MAX);
    attempts > fewest && entry.since().plus(settings.give_up) <= now
}

#[cfg(test)]
mod tests;
