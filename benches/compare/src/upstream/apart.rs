//! The light upstream in a process of its own, for more sessions than one process may have files for.

use std::env;
use std::net::Ipv4Addr;
use std::process::Command;

use anyhow::Result;

use super::Ports;
use crate::ground::Ground;
use crate::process::Process;

/// The hidden command that runs it.
pub(crate) const COMMAND: &str = "upstream";

/// A process with an upstream, which ends when this is dropped.
pub(crate) struct Apart {
    pub(crate) ports: Ports,
    _process: Process,
}

impl Apart {
    pub(crate) async fn start(ground: &Ground) -> Result<Self> {
        let ports = Ports::new(ground)?;
        let Ports { imap, smtp, tokens } = ports;
        let mut command = Command::new(env::current_exe()?);
        command.arg(COMMAND).args([imap, smtp, tokens].map(|port| port.to_string()));
        let mut process = Process::start("upstream", &ground.folder("upstream")?, &mut command)?;
        process.listening((Ipv4Addr::LOCALHOST, imap).into()).await?;
        Ok(Self { ports, _process: process })
    }
}
