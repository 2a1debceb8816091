//! The configuration as text, each key with a comment that says what it is for.
//!
//! Invariant: every value is written by the toml crate, and no answer stands in a comment, so that no answer can
//! become anything else than a value.

use std::collections::HashSet;
use std::path::Path;

use anyhow::{Context, Result};
use toml::{Table, Value};

use super::answers::{Answers, OwnProvider};
use crate::config::Grant;
use crate::vocabulary::Protocol;

/// An app's name, its key for what it authenticates with, and the value of that.
pub(super) struct AppKey<'a> {
    pub(super) name: &'a str,
    pub(super) proof: Option<(&'static str, Value)>,
}

/// The whole file. Paths in it are relative to `folder`, if they are inside.
pub(super) fn document(answers: &Answers, app: AppKey<'_>, folder: &Path) -> Result<String> {
    let mut page = Page::default();
    page.words(
        "gatepost: mail clients log in with an app password, the mail server sees OAuth 2.0. Made by \
         gatepost init; yours to edit, gatepost itself never changes it. Every key is described in \
         docs/configuration.md. After a change: gatepost check. Relative paths start from this file's \
         folder.",
    );
    page.text.push('\n');
    let words = "state_dir: where tokens, app passwords and the self-made certificate live, readable by \
                 their owner alone. Default: the platform's state folder.";
    match &answers.state_dir {
        Some(state) => page.key("state_dir", path(state, folder)?, words),
        None => page.left_out("state_dir = \"/var/lib/gatepost\"", words),
    }
    page.left_out(
        "on_attention = [\"/usr/local/bin/tell-the-admins\"]",
        "on_attention: a command that is run once when a person must act, or a secret is about to end.",
    );
    listeners(&mut page, answers);
    app_table(&mut page, answers, app.name, app.proof);
    account(&mut page, answers, app.name);
    if let Some(own) = &answers.own {
        provider(&mut page, &answers.provider, own, answers.grant, folder)?;
    }
    Ok(page.text)
}

fn listeners(page: &mut Page, answers: &Answers) {
    for listener in &answers.listeners {
        page.table("[[listener]]");
        page.key(
            "protocol",
            listener.protocol.name(),
            "protocol: what the mail client speaks here: imap, pop3 or smtp.",
        );
        page.key(
            "listen",
            listener.listen.as_str(),
            "listen: where it connects. \"localhost:PORT\" is for this machine alone; \"ADDRESS:PORT\" with an \
             address of this machine, or 0.0.0.0 for all of them, is for the network.",
        );
        page.key(
            "tls",
            listener.tls.to_string(),
            "tls: none (for localhost), starttls, or implicit (TLS from the first byte). \
             certificate and private_key name PEM files of your own; default: self-made ones in state_dir.",
        );
        page.key(
            "provider",
            answers.provider.as_str(),
            "provider: whose mail servers it leads to.",
        );
    }
}

fn app_table(page: &mut Page, answers: &Answers, name: &str, proof: Option<(&'static str, Value)>) {
    page.table(&format!("[app.{name}]"));
    page.key("provider", answers.provider.as_str(), "provider: where the app is registered.");
    if let Some(tenant) = &answers.tenant {
        page.key("tenant", tenant.as_str(), "tenant: domain or directory (tenant) id.");
    }
    if let Some(id) = &answers.client_id {
        page.key("client_id", id.as_str(), "client_id: the application (client) id.");
    }
    let words = "grant: authorization_code (a person, with a browser), device_code (a person, on another \
                 device), client_credentials (the app by itself), managed_identity or jwt_bearer.";
    page.key("grant", answers.grant.name(), words);
    if let Some((key, value)) = proof {
        let secret = key == "client_secret";
        page.key(key, value, &proof_words(key));
        if secret {
            page.left_out(
                "client_secret_expires = 2027-01-31",
                "client_secret_expires: the day on which the portal says that it ends; gatepost then warns in time.",
            );
        }
    }
    if !answers.scopes.is_empty() {
        let words = "scopes: what is asked for, instead of the provider's own.";
        page.key("scopes", answers.scopes.clone(), words);
    }
    let words = "redirect_uri: where a browser comes back to after a sign-in, as it is registered. \
                 Default: http://localhost with a free port.";
    match &answers.redirect_uri {
        Some(uri) => page.key("redirect_uri", uri.as_str(), words),
        None if answers.grant == Grant::AuthorizationCode => {
            page.left_out("redirect_uri = \"http://localhost:8400\"", words);
        }
        None => {}
    }
}

fn proof_words(key: &str) -> String {
    let what = match key {
        "client_secret" => "the client secret: { file = \"…\" } or { env = \"NAME\" }",
        "client_certificate" => "what the app proves itself with instead of a secret",
        _ => "the service account's key, in JSON",
    };
    format!(
        "{key}: {what}. It is read for each token request, so that it can be replaced at any time."
    )
}

fn account(page: &mut Page, answers: &Answers, app: &str) {
    page.table("[[account]]");
    let words =
        "mailbox: the mailbox that is opened, and the user name that the mail client logs in with.";
    page.key("mailbox", answers.mailbox.as_str(), words);
    page.key("app", app, "app: the app registration above, by its name.");
    let words = "signed_in_as: for a shared mailbox, the person whose sign-in opens it.";
    match &answers.signed_in_as {
        Some(person) => page.key("signed_in_as", person.as_str(), words),
        None if answers.grant.is_personal() => {
            page.left_out("signed_in_as = \"jane@contoso.com\"", words);
        }
        None => {}
    }
    page.left_out(
        "aliases = [\"contoso\\\\support\"]",
        "aliases: other user names that mean this mailbox.",
    );
}

fn provider(
    page: &mut Page,
    name: &str,
    own: &OwnProvider,
    grant: Grant,
    folder: &Path,
) -> Result<()> {
    page.table(&format!("[provider.{name}]"));
    let words = "token_url: the token endpoint, https (or http on this machine); {tenant} stands for the app's.";
    page.key("token_url", own.token_url.as_str(), words);
    let urls = [
        ("authorize_url", &own.authorize_url, "authorize_url: where a browser signs in."),
        ("device_url", &own.device_url, "device_url: where device codes come from."),
    ];
    for (key, url, words) in urls {
        if let Some(url) = url {
            page.key(key, url.as_str(), words);
        }
    }
    let words = "imap, pop3, smtp: the mail servers. \"HOST:PORT\" is TLS from the first byte, \
                 \"HOST:PORT starttls\" is STARTTLS.";
    for protocol in Protocol::ALL {
        if let Some((_, server)) = own.servers.iter().find(|(of, _)| *of == protocol) {
            page.key(protocol.name(), server.as_str(), words);
        }
    }
    let (key, words) = match grant.is_delegated() {
        true => ("scopes", "scopes: what people's sign-ins ask for."),
        false => ("app_scopes", "app_scopes: what an app by itself asks for."),
    };
    page.key(key, own.scopes.clone(), words);
    if let Some(file) = &own.ca_file {
        let words = "ca_file: certificates in PEM that are trusted besides the system's.";
        page.key("ca_file", path(file, folder)?, words);
    }
    Ok(())
}

/// Relative to `folder` if it is inside, else absolute.
pub(super) fn path(path: &Path, folder: &Path) -> Result<Value> {
    let absolute = std::path::absolute(path).with_context(|| path.display().to_string())?;
    let short = absolute.strip_prefix(folder).unwrap_or(&absolute);
    let text = short.to_str().with_context(|| {
        format!("{}: a configuration is text, and this path is not", path.display())
    })?;
    Ok(text.into())
}

/// `{ key = … }`
pub(super) fn inline<const N: usize>(keys: [(&str, Value); N]) -> Value {
    Value::Table(Table::from_iter(keys.map(|(key, value)| (key.to_owned(), value))))
}

/// The text so far.
#[derive(Default)]
struct Page {
    text: String,
    /// What need not be said again.
    said: HashSet<String>,
}

impl Page {
    fn table(&mut self, head: &str) {
        self.text.push_str(&format!("\n{head}\n"));
    }

    fn key(&mut self, key: &str, value: impl Into<Value>, words: &str) {
        self.words(words);
        self.text.push_str(&format!("{key} = {}\n", value.into()));
    }

    /// A key that is not needed, as an example that can be used.
    fn left_out(&mut self, example: &str, words: &str) {
        self.words(words);
        self.text.push_str(&format!("# {example}\n"));
    }

    fn words(&mut self, words: &str) {
        if self.said.insert(words.to_owned()) {
            self.text.push_str(&comment(words));
        }
    }
}

/// Lines of a comment, each narrow enough for a terminal of 80 columns.
fn comment(words: &str) -> String {
    let mut text = String::new();
    let mut line = String::from("#");
    for word in words.split_whitespace() {
        if line.len() + 1 + word.len() > 78 {
            text.push_str(&format!("{line}\n"));
            line = "#".into();
        }
        line.push(' ');
        line.push_str(word);
    }
    text + &line + "\n"
}
