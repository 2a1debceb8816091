//! The signals that a running proxy heeds.
//!
//! Invariant: a signal that came while nobody waited for it is not lost.

use anyhow::{Context, Result};

/// SIGTERM or SIGINT; Ctrl-C elsewhere.
pub(super) struct StopSignal {
    #[cfg(unix)]
    terminate: tokio::signal::unix::Signal,
    #[cfg(unix)]
    interrupt: tokio::signal::unix::Signal,
    /// Held, so that a file that may not become larger (setrlimit(2), RLIMIT_FSIZE) is an error of the write as on a
    /// full disk, and not the end of the process.
    #[cfg(unix)]
    _file_size: tokio::signal::unix::Signal,
    #[cfg(windows)]
    interrupt: tokio::signal::windows::CtrlC,
}

impl StopSignal {
    /// From now on the signals don't end the process.
    pub(super) fn new() -> Result<Self> {
        #[cfg(unix)]
        {
            use tokio::signal::unix::{SignalKind, signal};
            let file_size = SignalKind::from_raw(rustix::process::Signal::XFSZ.as_raw());
            Ok(Self {
                terminate: signal(SignalKind::terminate()).context("SIGTERM")?,
                interrupt: signal(SignalKind::interrupt()).context("SIGINT")?,
                _file_size: signal(file_size).context("SIGXFSZ")?,
            })
        }
        #[cfg(windows)]
        Ok(Self { interrupt: tokio::signal::windows::ctrl_c().context("Ctrl-C")? })
    }

    /// Waits for one, also if it came before.
    pub(super) async fn received(&mut self) {
        #[cfg(unix)]
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
        #[cfg(windows)]
        let _ = self.interrupt.recv().await;
    }
}

/// SIGHUP: the configuration is read again. Without such signals a changed file is all that leads to it.
pub(super) struct HangUp {
    #[cfg(unix)]
    signal: tokio::signal::unix::Signal,
}

impl HangUp {
    /// From now on the signal does not end the process.
    pub(super) fn new() -> Result<Self> {
        #[cfg(unix)]
        {
            use tokio::signal::unix::{SignalKind, signal};
            Ok(Self { signal: signal(SignalKind::hangup()).context("SIGHUP")? })
        }
        #[cfg(not(unix))]
        Ok(Self {})
    }

    /// Waits for one, also if it came before.
    pub(super) async fn received(&mut self) {
        #[cfg(unix)]
        if self.signal.recv().await.is_some() {
            return;
        }
        std::future::pending().await
    }
}
