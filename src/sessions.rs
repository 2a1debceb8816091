//! Who is logged in now.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::Notify;

use crate::store::LiveSessions;
use crate::vocabulary::Protocol;

/// The sessions of this process.
#[derive(Default)]
pub struct Sessions {
    counts: Mutex<BTreeMap<(String, Protocol), u64>>,
    changed: Notify,
}

/// A session that counts until it is dropped.
pub struct Counted {
    sessions: Arc<Sessions>,
    key: (String, Protocol),
}

impl Sessions {
    /// Counts a session.
    pub fn enter(self: &Arc<Self>, mailbox: &str, protocol: Protocol) -> Counted {
        let key = (mailbox.to_owned(), protocol);
        self.change(&key, |count| count + 1);
        Counted { sessions: Arc::clone(self), key }
    }

    /// Waits until sessions have come or gone since the last time.
    pub async fn changed(&self) {
        self.changed.notified().await;
    }

    /// How many there are.
    pub fn live(&self) -> LiveSessions {
        let mut live = LiveSessions { pid: std::process::id(), ..LiveSessions::default() };
        let counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        for ((mailbox, protocol), count) in counts.iter() {
            let of_mailbox = live.sessions.entry(mailbox.clone()).or_default();
            of_mailbox.insert(protocol.name().to_owned(), *count);
        }
        live
    }

    fn change(&self, key: &(String, Protocol), change: impl FnOnce(u64) -> u64) {
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        let count = change(counts.get(key).copied().unwrap_or(0));
        match count {
            0 => counts.remove(key),
            _ => counts.insert(key.clone(), count),
        };
        self.changed.notify_one();
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.sessions.change(&self.key, |count| count.saturating_sub(1));
    }
}
