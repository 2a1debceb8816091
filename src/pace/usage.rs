//! How many recipients each mailbox had in the last 24 hours, by the hour, here and in the store.
//!
//! Invariant: the sum is never too small: it covers 24 whole hours and the one that runs.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use crate::clock::Timestamp;
use crate::store::{Store, StoreError, Usage};

const HOUR_MILLIS: i64 = 3_600_000;

/// Whole hours that count besides the one that runs.
const HOURS: i64 = 24;

/// Hours that are kept, whatever they are: some days of sending all the time.
const KEPT: usize = 96;

/// Above this part of the limit people are warned.
const WARN_PERCENT: u64 = 90;

/// The counts of all mailboxes.
#[derive(Default)]
pub(super) struct Counts {
    counts: Mutex<Known>,
    /// Something is to be written.
    pub(super) changed: Notify,
}

#[derive(Default)]
struct Known {
    mailboxes: HashMap<String, Mailbox>,
    unsaved: HashMap<(String, i64), u32>,
}

#[derive(Default)]
struct Mailbox {
    hours: BTreeMap<i64, u32>,
    /// Who reads the log knows that it is near the limit.
    warned: bool,
}

impl Counts {
    /// Counts, and tells the sum if it is now near the limit for the first time.
    pub(super) fn add(
        &self,
        mailbox: &str,
        recipients: u32,
        limit: Option<u32>,
        now: Timestamp,
    ) -> Option<u64> {
        let hour = hour_of(now);
        let mut known = self.lock();
        let unsaved = known.unsaved.entry((mailbox.to_owned(), hour)).or_default();
        *unsaved = unsaved.saturating_add(recipients);
        let counts = known.mailboxes.entry(mailbox.to_owned()).or_default();
        let count = counts.hours.entry(hour).or_default();
        *count = count.saturating_add(recipients);
        let sum = counts.sum(hour);
        let near = limit.is_some_and(|limit| is_near(sum, limit));
        let crossed = near && !counts.warned;
        counts.warned = near;
        self.changed.notify_one();
        crossed.then_some(sum)
    }

    /// Recipients of the last 24 hours.
    pub(super) fn of(&self, mailbox: &str, now: Timestamp) -> u64 {
        let mut known = self.lock();
        known.mailboxes.get_mut(mailbox).map_or(0, |counts| counts.sum(hour_of(now)))
    }

    /// Whether people were told already, before gatepost was started, that the mailbox is near its limit.
    pub(super) fn warned_before(&self, mailbox: &str, limit: Option<u32>, now: Timestamp) {
        if let Some(counts) = self.lock().mailboxes.get_mut(mailbox) {
            let sum = counts.sum(hour_of(now));
            counts.warned |= limit.is_some_and(|limit| is_near(sum, limit));
        }
    }

    /// Takes over what the store knows.
    pub(super) async fn load(&self, store: &Store, now: Timestamp) -> Result<(), StoreError> {
        for usage in store.usage_since(hour_of(now) - HOURS).await? {
            let mut known = self.lock();
            let counts = known.mailboxes.entry(usage.mailbox).or_default();
            counts.hours.insert(usage.hour, usage.recipients);
        }
        Ok(())
    }

    /// Writes what the store does not know.
    pub(super) async fn save(&self, store: &Store, now: Timestamp) -> Result<(), StoreError> {
        let unsaved = std::mem::take(&mut self.lock().unsaved);
        if unsaved.is_empty() {
            return Ok(());
        }
        let usage = |((mailbox, hour), recipients): (&(String, i64), &u32)| Usage {
            mailbox: mailbox.clone(),
            hour: *hour,
            recipients: *recipients,
        };
        let more: Vec<Usage> = unsaved.iter().map(usage).collect();
        let saved = store.add_usage(&more, hour_of(now) - HOURS).await;
        if saved.is_err() {
            let mut known = self.lock();
            for (key, recipients) in unsaved {
                let unsaved = known.unsaved.entry(key).or_default();
                *unsaved = unsaved.saturating_add(recipients);
            }
        }
        saved
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Mailbox {
    /// Of the hours that count, and of one that a clock which was corrected a little has left ahead. The others are kept
    /// for a while: the clock may be wrong now, and right again soon.
    fn sum(&mut self, hour: i64) -> u64 {
        while self.hours.len() > KEPT {
            self.hours.pop_first();
        }
        self.hours.range(hour - HOURS..=hour + 1).map(|(_, count)| u64::from(*count)).sum()
    }
}

/// Whether so many of a day's recipients are near the limit, or above it.
pub fn is_near(sum: u64, limit: u32) -> bool {
    sum * 100 >= u64::from(limit) * WARN_PERCENT
}

fn hour_of(now: Timestamp) -> i64 {
    now.as_millis().div_euclid(HOUR_MILLIS)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(hour: i64) -> Timestamp {
        Timestamp::from_millis(hour * HOUR_MILLIS + 1)
    }

    #[test]
    fn one_warning_for_each_crossing() {
        let counts = Counts::default();
        assert_eq!(counts.add("a@b", 89, Some(100), at(100)), None);
        assert_eq!(counts.add("a@b", 1, Some(100), at(101)), Some(90));
        assert_eq!(counts.add("a@b", 5, Some(100), at(102)), None);
        assert_eq!(counts.of("a@b", at(124)), 95);
        assert_eq!(counts.of("a@b", at(125)), 6);
        assert_eq!(counts.add("a@b", 1, Some(100), at(125)), None);
        assert_eq!(counts.add("a@b", 83, Some(100), at(125)), Some(90));
        assert_eq!(counts.add("c@d", 10_000, None, at(125)), None);
    }

    #[test]
    fn a_clock_that_is_wrong_for_a_while_changes_nothing() {
        let counts = Counts::default();
        counts.add("a@b", 7, None, at(500_000));
        for wrong in [0, 600_000] {
            counts.add("a@b", 1, None, at(wrong));
            assert_eq!(counts.of("a@b", at(wrong)), 1);
            assert_eq!(counts.of("a@b", at(500_000)), 7);
        }
    }

    #[tokio::test]
    async fn counts_outlive_a_restart() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path(), None).await.unwrap();
        let counts = Counts::default();
        counts.add("a@b", 3, None, at(100));
        counts.save(&store, at(100)).await.unwrap();
        counts.add("a@b", 4, None, at(101));
        counts.add("a@b", 1, None, at(101));
        counts.save(&store, at(101)).await.unwrap();
        let anew = Counts::default();
        anew.load(&store, at(124)).await.unwrap();
        assert_eq!((anew.of("a@b", at(124)), anew.of("a@b", at(125))), (8, 5));
        anew.warned_before("a@b", Some(5), at(125));
        assert_eq!(anew.add("a@b", 1, Some(5), at(125)), None);
    }

    #[tokio::test]
    async fn what_could_not_be_written_is_written_later() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path(), None).await.unwrap();
        let closed = Store::open(folder.path(), None).await.unwrap();
        closed.close().await;
        let counts = Counts::default();
        counts.add("a@b", 3, None, at(100));
        assert!(counts.save(&closed, at(100)).await.is_err());
        counts.add("a@b", 4, None, at(100));
        counts.save(&store, at(100)).await.unwrap();
        assert_eq!(store.usage_since(0).await.unwrap()[0].recipients, 7);
    }
}
