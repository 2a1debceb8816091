//! `gatepost run`: the proxy, in the foreground.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::task::spawn_blocking;
use tokio::time::sleep;
use tracing::{error, info, warn};

use super::signals::{HangUp, StopSignal};
use super::{UsageError, logs, ui};
use crate::app::{App, WatchedFile};
use crate::attention::helper;
use crate::clock::Clock;
use crate::config::{Config, ConfigError};
use crate::confine::{Confinement, Reach, confine};
use crate::descriptors;
use crate::explain::split_hint;
use crate::net::{inherit, unclaimed};
use crate::private_file;
use crate::resident::Code;
use crate::supervisor;

/// When a start is over. Entra answers within some tenths of a second.
const SETTLED: Duration = Duration::from_millis(500);

#[derive(clap::Args)]
pub(super) struct Args {
    /// How log lines look
    #[arg(long, value_enum, default_value_t)]
    log_format: logs::LogFormat,
}

/// What the proxy starts with.
pub(super) struct Prepared {
    config: Config,
    file: WatchedFile,
    code: Code,
}

/// What comes before the runtime: the log, the configuration, what the service manager has passed, the confinement.
pub(super) fn prepare(file: &Path, args: &Args) -> Result<Prepared> {
    logs::start(args.log_format);
    inherit()?;
    // Before it is read.
    let watched = WatchedFile::new(file);
    let config = Config::load(file)?;
    if config.listeners.is_empty() {
        let hint = format!("add a [[listener]] to {}", file.display());
        return Err(UsageError::new("there is nothing to listen on", hint).into());
    }
    let code = Code::find();
    if config.confine {
        confine_to(&config)?;
    } else {
        warn!("not confined: the configuration has confine = false");
    }
    Ok(Prepared { config, file: watched, code })
}

fn confine_to(config: &Config) -> Result<()> {
    private_file::ensure_state_folder(&config.state_dir)?;
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
    helper::attend().context("the helper that runs on_attention can't be attended to")
}

pub(super) async fn run(prepared: Prepared) -> Result<()> {
    let Prepared { config, file: mut watched, code } = prepared;
    let (mut stop, mut hang_up) = (StopSignal::new()?, HangUp::new()?);
    let file = config.file.clone();
    tell_descriptors(&config, descriptors::raise_limit());
    let mut app = App::start(config, Clock::system()).await?;
    let ready = listening(&app);
    tell_unclaimed();
    ui::say(&format!("gatepost is ready: {ready}"));
    supervisor::ready(&ready);
    tokio::spawn(supervisor::keep_watchdog());
    tokio::spawn(give_back(code));
    loop {
        tokio::select! {
            biased;
            () = stop.received() => break,
            () = hang_up.received() => watched.read_now(),
            () = watched.changed() => {}
        }
        supervisor::reloading();
        // Off the loop: a network drive may take its time, and a stop must not wait for it.
        let read = spawn_blocking({
            let file = file.clone();
            move || Config::load_again(&file)
        });
        let config = tokio::select! {
            biased;
            () = stop.received() => break,
            read = read => read?,
        };
        let status = reload(&mut app, &file, config);
        supervisor::ready(&status);
    }
    ui::say("gatepost is stopping");
    supervisor::stopping();
    // A second signal: at once.
    app.stop_or(stop.received()).await;
    Ok(())
}

/// When what a start sets going has run too: the first token requests, the look at what was left to do.
async fn give_back(code: Code) {
    sleep(SETTLED).await;
    code.give_back();
}

fn listening(app: &App) -> String {
    let listening = app.listening().iter();
    listening.map(|(what, at)| format!("{what} on {at}")).collect::<Vec<_>>().join(", ")
}

fn tell_unclaimed() {
    for address in unclaimed() {
        warn!(%address, "the service manager listens there, but no [[listener]] does: clients wait for ever");
    }
}

/// Goes by the file as it is now, or says what is wrong with it; the state to show to the service manager.
fn reload(app: &mut App, file: &Path, read: Result<Config, ConfigError>) -> String {
    let reloaded = read.map_err(Into::into).and_then(|config| app.reload(config));
    match reloaded {
        Ok(changes) => {
            info!(%changes, "configuration reloaded");
            let waiting = changes.waiting().join(", ");
            if waiting.is_empty() {
                return listening(app);
            }
            let remedy = "systemctl restart gatepost";
            warn!(keys = waiting, remedy, "these keys count after a restart of gatepost alone");
            format!("{}; restart gatepost for {waiting}", listening(app))
        }
        Err(wrong) => {
            let wrong = format!("{wrong:#}");
            let (reason, hint) = split_hint(&wrong);
            error!(
                reason,
                hint, "configuration not reloaded; gatepost goes on with the former one"
            );
            // Each reason of a configuration's begins with its file.
            let named = file.display().to_string();
            let reason =
                reason.strip_prefix(&named).unwrap_or(reason).trim_start_matches([',', ':']);
            // One line is all that it takes.
            let reason = reason.split_whitespace().collect::<Vec<_>>().join(" ");
            let listening = listening(app);
            format!(
                "running with the former configuration; {named} is refused: {reason}; {listening}"
            )
        }
    }
}

/// Where the waiting alone could take half of what may be open, sessions may find nothing left.
fn tell_descriptors(config: &Config, limit: Option<u64>) {
    let enough = u64::try_from(config.guard.waiting).unwrap_or(u64::MAX).saturating_mul(2);
    match limit {
        Some(limit) if limit < enough => warn!(
            limit,
            "few files may be open (a session takes two): raise it by ulimit -n or LimitNOFILE, or lower waiting of [guard]"
        ),
        limit => info!(limit, "files that may be open"),
    }
}
