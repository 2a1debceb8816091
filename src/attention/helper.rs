//! The process that runs the `on_attention` command for a confined gatepost: gatepost's own program, started before the
//! confinement. It gets a line of JSON for each call, and answers with one.
//!
//! Invariant: it runs the one command that it was started with, whatever it is told, so that nobody who takes over the
//! confined process can have others run.

use std::io::{self, BufRead, BufReader, Write};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread;

use serde::{Deserialize, Serialize};
use tokio::io::AsyncBufReadExt;
use tokio::task::JoinSet;
use tracing::warn;

use super::{Message, Outcome};

/// The name of the command line's command that is the helper's side.
pub const COMMAND: &str = "attention-helper";

/// What the service manager tells this process alone.
const MANAGERS: [&str; 3] = ["NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"];

static HELPER: OnceLock<Helper> = OnceLock::new();

struct Helper {
    /// What it runs.
    command: Vec<String>,
    /// Until the first call: threads that began before the confinement would not be confined.
    child: Mutex<Option<Child>>,
    calls: OnceLock<Sender<String>>,
}

/// The answer to a call.
#[derive(Serialize, Deserialize)]
struct Answer {
    account: String,
    outcome: Outcome,
}

/// Starts it, without `secret_variables` in its environment.
pub fn start(command: &[String], secret_variables: &[String]) -> io::Result<()> {
    let mut helper = Command::new(std::env::current_exe()?);
    helper.arg(COMMAND).arg("--").args(command);
    for variable in secret_variables.iter().map(String::as_str).chain(MANAGERS) {
        helper.env_remove(variable);
    }
    // An interrupt of the terminal's is for the proxy; the helper ends when its input does.
    #[cfg(unix)]
    std::os::unix::process::CommandExt::process_group(&mut helper, 0);
    helper.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
    let child = Mutex::new(Some(helper.spawn()?));
    let helper = Helper { command: command.to_vec(), child, calls: OnceLock::new() };
    HELPER.set(helper).map_err(|_| io::Error::other("there is a helper already"))
}

/// Gives it a call; `false`: there is no helper.
pub(super) fn take(command: &[String], message: &Message) -> bool {
    let Some(helper) = HELPER.get() else { return false };
    if helper.command != command {
        warn!("on_attention has changed, the former one is run: restart gatepost");
    }
    let calls = helper.calls.get_or_init(|| helper.connect());
    let sent = serde_json::to_string(message).is_ok_and(|line| calls.send(line).is_ok());
    if !sent {
        warn!(account = message.account, "on_attention can't be run: its helper is gone");
    }
    true
}

impl Helper {
    /// A thread that writes the calls, and one that logs the answers.
    fn connect(&self) -> Sender<String> {
        let (sender, calls) = channel();
        let child = self.child.lock().unwrap_or_else(PoisonError::into_inner).take();
        let program = self.command.first().cloned().unwrap_or_default();
        let answers = child.and_then(|mut child| {
            let (input, output) = (child.stdin.take()?, child.stdout.take()?);
            let writer = thread::Builder::new().name("attention".into());
            writer.spawn(move || write_calls(input, &calls)).ok()?;
            Some(output)
        });
        if let Some(answers) = answers {
            let reader = thread::Builder::new().name("attention".into());
            if let Err(error) = reader.spawn(move || log_answers(answers, &program)) {
                warn!(%error, "what becomes of on_attention is not logged");
            }
        }
        sender
    }
}

fn write_calls(mut input: impl Write, calls: &Receiver<String>) {
    for line in calls {
        if writeln!(input, "{line}").is_err() {
            return;
        }
    }
}

fn log_answers(output: impl io::Read, program: &str) {
    for line in BufReader::new(output).lines().map_while(Result::ok) {
        if let Ok(Answer { account, outcome }) = serde_json::from_str(&line) {
            outcome.log(&account, program);
        }
    }
}

/// The helper's side: runs `command` for each line of standard input, and ends when that does and all are done.
pub async fn serve(command: Vec<String>) -> io::Result<()> {
    let command: Arc<[String]> = command.into();
    let mut lines = tokio::io::BufReader::new(tokio::io::stdin()).lines();
    let mut running = JoinSet::new();
    while let Some(line) = lines.next_line().await? {
        let Ok(message) = serde_json::from_str::<Message>(&line) else { continue };
        let command = Arc::clone(&command);
        running.spawn(async move {
            let outcome = message.run(&command).await;
            let answer = Answer { account: message.account, outcome };
            // Nobody reads it any more when gatepost has ended meanwhile.
            let _ = serde_json::to_string(&answer)
                .map(|line| writeln!(io::stdout().lock(), "{line}").is_ok());
        });
        while running.try_join_next().is_some() {}
    }
    while running.join_next().await.is_some() {}
    Ok(())
}
