//! Calls a person: the configuration's `on_attention` command, with what happened and what to do.
//!
//! A confined process runs no programs: its [`helper`], which was started before, does.
//!
//! Invariant: the command gets no secret: not as an argument, and not by an environment variable that the
//! configuration names as one. Nothing waits for it, and it is ended when it takes too long.

pub mod helper;

use std::process::Stdio;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use serde::{Deserialize, Serialize};
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
    command: Arc<[String]>,
    /// Variables of the environment that the command must not see.
    secret_variables: Vec<String>,
}

/// Why a person is called.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    /// One word: `sign_in_needed`, `expires_soon`, `recipients_limit`, `delivery_held`, `message_failed`,
    /// `spool_full` or `store_failing`.
    pub event: &'static str,
    /// Which account, or which app registration if it is all of its accounts.
    pub account: String,
    /// What happened.
    pub reason: String,
    /// What to do.
    pub remedy: String,
}

/// A [`Call`] on its way to the command.
#[derive(Serialize, Deserialize)]
struct Message {
    event: String,
    account: String,
    reason: String,
    remedy: String,
    secret_variables: Vec<String>,
}

/// What became of the command.
#[derive(Serialize, Deserialize)]
enum Outcome {
    Done,
    Failed(String),
    CannotRun(String),
    Lost(String),
    Ended,
}

impl Attention {
    /// Runs `command`, without `secret_variables` in its environment.
    pub fn new(command: Vec<String>, secret_variables: Vec<String>) -> Self {
        Self(Arc::new(RwLock::new(Settings { command: command.into(), secret_variables })))
    }

    /// Runs another command from now on.
    pub fn set(&self, command: Vec<String>, secret_variables: Vec<String>) {
        let settings = Settings { command: command.into(), secret_variables };
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = settings;
    }

    /// Starts the command, and lets it run.
    pub fn call(&self, call: Call) {
        let settings = self.0.read().unwrap_or_else(PoisonError::into_inner);
        let Some(program) = settings.command.first().cloned() else { return };
        let Call { event, account, reason, remedy } = call;
        let (event, secret_variables) = (event.to_owned(), settings.secret_variables.clone());
        let message = Message { event, account, reason, remedy, secret_variables };
        let Err(message) = helper::take(&settings.command, message) else { return };
        let command = Arc::clone(&settings.command);
        tokio::spawn(async move {
            message.run(&command).await.log(&message, &program);
        });
    }
}

impl Message {
    /// To its end, or to the limit. When gatepost is stopped meanwhile, the command goes on.
    async fn run(&self, command: &[String]) -> Outcome {
        let Some((program, arguments)) = command.split_first() else { return Outcome::Done };
        let mut command = Command::new(program);
        command.args(arguments).args([&self.account, &self.reason, &self.remedy]);
        for variable in &self.secret_variables {
            command.env_remove(variable);
        }
        command
            .env("GATEPOST_EVENT", &self.event)
            .env("GATEPOST_ACCOUNT", &self.account)
            .env("GATEPOST_REASON", &self.reason)
            .env("GATEPOST_REMEDY", &self.remedy)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let mut child = match command.spawn() {
            Ok(child) => child,
            Err(error) => return Outcome::CannotRun(error.to_string()),
        };
        match timeout(LIMIT, child.wait()).await {
            Ok(Ok(status)) if status.success() => Outcome::Done,
            Ok(Ok(status)) => Outcome::Failed(status.to_string()),
            Ok(Err(error)) => Outcome::Lost(error.to_string()),
            Err(_) => {
                // It may have ended just now.
                let _ = child.kill().await;
                Outcome::Ended
            }
        }
    }
}

impl Outcome {
    /// A call that nobody has heard is told in full.
    fn log(&self, message: &Message, program: &str) {
        let Message { event, account, reason, remedy, .. } = message;
        let failure = match self {
            Self::Done => return info!(account, "on_attention was run"),
            Self::Failed(status) => format!("on_attention failed: {status}"),
            Self::CannotRun(error) => format!(
                "on_attention can't be run: {error}; if the configuration has it since a moment ago: restart gatepost"
            ),
            Self::Lost(error) => format!("on_attention is lost: {error}"),
            Self::Ended => "on_attention was ended, it took a minute".into(),
        };
        warn!(program, event, account, reason, remedy, "{failure}");
    }
}
