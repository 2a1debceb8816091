//! The service manager: systemd, or whatever speaks its protocol (sd_notify(3), sd_watchdog_enabled(3)).
//!
//! The watchdog is fed by a task of the runtime, so that a runtime that stands still is noticed, and not after a task
//! without which gatepost is of no use has panicked. It is fed whatever the provider, the store or the network do: a
//! restart mends none of them, and would end all sessions.
//!
//! Invariant: without a service manager nothing happens here.

use std::sync::atomic::{AtomicBool, Ordering};

/// A [`Vital`] task has panicked.
static BROKEN: AtomicBool = AtomicBool::new(false);

/// Held by a task without which the process should be restarted.
#[derive(Debug)]
pub struct Vital(());

impl Vital {
    /// From now until it is dropped.
    pub fn begin() -> Self {
        Self(())
    }
}

impl Drop for Vital {
    /// A task that has come to its end is not missed; one that panics is.
    fn drop(&mut self) {
        if std::thread::panicking() {
            BROKEN.store(true, Ordering::SeqCst);
        }
    }
}

/// All listeners accept, after a start or a reload.
pub fn ready(status: &str) {
    manager::tell(&[manager::State::Ready, manager::State::Status(status)]);
}

/// The configuration is being loaded anew; [`ready`] ends that, whether or not it was taken.
pub fn reloading() {
    manager::tell_reloading();
}

/// gatepost is being stopped.
pub fn stopping() {
    manager::tell(&[manager::State::Stopping]);
}

/// Feeds the watchdog, if there is one, as long as gatepost is of use.
pub async fn keep_watchdog() {
    let Some(limit) = manager::watchdog() else { return };
    loop {
        if BROKEN.load(Ordering::SeqCst) {
            tracing::error!(
                "a listener has broken down: the service manager will restart gatepost"
            );
            return;
        }
        manager::tell(&[manager::State::Watchdog]);
        // sd_watchdog_enabled(3): every half of the time.
        tokio::time::sleep(limit / 2).await;
    }
}

#[cfg(target_os = "linux")]
mod manager {
    use std::time::Duration;

    pub(super) use sd_notify::NotifyState as State;

    pub(super) fn tell(states: &[State<'_>]) {
        if let Err(error) = sd_notify::notify(states) {
            tracing::debug!(%error, "the service manager can't be told");
        }
    }

    /// With the time, which Type=notify-reload wants.
    pub(super) fn tell_reloading() {
        match State::monotonic_usec_now() {
            Ok(now) => tell(&[State::Reloading, now]),
            Err(_) => tell(&[State::Reloading]),
        }
    }

    pub(super) fn watchdog() -> Option<Duration> {
        sd_notify::watchdog_enabled().filter(|limit| !limit.is_zero())
    }
}

#[cfg(not(target_os = "linux"))]
mod manager {
    use std::time::Duration;

    #[allow(dead_code, reason = "there is nobody to tell here")]
    pub(super) enum State<'a> {
        Ready,
        Status(&'a str),
        Stopping,
        Watchdog,
    }

    pub(super) fn tell(_: &[State<'_>]) {}

    pub(super) fn tell_reloading() {}

    pub(super) fn watchdog() -> Option<Duration> {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn only_a_panic_is_missed() {
        drop(Vital::begin());
        assert!(!BROKEN.load(Ordering::SeqCst));
        let task = tokio::spawn(async {
            let _vital = Vital::begin();
            panic!("as planned");
        });
        assert!(task.await.is_err());
        assert!(BROKEN.load(Ordering::SeqCst));
    }
}
