//! Dovecot as the upstream: IMAP behind TLS, XOAUTH2 with any token, in its high-performance mode.

use std::fs;
use std::net::Ipv4Addr;
use std::os::unix::fs::chown;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};

use super::dovecot::{Version, installed, version};
use super::output;
use crate::ground::{Ground, certificate};
use crate::process::Process;

/// Dovecot reads no mail as root.
const USER: &str = "nobody";

/// A running Dovecot, which ends when this is dropped.
pub(crate) struct Backend {
    /// IMAP by TLS.
    pub(crate) port: u16,
    _process: Process,
}

impl Backend {
    pub(crate) async fn start(ground: &Ground) -> Result<Self> {
        let program = installed()?;
        let (folder, port) = (ground.folder("dovecot-upstream")?, ground.port()?);
        let file = folder.join("dovecot.conf");
        let (user, group) = (id("-u")?, id("-g")?);
        let mail = folder.join("mail");
        fs::create_dir(&mail)?;
        chown(&mail, Some(user), Some(group))
            .context("Dovecot's mail must be nobody's: run as root")?;
        fs::write(&file, configuration(&folder, port, (user, group), version(&program)?))?;
        let mut command = Command::new(program);
        let mut process =
            Process::start("upstream", &folder, command.arg("-F").arg("-c").arg(file))?;
        process.listening((Ipv4Addr::LOCALHOST, port).into()).await?;
        Ok(Self { port, _process: process })
    }
}

fn id(which: &str) -> Result<u32> {
    Ok(output(Command::new("id").args([which, USER]))?.parse()?)
}

fn configuration(folder: &Path, port: u16, (uid, gid): (u32, u32), version: Version) -> String {
    let (certificate, key) = (certificate("localhost.pem"), certificate("localhost.key"));
    let (certificate, key) = (certificate.display(), key.display());
    let base = folder.display();
    let own = match version {
        Version::Before24 => format!(
            "ssl_cert = <{certificate}
ssl_key = <{key}
mail_location = maildir:~/
passdb {{
  driver = static
  args = nopassword=y
}}
userdb {{
  driver = static
  args = uid={uid} gid={gid} home={base}/mail/%Lu
}}
"
        ),
        Version::Since24 => format!(
            "dovecot_config_version = 2.4.0
dovecot_storage_version = 2.4.0
ssl_server_cert_file = {certificate}
ssl_server_key_file = {key}
mail_driver = maildir
mail_path = ~/
passdb static {{
  fields {{
    nopassword = yes
  }}
}}
userdb static {{
  fields {{
    uid = {uid}
    gid = {gid}
    home = {base}/mail/%{{user | lower}}
  }}
}}
"
        ),
    };
    format!(
        "{own}
base_dir = {base}/run
state_dir = {base}/state
log_path = /dev/null
protocols = imap
listen = 127.0.0.1, ::1
ssl = required
auth_mechanisms = xoauth2
first_valid_uid = 1
mail_max_userip_connections = 0
default_internal_user = {USER}
default_internal_group = nogroup
default_login_user = {USER}
service imap-login {{
  chroot =
  service_count = 0
  process_min_avail = 2
  client_limit = 4000
  vsz_limit = 0
  inet_listener imap {{
    port = 0
  }}
  inet_listener imaps {{
    port = {port}
    ssl = yes
  }}
}}
service imap {{
  service_count = 0
  client_limit = 1
  process_min_avail = 32
  process_limit = 1000
}}
service anvil {{
  chroot =
}}
service stats {{
  chroot =
}}
"
    )
}
