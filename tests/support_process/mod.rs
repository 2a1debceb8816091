//! The binary as a process that runs beside the test.
// Each test that includes this uses a part of it.
#![allow(dead_code)]

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

/// Nothing here takes longer, unless it hangs.
const LIMIT: Duration = Duration::from_secs(60);

/// The binary with this configuration.
pub(crate) fn gatepost(file: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_gatepost"));
    command.arg("--config").arg(file).args(arguments).stdin(Stdio::null());
    command
}

/// `gatepost run`, which ends with the test.
pub(crate) struct Proxy {
    child: Child,
    lines: Arc<Mutex<Vec<String>>>,
}

impl Proxy {
    /// Starts it; standard error is read by a thread.
    pub(crate) fn spawn(mut command: Command) -> Self {
        let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
        let lines = Arc::new(Mutex::new(Vec::new()));
        let (errors, kept) = (child.stderr.take().unwrap(), Arc::clone(&lines));
        thread::spawn(move || {
            for line in BufReader::new(errors).lines().map_while(Result::ok) {
                kept.lock().unwrap().push(line);
            }
        });
        Self { child, lines }
    }

    /// The same; when it returns, all listeners accept.
    pub(crate) fn start(command: Command) -> Self {
        let proxy = Self::spawn(command);
        proxy.said("gatepost is ready");
        proxy
    }

    /// Waits for a line with these words.
    pub(crate) fn said(&self, words: &str) -> String {
        let begun = Instant::now();
        loop {
            let lines = self.lines.lock().unwrap().clone();
            if let Some(line) = lines.iter().find(|line| line.contains(words)) {
                return line.clone();
            }
            assert!(begun.elapsed() < LIMIT, "no {words:?} in:\n{}", lines.join("\n"));
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// Where the first listener is.
    pub(crate) fn address(&self) -> SocketAddr {
        let ready = self.said("gatepost is ready");
        let (_, behind) = ready.split_once(" on ").unwrap();
        behind.split(',').next().unwrap().trim().parse().unwrap()
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Sends this signal, by its name.
    pub(crate) fn signal(&self, name: &str) {
        let id = self.child.id().to_string();
        assert!(Command::new("kill").args(["-s", name, &id]).status().unwrap().success());
    }

    /// Waits for its end.
    pub(crate) fn end(&mut self) -> ExitStatus {
        let begun = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(begun.elapsed() < LIMIT, "it does not end");
            thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = (self.child.kill(), self.child.wait());
    }
}
