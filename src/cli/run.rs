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
}

impl StopSignal {
    /// From now on the signals don't end the process.
    pub(super) fn new() -> Result<Self> {
        #[cfg(unix)]
        {
            use tokio::signal::unix::{SignalKind, signal};
            Ok(Self { terminate: signal(SignalKind::terminate()).context("SIGTERM")? })
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
