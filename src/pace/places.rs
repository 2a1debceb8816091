//! Concurrent connections of a mailbox, in the order in which they were asked for, under a limit that may change.
//!
//! Invariant: no place is given out while as many are taken as the limit allows, also right after it was lowered.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// The places of one mailbox.
pub(super) struct Places {
    free: Arc<Semaphore>,
    state: Mutex<State>,
}

struct State {
    limit: usize,
    /// Places that are taken and not to be given out again, since the limit was lowered.
    owed: usize,
}

/// A place; dropped, the next one gets it.
pub(super) struct Place {
    places: Arc<Places>,
    permit: Option<OwnedSemaphorePermit>,
}

impl Places {
    /// With a limit, or none.
    pub(super) fn new(limit: Option<u32>) -> Arc<Self> {
        let limit = size(limit);
        let state = Mutex::new(State { limit, owed: 0 });
        Arc::new(Self { free: Arc::new(Semaphore::new(limit)), state })
    }

    /// Has another limit from now on.
    pub(super) fn set_limit(&self, limit: Option<u32>) {
        let limit = size(limit);
        let mut state = self.state();
        if limit < state.limit {
            let fewer = state.limit - limit;
            state.owed += fewer - self.free.forget_permits(fewer);
        } else {
            let more = limit - state.limit;
            let paid = more.min(state.owed);
            state.owed -= paid;
            self.free.add_permits(more - paid);
        }
        state.limit = limit;
    }

    /// A place if one is free. tokio's semaphore is fair: where somebody waits, none is.
    pub(super) fn try_take(self: &Arc<Self>) -> Option<Place> {
        let permit = Arc::clone(&self.free).try_acquire_owned().ok()?;
        Some(Place { places: Arc::clone(self), permit: Some(permit) })
    }

    /// Waits for one.
    pub(super) async fn take(self: &Arc<Self>) -> Option<Place> {
        let permit = Arc::clone(&self.free).acquire_owned().await.ok()?;
        Some(Place { places: Arc::clone(self), permit: Some(permit) })
    }

    /// How many are taken.
    pub(super) fn used(&self) -> usize {
        let state = self.state();
        (state.limit + state.owed).saturating_sub(self.free.available_permits())
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let Some(permit) = self.permit.take() else { return };
        let mut state = self.places.state();
        if state.owed > 0 {
            state.owed -= 1;
            permit.forget();
        }
    }
}

fn size(limit: Option<u32>) -> usize {
    let limit = limit.and_then(|limit| usize::try_from(limit).ok());
    limit.unwrap_or(Semaphore::MAX_PERMITS).min(Semaphore::MAX_PERMITS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_that_is_lowered_holds_at_once() {
        let places = Places::new(Some(3));
        let mut taken: Vec<_> = (0..3).filter_map(|_| places.try_take()).collect();
        places.set_limit(Some(1));
        assert_eq!((taken.len(), places.used()), (3, 3));
        for left in [2, 1] {
            taken.pop();
            assert!(places.try_take().is_none() && places.used() == left);
        }
        taken.pop();
        assert!(places.try_take().is_some() && places.used() == 0);
    }

    #[test]
    fn a_limit_that_is_raised_pays_what_is_owed_first() {
        let places = Places::new(None);
        let taken: Vec<_> = (0..3).filter_map(|_| places.try_take()).collect();
        places.set_limit(Some(1));
        places.set_limit(Some(2));
        assert!(places.try_take().is_none());
        places.set_limit(Some(4));
        let fourth = places.try_take();
        assert!(fourth.is_some() && places.try_take().is_none());
        drop((taken, fourth));
        assert_eq!((places.used(), places.free.available_permits()), (0, 4));
        places.set_limit(None);
        assert_eq!(places.used(), 0);
    }
}
