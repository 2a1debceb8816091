//! Holds back those who guess: failures are counted for each source, mailbox and pair of them, answers come later
//! and later, then a lock.
//!
//! | counted | of | locks |
//! | --- | --- | --- |
//! | source and mailbox | [`GuardSettings::attempts`] | this source for this mailbox |
//! | source | [`SOURCE`] times as many | this source, for mailboxes that it has not logged in to |
//! | mailbox | [`MAILBOX`] times as many | this mailbox, for sources that have not logged in to it |
//!
//! A source is an IPv4 address or an IPv6 network of 64 bits, and besides one of 48 bits: a site has so many
//! (RFC 6177), and can change among them at will.
//!
//! Invariant: a password counts once for a source and a mailbox, however often it comes. Nothing here knows whether
//! a mailbox exists. One source alone never locks a mailbox for others.

use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use ipnet::IpNet;
use tokio::time::Instant;

use super::counter::{Counter, Table};
use super::hash::Tag;
use crate::config::GuardSettings;

/// Failures of a source in all, in those for one mailbox: an office behind one address has many people who mistype.
const SOURCE: u32 = 4;

/// Failures for a mailbox from all sources: each can bring it no nearer to a lock than by its own first one.
const MAILBOX: u32 = 5;

/// Failures of a /48, in those of a /64: still fewer than [`MAILBOX`], so that a site alone locks no mailbox.
const SITE: u32 = 4;

/// Entries of each table. One has some hundred octets, so that all of them stay within a few MiB.
const ENTRIES: usize = 8192;

/// Wrong passwords that are answered at once: as many as a connection has.
const AT_ONCE: u32 = 3;

/// How long the next answer is held back; then twice as long each time.
const FIRST_DELAY: Duration = Duration::from_millis(250);

/// Counts failures, and tells who is locked.
pub(super) struct Throttle(Mutex<State>);

/// Who tries what.
#[derive(Clone, Copy, Debug)]
pub(super) struct Attempt {
    source: IpNet,
    /// The IPv6 network of 48 bits around it.
    site: Option<IpNet>,
    /// Keyed hashes of what the client named, cut short: other people's words are not kept.
    mailbox: u64,
    password: u64,
}

/// A lock that stands in the way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Lock {
    /// Of the mailbox alone: this source may be innocent.
    pub(super) of_mailbox: bool,
    /// Until it ends.
    pub(super) wait: Duration,
}

/// What a failure has led to.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Failure {
    /// This password has failed before from there: an old one in a device, which teaches nobody anything.
    pub(super) again: bool,
    /// A lock of the source begins, or of the source for this mailbox.
    pub(super) source_locked: Option<Duration>,
    /// A lock of the mailbox begins.
    pub(super) mailbox_locked: Option<Duration>,
}

struct State {
    settings: GuardSettings,
    sources: Table<IpNet>,
    pairs: Table<(IpNet, u64)>,
    mailboxes: Table<u64>,
}

impl Attempt {
    /// `mailbox` and `password` are hashes under a key of this process.
    pub(super) fn new(peer: IpAddr, mailbox: &Tag, password: &Tag) -> Self {
        let (source, site) = match peer.to_canonical() {
            IpAddr::V4(ip) => (network(ip.into(), 32), None),
            IpAddr::V6(ip) => (network(ip.into(), 64), Some(network(ip.into(), 48))),
        };
        Self { source, site, mailbox: short(mailbox), password: short(password) }
    }

    /// What failures and successes are its.
    pub(super) fn source(&self) -> IpNet {
        self.source
    }

    /// The widest network that is taken for one.
    pub(super) fn site(&self) -> IpNet {
        self.site.unwrap_or(self.source)
    }

    /// The networks that it counts for, and how much each may fail.
    fn networks(&self) -> impl Iterator<Item = (IpNet, u32)> + use<> {
        std::iter::once((self.source, 1)).chain(self.site.map(|site| (site, SITE)))
    }
}

impl Throttle {
    /// Nothing has failed yet.
    pub(super) fn new(settings: GuardSettings) -> Self {
        let sources = Table::new(ENTRIES);
        let (pairs, mailboxes) = (Table::new(ENTRIES), Table::new(ENTRIES));
        Self(Mutex::new(State { settings, sources, pairs, mailboxes }))
    }

    /// From now on; locks that there are stay.
    pub(super) fn set(&self, settings: &GuardSettings) {
        self.state().settings = settings.clone();
    }

    /// The lock in its way, the longest one. `at_home`: an administrator has named its network for this mailbox.
    pub(super) fn locked(&self, attempt: &Attempt, at_home: bool) -> Option<Lock> {
        let (state, now) = (self.state(), Instant::now());
        let of_pairs = attempt.networks().filter_map(|(network, _)| {
            let pair = state.pairs.get(&(network, attempt.mailbox))?;
            // Others of the site are no reason to lock a network that has logged in.
            (network == attempt.source || !state.knows(attempt)).then(|| pair.locked(now))?
        });
        let by_pair = of_pairs.max();
        if at_home || state.knows(attempt) {
            return by_pair.map(|wait| Lock { of_mailbox: false, wait });
        }
        let of_sources = attempt.networks().filter_map(|(net, _)| state.sources.get(&net));
        let by_source = of_sources.filter_map(|counter| counter.locked(now)).max().max(by_pair);
        let by_mailbox = state.mailboxes.get(&attempt.mailbox).and_then(|it| it.locked(now));
        let of_mailbox = by_source.is_none();
        by_source.max(by_mailbox).map(|wait| Lock { of_mailbox, wait })
    }

    /// Whether this password has failed before from there.
    pub(super) fn has_seen(&self, attempt: &Attempt) -> bool {
        let state = self.state();
        state.pair(attempt).is_some_and(|pair| pair.has_seen(attempt.password))
    }

    /// Whether this source has logged in to this mailbox.
    pub(super) fn knows(&self, attempt: &Attempt) -> bool {
        self.state().knows(attempt)
    }

    /// Counts a wrong password.
    pub(super) fn failed(&self, attempt: &Attempt) -> Failure {
        let (mut state, now) = (self.state(), Instant::now());
        let GuardSettings { attempts, lock, .. } = state.settings;
        let most = |times: u32| attempts.map(|attempts| attempts.saturating_mul(times));
        let own = state.pairs.of((attempt.source, attempt.mailbox), now);
        if own.has_seen(attempt.password) {
            own.again(now);
            return Failure { again: true, ..Failure::default() };
        }
        own.remember(attempt.password);
        let (mut source_locked, mut is_first) = (None, true);
        for (network, times) in attempt.networks() {
            let pair = state.pairs.of((network, attempt.mailbox), now);
            is_first &= !pair.was_locked();
            source_locked = source_locked.max(pair.another(now, most(times), lock));
            let source = state.sources.of(network, now);
            source_locked = source_locked.max(source.another(now, most(SOURCE * times), lock));
        }
        // What a source brings after its first lock is its own affair.
        let mailbox = is_first.then(|| state.mailboxes.of(attempt.mailbox, now));
        let mailbox_locked = mailbox.and_then(|it| it.another(now, most(MAILBOX), lock));
        Failure { again: false, source_locked, mailbox_locked }
    }

    /// A login came through: the failures of this source for this mailbox are made up for.
    pub(super) fn succeeded(&self, attempt: &Attempt) {
        let (mut state, now) = (self.state(), Instant::now());
        state.pairs.of((attempt.source, attempt.mailbox), now).succeed(now);
    }

    /// How long the answer to a wrong password is held back.
    pub(super) fn delay(&self, attempt: &Attempt) -> Duration {
        let state = self.state();
        let of_pair = state.pair(attempt).map_or(0, Counter::failures);
        let of_source = state.sources.get(&attempt.source).map_or(0, Counter::failures);
        let over = of_pair.max(of_source / SOURCE).saturating_sub(AT_ONCE);
        let doublings = over.saturating_sub(1).min(16);
        let delay = if over == 0 { Duration::ZERO } else { FIRST_DELAY * (1 << doublings) };
        delay.min(state.settings.delay)
    }

    /// The longest one.
    pub(super) fn longest_delay(&self) -> Duration {
        self.state().settings.delay
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn pair(&self, attempt: &Attempt) -> Option<&Counter> {
        self.pairs.get(&(attempt.source, attempt.mailbox))
    }

    fn knows(&self, attempt: &Attempt) -> bool {
        self.pair(attempt).is_some_and(Counter::is_known)
    }
}

fn network(ip: IpAddr, prefix: u8) -> IpNet {
    IpNet::new(ip, prefix).map_or_else(|_| ip.into(), |network| network.trunc())
}

fn short(tag: &Tag) -> u64 {
    tag.iter().take(8).fold(0, |number, octet| number << 8 | u64::from(*octet))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    fn attempt(peer: &str, mailbox: u8, password: u32) -> Attempt {
        let mut tag = Tag::default();
        tag[4..8].copy_from_slice(&password.to_be_bytes());
        Attempt::new(peer.parse().unwrap(), &[mailbox; 32], &tag)
    }

    fn throttle() -> Throttle {
        Throttle::new(GuardSettings::default())
    }

    /// So many different passwords, from 0.
    fn guess(throttle: &Throttle, peer: &str, mailbox: u8, times: u32) -> Failure {
        (0..times).map(|n| throttle.failed(&attempt(peer, mailbox, n))).last().unwrap()
    }

    fn is_free(throttle: &Throttle, peer: &str, mailbox: u8) -> bool {
        throttle.locked(&attempt(peer, mailbox, u32::MAX), false).is_none()
    }

    #[tokio::test(start_paused = true)]
    async fn a_source_is_locked_for_a_mailbox_and_nobody_else_is() {
        let throttle = throttle();
        assert_eq!(guess(&throttle, "10.0.0.1", 1, 9), Failure::default());
        assert!(is_free(&throttle, "10.0.0.1", 1));
        let locked = throttle.failed(&attempt("::ffff:10.0.0.1", 1, 9));
        assert_eq!(locked, Failure { source_locked: Some(MINUTE), ..Failure::default() });
        assert!(!is_free(&throttle, "10.0.0.1", 1));
        assert!(is_free(&throttle, "10.0.0.1", 2) && is_free(&throttle, "10.0.0.2", 1));
        tokio::time::advance(MINUTE).await;
        assert!(is_free(&throttle, "10.0.0.1", 1));
    }

    #[tokio::test(start_paused = true)]
    async fn an_old_password_in_a_device_locks_nobody() {
        let throttle = throttle();
        assert!(!throttle.failed(&attempt("10.0.0.1", 1, 7)).again);
        for _ in 0..1000 {
            assert!(throttle.failed(&attempt("10.0.0.1", 1, 7)).again);
            tokio::time::advance(Duration::from_secs(300)).await;
        }
        assert!(is_free(&throttle, "10.0.0.1", 1));
        assert_eq!(throttle.delay(&attempt("10.0.0.1", 1, 7)), GuardSettings::default().delay);
    }

    #[tokio::test(start_paused = true)]
    async fn one_source_alone_never_locks_a_mailbox() {
        let throttle = throttle();
        for n in 0..20_000 {
            if n % 50 == 0 {
                throttle.succeeded(&attempt("10.0.0.1", 1, n));
            }
            let failure = throttle.failed(&attempt("10.0.0.1", 1, n));
            assert_eq!(failure.mailbox_locked, None, "{n}");
            tokio::time::advance(Duration::from_secs(30)).await;
        }
        for n in 0..20_000_u32 {
            let peer = format!("2001:db8:0:{:x}::1", n % 0x1_0000);
            assert_eq!(throttle.failed(&attempt(&peer, 1, n)).mailbox_locked, None, "{n}");
            tokio::time::advance(Duration::from_secs(1)).await;
        }
        assert!(is_free(&throttle, "10.0.0.2", 1) && is_free(&throttle, "2001:db8:1::1", 1));
    }

    #[tokio::test(start_paused = true)]
    async fn many_sources_lock_a_mailbox_for_strangers_alone() {
        let throttle = throttle();
        throttle.succeeded(&attempt("10.9.9.9", 1, 0));
        let mut locks = 0;
        for source in 0..20 {
            let peer = format!("10.0.0.{source}");
            for n in 0..5 {
                locks += usize::from(
                    throttle.failed(&attempt(&peer, 1, source * 10 + n)).mailbox_locked.is_some(),
                );
            }
        }
        assert_eq!(locks, 1);
        let stranger = throttle.locked(&attempt("10.0.9.1", 1, 0), false);
        assert_eq!(stranger, Some(Lock { of_mailbox: true, wait: MINUTE }));
        assert_eq!(throttle.locked(&attempt("10.0.9.1", 1, 0), true), None);
        assert!(is_free(&throttle, "10.9.9.9", 1) && is_free(&throttle, "10.0.9.1", 2));
    }

    #[tokio::test(start_paused = true)]
    async fn made_up_names_lock_their_source_and_fill_nothing() {
        let throttle = throttle();
        guess(&throttle, "10.0.0.7", 7, 10);
        for n in 0..20_000_u32 {
            let mut mailbox = Tag::default();
            mailbox[..4].copy_from_slice(&n.to_be_bytes());
            let attempt = Attempt::new("10.0.0.1".parse().unwrap(), &mailbox, &mailbox);
            if throttle.locked(&attempt, false).is_none() {
                throttle.failed(&attempt);
            }
        }
        assert!(throttle.state().pairs.get(&(network([10, 0, 0, 7].into(), 32), 0)).is_none());
        assert!(!is_free(&throttle, "10.0.0.7", 7));
        // A known pair of a locked source goes on.
        throttle.succeeded(&attempt("10.0.0.1", 9, 0));
        assert!(is_free(&throttle, "10.0.0.1", 9) && !is_free(&throttle, "10.0.0.1", 8));
    }

    #[tokio::test(start_paused = true)]
    async fn an_ipv6_site_is_one_source() {
        let throttle = throttle();
        for n in 0..SITE * 10 {
            // The same password from elsewhere is another guess: each network has its own memory.
            guess(&throttle, &format!("2001:db8:0:{n:x}::1"), 1, 1);
        }
        assert!(!is_free(&throttle, "2001:db8:0:ffff::1", 1));
        assert!(is_free(&throttle, "2001:db8:1::1", 1));
        guess(&throttle, "fd00::1", 2, 10);
        assert!(!is_free(&throttle, "fd00::ffff", 2) && is_free(&throttle, "fd00:0:0:1::1", 2));
    }

    #[tokio::test(start_paused = true)]
    async fn answers_are_held_back_more_and_more() {
        let throttle = throttle();
        let mut delays = Vec::new();
        for _ in 0..10 {
            throttle.failed(&attempt("10.0.0.1", 1, 7));
            delays.push(throttle.delay(&attempt("10.0.0.1", 1, 7)).as_millis());
        }
        assert_eq!(delays, [0, 0, 0, 250, 500, 1000, 2000, 4000, 4000, 4000]);
        assert_eq!(throttle.delay(&attempt("10.0.0.2", 1, 7)), Duration::ZERO);
        throttle.succeeded(&attempt("10.0.0.1", 1, 0));
        assert_eq!(throttle.delay(&attempt("10.0.0.1", 1, 7)), Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn settings_count_from_now_on() {
        let throttle = throttle();
        throttle.set(&GuardSettings { attempts: None, ..GuardSettings::default() });
        guess(&throttle, "10.0.0.1", 1, 1000);
        assert!(is_free(&throttle, "10.0.0.1", 1));
        let two =
            GuardSettings { attempts: Some(2), delay: Duration::ZERO, ..GuardSettings::default() };
        throttle.set(&two);
        guess(&throttle, "10.0.0.1", 2, 2);
        assert!(!is_free(&throttle, "10.0.0.1", 2));
        assert_eq!(throttle.delay(&attempt("10.0.0.1", 2, 0)), Duration::ZERO);
    }
}
