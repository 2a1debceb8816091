//! gatepost: a configuration as its quickstart writes it, one account, an app that signs in by itself.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use super::{Kind, Peer, Programs, Target, output};
use crate::client::{Door, MAILBOX};
use crate::ground::{Ground, certificate};

/// What differs between measurements.
pub(crate) struct Settings {
    /// Mailboxes besides the first.
    pub(crate) more: Vec<String>,
    /// Who signs in.
    pub(crate) grant: Grant,
    /// Landlock and seccomp, which Valgrind does not know.
    pub(crate) confine: bool,
}

/// Whose tokens there are.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Grant {
    /// The app's own: one for all mailboxes.
    App,
    /// Each person's.
    People,
}

impl Default for Settings {
    fn default() -> Self {
        Self { more: Vec::new(), grant: Grant::App, confine: true }
    }
}

/// A prepared gatepost with its two doors.
pub(crate) struct Gatepost {
    pub(crate) peer: Peer,
    /// SMTP; that of `peer` is IMAP.
    pub(crate) smtp: Door,
    /// Its configuration.
    pub(crate) file: PathBuf,
}

pub(super) fn prepare(ground: &Ground, target: Target, programs: &Programs) -> Result<Peer> {
    Ok(prepare_with(ground, target, &programs.gatepost, &Settings::default())?.peer)
}

/// The same, with settings.
pub(crate) fn prepare_with(
    ground: &Ground,
    target: Target,
    binary: &Path,
    settings: &Settings,
) -> Result<Gatepost> {
    let binary = binary
        .canonicalize()
        .with_context(|| format!("{} is missing: cargo build --release", binary.display()))?;
    let (folder, imap, smtp) = (ground.folder("gatepost")?, ground.port()?, ground.port()?);
    let state = folder.join("state");
    // What is in it decides where gatepost asks for tokens: it refuses one that others can write.
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o700))?;
    let secret = folder.join("client-secret");
    fs::write(&secret, "secret\n")?;
    fs::set_permissions(&secret, fs::Permissions::from_mode(0o600))?;
    let file = folder.join("gatepost.toml");
    fs::write(&file, configuration(&state, &secret, [imap, smtp], target, settings))?;
    let mut add = Command::new(&binary);
    let password = output(add.args(["password", "add", MAILBOX, "--config"]).arg(&file))?;
    ensure!(!password.is_empty(), "gatepost password add has printed no password");
    let peer = Peer::new(Kind::Gatepost, folder, binary, imap)
        .arguments(["run".into(), "--config".into(), file.clone().into_os_string()])
        .password(&password);
    let smtp = Door::new(smtp, None, peer.door.proof.clone());
    Ok(Gatepost { peer, smtp, file })
}

fn configuration(
    state: &Path,
    secret: &Path,
    [imap, smtp]: [u16; 2],
    target: Target,
    settings: &Settings,
) -> String {
    let confine = settings.confine;
    let grant = match settings.grant {
        Grant::App => "client_credentials",
        Grant::People => "authorization_code",
    };
    // The shortest spelling: a hundred thousand of them have to fit into a configuration's 4 MiB.
    let mailboxes = [MAILBOX].into_iter().chain(settings.more.iter().map(String::as_str));
    let account = |mailbox| format!("{{mailbox=\"{mailbox}\",app=\"lab\"}},\n");
    let accounts: String = mailboxes.map(account).collect();
    let Target { imap: imap_target, smtp: smtp_target, tokens } = target;
    let ca = certificate("ca.pem");
    let (state, secret, ca) = (state.display(), secret.display(), ca.display());
    format!(
        "state_dir = \"{state}\"
confine = {confine}
account = [
{accounts}]

[[listener]]
protocol = \"imap\"
listen = \"127.0.0.1:{imap}\"
provider = \"lab\"

[[listener]]
protocol = \"smtp\"
listen = \"127.0.0.1:{smtp}\"
provider = \"lab\"

[provider.lab]
token_url = \"http://127.0.0.1:{tokens}/token\"
imap = \"localhost:{imap_target}\"
smtp = \"localhost:{smtp_target} starttls\"
authorize_url = \"http://127.0.0.1:{tokens}/authorize\"
scopes = [\"https://outlook.office.com/IMAP.AccessAsUser.All\", \"offline_access\"]
app_scopes = [\"https://outlook.office365.com/.default\"]
ca_file = \"{ca}\"
# The upstream here has none of Exchange's.
limits = {{ connections = 0, messages_per_minute = 0 }}

[app.lab]
provider = \"lab\"
client_id = \"00000000-0000-0000-0000-000000000000\"
client_secret = {{ file = \"{secret}\" }}
grant = \"{grant}\"
"
    )
}
