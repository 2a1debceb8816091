//! So many messages in any stretch of time, in the order in which they were asked for.
//!
//! The provider counts a message at some moment between its first command and the answer to its end, and
//! nobody but it knows when. So a slot is held from before that moment until `span` after it: however the
//! messages overlap and however long they take, no stretch of `span` has more of them than `limit`.
//!
//! Invariant: no more than `limit` slots are open or ended less than `span` ago.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, timeout_at};

/// A window that slides.
pub(super) struct Window {
    limit: AtomicUsize,
    span: Duration,
    /// The queue: whoever has the lock is next (tokio's is fair).
    next: tokio::sync::Mutex<()>,
    slots: Mutex<Slots>,
    /// A slot has ended.
    ended: Notify,
}

#[derive(Default)]
struct Slots {
    open: usize,
    /// When those ended that still count, oldest first.
    ended: VecDeque<Instant>,
}

/// A message that is on its way; dropped, it has ended.
pub(super) struct Slot(Arc<Window>);

impl Window {
    /// With a limit, or none.
    pub(super) fn new(limit: Option<u32>, span: Duration) -> Arc<Self> {
        Arc::new(Self {
            limit: AtomicUsize::new(size(limit)),
            span,
            next: tokio::sync::Mutex::default(),
            slots: Mutex::default(),
            ended: Notify::new(),
        })
    }

    /// Has another limit from now on; what counts goes on counting.
    pub(super) fn set_limit(&self, limit: Option<u32>) {
        self.limit.store(size(limit), Ordering::Relaxed);
        self.ended.notify_one();
    }

    /// Waits for a slot, behind those who wait already.
    pub(super) async fn enter(self: &Arc<Self>) -> Slot {
        let _next = self.next.lock().await;
        loop {
            let free_at = match self.take() {
                Ok(slot) => return slot,
                Err(free_at) => free_at,
            };
            match free_at {
                // Or until there is another limit.
                Some(at) => drop(timeout_at(at, self.ended.notified()).await),
                // All of them are open.
                None => self.ended.notified().await,
            }
        }
    }

    /// A slot if one is free at once.
    pub(super) fn try_enter(self: &Arc<Self>) -> Option<Slot> {
        self.take().ok()
    }

    /// Counts a message of a former life, which ended so long ago: oldest first, before all others.
    pub(super) fn remember(&self, ago: Duration) {
        if let Some(ended) = Instant::now().checked_sub(ago) {
            self.slots().ended.push_back(ended);
        }
    }

    /// How many count now.
    pub(super) fn used(&self) -> usize {
        let slots = self.slots();
        slots.open + slots.ended.len()
    }

    /// Takes a slot; else when one of those that have ended no longer counts.
    fn take(self: &Arc<Self>) -> Result<Slot, Option<Instant>> {
        let mut slots = self.slots();
        if slots.open + slots.ended.len() >= self.limit.load(Ordering::Relaxed) {
            return Err(slots.ended.front().map(|ended| *ended + self.span));
        }
        slots.open += 1;
        Ok(Slot(Arc::clone(self)))
    }

    /// Those that still count.
    fn slots(&self) -> MutexGuard<'_, Slots> {
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        while slots.ended.front().is_some_and(|ended| now >= *ended + self.span) {
            slots.ended.pop_front();
        }
        slots
    }
}

fn size(limit: Option<u32>) -> usize {
    limit.and_then(|limit| usize::try_from(limit).ok()).unwrap_or(usize::MAX)
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut slots = self.0.slots();
        slots.open = slots.open.saturating_sub(1);
        slots.ended.push_back(Instant::now());
        drop(slots);
        self.0.ended.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::{advance, sleep};

    use super::*;

    const SPAN: Duration = Duration::from_secs(60);

    #[tokio::test(start_paused = true)]
    async fn a_former_life_counts() {
        advance(SPAN).await;
        let window = Window::new(Some(2), SPAN);
        window.remember(Duration::from_secs(50));
        window.remember(Duration::from_secs(20));
        let start = Instant::now();
        let _first = window.enter().await;
        assert_eq!(start.elapsed(), Duration::from_secs(10));
        let _second = window.enter().await;
        assert_eq!(start.elapsed(), Duration::from_secs(40));
    }

    #[tokio::test(start_paused = true)]
    async fn no_stretch_has_more_than_the_limit() {
        let window = Window::new(Some(5), SPAN);
        let start = Instant::now();
        let mut messages = tokio::task::JoinSet::new();
        for number in 0..30_u64 {
            let window = Arc::clone(&window);
            messages.spawn(async move {
                let slot = window.enter().await;
                // Of different lengths, and counted anywhere in between.
                let length = Duration::from_millis(100 + 9_000 * (number % 4));
                sleep(length / 2).await;
                let counted = Instant::now();
                sleep(length / 2).await;
                drop(slot);
                counted
            });
        }
        let mut counted = messages.join_all().await;
        counted.sort();
        for stretch in counted.windows(6) {
            assert!(stretch[5] - stretch[0] >= SPAN, "{stretch:?}");
        }
        // Five a minute, and what they take themselves.
        assert!(start.elapsed() < 6 * (SPAN + Duration::from_secs(28)), "{:?}", start.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn in_order_of_asking_and_who_gives_up_takes_nothing() {
        let window = Window::new(Some(1), SPAN);
        drop(window.enter().await);
        let order = Arc::new(Mutex::new(Vec::new()));
        let mut waiting = Vec::new();
        for number in 0..3 {
            let (window, order) = (Arc::clone(&window), Arc::clone(&order));
            waiting.push(tokio::spawn(async move {
                let _slot = window.enter().await;
                order.lock().unwrap().push(number);
            }));
            tokio::task::yield_now().await;
        }
        waiting[1].abort();
        let start = Instant::now();
        waiting.pop().unwrap().await.unwrap();
        assert_eq!(*order.lock().unwrap(), [0, 2]);
        assert_eq!(start.elapsed().as_secs(), 120);
    }

    #[tokio::test(start_paused = true)]
    async fn an_open_slot_counts_until_after_its_end() {
        let window = Window::new(Some(1), SPAN);
        let slot = window.enter().await;
        advance(SPAN * 10).await;
        assert!(window.try_enter().is_none());
        let other = Arc::clone(&window);
        let next = tokio::spawn(async move {
            let _slot = other.enter().await;
            Instant::now()
        });
        tokio::task::yield_now().await;
        let ended = Instant::now();
        drop(slot);
        assert_eq!((next.await.unwrap() - ended).as_secs(), 60);
    }
}
