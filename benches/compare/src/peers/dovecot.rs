//! Dovecot as a proxy: its login processes alone, in their high-performance mode (a process serves many connections).
//!
//! It has no notion of tokens that expire: the passdb hands out a fixed one.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};

use super::{Kind, Peer, Target, output, program};
use crate::ground::{Ground, certificate};
use crate::upstream::token;

/// What the client logs in with.
const PASSWORD: &str = "password-of-the-client";

pub(super) fn prepare(ground: &Ground, target: Target) -> Result<Peer> {
    let program = installed()?;
    let (folder, port) = (ground.folder("dovecot-proxy")?, ground.port()?);
    let file = folder.join("dovecot.conf");
    fs::write(&file, configuration(&folder, port, target, version(&program)?))?;
    Ok(Peer::new(Kind::Dovecot, folder, program, port)
        .arguments(["-F".into(), "-c".into(), file.into_os_string()])
        .password(PASSWORD))
}

/// Dovecot's program.
pub(super) fn installed() -> Result<std::path::PathBuf> {
    program("dovecot-imapd", &["/usr/sbin/dovecot", "/usr/local/sbin/dovecot"])
}

/// Since 2.4 the configuration is spelled otherwise.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Version {
    Before24,
    Since24,
}

pub(super) fn version(program: &Path) -> Result<Version> {
    let text = output(Command::new(program).arg("--version"))?;
    let mut numbers = text.split(['.', ' ']).map(|part| part.parse::<u32>().ok());
    let pair = (numbers.next().flatten(), numbers.next().flatten());
    let (Some(major), Some(minor)) = pair else {
        return Err(anyhow::anyhow!("dovecot --version said {text}"))
            .context("which Dovecot is it?");
    };
    Ok(if (major, minor) >= (2, 4) { Version::Since24 } else { Version::Before24 })
}

fn configuration(folder: &Path, port: u16, target: Target, version: Version) -> String {
    let Target { imap: upstream, .. } = target;
    let (ca, token) = (certificate("ca.pem"), token());
    let (ca, base) = (ca.display(), folder.display());
    let own = match version {
        Version::Before24 => format!(
            "disable_plaintext_auth = no
# Login processes trust this one, whatever ssl_client_ca_file says.
ssl_ca = <{ca}
ssl_require_crl = no
passdb {{
  driver = static
  args = password={PASSWORD} proxy=y host=localhost hostip=127.0.0.1 port={upstream} ssl=yes proxy_mech=xoauth2 pass={token}
}}
"
        ),
        Version::Since24 => format!(
            "dovecot_config_version = 2.4.0
dovecot_storage_version = 2.4.0
auth_allow_cleartext = yes
ssl_client_ca_file = {ca}
passdb static {{
  password = {PASSWORD}
  fields {{
    proxy = y
    host = localhost
    hostip = 127.0.0.1
    port = {upstream}
    ssl = yes
    proxy_mech = xoauth2
    pass = {token}
  }}
}}
"
        ),
    };
    // The version has to be the first setting.
    format!(
        "{own}
base_dir = {base}/run
state_dir = {base}/state
log_path = {base}/dovecot.log
protocols = imap
listen = 127.0.0.1
ssl = no
auth_mechanisms = plain login
default_internal_user = nobody
default_internal_group = nogroup
default_login_user = nobody
service imap-login {{
  chroot =
  service_count = 0
  process_min_avail = 2
  client_limit = 20000
  vsz_limit = 0
  inet_listener imap {{
    port = {port}
  }}
  inet_listener imaps {{
    port = 0
  }}
}}
service anvil {{
  chroot =
  client_limit = 20000
}}
service auth {{
  client_limit = 20000
}}
service stats {{
  chroot =
  client_limit = 20000
}}
"
    )
}
