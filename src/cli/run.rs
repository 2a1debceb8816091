//! `gatepost run`: the proxy, in the foreground.

use std::path::Path;

use anyhow::{Context, Result};
use tracing::{debug, warn};

use super::{UsageError, logs, ui};
use crate::app::App;
use crate::clock::Clock;
use crate::config::Config;
use crate::descriptors;

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
    tell_descriptors(&config, descriptors::raise_limit());
    let app = App::start(config, Clock::system()).await?;
    let listening = app.listening().iter();
    let listening: Vec<_> = listening.map(|(what, at)| format!("{what} on {at}")).collect();
    ui::say(&format!("gatepost is ready: {}", listening.join(", ")));
    stop.received().await;
    ui::say("gatepost is stopping");
    app.stop().await;
    Ok(())
}

/// Where the waiting alone could take half of what may be open, sessions may find nothing left.
fn tell_descriptors(config: &Config, limit: Option<u64>) {
    let enough = u64::try_from(config.guard.waiting).unwrap_or(u64::MAX).saturating_mul(2);
    match limit {
        Some(limit) if limit < enough => warn!(
            limit,
            "few files may be open (a session takes two): raise it by ulimit -n or LimitNOFILE, or lower waiting of [guard]"
        ),
        limit => debug!(limit, "files that may be open"),
    }
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
