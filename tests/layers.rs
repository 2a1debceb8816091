//! The floors of the house: a module imports only from lower floors, never from its own or above.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test ends by panicking")]

use std::fs;
use std::path::{Path, PathBuf};

/// Top-level modules by floor, lowest first. A module that is not listed fails the test.
const FLOORS: [&[&str]; 9] = [
    &[
        "attention",
        "backoff",
        "clock",
        "confine",
        "descriptors",
        "explain",
        "json",
        "private_file",
        "resident",
        "secret",
        "supervisor",
        "vocabulary",
    ],
    &["config", "protocol"],
    &["entra", "net", "store"],
    &["access", "lobby", "oauth", "pace", "sessions"],
    &["direct", "signin", "upstream"],
    &["outbox"],
    &["connection", "doctor"],
    &["app"],
    &["cli"],
];

/// A crate of its own, below all floors: it judges the proxy, and shares nothing with it.
const INDEPENDENT: &str = "emulator";

fn floor(module: &str) -> usize {
    let floor = FLOORS.iter().position(|modules| modules.contains(&module));
    floor.unwrap_or_else(|| panic!("module {module} has no floor in tests/layers.rs"))
}

fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

/// `protocol` of `src/protocol/imap/mod.rs` and of `src/protocol.rs`.
fn module_of(path: &Path, root: &Path) -> String {
    let inside = path.strip_prefix(root).unwrap();
    inside
        .components()
        .next()
        .unwrap()
        .as_os_str()
        .to_str()
        .unwrap()
        .trim_end_matches(".rs")
        .to_owned()
}

/// The modules that a line of code names by `crate::`.
fn imports(line: &str) -> impl Iterator<Item = &str> {
    let code = line.split("//").next().unwrap();
    code.split("crate::").skip(1).map(|behind| {
        let end = behind.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(behind.len());
        &behind[..end]
    })
}

#[test]
fn modules_import_from_lower_floors_only() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    sources(&root, &mut files);
    let mut checked = 0;
    let mut wrong = Vec::new();
    for file in &files {
        let module = module_of(file, &root);
        if module == "lib" || module == "main" {
            continue;
        }
        for (number, line) in fs::read_to_string(file).unwrap().lines().enumerate() {
            for import in imports(line).filter(|it| *it != module && *it != INDEPENDENT) {
                checked += 1;
                if floor(import) >= floor(&module) {
                    wrong.push(format!(
                        "{}:{}: {module} imports {import}",
                        file.display(),
                        number + 1
                    ));
                }
            }
        }
    }
    assert!(checked > 50, "only {checked} imports were found: the test reads the sources wrongly");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
