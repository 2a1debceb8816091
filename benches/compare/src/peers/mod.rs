//! The proxies that are measured. Each has a file with its configuration, set as its manual advises for this purpose:
//! plain IMAP in, TLS with a checked certificate out.
//!
//! | file | what it is |
//! | --- | --- |
//! | `email_proxy` | email-oauth2-proxy, in Python: its own login, a token, XOAUTH2 upstream |
//! | `dovecot` | Dovecot's login process as a proxy: its own login, XOAUTH2 upstream with a fixed token |
//! | `haproxy`, `stunnel` | TLS around whatever the client says: it has to do XOAUTH2 itself |
//! | `gatepost` | gatepost |
//! | `backend` | Dovecot as an upstream, which is behind all of them for logins a second |

pub(crate) mod backend;
mod dovecot;
mod email_proxy;
pub(crate) mod gatepost;
mod haproxy;
mod stunnel;

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use clap::ValueEnum;

use crate::client::{Door, Proof};
use crate::ground::Ground;
use crate::measure;
use crate::process::Process;
use crate::tls::connector;
use crate::upstream::Ports;

/// For a command that prepares something.
const SOON: Duration = Duration::from_secs(90);

/// Which proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub(crate) enum Kind {
    EmailOauth2Proxy,
    Dovecot,
    Haproxy,
    Stunnel,
    Gatepost,
    Direct,
}

impl Kind {
    /// Its name in tables.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::EmailOauth2Proxy => "email-oauth2-proxy",
            Self::Dovecot => "Dovecot",
            Self::Haproxy => "HAProxy",
            Self::Stunnel => "stunnel",
            Self::Gatepost => "gatepost",
            Self::Direct => "direct",
        }
    }
}

/// Where proxies lead to.
#[derive(Clone, Copy)]
pub(crate) struct Target {
    /// IMAP by TLS, on both loopbacks.
    pub(crate) imap: u16,
    /// SMTP with STARTTLS.
    pub(crate) smtp: u16,
    /// The token endpoint.
    pub(crate) tokens: u16,
}

impl From<Ports> for Target {
    fn from(Ports { imap, smtp, tokens }: Ports) -> Self {
        Self { imap, smtp, tokens }
    }
}

/// Programs that are not found by their name alone.
#[derive(Clone)]
pub(crate) struct Programs {
    /// gatepost's binary.
    pub(crate) gatepost: PathBuf,
    /// The Python with email-oauth2-proxy.
    pub(crate) python: Option<PathBuf>,
}

/// A configured proxy, which can be started.
pub(crate) struct Peer {
    pub(crate) kind: Kind,
    pub(crate) door: Door,
    folder: PathBuf,
    program: PathBuf,
    arguments: Vec<OsString>,
    environment: Vec<(String, OsString)>,
}

/// A proxy that is running, which ends when this is dropped.
pub(crate) struct Running {
    process: Process,
    /// From its start until it listened.
    pub(crate) started_in: Duration,
}

impl Peer {
    /// Writes its configuration.
    pub(crate) fn prepare(
        kind: Kind,
        ground: &Ground,
        target: Target,
        programs: &Programs,
    ) -> Result<Self> {
        match kind {
            Kind::EmailOauth2Proxy => email_proxy::prepare(ground, target, programs),
            Kind::Dovecot => dovecot::prepare(ground, target),
            Kind::Haproxy => haproxy::prepare(ground, target),
            Kind::Stunnel => stunnel::prepare(ground, target),
            Kind::Gatepost => gatepost::prepare(ground, target, programs),
            Kind::Direct => direct(ground, target),
        }
    }

    fn new(kind: Kind, folder: PathBuf, program: impl Into<PathBuf>, port: u16) -> Self {
        let door = Door::new(port, None, Proof::Token);
        let (arguments, environment) = (Vec::new(), Vec::new());
        Self { kind, door, folder, program: program.into(), arguments, environment }
    }

    fn arguments<T: Into<OsString>>(mut self, arguments: impl IntoIterator<Item = T>) -> Self {
        self.arguments.extend(arguments.into_iter().map(Into::into));
        self
    }

    pub(crate) fn environment(mut self, name: &str, value: impl Into<OsString>) -> Self {
        self.environment.push((name.into(), value.into()));
        self
    }

    fn password(mut self, password: &str) -> Self {
        self.door.proof = Proof::Password(password.into());
        self
    }

    /// Whether it is a process. Direct logins need none.
    pub(crate) fn is_process(&self) -> bool {
        self.kind != Kind::Direct
    }

    /// Starts it and waits until it listens.
    pub(crate) async fn start(&self) -> Result<Running> {
        self.start_under(&[]).await
    }

    /// The same, as the last arguments of another program.
    pub(crate) async fn start_under(&self, wrapper: &[OsString]) -> Result<Running> {
        let mut words = wrapper.iter().cloned().chain([self.program.clone().into()]);
        let mut command = Command::new(words.next().context("no program")?);
        command.args(words).args(&self.arguments).current_dir(&self.folder);
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        let mut process = Process::start(self.kind.name(), &self.folder, &mut command)?;
        let started_in = process.listening(self.door.address).await?;
        Ok(Running { process, started_in })
    }
}

impl Running {
    /// How long ago it was started.
    pub(crate) fn age(&self) -> Duration {
        self.process.age()
    }

    /// CPU that it has used since its start.
    pub(crate) fn cpu(&self) -> Result<Duration> {
        measure::cpu(self.process.id())
    }

    /// Its memory, in octets.
    pub(crate) fn memory(&self) -> Result<u64> {
        measure::memory(self.process.id())
    }

    /// The end of its log, for an error.
    pub(crate) fn tail(&self) -> String {
        self.process.tail()
    }
}

fn direct(ground: &Ground, target: Target) -> Result<Peer> {
    let mut peer = Peer::new(Kind::Direct, ground.folder("direct")?, "", target.imap);
    peer.door.tls = Some(connector()?);
    Ok(peer)
}

/// The first of these that is there.
fn program(package: &str, candidates: &[&str]) -> Result<PathBuf> {
    let found = candidates.iter().map(Path::new).find(|path| path.exists());
    let found = found.with_context(|| {
        format!("{} is missing: apt-get install {package}", candidates.join(" or "))
    })?;
    Ok(found.to_owned())
}

/// Standard output of a command that must succeed, and soon.
fn output(command: &mut Command) -> Result<String> {
    let name = command.get_program().display().to_string();
    let begun = Instant::now();
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().with_context(|| format!("{name} can't be started"))?;
    while child.try_wait()?.is_none() {
        if begun.elapsed() > SOON {
            child.kill()?;
            child.wait()?;
            bail!("{name} took over {} s", SOON.as_secs());
        }
        sleep(Duration::from_millis(2));
    }
    let done = child.wait_with_output()?;
    ensure!(
        done.status.success(),
        "{name}: {}\n{}",
        done.status,
        String::from_utf8_lossy(&done.stderr)
    );
    Ok(String::from_utf8(done.stdout)?.trim().to_owned())
}
