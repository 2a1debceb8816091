//! When who is due: one list for all, so that a principal at rest costs a line in it and no timer.
//!
//! Invariant: nobody is called before their time; who is due later than they are called looks and comes back.

use std::cmp::{Ordering, Reverse};
use std::collections::BinaryHeap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

use super::desk::Desk;

/// See the module.
#[derive(Default)]
pub(super) struct Agenda {
    entries: Mutex<BinaryHeap<Reverse<Entry>>>,
    /// There is an earlier one than before.
    earlier: Notify,
}

struct Entry {
    at: Instant,
    desk: Arc<Desk>,
}

impl Agenda {
    pub(super) fn put(&self, at: Instant, desk: Arc<Desk>) {
        let mut entries = self.entries();
        let first = entries.peek().is_none_or(|Reverse(first)| at < first.at);
        entries.push(Reverse(Entry { at, desk }));
        if first {
            self.earlier.notify_one();
        }
    }

    /// Waits for the next one that is called, and tells for when it was.
    pub(super) async fn next(&self) -> (Instant, Arc<Desk>) {
        loop {
            let first = self.entries().peek().map(|Reverse(first)| first.at);
            match first {
                Some(at) if at <= Instant::now() => {
                    if let Some(Reverse(Entry { at, desk })) = self.entries().pop() {
                        return (at, desk);
                    }
                }
                Some(at) => tokio::select! {
                    () = sleep_until(at) => {}
                    () = self.earlier.notified() => {}
                },
                None => self.earlier.notified().await,
            }
        }
    }

    fn entries(&self) -> MutexGuard<'_, BinaryHeap<Reverse<Entry>>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Ord for Entry {
    fn cmp(&self, other: &Self) -> Ordering {
        self.at.cmp(&other.at)
    }
}

impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Entry {
    fn eq(&self, other: &Self) -> bool {
        self.at == other.at
    }
}

impl Eq for Entry {}
