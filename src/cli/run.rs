//! `gatepost run`: the proxy, in the foreground.

use std::path::Path;

use anyhow::{Context, Result};
use tracing::{debug, info, warn};

use super::{UsageError, logs, ui};
use crate::app::App;
use crate::attention::helper;
use crate::clock::Clock;
use crate::config::Config;
use crate::confine::{Confinement, Reach, confine};
use crate::descriptors;
use crate::net::{inherit, unclaimed};
use crate::private_file;
use crate::supervisor;

#[derive(clap::Args)]
pub(super) struct Args {
    /// How log lines look
    #[arg(long, value_enum, default_value_t)]
    log_format: logs::LogFormat,
}

/// What comes before the runtime: the log, the configuration, what the service manager has passed, the confinement.
pub(super) fn prepare(file: &Path, args: &Args) -> Result<Config> {
    logs::start(args.log_format);
    inherit()?;
    let config = Config::load(file)?;
    if config.listeners.is_empty() {
        let hint = format!("add a [[listener]] to {}", file.display());
        return Err(UsageError::new("there is nothing to listen on", hint).into());
    }
    if config.confine {
        confine_to(&config)?;
    } else {
        warn!("not confined: the configuration has confine = false");
    }
    Ok(config)
}

fn confine_to(config: &Config) -> Result<()> {
    private_file::ensure_own_folder(&config.state_dir)?;
    let mut reach = Reach { files: config.files().to_vec(), state: vec![config.state_dir.clone()] };
    // A sealing key that is yet to be made.
    let new_key = config.key_file.as_ref().filter(|file| !file.exists());
    reach.state.extend(new_key.and_then(|file| file.parent()).map(Path::to_owned));
    if !config.on_attention.is_empty() {
        let started = helper::start(&config.on_attention, &config.secret_variables());
        started.context("the helper that runs on_attention can't be started")?;
    }
    let Confinement { files, calls } = confine(&reach);
    info!(%files, %calls, "confined");
    Ok(())
}

pub(super) async fn run(config: Config) -> Result<()> {
    let mut stop = StopSignal::new()?;
    tell_descriptors(&config, descriptors::raise_limit());
    let app = App::start(config, Clock::system()).await?;
    let listening = app.listening().iter();
    let listening: Vec<_> = listening.map(|(what, at)| format!("{what} on {at}")).collect();
    for address in unclaimed() {
        warn!(%address, "the service manager listens there, but no [[listener]] does: clients wait for ever");
    }
    ui::say(&format!("gatepost is ready: {}", listening.join(", ")));
    supervisor::ready(&listening.join(", "));
    tokio::spawn(supervisor::keep_watchdog());
    stop.received().await;
    ui::say("gatepost is stopping");
    supervisor::stopping();
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
