//! Failures, counted for one source, mailbox or pair of them; and a bounded table of such counts.
//!
//! Invariant: a table never has more than its limit of entries. What goes first is what is neither locked nor
//! has ever logged in, the oldest before the newer ones.

use std::collections::{HashMap, VecDeque};
use std::hash::Hash;
use std::time::Duration;

use tokio::time::Instant;

use crate::config::GuardSettings;

/// In so long all failures that lead to a lock are forgotten, one after the other, and one success makes up for them.
/// That there was a lock is forgotten when no failure has come for so long: longer than the longest lock, or each
/// would be as short as the first one.
const FORGOTTEN: Duration = Duration::from_secs(60 * 60);

/// Tries that are left after a lock, until the next one: as many as a connection has.
const AFTER_LOCK: u32 = 3;

/// Wrong passwords that are known again: more than lead to a lock.
const REMEMBERED: usize = 32;

/// The failures of one key.
#[derive(Debug)]
pub(super) struct Counter {
    /// Different wrong passwords that are not forgotten yet.
    different: u32,
    /// When one of them was forgotten last.
    leaked: Instant,
    /// When a success last made up for all of them.
    forgiven: Option<Instant>,
    /// All failures, the same password again and again included.
    failures: u32,
    /// Locks, each twice as long as the one before.
    locks: u32,
    until: Option<Instant>,
    /// When the last different one came, and the last one at all.
    changed: Instant,
    last: Instant,
    /// Hashes of the last wrong passwords, under a key of this process.
    wrong: VecDeque<u64>,
    /// A login came through.
    known: bool,
}

impl Counter {
    fn new(now: Instant) -> Self {
        Self {
            different: 0,
            leaked: now,
            forgiven: None,
            failures: 0,
            locks: 0,
            until: None,
            changed: now,
            last: now,
            wrong: VecDeque::new(),
            known: false,
        }
    }

    /// How long it is still locked.
    pub(super) fn locked(&self, now: Instant) -> Option<Duration> {
        let left = self.until?.saturating_duration_since(now);
        (!left.is_zero()).then_some(left)
    }

    /// Whether it was, since failures were last forgotten.
    pub(super) fn was_locked(&self) -> bool {
        self.locks > 0
    }

    /// Whether a login came through.
    pub(super) fn is_known(&self) -> bool {
        self.known
    }

    /// Whether this wrong password is among the last ones.
    pub(super) fn has_seen(&self, password: u64) -> bool {
        self.wrong.contains(&password)
    }

    /// Failures in a row, for the delay.
    pub(super) fn failures(&self) -> u32 {
        self.failures
    }

    /// A wrong password that came before.
    pub(super) fn again(&mut self, now: Instant) {
        self.forget(now);
        self.failures = self.failures.saturating_add(1);
        self.last = now;
    }

    /// A wrong password that did not come before; the answer is a lock that begins with it. Whatever was being
    /// checked when the lock began is not counted any more.
    pub(super) fn another(
        &mut self,
        now: Instant,
        most: Option<u32>,
        first_lock: Duration,
    ) -> Option<Duration> {
        self.again(now);
        self.changed = now;
        if self.locked(now).is_some() {
            return None;
        }
        let most = most?;
        self.leak(now, most);
        self.different = self.different.saturating_add(1);
        if self.different < most {
            return None;
        }
        let times = 1_u32.checked_shl(self.locks).unwrap_or(u32::MAX).min(GuardSettings::LONGEST);
        let lock = first_lock * times;
        self.different = most.saturating_sub(AFTER_LOCK);
        self.locks = (self.locks + 1).min(u32::BITS - 1);
        self.until = Some(now + lock);
        Some(lock)
    }

    /// Keeps a wrong password in mind.
    pub(super) fn remember(&mut self, password: u64) {
        self.wrong.truncate(REMEMBERED - 1);
        self.wrong.push_front(password);
    }

    /// A login came through: the failures were a person's, who mistyped. Not each time, and no lock ends with it:
    /// else who guesses beside a device that logs in every minute would never be locked.
    pub(super) fn succeed(&mut self, now: Instant) {
        (self.known, self.failures, self.last) = (true, 0, now);
        let is_old = |forgiven| now.saturating_duration_since(forgiven) > FORGOTTEN;
        if self.forgiven.is_none_or(is_old) {
            (self.different, self.forgiven) = (0, Some(now));
        }
    }

    fn forget(&mut self, now: Instant) {
        if now.saturating_duration_since(self.changed) > FORGOTTEN && self.locked(now).is_none() {
            (self.different, self.locks, self.until) = (0, 0, None);
        }
        if now.saturating_duration_since(self.last) > FORGOTTEN {
            self.failures = 0;
        }
    }

    /// Forgets failures one after the other, so that few an hour never add up to a lock.
    fn leak(&mut self, now: Instant, most: u32) {
        let each = FORGOTTEN / most.max(1);
        let due = now.saturating_duration_since(self.leaked).as_millis() / each.as_millis().max(1);
        let due = u32::try_from(due).unwrap_or(u32::MAX);
        self.different = self.different.saturating_sub(due);
        self.leaked = if self.different == 0 { now } else { self.leaked + each * due };
    }
}

/// Counters by what they count for.
pub(super) struct Table<K> {
    counters: HashMap<K, Counter>,
    limit: usize,
}

impl<K: Copy + Eq + Hash> Table<K> {
    /// For at most so many.
    pub(super) fn new(limit: usize) -> Self {
        Self { counters: HashMap::new(), limit }
    }

    /// If there is one.
    pub(super) fn get(&self, key: &K) -> Option<&Counter> {
        self.counters.get(key)
    }

    /// Made if there is none, in the place of others if there is no room.
    pub(super) fn of(&mut self, key: K, now: Instant) -> &mut Counter {
        if self.counters.len() >= self.limit && !self.counters.contains_key(&key) {
            self.make_room(now);
        }
        let counter = self.counters.entry(key).or_insert_with(|| Counter::new(now));
        counter.forget(now);
        counter
    }

    /// A quarter goes at a time, so that a flood does not sort the table with each of its tries.
    fn make_room(&mut self, now: Instant) {
        let worth =
            |counter: &Counter| (counter.locked(now).is_some() || counter.known, counter.last);
        let mut all: Vec<_> =
            self.counters.iter().map(|(key, counter)| (worth(counter), *key)).collect();
        let quarter = (self.limit / 4).max(1).min(all.len());
        all.sort_by_key(|(worth, _)| *worth);
        for (_, key) in all.drain(..quarter) {
            self.counters.remove(&key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOCK: Duration = Duration::from_secs(60);

    fn fail(counter: &mut Counter, times: u32) -> Option<Duration> {
        (0..times).filter_map(|_| counter.another(Instant::now(), Some(10), LOCK)).last()
    }

    #[tokio::test(start_paused = true)]
    async fn locks_double_up_to_fifteen_times_and_are_forgotten() {
        let mut counter = Counter::new(Instant::now());
        assert_eq!(fail(&mut counter, 9), None);
        for minutes in [1, 2, 4, 8, 15, 15] {
            let lock = LOCK * minutes;
            // Some were forgotten during the lock before.
            let locks: Vec<_> = (0..9).map_while(|_| Some(fail(&mut counter, 1))).collect();
            let first = locks.iter().position(Option::is_some).unwrap();
            assert!(if minutes == 1 { first == 0 } else { (2..6).contains(&first) }, "{first}");
            assert_eq!(locks[first], Some(lock));
            // What was under way already neither counts nor locks anew.
            assert_eq!(fail(&mut counter, 50), None);
            assert_eq!(counter.locked(Instant::now()), Some(lock));
            tokio::time::advance(lock).await;
            assert_eq!(counter.locked(Instant::now()), None);
        }
        tokio::time::advance(FORGOTTEN + LOCK).await;
        assert_eq!(fail(&mut counter, 9), None);
        assert!(!counter.was_locked());
        assert_eq!(fail(&mut counter, 1), Some(LOCK));
    }

    #[tokio::test(start_paused = true)]
    async fn few_failures_an_hour_are_no_attack() {
        let mut counter = Counter::new(Instant::now());
        for _ in 0..1000 {
            assert_eq!(fail(&mut counter, 1), None);
            tokio::time::advance(FORGOTTEN / 10).await;
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_success_makes_up_for_failures_once_an_hour_and_ends_no_lock() {
        let mut counter = Counter::new(Instant::now());
        assert_eq!(fail(&mut counter, 9), None);
        counter.succeed(Instant::now());
        assert_eq!(fail(&mut counter, 9), None);
        counter.succeed(Instant::now());
        assert_eq!(fail(&mut counter, 1), Some(LOCK));
        counter.succeed(Instant::now());
        assert!(counter.locked(Instant::now()).is_some() && counter.is_known());
    }

    #[tokio::test(start_paused = true)]
    async fn a_full_table_keeps_locks_and_who_has_logged_in() {
        let mut table = Table::new(100);
        fail(table.of(0, Instant::now()), 10);
        table.of(1, Instant::now()).succeed(Instant::now());
        for key in 2..10_000 {
            tokio::time::advance(Duration::from_millis(1)).await;
            table.of(key, Instant::now()).again(Instant::now());
            assert!(table.counters.len() <= 100);
        }
        assert!(table.get(&0).unwrap().locked(Instant::now()).is_some());
        assert!(table.get(&1).unwrap().is_known());
        assert!(table.get(&9_999).is_some() && table.get(&2).is_none());
        // Not even of what is kept longest there can be more.
        for key in 10_000..20_000 {
            table.of(key, Instant::now()).succeed(Instant::now());
            assert!(table.counters.len() <= 100);
        }
    }
}
