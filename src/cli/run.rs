//! `gatepost run`: the proxy, in the foreground.

use std::path::Path;

use anyhow::{Context, Result};

use super::{UsageError, logs, ui};
use crate::app::App;
use crate::clock::Clock;
use crate::config::Config;

#[derive(clap::Args)]
pub(super) struct Args {
    /// How log lines look
    #[arg(long, value_enum, default_value_t)]
    log_format: logs::LogFormat,
}

pub(super) async fn run(file: &Path, args: Args) -> Result<()> {
    logs::start(args.log_format);
    let config = Config::load(file)?;
    if config.listeners.is_empty() {
        let hint = format!("add a [[listener]] to {}", file.display());
        return Err(UsageError::new("there is nothing to listen on", hint).into());
    }
    let mut stop = StopSignal::new()?;
    let app = App::start(config, Clock::system()).await?;
    let listening = app.listening().iter();
    let listening: Vec<_> = listening.map(|(what, at)| format!("{what} on {at}")).collect();
    ui::say(&format!("gatepost is ready: {}", listening.join(", ")));
    stop.received().await;
    ui::say("gatepost is stopping");
    app.stop().await;
    Ok(())
}

/// SIGTERM or SIGINT; Ctrl-C elsewhere.
pub(super) struct StopSignal {
    #[cfg(unix)]
    terminate: tokio::signal::unix::Signal,
    /// Held, so that a file that may not become larger (setrlimit(2), RLIMIT_FSIZE) is an error of the write as on a
    /// full disk, and not the end of the process.
    #[cfg(unix)]
    _file_size: tokio::signal::unix::Signal,
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
                _file_size: signal(file_size).context("SIGXFSZ")?,
            })
        }
        #[cfg(not(unix))]
        Ok(Self {})
    }

    /// Waits for one.
    pub(super) async fn received(&mut self) {
        let interrupt = tokio::signal::ctrl_c();
        #[cfg(unix)]
        tokio::select! {
            _ = interrupt => {}
            _ = self.terminate.recv() => {}
        }
        #[cfg(not(unix))]
        let _ = interrupt.await;
    }
}
