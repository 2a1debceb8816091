//! The process that runs the `on_attention` command for a confined gatepost: gatepost's own program, started before the
//! confinement. It gets a line of JSON for each call, and answers with one.
//!
//! Invariant: it runs the one command that it was started with, whatever it is told, so that nobody who takes over the
//! confined process can have others run. No call is lost without a word: what has no answer when the helper ends is in
//! the log.

use std::collections::BTreeMap;
use std::io::{self, BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread;

use serde::{Deserialize, Serialize};
use tokio::io::AsyncBufReadExt;
use tokio::task::JoinSet;
use tracing::{error, warn};

use super::{Message, Outcome};

/// The name of the command line's command that is the helper's side.
pub const COMMAND: &str = "attention-helper";

/// What the service manager tells this process alone.
const MANAGERS: [&str; 3] = ["NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"];

/// A confined process can start no other one.
const REMEDY: &str = "restart gatepost: systemctl restart gatepost";

static HELPER: OnceLock<Helper> = OnceLock::new();

struct Helper {
    /// What it runs.
    command: Vec<String>,
    line: Mutex<Line>,
}

/// The way to the helper.
#[derive(Default)]
struct Line {
    /// Until it is attended to: threads that began before the confinement would not be confined.
    child: Option<Child>,
    /// To the thread that writes; none: there is no helper any more.
    calls: Option<Sender<String>>,
    /// What has no answer yet, by its number.
    unanswered: BTreeMap<u64, Message>,
    /// The last number.
    count: u64,
}

/// A call as the helper gets it.
#[derive(Serialize, Deserialize)]
struct Call<M> {
    number: u64,
    message: M,
}

/// The answer to a call.
#[derive(Serialize, Deserialize)]
struct Answer {
    number: u64,
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
    let line = Line { child: Some(helper.spawn()?), ..Line::default() };
    let helper = Helper { command: command.to_vec(), line: Mutex::new(line) };
    HELPER.set(helper).map_err(|_| io::Error::other("there is a helper already"))
}

/// From now on it gets calls, and its end is noticed. To be called behind the confinement.
pub fn attend() -> io::Result<()> {
    HELPER.get().map_or(Ok(()), Helper::attend)
}

/// What it runs; none: there is no helper.
pub fn command() -> Option<&'static [String]> {
    HELPER.get().map(|helper| helper.command.as_slice())
}

/// Gives it a call, or gives the call back: there is no helper.
pub(super) fn take(command: &[String], message: Message) -> Result<(), Message> {
    let Some(helper) = HELPER.get() else { return Err(message) };
    if helper.command != command {
        warn!(remedy = REMEDY, "on_attention has changed, the former one is run until a restart");
    }
    helper.call(message);
    Ok(())
}

impl Helper {
    /// A thread that writes the calls, and one that logs the answers.
    fn attend(&'static self) -> io::Result<()> {
        let mut line = self.line();
        let Some(mut child) = line.child.take() else { return Ok(()) };
        let (Some(input), Some(output)) = (child.stdin.take(), child.stdout.take()) else {
            return Err(io::ErrorKind::BrokenPipe.into());
        };
        let (sender, calls) = channel();
        let thread = || thread::Builder::new().name("attention".into());
        thread().spawn(move || write_calls(input, &calls))?;
        thread().spawn(move || {
            self.log_answers(output);
            self.ended(&mut child);
        })?;
        line.calls = Some(sender);
        Ok(())
    }

    fn call(&self, message: Message) {
        let mut line = self.line();
        let number = line.count + 1;
        let text = serde_json::to_string(&Call { number, message: &message });
        let sent = match (&line.calls, text) {
            (Some(calls), Ok(text)) => calls.send(text).is_ok(),
            _ => false,
        };
        if !sent {
            drop(line);
            return tell_lost(&message, "on_attention was not run: its helper is gone");
        }
        line.count = number;
        line.unanswered.insert(number, message);
    }

    fn log_answers(&self, output: ChildStdout) {
        let program = self.command.first().cloned().unwrap_or_default();
        for line in BufReader::new(output).lines().map_while(Result::ok) {
            let Ok(Answer { number, outcome }) = serde_json::from_str(&line) else { continue };
            if let Some(message) = self.line().unanswered.remove(&number) {
                outcome.log(&message, &program);
            }
        }
    }

    /// Its output has come to an end, and so has it: nobody else has that pipe.
    fn ended(&self, child: &mut Child) {
        // Whatever it still does, nobody hears of it; and what has ended is no zombie then.
        let _ = child.kill();
        let status = child.wait().map_or_else(|error| error.to_string(), |it| it.to_string());
        error!(
            status,
            remedy = REMEDY,
            "the helper that runs on_attention has ended: nobody is called any more"
        );
        let unanswered = {
            let mut line = self.line();
            line.calls = None;
            std::mem::take(&mut line.unanswered)
        };
        for message in unanswered.values() {
            tell_lost(
                message,
                "on_attention may not have been run: its helper has ended meanwhile",
            );
        }
    }

    fn line(&self) -> MutexGuard<'_, Line> {
        self.line.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The log is then all that tells people.
fn tell_lost(message: &Message, what: &str) {
    let Message { event, account, reason, remedy, .. } = message;
    error!(event, account, reason, remedy, restart = REMEDY, "{what}");
}

fn write_calls(mut input: ChildStdin, calls: &Receiver<String>) {
    for line in calls {
        // The other thread notices that the helper has ended.
        if writeln!(input, "{line}").is_err() {
            return;
        }
    }
}

/// The helper's side: runs `command` for each line of standard input, and ends when that does and all are done.
pub async fn serve(command: Vec<String>) -> io::Result<()> {
    // systemd sends a stop's SIGTERM to all processes of a service: people may be called until gatepost has ended.
    #[cfg(unix)]
    let _held = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
    let command: Arc<[String]> = command.into();
    let mut lines = tokio::io::BufReader::new(tokio::io::stdin()).lines();
    let mut running = JoinSet::new();
    while let Some(line) = lines.next_line().await? {
        let Ok(call) = serde_json::from_str::<Call<Message>>(&line) else { continue };
        let command = Arc::clone(&command);
        running.spawn(async move {
            let outcome = call.message.run(&command).await;
            let answer = Answer { number: call.number, outcome };
            // Nobody reads it any more when gatepost has ended meanwhile.
            let _ = serde_json::to_string(&answer)
                .map(|line| writeln!(io::stdout().lock(), "{line}").is_ok());
        });
        while running.try_join_next().is_some() {}
    }
    while running.join_next().await.is_some() {}
    Ok(())
}
