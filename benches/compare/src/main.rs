//! gatepost beside other proxies on one machine. `run.sh` installs them and calls this.
//!
//! | file | what it holds |
//! | --- | --- |
//! | `rounds`, `table` | `table`: all proxies in turn |
//! | `rtt`, `delay` | `rtt`: round trips of a login |
//! | `idle`, `crowd` | `idle`: thousands of sessions |
//! | `growth`, `seed` | `growth`: curves of cost against the number of sessions and of accounts |
//! | `callgrind` | `callgrind`: instructions of a login |
//! | `peers/` | how each of them is configured and started |
//! | `upstream/` | what they lead to: a server of canned answers |
//! | `client`, `wire` | what logs in to them |
//! | `process`, `measure` | what they use |
//! | `ground`, `tls`, `statistic`, `say` | what these need |
//!
//! Invariant: whatever is started ends with this program, traffic is on loopback alone, and each proxy is measured by
//! the same clients with the same upstream.

mod callgrind;
mod client;
mod crowd;
mod delay;
mod ground;
mod growth;
mod idle;
mod measure;
mod peers;
mod process;
mod rounds;
mod rtt;
mod say;
mod seed;
mod statistic;
mod table;
mod tls;
mod upstream;
mod wire;

use std::fs;
use std::future::pending;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Result, bail};
use clap::{Parser, Subcommand, ValueEnum};
use tokio::signal::unix::{SignalKind, signal};

use ground::{Ground, allow_files};
use peers::{Kind, Programs};
use rounds::Rounds;
use table::Row;
use upstream::{Ports, Upstream};

/// What gatepost costs, beside other proxies.
#[derive(Parser)]
#[command(name = "compare")]
struct Cli {
    /// gatepost's binary
    #[arg(long, global = true, default_value = "target/release/gatepost")]
    gatepost: PathBuf,
    /// The Python that has email-oauth2-proxy
    #[arg(long, global = true)]
    python: Option<PathBuf>,
    /// Keep logs and configurations
    #[arg(long, global = true)]
    keep: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// All proxies side by side, as a table
    Table(TableOptions),
    /// Round trips to the upstream that a login takes
    Rtt {
        /// The length of the network, in milliseconds
        #[arg(long, default_value_t = 50)]
        millis: u64,
    },
    /// Thousands of idle sessions: memory, CPU, a login among them
    Idle {
        /// How many; as many as files may be open, if that is less
        #[arg(long, default_value_t = 10_000)]
        sessions: usize,
    },
    /// Costs against the number of sessions and of accounts, as JSON; `plot.py` draws it
    Growth {
        /// The largest number of idle sessions
        #[arg(long, default_value_t = 10_000)]
        sessions: usize,
        /// The largest number of accounts
        #[arg(long, default_value_t = 100_000)]
        accounts: usize,
        /// Where the data go
        #[arg(long, default_value = "docs/performance/growth.json")]
        to: PathBuf,
    },
    /// Instructions of a login session, by Valgrind
    Callgrind {
        /// Compare with the figure that is committed for this build; exit status 1 if it is over a tenth slower
        #[arg(long, value_name = "BUILD", num_args = 0..=1, default_missing_value = "release")]
        check: Option<String>,
    },
    #[command(name = upstream::COMMAND, hide = true)]
    Upstream { imap: u16, smtp: u16, tokens: u16 },
}

#[derive(clap::Args)]
struct TableOptions {
    /// Rounds, of which the table has the median
    #[arg(long, default_value_t = 3)]
    rounds: u32,
    /// These proxies alone
    #[arg(long, value_delimiter = ',')]
    peers: Vec<Kind>,
    /// These rows alone
    #[arg(long, value_delimiter = ',')]
    rows: Vec<Row>,
    /// All values, as JSON
    #[arg(long)]
    json: Option<PathBuf>,
}

#[tokio::main]
async fn main() -> ExitCode {
    let cli = Cli::parse();
    let done = tokio::select! {
        done = run(cli) => done,
        interrupted = interrupted() => interrupted,
    };
    match done {
        Ok(status) => status,
        Err(error) => {
            say::progress(&format!("compare: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

async fn run(cli: Cli) -> Result<ExitCode> {
    let ground = Ground::new(cli.keep)?;
    allow_files()?;
    let programs = Programs { gatepost: cli.gatepost, python: cli.python };
    match cli.command {
        Command::Table(options) => table(&ground, programs, options).await,
        Command::Rtt { millis } => {
            say::result(&rtt::measure(&ground, &programs, Duration::from_millis(millis)).await?);
            Ok(ExitCode::SUCCESS)
        }
        Command::Idle { sessions } => {
            say::result(&idle::measure(&ground, &programs, sessions).await?);
            Ok(ExitCode::SUCCESS)
        }
        Command::Growth { sessions, accounts, to } => {
            growth::measure(&ground, &programs, [sessions, accounts], &to).await?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Callgrind { check } => {
            callgrind::measure(&ground, &programs, check.as_deref()).await
        }
        Command::Upstream { imap, smtp, tokens } => {
            let _upstream = Upstream::start(Ports { imap, smtp, tokens })?;
            pending().await
        }
    }
}

async fn table(ground: &Ground, programs: Programs, options: TableOptions) -> Result<ExitCode> {
    let kinds = all_if_empty(options.peers);
    let rows = all_if_empty(options.rows);
    let rounds = Rounds { rounds: options.rounds, kinds, rows, programs };
    let table = rounds.run(ground).await?;
    say::result(&table.markdown(&rounds.rows, &rounds.kinds));
    say::result(&table.bars());
    if let Some(file) = options.json {
        fs::write(file, serde_json::to_string_pretty(&table.json())?)?;
    }
    Ok(ExitCode::SUCCESS)
}

fn all_if_empty<T: ValueEnum + Clone + 'static>(chosen: Vec<T>) -> Vec<T> {
    match chosen.is_empty() {
        true => T::value_variants().to_vec(),
        false => chosen,
    }
}

/// What was started ends too.
async fn interrupted() -> Result<ExitCode> {
    let mut terminate = signal(SignalKind::terminate())?;
    tokio::select! {
        interrupt = tokio::signal::ctrl_c() => interrupt?,
        _ = terminate.recv() => {}
    }
    bail!("interrupted")
}
