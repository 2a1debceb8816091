//! What to type into the mail client, and the commands that come next.

use std::path::Path;

use super::answers::{Answers, ListenerAnswer};
use super::{default_file, ports};
use crate::cli::ui;
use crate::secret::Secret;
use crate::vocabulary::{Protocol, TlsMode};

pub(super) struct Settings<'a> {
    pub(super) file: &'a Path,
    pub(super) answers: &'a Answers,
}

impl Settings<'_> {
    /// For the person. `password`: none was made; one that is on standard output; this one.
    pub(super) fn show(&self, password: Option<Option<&Secret<String>>>) {
        let mut rows = vec![["", "server", "port", "encryption"].map(str::to_owned)];
        rows.extend(self.answers.listeners.iter().map(row));
        ui::say("\nType this into the mail client:\n");
        for [protocol, server, port, encryption] in rows {
            ui::say(format!("  {protocol:<10} {server:<24} {port:<6} {encryption}").trim_end());
        }
        ui::say(&format!("\n  user name  {}", self.answers.mailbox));
        match password {
            Some(Some(password)) => ui::say(&format!(
                "  password   {}\n             (shown this once; letter case and hyphens don't matter)",
                password.expose()
            )),
            Some(None) => ui::say("  password   the one on standard output, shown this once"),
            None => ui::say("  password   there is none yet"),
        }
        if self.answers.listeners.iter().any(|listener| listener.tls != TlsMode::None) {
            ui::say(&format!(
                "\nThe certificate is self-made: accept it in the client, or let it trust what this prints:\n\
                 {}",
                self.command("certificate", false)
            ));
        }
    }

    /// What is left to do.
    pub(super) fn show_commands(&self, has_password: bool, signed_in: bool) {
        let mut lines = Vec::new();
        if !has_password {
            lines.push(("Make a password:", self.command("password add", true)));
        }
        if !signed_in {
            lines.push(("Sign in:", self.command("login", true)));
        }
        lines.push(("Start it:", self.command("run", false)));
        lines.push(("If it fails:", self.command("doctor", false)));
        ui::say("");
        for (what, command) in lines {
            ui::say(&format!("{what:<16}  {command}"));
        }
    }

    /// A command as it is to be typed for this configuration.
    fn command(&self, command: &str, with_mailbox: bool) -> String {
        let mut words = vec!["gatepost".to_owned(), command.to_owned()];
        if default_file().ok().as_deref() != Some(self.file) {
            words.extend(["--config".to_owned(), quoted(&self.file.to_string_lossy())]);
        }
        if with_mailbox {
            words.push(quoted(&self.answers.mailbox));
        }
        words.join(" ")
    }
}

fn row(listener: &ListenerAnswer) -> [String; 4] {
    let (host, port) = listener.listen.rsplit_once(':').unwrap_or((&listener.listen, ""));
    let host = match host.trim_matches(['[', ']']) {
        "0.0.0.0" | "::" => "this machine's address",
        "127.0.0.1" | "::1" if ports::is_local(&listener.listen) => "localhost",
        host => host,
    };
    let protocol = match listener.protocol {
        Protocol::Imap => "IMAP",
        Protocol::Pop3 => "POP3",
        Protocol::Smtp => "SMTP",
    };
    let encryption = match listener.tls {
        TlsMode::None => "none",
        TlsMode::StartTls => "STARTTLS",
        TlsMode::Implicit => "SSL/TLS",
    };
    [protocol, host, port, encryption].map(str::to_owned)
}

/// Fit for a shell.
fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_alphanumeric() || "/.@_-+:\\~".contains(c);
    match word.chars().all(plain) && (cfg!(windows) || !word.contains('\\')) {
        true => word.to_owned(),
        false if cfg!(windows) => format!("\"{word}\""),
        false => format!("'{}'", word.replace('\'', "'\\''")),
    }
}
