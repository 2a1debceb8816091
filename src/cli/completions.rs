//! `gatepost completions`: a shell's completion script.

use anyhow::Result;
use clap::CommandFactory;
use clap_complete::{Shell, generate};

use super::{Cli, ui};

#[derive(clap::Args)]
pub(super) struct Args {
    /// Which shell
    shell: Shell,
}

pub(super) fn completions(args: &Args) -> Result<()> {
    let mut script = Vec::new();
    generate(args.shell, &mut Cli::command(), "gatepost", &mut script);
    ui::out(String::from_utf8_lossy(&script).trim_end())
}
