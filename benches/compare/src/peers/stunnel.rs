//! stunnel: TLS around a TCP connection, a thread for each, with resumption of sessions as it does by default.

use std::fs;

use anyhow::Result;

use super::{Kind, Peer, Target, program};
use crate::ground::{Ground, certificate};

pub(super) fn prepare(ground: &Ground, target: Target) -> Result<Peer> {
    let program = program("stunnel4", &["/usr/bin/stunnel", "/usr/bin/stunnel4"])?;
    let (folder, port) = (ground.folder("stunnel")?, ground.port()?);
    let (file, upstream, ca) = (folder.join("stunnel.conf"), target.imap, certificate("ca.pem"));
    let text = format!(
        "foreground = yes
pid =
debug = warning

[imap]
client = yes
accept = 127.0.0.1:{port}
connect = localhost:{upstream}
CAfile = {ca}
verifyChain = yes
checkHost = localhost
sni = localhost
",
        ca = ca.display()
    );
    fs::write(&file, text)?;
    Ok(Peer::new(Kind::Stunnel, folder, program, port).arguments([file]))
}
