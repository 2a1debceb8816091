//! Slow hashes: computed one at a time, in a fair order, and once per process and password.
//!
//! Invariant: what is remembered of a password is a hash under a key of this process, and what is remembered is
//! bounded by the passwords that there are. A source never has more than one hash waiting before those of others.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use ipnet::IpNet;
use ring::hmac;
use ring::rand::{SecureRandom, SystemRandom};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use zeroize::Zeroizing;

use super::hash::{Memory, Tag, keyed};
use crate::store::StoreError;

/// Slow hashes of wrong passwords that are remembered: enough for every broken device of a site, which
/// sends the same one again and again.
const REMEMBERED_WRONG: usize = 1024;

/// Sources from which a password was right that are remembered with it.
const REMEMBERED_SOURCES: usize = 64;

/// Slow hashes, computed once per process and password.
pub(super) struct SlowHashes {
    /// Made anew by each process.
    key: hmac::Key,
    known: Mutex<Known>,
    turns: Turns,
}

#[derive(Default)]
struct Known {
    right: HashMap<Tag, Right>,
    wrong: VecDeque<(Tag, Tag)>,
}

struct Right {
    slow: Tag,
    /// The last one first.
    sources: VecDeque<IpNet>,
}

impl SlowHashes {
    pub(super) fn new() -> Result<Self, StoreError> {
        let mut key = Zeroizing::new(Tag::default());
        let filled = SystemRandom::new().fill(key.as_mut_slice());
        filled.map_err(|_| StoreError::NoRandom)?;
        let key = hmac::Key::new(hmac::HMAC_SHA256, key.as_slice());
        Ok(Self { key, known: Mutex::default(), turns: Turns::default() })
    }

    /// What stands for a password, or for a mailbox with none, in this process.
    pub(super) fn quick(&self, mailbox: &str, password: &str) -> Tag {
        keyed(&self.key, mailbox, password)
    }

    fn memory(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether it was right from this source before.
    pub(super) fn was_right_from(&self, quick: &Tag, source: IpNet) -> bool {
        self.memory().right.get(quick).is_some_and(|right| right.sources.contains(&source))
    }

    /// Right ones are never pushed out by wrong ones.
    pub(super) fn remember_right(&self, quick: Tag, slow: Tag, source: IpNet) {
        let mut memory = self.memory();
        memory.wrong.retain(|(known, _)| *known != quick);
        let fresh = || Right { slow, sources: VecDeque::new() };
        let sources = &mut memory.right.entry(quick).or_insert_with(fresh).sources;
        if sources.front() != Some(&source) {
            sources.retain(|known| *known != source);
            sources.truncate(REMEMBERED_SOURCES - 1);
            sources.push_front(source);
        }
    }

    /// Of one that was checked before.
    pub(super) fn known(&self, quick: &Tag) -> Option<Tag> {
        let memory = self.memory();
        let wrong = || memory.wrong.iter().find(|(known, _)| known == quick).map(|(_, slow)| *slow);
        memory.right.get(quick).map(|right| right.slow).or_else(wrong)
    }

    /// Waits until a hash may be computed.
    pub(super) async fn turn(&self, source: IpNet, is_known: bool) -> Option<Turn> {
        self.turns.take(source, is_known).await
    }

    /// The slow hash behind `quick`. It goes on to its end, turn in hand, if nobody waits for it any more: who comes
    /// and goes must not start more than one at a time.
    pub(super) async fn compute(
        &self,
        quick: Tag,
        turn: Turn,
        compute: impl FnOnce(&mut Memory) -> Option<Tag> + Send + 'static,
    ) -> Option<Tag> {
        let computed = tokio::task::spawn_blocking(move || turn.use_for(compute)).await;
        let slow = computed.ok()??;
        let mut memory = self.memory();
        memory.wrong.truncate(REMEMBERED_WRONG - 1);
        memory.wrong.push_front((quick, slow));
        Some(slow)
    }
}

/// The right to compute one hash, until it is dropped.
pub(super) struct Turn {
    memory: Arc<Mutex<Memory>>,
    _lane: OwnedSemaphorePermit,
    _source: OwnedSemaphorePermit,
}

impl Turn {
    fn use_for(self, compute: impl FnOnce(&mut Memory) -> Option<Tag>) -> Option<Tag> {
        compute(&mut self.memory.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Whose hash is next. Sources that have logged in before have a lane of their own, so that of strangers no more than
/// one stands in their way; in a lane a source waits with one hash at a time, first come, first served.
struct Turns {
    known: Arc<Semaphore>,
    strangers: Arc<Semaphore>,
    /// For one hash at a time, and kept for the next one. So a flood of passwords takes one core and 19 MiB, and the
    /// first of the other lane is always the next.
    memory: Arc<Mutex<Memory>>,
    sources: Mutex<HashMap<IpNet, Weak<Semaphore>>>,
}

impl Default for Turns {
    fn default() -> Self {
        let lane = || Arc::new(Semaphore::new(1));
        Self { known: lane(), strangers: lane(), memory: Arc::default(), sources: Mutex::default() }
    }
}

impl Turns {
    async fn take(&self, source: IpNet, is_known: bool) -> Option<Turn> {
        let of_source = self.of_source(source);
        let _source = of_source.acquire_owned().await.ok()?;
        let lane = if is_known { &self.known } else { &self.strangers };
        let _lane = Arc::clone(lane).acquire_owned().await.ok()?;
        Some(Turn { memory: Arc::clone(&self.memory), _lane, _source })
    }

    /// As long as somebody waits there.
    fn of_source(&self, source: IpNet) -> Arc<Semaphore> {
        let mut sources = self.sources.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(waiting) = sources.get(&source).and_then(Weak::upgrade) {
            return waiting;
        }
        sources.retain(|_, waiting| waiting.strong_count() > 0);
        let fresh = Arc::new(Semaphore::new(1));
        sources.insert(source, Arc::downgrade(&fresh));
        fresh
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_crowd_from_one_source_waits_behind_itself() {
        let turns = Arc::new(Turns::default());
        let crowd: IpNet = "10.0.0.1/32".parse().unwrap();
        for _ in 0..1000 {
            let turns = Arc::clone(&turns);
            tokio::spawn(async move {
                let _turn = turns.take(crowd, false).await;
                tokio::time::sleep(Duration::from_millis(30)).await;
            });
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
        let start = tokio::time::Instant::now();
        drop(turns.take("10.0.0.2/32".parse().unwrap(), true).await.unwrap());
        assert_eq!(start.elapsed(), Duration::ZERO);
        drop(turns.take("10.0.0.2/32".parse().unwrap(), false).await.unwrap());
        assert!(start.elapsed() <= Duration::from_millis(30), "{:?}", start.elapsed());
        tokio::time::sleep(Duration::from_secs(60)).await;
        drop(turns.take("10.0.0.3/32".parse().unwrap(), false).await);
        assert!(turns.sources.lock().unwrap().len() <= 2);
    }

    #[test]
    fn sources_of_a_right_password_are_bounded() {
        let slow = SlowHashes::new().unwrap();
        let source = |n: u8| IpNet::from(std::net::IpAddr::from([10, 0, 0, n]));
        for n in 0..=255 {
            slow.remember_right([1; 32], [2; 32], source(n));
        }
        assert!(slow.was_right_from(&[1; 32], source(255)));
        assert!(!slow.was_right_from(&[1; 32], source(0)));
        assert_eq!(slow.memory().right[&[1; 32]].sources.len(), REMEMBERED_SOURCES);
    }
}
