//! The commands, one small file each.
//!
//! Invariant: what a script wants goes to standard output alone, words for people to standard error.
//! Exit status: 0 done, 1 failed, 2 usage or configuration.

mod certificate;
mod check;
mod completions;
mod demo;
mod doctor;
mod entra;
mod explain;
mod init;
mod large;
mod login;
mod logout;
mod logs;
mod password;
mod run;
mod send_test;
mod signals;
mod spool;
mod status;
mod ui;

use std::num::NonZero;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use clap::{Parser, Subcommand};

use crate::attention::helper;
use crate::config::{Account, Config, ConfigError};
use crate::confine;
use crate::entra::EntraError;
use crate::store::Store;

/// Name of the configuration file, if none is named.
const FILE: &str = "gatepost.toml";

/// Mailboxes that are named where another one was meant; of more it is said how many there are.
const MOST_NAMED: usize = 20;

/// How long a thread may still look at a file when all is done: a network drive that is gone holds it for ever.
const LAST_LOOK: Duration = Duration::from_secs(5);

/// The variable with the number of threads that move what passes.
const WORKERS: &str = "GATEPOST_WORKERS";

/// Far more than can be of use.
const MOST_WORKERS: usize = 256;

/// A local mail proxy: clients log in with an app password, Exchange Online sees OAuth 2.0.
#[derive(Parser)]
#[command(name = "gatepost", version)]
struct Cli {
    /// The configuration [default: gatepost.toml in the platform's configuration folder, else here]
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Try it: an emulated Exchange, a token endpoint and the proxy, all on this machine
    Demo(demo::Args),
    /// From nothing to a configuration, an app password and a sign-in
    Init(Box<init::Args>),
    /// Run the proxy in the foreground
    Run(run::Args),
    /// Check the configuration without starting
    Check,
    /// Print the certificate of the listeners, for clients to trust
    Certificate(certificate::Args),
    /// App passwords: what clients log in with
    #[command(subcommand)]
    Password(password::Command),
    /// Sign a mailbox in
    Login(login::Args),
    /// Forget a mailbox's sign-in
    Logout(logout::Args),
    /// Send a message as a device would, and follow it to the provider's answer
    SendTest(send_test::Args),
    /// Show accounts, tokens, last errors and live sessions
    Status(status::Args),
    /// The mail that gatepost has taken: what waits, what failed, try again, drop
    #[command(subcommand)]
    Spool(spool::Command),
    /// Say what an error code or a mail server's reply means, and what to do
    Explain(explain::Args),
    /// Find what is wrong, and the remedy
    Doctor(doctor::Args),
    /// For administrators of the tenant: consent and set-up in Entra and Exchange
    #[command(subcommand)]
    Entra(entra::Command),
    /// Print a shell's completion script
    Completions(completions::Args),
    /// Run the on_attention command for a confined gatepost
    #[command(name = helper::COMMAND, hide = true)]
    AttentionHelper {
        #[arg(last = true, required = true)]
        command: Vec<String>,
    },
}

/// Runs the command that the process was called with.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    confine::keep_memory_private();
    match run_command(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => failed(&error),
    }
}

fn run_command(cli: Cli) -> Result<()> {
    let named = cli.config.clone();
    let file = &cli.config.unwrap_or_else(default_file);
    match cli.command {
        Command::Demo(args) => wait_for(demo::demo(args)),
        Command::Init(args) => wait_for(init::init(named, *args)),
        Command::Run(args) => {
            // Before there are threads: those that begin later are confined too.
            let prepared = run::prepare(file, &args)?;
            wait_for(run::run(prepared))
        }
        Command::Check => wait_for(check::check(file)),
        Command::Certificate(args) => certificate::certificate(file, args),
        Command::Password(command) => wait_for(password::password(file, command)),
        Command::Login(args) => wait_for(login::login(file, args)),
        Command::Logout(args) => wait_for(logout::logout(file, args)),
        Command::SendTest(args) => wait_for(send_test::send_test(file, args)),
        Command::Status(args) => wait_for(status::status(file, args)),
        Command::Spool(command) => wait_for(spool::spool(file, command)),
        Command::Explain(args) => explain::explain(&args),
        Command::Doctor(args) => wait_for(doctor::doctor(file, args)),
        Command::Entra(command) => entra::entra(file, command),
        Command::Completions(args) => completions::completions(&args),
        Command::AttentionHelper { command } => wait_for(attend(command)),
    }
}

/// The other side of a confined gatepost.
async fn attend(command: Vec<String>) -> Result<()> {
    Ok(helper::serve(command).await?)
}

fn wait_for(command: impl Future<Output = Result<()>>) -> Result<()> {
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    let runtime = runtime.worker_threads(workers()?).enable_all().build()?;
    let done = runtime.block_on(command);
    runtime.shutdown_timeout(LAST_LOOK);
    done
}

/// One for each core but one, which is for what goes on beside them: the store, look-ups of names, slow hashes.
fn workers() -> Result<usize, UsageError> {
    let Some(wanted) = std::env::var_os(WORKERS) else {
        let cores = std::thread::available_parallelism().map_or(1, NonZero::get);
        return Ok(cores.saturating_sub(1).max(1));
    };
    let number = wanted.to_str().and_then(|wanted| wanted.parse().ok());
    number.filter(|number| (1..=MOST_WORKERS).contains(number)).ok_or_else(|| {
        let problem = format!("{WORKERS} is {wanted:?}");
        UsageError::new(problem, format!("a number from 1 to {MOST_WORKERS}, or leave it away"))
    })
}

fn failed(error: &anyhow::Error) -> ExitCode {
    ui::error(error);
    let usage = error.is::<ConfigError>() || error.is::<UsageError>() || error.is::<EntraError>();
    match usage {
        true => ExitCode::from(2),
        false => ExitCode::FAILURE,
    }
}

fn default_file() -> PathBuf {
    let in_folder = dirs::config_dir().map(|folder| folder.join("gatepost").join(FILE));
    in_folder.filter(|file| file.exists()).unwrap_or_else(|| PathBuf::from(FILE))
}

/// The command can't be carried out as it was called.
#[derive(Debug, thiserror::Error)]
#[error("{problem}\nhint: {hint}")]
struct UsageError {
    problem: String,
    hint: String,
}

impl UsageError {
    fn new(problem: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { problem: problem.into(), hint: hint.into() }
    }
}

/// What the commands that work on the store alone need.
async fn open(file: &Path) -> Result<(Config, Store)> {
    with_store(Config::load_without_secrets(file)?).await
}

async fn with_store(config: Config) -> Result<(Config, Store)> {
    let store = Store::open(&config.state_dir, config.key_file.as_deref()).await?;
    Ok((config, store))
}

/// The account that a person named on the command line.
fn account(config: &Config, mailbox: &str) -> Result<Arc<Account>> {
    if let Some(domain) = mailbox.strip_prefix("*@") {
        let problem = format!("{mailbox:?} stands for all mailboxes of {domain}");
        let hint = format!("name one of them: NAME@{domain}");
        return Err(UsageError::new(problem, hint).into());
    }
    config.account(mailbox).ok_or_else(|| {
        let known: Vec<_> =
            config.accounts.iter().map(|account| account.mailbox.as_str()).collect();
        let problem = format!("no account has the mailbox {mailbox:?}");
        let hint = match known.as_slice() {
            [] => format!("add an [[account]] to {}", config.file.display()),
            known if known.len() > MOST_NAMED => {
                format!("the configuration has {} others: gatepost status", known.len())
            }
            known => format!("the configuration has {}", known.join(", ")),
        };
        UsageError::new(problem, hint).into()
    })
}
