//! gatepost as a process, and what the kernel knows of it.

use std::collections::HashSet;
use std::fs;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};

/// Lines of its log that are kept.
const KEPT: usize = 4000;

/// It ends when this is dropped.
pub struct Process {
    child: Child,
    /// Its listeners, in the configuration's order.
    pub doors: Vec<SocketAddr>,
    log: Arc<Mutex<std::collections::VecDeque<String>>>,
}

impl Process {
    /// Starts it; when it returns, all listeners accept.
    pub fn start(mut program: Command, file: &Path) -> Self {
        let mut child = program
            .args(["run", "--config"])
            .arg(file)
            .env("GATEPOST_LOG", std::env::var("GATEPOST_LOG").unwrap_or("info".into()))
            .stdin(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut words = BufReader::new(child.stderr.take().unwrap());
        let (mut line, mut all) = (String::new(), String::new());
        while !line.contains("gatepost is ready: ") {
            line.clear();
            assert!(words.read_line(&mut line).unwrap() > 0, "gatepost does not start: {all}");
            all += &line;
        }
        let listening = line.trim_end().split_once("ready: ").unwrap().1.split(", ");
        let doors =
            listening.map(|one| one.split_once(" on ").unwrap().1.parse().unwrap()).collect();
        let log = Arc::<Mutex<std::collections::VecDeque<String>>>::default();
        let kept = Arc::clone(&log);
        std::thread::spawn(move || {
            for line in words.lines().map_while(Result::ok) {
                let mut kept = kept.lock().unwrap();
                kept.push_back(line);
                if kept.len() > KEPT {
                    kept.pop_front();
                }
            }
        });
        Self { child, doors, log }
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// The newest lines of its log with one of these words.
    pub fn log(&self, words: &[&str], most: usize) -> String {
        let log = self.log.lock().unwrap();
        let found = log.iter().rev().filter(|line| words.iter().any(|word| line.contains(word)));
        let mut found: Vec<_> = found.take(most).cloned().collect();
        found.reverse();
        found.join("\n")
    }

    /// Whether it has not ended by itself.
    pub fn runs(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// Resident memory in KiB: now, and the most so far.
    pub fn memory(&self) -> (u64, u64) {
        (self.status("VmRSS:"), self.status("VmHWM:"))
    }

    pub fn threads(&self) -> u64 {
        self.status("Threads:")
    }

    /// Open files. gatepost can't be looked into by its own user: this needs root.
    pub fn descriptors(&self) -> usize {
        fs::read_dir(format!("/proc/{}/fd", self.id())).expect("as root").count()
    }

    /// Its open connections from or to one of these ports of this machine.
    pub fn connections(&self, ports: &[u16]) -> usize {
        let inodes: HashSet<String> = fs::read_dir(format!("/proc/{}/fd", self.id()))
            .expect("as root")
            .filter_map(|file| Some(fs::read_link(file.ok()?.path()).ok()?.to_str()?.to_owned()))
            .filter_map(|to| Some(to.strip_prefix("socket:[")?.strip_suffix(']')?.to_owned()))
            .collect();
        let port = |address: &str| u16::from_str_radix(address.rsplit(':').next()?, 16).ok();
        let table = fs::read_to_string("/proc/net/tcp").unwrap();
        let sockets = table.lines().skip(1).filter(|line| {
            let fields: Vec<_> = line.split_whitespace().collect();
            let ours = fields.get(9).is_some_and(|inode| inodes.contains(*inode));
            let of = |field: usize| fields.get(field).and_then(|address| port(address));
            // 0A: it listens.
            ours && fields[3] != "0A"
                && [of(1), of(2)].iter().flatten().any(|port| ports.contains(port))
        });
        sockets.count()
    }

    /// Whether it has a handler for SIGHUP: bit 0 of the caught signals (proc(5)).
    pub fn reloads(&self) -> bool {
        let status = fs::read_to_string(format!("/proc/{}/status", self.id())).unwrap();
        let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:")).unwrap();
        u64::from_str_radix(caught.trim(), 16).unwrap() & 1 == 1
    }

    /// Sends this signal, by its name.
    pub fn signal(&self, name: &str) {
        let status = Command::new("kill").args(["-s", name, &self.id().to_string()]).status();
        assert!(status.unwrap().success());
    }

    fn status(&self, field: &str) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.id())).unwrap();
        let line = status.lines().find(|line| line.starts_with(field)).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = (self.child.kill(), self.child.wait());
    }
}
