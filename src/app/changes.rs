//! What another configuration changes, for people; and what it must not change.
//!
//! Invariant: names of the configuration, and nothing else of it.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use anyhow::{Result, bail};

use crate::config::{Account, App, Config, Device, Listener};

/// More than so many are counted.
const MOST_NAMED: usize = 5;

/// What differs between two configurations.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Changes {
    parts: Vec<String>,
    waiting: Vec<&'static str>,
}

/// A table of the configuration that may be there many times.
trait Named: PartialEq {
    fn name(&self) -> String;

    /// Whether nothing of its own differs.
    fn is_same(&self, other: &Self) -> bool {
        self == other
    }
}

impl Changes {
    /// From the one that is in force to another one.
    pub(super) fn between(former: &Config, new: &Config) -> Self {
        let mut parts = Vec::new();
        compare("listener", &former.listeners, &new.listeners, &mut parts);
        compare("app", &former.apps, &new.apps, &mut parts);
        compare("account", &former.accounts, &new.accounts, &mut parts);
        compare("device", &former.devices, &new.devices, &mut parts);
        for (what, differs) in [
            ("[spool]", former.spool != new.spool),
            ("[guard]", former.guard != new.guard),
            ("proxy", former.proxy != new.proxy),
            ("on_attention", former.on_attention != new.on_attention),
            ("confine", former.confine != new.confine),
            ("spare_connections", former.spare_connections != new.spare_connections),
        ] {
            if differs {
                parts.push(format!("{what} changed"));
            }
        }
        Self { parts, waiting: Vec::new() }
    }

    /// These keys are otherwise in the running process, which can't go by them before a restart.
    pub(super) fn but_for(self, waiting: Vec<&'static str>) -> Self {
        Self { waiting, ..self }
    }

    /// Keys of the new configuration that count after a restart alone.
    pub fn waiting(&self) -> &[&'static str] {
        &self.waiting
    }
}

impl fmt::Display for Changes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.parts.as_slice() {
            [] => f.write_str("nothing has changed in it"),
            parts => f.write_str(&parts.join(", ")),
        }
    }
}

fn compare<T: Named>(
    kind: &str,
    former: &[impl AsRef<T>],
    new: &[impl AsRef<T>],
    parts: &mut Vec<String>,
) {
    let (former, new) = (by_name(former), by_name(new));
    let missing = |of: &ByName<T>, from: &ByName<T>| {
        let missing = of.keys().filter(|name| !from.contains_key(*name));
        missing.cloned().collect::<Vec<_>>()
    };
    let same = |one: &[&T], two: &[&T]| {
        one.len() == two.len() && one.iter().zip(two).all(|(one, two)| one.is_same(two))
    };
    let changed =
        former.iter().filter(|(name, one)| new.get(*name).is_some_and(|two| !same(one, two)));
    let changed = changed.map(|(name, _)| name.clone()).collect();
    for (what, names) in [
        ("added", missing(&new, &former)),
        ("removed", missing(&former, &new)),
        ("changed", changed),
    ] {
        match names.len() {
            0 => {}
            1..=MOST_NAMED => parts.push(format!("{kind} {} {what}", names.join(" and "))),
            count => parts.push(format!("{count} {kind}s {what}")),
        }
    }
}

/// Several may have one name: listeners with port 0.
type ByName<'a, T> = BTreeMap<String, Vec<&'a T>>;

fn by_name<T: Named>(all: &[impl AsRef<T>]) -> ByName<'_, T> {
    let mut by_name = ByName::new();
    for one in all {
        by_name.entry(one.as_ref().name()).or_default().push(one.as_ref());
    }
    by_name
}

impl Named for Listener {
    fn name(&self) -> String {
        Self::name(self)
    }
}

impl Named for App {
    fn name(&self) -> String {
        self.name.clone()
    }
}

impl Named for Account {
    fn name(&self) -> String {
        self.mailbox.clone()
    }

    /// What is in its app is the app's.
    fn is_same(&self, other: &Self) -> bool {
        let app = Arc::clone(&other.app);
        self.app.name == app.name && Self { app, ..self.clone() } == *other
    }
}

impl Named for Device {
    fn name(&self) -> String {
        format!("{:?}", self.name)
    }
}

/// What is open for the life of the process.
pub(super) fn refuse_if_restart_needed(former: &Config, new: &Config) -> Result<()> {
    let (line, key) = match () {
        () if former.state_dir != new.state_dir => (new.lines.state_dir, "state_dir"),
        () if former.key_file != new.key_file => (new.lines.key, "store.key"),
        () => return Ok(()),
    };
    let file = new.file.display();
    // One that was left out has no line.
    let line = line.map(|line| format!(", line {line}")).unwrap_or_default();
    bail!(
        "{file}{line}, {key}: it can't be changed while gatepost runs\n\
         hint: systemctl restart gatepost, or write what it was before"
    )
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    const LISTENER: &str = "[[listener]]\nprotocol = \"imap\"\nlisten = \"127.0.0.1:1143\"\n";
    const APP: &str = "[app.a]\nclient_id = \"x\"\n";
    const JANE: &str = "[[account]]\nmailbox = \"jane@x\"\napp = \"a\"\n";
    const JOHN: &str = "[[account]]\nmailbox = \"john@x\"\napp = \"a\"\n";

    fn changes(former: &[&str], new: &[&str]) -> String {
        let config = |text: &[&str]| {
            let text = format!("state_dir = \"state\"\n{}", text.concat());
            Config::parse(Path::new("gatepost.toml"), &text).unwrap()
        };
        Changes::between(&config(former), &config(new)).to_string()
    }

    #[test]
    fn what_moves_within_the_file_has_not_changed() {
        let same = changes(&[LISTENER, APP, JANE, JOHN], &["# note\n", APP, JOHN, JANE, LISTENER]);
        assert_eq!(same, "nothing has changed in it");
    }

    #[test]
    fn changes_are_named() {
        let told = changes(
            &[LISTENER, APP, JANE],
            &[LISTENER, "tls = \"starttls\"\n", "[app.a]\nclient_id = \"y\"\n", JANE, JOHN],
        );
        assert_eq!(
            told,
            "listener imap 127.0.0.1:1143 changed, app a changed, account john@x added"
        );
        let other = APP.replace("app.a", "app.b");
        let moved = JANE.replace("\"a\"", "\"b\"");
        let told = changes(&[LISTENER, APP, JANE], &[LISTENER, &other, &moved]);
        assert_eq!(told, "app b added, app a removed, account jane@x changed");
        assert_eq!(changes(&[LISTENER], &["confine = false\n", LISTENER]), "confine changed");
        let told = changes(&[LISTENER], &["spare_connections = 3\n", LISTENER]);
        assert_eq!(told, "spare_connections changed");
        let told = changes(&[LISTENER, APP, JANE], &[APP, "[spool]\nsize = \"1 GB\"\n"]);
        assert_eq!(
            told,
            "listener imap 127.0.0.1:1143 removed, account jane@x removed, [spool] changed"
        );
    }
}
