//! email-oauth2-proxy, as its sample configuration has it for an app that signs in by itself.

use std::fs;
use std::path::absolute;

use anyhow::{Context, Result};

use super::{Kind, Peer, Programs, Target};
use crate::client::MAILBOX;
use crate::ground::{Ground, certificate};

/// What the client logs in with. The first login makes it the password of the account.
const PASSWORD: &str = "password-of-the-client";

pub(super) fn prepare(ground: &Ground, target: Target, programs: &Programs) -> Result<Peer> {
    let python = programs
        .python
        .as_ref()
        .context("no --python with email-oauth2-proxy: run.sh installs it")?;
    let (folder, port) = (ground.folder("email-oauth2-proxy")?, ground.port()?);
    let file = folder.join("emailproxy.config");
    let Target { imap, tokens, .. } = target;
    let text = format!(
        "[IMAP-{port}]
local_address = 127.0.0.1
server_address = localhost
server_port = {imap}

[{MAILBOX}]
token_url = http://127.0.0.1:{tokens}/token
oauth2_scope = https://outlook.office365.com/.default
oauth2_flow = client_credentials
redirect_uri = http://localhost
client_id = 00000000-0000-0000-0000-000000000000
client_secret = secret
"
    );
    fs::write(&file, text)?;
    Ok(Peer::new(Kind::EmailOauth2Proxy, folder, absolute(python)?, port)
        .arguments(["-m", "emailproxy", "--no-gui", "--config-file"])
        .arguments([file])
        .environment("SSL_CERT_FILE", certificate("ca.pem"))
        .password(PASSWORD))
}
