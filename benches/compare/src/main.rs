//! gatepost beside other proxies on one machine. `run.sh` installs them and calls this.
//!
//! | file | what it holds |
//! | --- | --- |
//! | `rounds`, `table` | `table`: all proxies in turn |
//! | `peers/` | how each of them is configured and started |
//! | `upstream/` | what they lead to: a server of canned answers |
//! | `client`, `wire` | what logs in to them |
//! | `process`, `measure` | what they use |
//! | `ground`, `tls`, `statistic`, `say` | what these need |
//!
//! Invariant: whatever is started ends with this program, traffic is on loopback alone, and each proxy is measured by
//! the same clients with the same upstream.

mod client;
mod ground;
mod measure;
mod peers;
mod process;
mod rounds;
mod say;
mod statistic;
mod table;
mod tls;
mod upstream;
mod wire;

use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Result, bail};
use clap::{Parser, Subcommand, ValueEnum};
use tokio::signal::unix::{SignalKind, signal};

use ground::{Ground, allow_files};
use peers::{Kind, Programs};
use rounds::Rounds;
use table::Row;

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
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// All proxies side by side, as a table
    Table(TableOptions),
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
    let ground = Ground::new()?;
    allow_files()?;
    let programs = Programs { gatepost: cli.gatepost, python: cli.python };
    match cli.command {
        Command::Table(options) => table(&ground, programs, options).await,
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
