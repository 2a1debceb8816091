//! HAProxy: a TCP relay from plain to TLS, with resumption of sessions and one thread a core, as it does by default.

use std::fs;

use anyhow::Result;

use super::{Kind, Peer, Target, program};
use crate::ground::{Ground, certificate};

pub(super) fn prepare(ground: &Ground, target: Target) -> Result<Peer> {
    let program = program("haproxy", &["/usr/sbin/haproxy", "/usr/local/sbin/haproxy"])?;
    let (folder, port) = (ground.folder("haproxy")?, ground.port()?);
    let (file, upstream, ca) = (folder.join("haproxy.cfg"), target.imap, certificate("ca.pem"));
    let text = format!(
        "global
    nbthread 2
    maxconn 9000

defaults
    mode tcp
    timeout connect 10s
    timeout client 1h
    timeout server 1h

frontend imap
    bind 127.0.0.1:{port} backlog 4096
    default_backend exchange

backend exchange
    server exchange localhost:{upstream} ssl verify required ca-file {ca} verifyhost localhost sni str(localhost)
",
        ca = ca.display()
    );
    fs::write(&file, text)?;
    // -db: in the foreground, without a master process.
    Ok(Peer::new(Kind::Haproxy, folder, program, port).arguments([
        "-db".into(),
        "-f".into(),
        file.into_os_string(),
    ]))
}
