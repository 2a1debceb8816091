//! The documents: each example of a configuration loads, and every key is described.

use std::fs;
use std::path::Path;

use gatepost::config::Config;

fn read(name: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(name)).unwrap()
}

/// The fenced blocks of this language.
fn blocks(text: &str, language: &str) -> Vec<String> {
    let start = format!("```{language}\n");
    text.split(&start).skip(1).map(|rest| rest.split("```").next().unwrap().to_owned()).collect()
}

#[test]
fn every_example_loads() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("gatepost.toml");
    let mut loaded = 0;
    for document in [
        "README.md",
        "docs/configuration.md",
        "docs/devices.md",
        "docs/entra.md",
        "docs/from-mapi.md",
        "docs/operations.md",
        "docs/security.md",
    ] {
        for block in blocks(&read(document), "toml") {
            fs::write(&file, &block).unwrap();
            // The secrets of the examples are nobody's.
            Config::load_without_secrets(&file)
                .unwrap_or_else(|error| panic!("{document}: {error}\n{block}"));
            loaded += 1;
        }
    }
    assert!(loaded >= 20, "only {loaded} examples were found");
}

#[test]
fn the_first_configuration_is_short() {
    let first = blocks(&read("README.md"), "toml").remove(0);
    assert!(first.lines().count() < 20);
}

/// The keys stand in the structs that the file is read into.
#[test]
fn every_key_is_described() {
    let source = read("src/config/raw.rs");
    let reference = read("docs/configuration.md");
    let keys = source.lines().filter_map(|line| {
        line.trim().strip_prefix("pub(super) ")?.split_once(": ").map(|(key, _)| key)
    });
    let mut described = 0;
    for key in keys {
        let heading =
            ["listener", "app", "account", "device", "spool", "guard", "provider", "store"]
                .contains(&key)
                && reference.contains(&format!("[{key}"));
        let nested = ["env", "file", "credential"].contains(&key)
            && reference.contains(&format!("{{ {key} ="));
        let named = reference.contains(&format!("`{key}`"));
        assert!(heading || nested || named, "docs/configuration.md does not describe {key}");
        described += 1;
    }
    assert!(described > 30, "only {described} keys were found");
}
