//! Any text of a configuration.

use std::net::IpAddr;
use std::path::Path;

use gatepost::config::Config;

const FILE: &str = "/etc/gatepost.toml";

/// A configuration is whole, or the error tells file, line and remedy on two lines, and nothing of what may be a
/// secret: a value is shown only where it is not one.
pub fn check(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    match Config::parse_without_secrets(Path::new(FILE), text) {
        Ok(config) => check_whole(&config),
        Err(error) => check_error(&error.to_string(), text),
    }
}

fn check_error(error: &str, text: &str) {
    let (problem, hint) = error.split_once("\nhint: ").expect("no hint");
    let about = problem.strip_prefix(FILE).expect("no file");
    assert!(!hint.is_empty() && !about.is_empty());
    if let Some(line) = about.strip_prefix(", line ") {
        let digits: String = line.chars().take_while(char::is_ascii_digit).collect();
        let line: usize = digits.parse().expect("no number");
        assert!((1..=text.split('\n').count()).contains(&line), "line {line}");
    }
}

fn check_whole(config: &Config) {
    for account in &config.accounts {
        for name in std::iter::once(&account.mailbox).chain(&account.aliases) {
            assert!(!name.is_empty() && !name.contains(char::is_control), "{name:?}");
        }
        if account.pattern().is_none() {
            let found = config.account(&account.mailbox).expect("it answers to its name");
            assert_eq!(found.mailbox, account.mailbox);
            let louder = config.account(&account.mailbox.to_uppercase());
            assert!(
                !account.mailbox.is_ascii() || louder.is_some_and(|it| it.mailbox == found.mailbox)
            );
        }
    }
    for listener in &config.listeners {
        assert!(!listener.addresses.is_empty(), "{}", listener.name());
        assert!(!listener.name().contains(char::is_control));
    }
    for peer in ["127.0.0.1", "192.168.1.7", "::1", "fe80::1"] {
        let peer: IpAddr = peer.parse().expect("an address");
        if let Some(device) = config.device(peer) {
            assert!(config.devices.iter().any(|known| known.name == device.name));
        }
    }
}
