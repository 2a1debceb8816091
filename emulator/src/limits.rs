//! What Exchange Online allows one mailbox to send over SMTP: sessions at once, messages in a minute,
//! recipients in a day. And how much of it was used, for whoever judges a client by that.
//!
//! Invariant: a place is given up as soon as its session ends, and a message is counted once, whatever
//! becomes of it behind the limits.

use std::{
    collections::{HashMap, VecDeque},
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::time::Instant;

use super::{Options, locked, tokens::folded};

/// The window of the recipient rate limit, which rolls.
const DAY: Duration = Duration::from_secs(86_400);

/// All mailboxes' use of SMTP.
pub(super) struct Limits {
    connections: usize,
    per_minute: usize,
    minute: Duration,
    recipients: usize,
    mailboxes: Mutex<HashMap<String, Used>>,
    /// How often a client was told 432.
    pub(super) hit: AtomicU64,
}

/// What one mailbox has used.
#[derive(Default)]
struct Used {
    sessions: usize,
    most: usize,
    places: usize,
    messages: VecDeque<Instant>,
    recipients: VecDeque<(Instant, usize)>,
}

/// A session that is logged in, from then until this is dropped.
pub(super) struct Place<'a> {
    limits: &'a Limits,
    mailbox: String,
    /// Whether it is one of the few that may send.
    taken: bool,
}

/// A limit that a message would break.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Excess {
    /// Too many sessions at once.
    Connections,
    /// Too many messages in a minute.
    Messages,
    /// Too many recipients in a day.
    Recipients,
}

impl Limits {
    pub(super) fn new(options: &Options) -> Self {
        Self {
            connections: options.smtp_connections,
            per_minute: options.smtp_messages_per_minute,
            minute: options.smtp_minute,
            recipients: options.smtp_recipients_per_day,
            mailboxes: Mutex::default(),
            hit: AtomicU64::new(0),
        }
    }

    /// Counts a login, and gives it a place if one is left.
    pub(super) fn log_in(&self, mailbox: &str) -> Place<'_> {
        let mailbox = folded(mailbox);
        let mut all = locked(&self.mailboxes);
        let used = all.entry(mailbox.clone()).or_default();
        used.sessions += 1;
        used.most = used.most.max(used.sessions);
        let taken = used.take_place(self.connections);
        Place { limits: self, mailbox, taken }
    }

    /// The most sessions of a mailbox that were logged in at the same time.
    pub(super) fn most_sessions(&self, mailbox: &str) -> usize {
        locked(&self.mailboxes).get(&folded(mailbox)).map_or(0, |used| used.most)
    }

    /// Counts one 432 that was said.
    pub(super) fn count_hit(&self) {
        self.hit.fetch_add(1, Ordering::Relaxed);
    }
}

impl Place<'_> {
    /// Judges a message to so many recipients, and counts it if it is within all limits.
    pub(super) fn submit(&mut self, recipients: usize) -> Result<(), Excess> {
        let (limits, now) = (self.limits, Instant::now());
        let mut all = locked(&limits.mailboxes);
        let used = all.entry(self.mailbox.clone()).or_default();
        self.taken = self.taken || used.take_place(limits.connections);
        if !self.taken {
            return Err(Excess::Connections);
        }
        used.forget(now, limits.minute);
        if limits.per_minute > 0 && used.messages.len() >= limits.per_minute {
            return Err(Excess::Messages);
        }
        let today: usize = used.recipients.iter().map(|(_, count)| count).sum();
        if today + recipients > limits.recipients {
            return Err(Excess::Recipients);
        }
        used.messages.push_back(now);
        used.recipients.push_back((now, recipients));
        Ok(())
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        if let Some(used) = locked(&self.limits.mailboxes).get_mut(&self.mailbox) {
            used.sessions = used.sessions.saturating_sub(1);
            used.places = used.places.saturating_sub(usize::from(self.taken));
        }
    }
}

impl Used {
    fn take_place(&mut self, places: usize) -> bool {
        let free = self.places < places;
        self.places += usize::from(free);
        free
    }

    fn forget(&mut self, now: Instant, minute: Duration) {
        let old = |since: &Instant, window| now.duration_since(*since) >= window;
        while self.messages.front().is_some_and(|since| old(since, minute)) {
            self.messages.pop_front();
        }
        while self.recipients.front().is_some_and(|(since, _)| old(since, DAY)) {
            self.recipients.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits(per_minute: usize, recipients: usize) -> Limits {
        Limits::new(&Options {
            smtp_connections: 2,
            smtp_messages_per_minute: per_minute,
            smtp_recipients_per_day: recipients,
            ..Options::default()
        })
    }

    #[tokio::test(start_paused = true)]
    async fn the_minute_slides() {
        let limits = limits(2, 100);
        let mut place = limits.log_in("Jane@contoso.example");
        for (wait, judged) in [
            (0, Ok(())),
            (30, Ok(())),
            (29, Err(Excess::Messages)),
            (1, Ok(())),
            (29, Err(Excess::Messages)),
            (1, Ok(())),
        ] {
            tokio::time::advance(Duration::from_secs(wait)).await;
            assert_eq!(place.submit(1), judged);
        }
        let unlimited = self::limits(0, 100);
        let mut place = unlimited.log_in("a@b");
        assert!((0..100).all(|_| place.submit(1).is_ok()));
        assert_eq!(place.submit(1), Err(Excess::Recipients));
    }

    #[tokio::test(start_paused = true)]
    async fn recipients_of_a_day() {
        let limits = limits(0, 10);
        let mut place = limits.log_in("a@b");
        assert_eq!(place.submit(7), Ok(()));
        assert_eq!(place.submit(4), Err(Excess::Recipients));
        assert_eq!(place.submit(3), Ok(()));
        // the limit is the mailbox's own
        assert_eq!(limits.log_in("c@d").submit(10), Ok(()));
        tokio::time::advance(DAY).await;
        assert_eq!(place.submit(10), Ok(()));
    }

    #[test]
    fn places_are_few_and_come_back() {
        let limits = limits(0, 10);
        let (mut first, second) = (limits.log_in("a@b"), limits.log_in("A@B"));
        let mut third = limits.log_in("a@b");
        assert_eq!((first.submit(1), third.submit(1)), (Ok(()), Err(Excess::Connections)));
        drop(second);
        assert_eq!(third.submit(1), Ok(()));
        assert_eq!((limits.most_sessions("a@B"), limits.most_sessions("c@d")), (3, 0));
        drop((first, third));
        let _again = limits.log_in("a@b");
        assert_eq!(limits.most_sessions("a@b"), 3);
    }
}
