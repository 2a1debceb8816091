//! `gatepost run`: the proxy, in the foreground.

use std::path::Path;

use anyhow::{Context, Result};
use tracing::{error, info};

use super::{UsageError, logs, ui};
use crate::app::{App, WatchedFile};
use crate::clock::Clock;
use crate::config::Config;
use crate::explain::split_hint;

#[derive(clap::Args)]
pub(super) struct Args {
    /// How log lines look
    #[arg(long, value_enum, default_value_t)]
    log_format: logs::LogFormat,
}

pub(super) async fn run(file: &Path, args: Args) -> Result<()> {
    logs::start(args.log_format);
    // Before the file is read, and before anybody may send one.
    let mut watched = WatchedFile::new(file);
    let (mut stop, mut hang_up) = (StopSignal::new()?, HangUp::new()?);
    let config = Config::load(file)?;
    if config.listeners.is_empty() {
        let hint = format!("add a [[listener]] to {}", file.display());
        return Err(UsageError::new("there is nothing to listen on", hint).into());
    }
    let mut app = App::start(config, Clock::system()).await?;
    let listening = app.listening().iter();
    let listening: Vec<_> = listening.map(|(what, at)| format!("{what} on {at}")).collect();
    ui::say(&format!("gatepost is ready: {}", listening.join(", ")));
    loop {
        tokio::select! {
            biased;
            () = stop.received() => break,
            () = hang_up.received() => watched.read_now(),
            () = watched.changed() => {}
        }
        reload(&mut app, file);
    }
    ui::say("gatepost is stopping");
    // A second signal: at once.
    app.stop_or(stop.received()).await;
    Ok(())
}

/// Goes by the file as it is now, or says what is wrong with it.
fn reload(app: &mut App, file: &Path) {
    let reloaded = Config::load(file).map_err(Into::into).and_then(|config| app.reload(config));
    match reloaded {
        Ok(changes) => info!(%changes, "configuration reloaded"),
        Err(wrong) => {
            let wrong = format!("{wrong:#}");
            let (reason, hint) = split_hint(&wrong);
            error!(
                reason,
                hint, "configuration not reloaded; gatepost goes on with the former one"
            );
        }
    }
}

/// SIGHUP: the configuration is read again. Without such signals a changed file is all that leads to it.
struct HangUp {
    #[cfg(unix)]
    signal: tokio::signal::unix::Signal,
}

impl HangUp {
    fn new() -> Result<Self> {
        #[cfg(unix)]
        {
            use tokio::signal::unix::{SignalKind, signal};
            Ok(Self { signal: signal(SignalKind::hangup()).context("SIGHUP")? })
        }
        #[cfg(not(unix))]
        Ok(Self {})
    }

    async fn received(&mut self) {
        #[cfg(unix)]
        if self.signal.recv().await.is_some() {
            return;
        }
        std::future::pending().await
    }
}

/// SIGTERM or SIGINT; Ctrl-C elsewhere.
pub(super) struct StopSignal {
    #[cfg(unix)]
    terminate: tokio::signal::unix::Signal,
    #[cfg(unix)]
    interrupt: tokio::signal::unix::Signal,
    #[cfg(windows)]
    interrupt: tokio::signal::windows::CtrlC,
}

impl StopSignal {
    /// From now on the signals don't end the process.
    pub(super) fn new() -> Result<Self> {
        #[cfg(unix)]
        {
            use tokio::signal::unix::{SignalKind, signal};
            Ok(Self {
                terminate: signal(SignalKind::terminate()).context("SIGTERM")?,
                interrupt: signal(SignalKind::interrupt()).context("SIGINT")?,
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
