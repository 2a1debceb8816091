//! Who is logged in now, who is asked to leave, and which clients can't get that far.
//!
//! Invariant: a session of a mailbox that the configuration does not have is asked to leave, whenever it has begun.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::clock::Clock;
use crate::config::Config;
use crate::protocol::Closing;
use crate::store::{LiveSessions, Mismatch, MismatchKind};
use crate::vocabulary::Protocol;

/// How long a session may go on when it is asked to leave: for Exchange to take a message that was sent to its end,
/// which lasts some seconds, and well within the 90 s that systemd gives a service to stop.
pub const GRACE: Duration = Duration::from_secs(10);

/// How long a session that is cut off may take to tell its client why: the process is about to end.
pub const LAST_WORDS: Duration = Duration::from_secs(1);

/// The sessions of this process.
#[derive(Default)]
pub struct Sessions {
    live: Mutex<Live>,
    /// Asks all of them to leave.
    stop: CancellationToken,
    mismatches: Mutex<BTreeMap<String, Mismatch>>,
    changed: Notify,
}

#[derive(Default)]
struct Live {
    /// By mailbox.
    counts: HashMap<String, Counts>,
    /// Who is asked to leave, by mailbox.
    leave: HashMap<String, CancellationToken>,
    /// The one in force, which knows the mailboxes; none: all are known.
    config: Option<Arc<Config>>,
}

/// A mailbox's sessions of each protocol.
#[derive(Default)]
struct Counts([u64; Protocol::ALL.len()]);

impl Counts {
    fn of(&mut self, protocol: Protocol) -> Option<&mut u64> {
        self.0.get_mut(protocol as usize)
    }
}

/// A session that counts until it is dropped.
pub struct Counted {
    sessions: Arc<Sessions>,
    mailbox: String,
    protocol: Protocol,
    leave: Leave,
}

/// Asks a session to leave: gatepost stops, or its mailbox is no longer in the configuration.
#[derive(Clone, Debug, Default)]
pub struct Leave {
    asked: CancellationToken,
    stop: CancellationToken,
}

impl Leave {
    /// It asks when this is cancelled.
    pub fn asked(&self) -> &CancellationToken {
        &self.asked
    }

    /// Comes to its end when the session has not left in time, or at once by `cut`.
    pub fn over(&self, cut: &CancellationToken) -> impl Future<Output = ()> + Send + use<> {
        let (asked, cut) = (self.asked.clone(), cut.clone());
        let overdue = async move {
            asked.cancelled().await;
            sleep(GRACE).await;
        };
        async move { cut.run_until_cancelled(overdue).await.unwrap_or_default() }
    }

    /// What the client is told. Who hears of a stop comes back.
    pub fn why(&self) -> Closing {
        match self.stop.is_cancelled() {
            true => Closing::ShuttingDown,
            false => Closing::MailboxRemoved,
        }
    }
}

impl From<CancellationToken> for Leave {
    /// It asks at this stop, and for no other reason.
    fn from(stop: CancellationToken) -> Self {
        Self { asked: stop.clone(), stop }
    }
}

impl Counted {
    /// Asks the session to leave.
    pub fn leave(&self) -> &Leave {
        &self.leave
    }
}

impl Sessions {
    /// All are asked to leave at `stop`.
    pub fn new(stop: CancellationToken) -> Self {
        Self { stop, ..Self::default() }
    }

    /// Counts a session.
    pub fn enter(self: &Arc<Self>, mailbox: &str, protocol: Protocol) -> Counted {
        let mailbox = mailbox.to_owned();
        let mut live = self.lock();
        let new = || self.stop.child_token();
        let asked = live.leave.entry(mailbox.clone()).or_insert_with(new).clone();
        if live.config.as_ref().is_some_and(|config| config.account(&mailbox).is_none()) {
            asked.cancel();
        }
        if let Some(count) = live.counts.entry(mailbox.clone()).or_default().of(protocol) {
            *count += 1;
        }
        self.changed.notify_one();
        drop(live);
        let leave = Leave { asked, stop: self.stop.clone() };
        Counted { sessions: Arc::clone(self), mailbox, protocol, leave }
    }

    /// Another configuration is in force: the sessions of mailboxes that it does not have are asked to leave. How
    /// many mailboxes those are.
    pub fn set(&self, config: &Arc<Config>) -> usize {
        let mut live = self.lock();
        live.config = Some(Arc::clone(config));
        // One that comes back has new sessions, and those that leave go on leaving.
        let all = live.leave.len();
        live.leave.retain(|mailbox, leave| {
            let known = config.account(mailbox).is_some();
            if !known {
                leave.cancel();
            }
            known && !leave.is_cancelled()
        });
        all - live.leave.len()
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
        for (mailbox, Counts(counts)) in &self.lock().counts {
            let all = Protocol::ALL.iter().zip(counts).filter(|(_, count)| **count > 0);
            let named = all.map(|(protocol, count)| (protocol.name().to_owned(), *count));
            live.sessions.insert(mailbox.clone(), named.collect());
        }
        live
    }

    fn lock(&self) -> MutexGuard<'_, Live> {
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        let mut live = self.sessions.lock();
        let counts = live.counts.get_mut(&self.mailbox);
        let left = counts.map_or(0, |counts| {
            if let Some(count) = counts.of(self.protocol) {
                *count = count.saturating_sub(1);
            }
            counts.0.iter().sum()
        });
        if left == 0 {
            live.counts.remove(&self.mailbox);
            live.leave.remove(&self.mailbox);
        }
        self.sessions.changed.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn config(mailboxes: &[&str]) -> Arc<Config> {
        let account =
            |mailbox: &&str| format!("[[account]]\nmailbox = \"{mailbox}\"\napp = \"a\"\n");
        let accounts: String = mailboxes.iter().map(account).collect();
        let text = format!("[app.a]\nclient_id = \"x\"\n{accounts}");
        Arc::new(Config::parse(Path::new("gatepost.toml"), &text).unwrap())
    }

    #[test]
    fn who_is_no_longer_in_the_configuration_is_asked_to_leave() {
        let sessions = Arc::new(Sessions::default());
        let enter = |mailbox| sessions.enter(mailbox, Protocol::Imap);
        assert_eq!(sessions.set(&config(&["a@x", "b@x"])), 0);
        let (a, b) = (enter("a@x"), enter("b@x"));
        assert_eq!(sessions.set(&config(&["A@x"])), 1);
        let asked = |session: &Counted| session.leave().asked().is_cancelled();
        assert!(!asked(&a) && asked(&b));
        assert_eq!(b.leave().why(), Closing::MailboxRemoved);
        // A login that had begun under the former configuration.
        let late = enter("b@x");
        assert!(asked(&late));
        sessions.set(&config(&["b@x", "a@x"]));
        let again = enter("b@x");
        assert!(!asked(&again) && asked(&late));
        drop((a, b, late, again));
        assert!(sessions.lock().counts.is_empty() && sessions.lock().leave.is_empty());
    }

    #[test]
    fn a_stop_asks_all_of_them() {
        let stop = CancellationToken::new();
        let sessions = Arc::new(Sessions::new(stop.clone()));
        let counted = sessions.enter("a@x", Protocol::Pop3);
        stop.cancel();
        assert!(counted.leave().asked().is_cancelled());
        assert_eq!(counted.leave().why(), Closing::ShuttingDown);
    }
}
