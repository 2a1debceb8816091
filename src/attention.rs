//! Calls a person: the configuration's `on_attention` command, with what happened and what to do.
//!
//! Invariant: the command gets no secret: not as an argument, and not by an environment variable that the
//! configuration names as one. Nothing waits for it, and it is ended when it takes too long.

use std::process::Stdio;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use tokio::process::Command;
use tokio::time::timeout;
use tracing::{info, warn};

/// For the command to end: a mail server or a chat's web hook may be slow.
const LIMIT: Duration = Duration::from_secs(60);

/// The command that calls people; none: the log and `gatepost status` alone tell them. Clones call by the same one.
#[derive(Clone, Debug, Default)]
pub struct Attention(Arc<RwLock<Settings>>);

#[derive(Debug, Default)]
struct Settings {
    command: Vec<String>,
    /// Variables of the environment that the command must not see.
    secret_variables: Vec<String>,
}

/// Why a person is called.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    /// One word: `sign_in_needed`, `expires_soon`, `recipients_limit`, `delivery_held`, `message_failed` or `spool_full`.
    pub event: &'static str,
    /// Which account, or which app registration if it is all of its accounts.
    pub account: String,
    /// What happened.
    pub reason: String,
    /// What to do.
    pub remedy: String,
}

impl Attention {
    /// Runs `command`, without `secret_variables` in its environment.
    pub fn new(command: Vec<String>, secret_variables: Vec<String>) -> Self {
        Self(Arc::new(RwLock::new(Settings { command, secret_variables })))
    }

    /// Runs another command from now on.
    pub fn set(&self, command: Vec<String>, secret_variables: Vec<String>) {
        let settings = Settings { command, secret_variables };
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = settings;
    }

    /// Starts the command, and lets it run.
    pub fn call(&self, call: Call) {
        let settings = self.0.read().unwrap_or_else(PoisonError::into_inner);
        let Some((program, arguments)) = settings.command.split_first() else { return };
        let mut command = Command::new(program);
        command.args(arguments).args([&call.account, &call.reason, &call.remedy]);
        for variable in &settings.secret_variables {
            command.env_remove(variable);
        }
        command
            .env("GATEPOST_EVENT", call.event)
            .env("GATEPOST_ACCOUNT", &call.account)
            .env("GATEPOST_REASON", &call.reason)
            .env("GATEPOST_REMEDY", &call.remedy)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        tokio::spawn(run(command, program.clone(), call.account));
    }
}

/// To its end, or to the limit. When gatepost is stopped meanwhile, the command goes on.
async fn run(mut command: Command, program: String, account: String) {
    let mut child = match command.spawn() {
        Ok(child) => child,
        Err(error) => return warn!(account, program, %error, "on_attention can't be run"),
    };
    match timeout(LIMIT, child.wait()).await {
        Ok(Ok(status)) if status.success() => info!(account, "on_attention was run"),
        Ok(Ok(status)) => warn!(account, program, %status, "on_attention failed"),
        Ok(Err(error)) => warn!(account, program, %error, "on_attention is lost"),
        Err(_) => {
            // It may have ended just now.
            let _ = child.kill().await;
            warn!(account, program, "on_attention was ended, it took a minute");
        }
    }
}
