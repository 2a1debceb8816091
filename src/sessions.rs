//! Who is logged in now, and which clients can't get that far.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::Notify;

use crate::clock::Clock;
use crate::store::{LiveSessions, Mismatch, MismatchKind};
use crate::vocabulary::Protocol;

/// The sessions of this process.
#[derive(Default)]
pub struct Sessions {
    counts: Mutex<BTreeMap<(String, Protocol), u64>>,
    mismatches: Mutex<BTreeMap<String, Mismatch>>,
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

    /// Notes a client of `listener` that is set otherwise than it.
    pub fn mismatch(&self, listener: &str, kind: MismatchKind, peer: IpAddr) {
        let at = Clock::system().now();
        let mut mismatches = self.mismatches.lock().unwrap_or_else(PoisonError::into_inner);
        let count = mismatches.get(listener).map_or(0, |former| former.count) + 1;
        let mismatch = Mismatch { kind, peer: peer.to_string(), at, count };
        mismatches.insert(listener.to_owned(), mismatch);
        self.changed.notify_one();
    }

    /// Waits until sessions have come or gone since the last time.
    pub async fn changed(&self) {
        self.changed.notified().await;
    }

    /// How many there are.
    pub fn live(&self) -> LiveSessions {
        let mismatches = self.mismatches.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let pid = std::process::id();
        let mut live = LiveSessions { pid, mismatches, ..LiveSessions::default() };
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
