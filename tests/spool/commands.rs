//! `gatepost spool` and what `gatepost status` says of spooled mail, as people and scripts call them.

use std::process::Output;

use gatepost::clock::{Clock, Timestamp};
use serde_json::Value;

use super::*;

const CONFIGURATION: &str = r#"state_dir = "state"
[app.lab]
client_id = "lab"
[[account]]
mailbox = "jane@contoso.example"
app     = "lab"
"#;

struct Bench(tempfile::TempDir);

impl Bench {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("gatepost.toml"), CONFIGURATION).unwrap();
        Self(folder)
    }

    fn spool(&self) -> Spool {
        open(&self.0.path().join("state"))
    }

    fn run(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_gatepost"));
        command.arg("--config").arg(self.0.path().join("gatepost.toml")).args(arguments);
        command.stdin(Stdio::null()).output().unwrap()
    }

    /// Runs, wants success, gives standard output.
    fn good(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        assert!(output.status.success(), "{arguments:?}: {}", words(&output));
        String::from_utf8(output.stdout).unwrap()
    }

    fn json(&self, arguments: &[&str]) -> Value {
        serde_json::from_str(&self.good(arguments)).unwrap()
    }

    /// Runs, wants this exit status and these words on standard error.
    fn bad(&self, arguments: &[&str], status: i32, wanted: &[&str]) {
        let output = self.run(arguments);
        assert_eq!(output.status.code(), Some(status), "{arguments:?}: {}", words(&output));
        assert!(output.stdout.is_empty(), "{arguments:?} prints on standard output");
        for word in wanted {
            let words = words(&output);
            assert!(words.contains(word), "{arguments:?}: no {word:?} in: {words}");
        }
    }
}

fn words(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Tried twice, and told that this mailbox may not use SMTP.
async fn try_in_vain(spool: &Spool, entry: &mut Entry) {
    let now = Clock::system().now();
    entry.progress.attempts = 2;
    entry.progress.last_try = Some(Timestamp::from_millis(now.as_millis() - 240_000));
    entry.progress.next_try = Some(now.plus(Duration::from_secs(600)));
    let said = "535 5.7.139 Authentication unsuccessful, SmtpClientAuthentication is disabled for the Mailbox.";
    entry.progress.last_error = Some(said.into());
    spool.note(entry, false).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn people_see_what_waits_and_what_to_do() {
    let bench = Bench::new();
    assert_eq!(bench.good(&["spool", "list"]).lines().count(), 1);
    assert_eq!(bench.json(&["spool", "list", "--json"])["waiting"], serde_json::json!([]));
    bench.bad(&["spool", "show", "1ABC"], 1, &["1ABC", "gatepost spool list"]);
    assert!(!bench.0.path().join("state/spool").exists(), "looking makes a spool");
    let spool = bench.spool();
    let fresh = put(&spool, 1_500_000).await;
    let mut tried = put(&spool, 500).await;
    try_in_vain(&spool, &mut tried).await;
    let list = bench.good(&["spool", "list"]);
    let lines: Vec<_> = list.lines().collect();
    assert!(lines[0].starts_with("ID "), "{list}");
    for word in [fresh.id.as_str(), JANE, "scanner", TO, "1.5 MB", " due"] {
        assert!(lines[1].contains(word), "no {word:?} in: {list}");
    }
    for word in [tried.id.as_str(), "next in ", "tried 2 times"] {
        assert!(lines[2].contains(word), "no {word:?} in: {list}");
    }
    let shown = bench.good(&["spool", "show", &tried.id.to_lowercase()]);
    for word in [&tried.id, "4 min ago: 535 5.7.139", "remedy     ", "Set-CASMailbox", TO] {
        assert!(shown.contains(word), "no {word:?} in: {shown}");
    }
    let json = bench.json(&["spool", "show", &tried.id, "--json"]);
    assert_eq!(
        (&json["place"], &json["message"]["progress"]["attempts"]),
        (&"queue".into(), &2.into())
    );
    assert_eq!(
        bench.good(&["spool", "show", &fresh.id, "--message"]).as_bytes(),
        message(1_500_000)
    );
    let status = bench.json(&["status", "--json"]);
    let status = &status["spool"][0];
    assert_eq!(
        (&status["mailbox"], &status["waiting"], &status["failed"]),
        (&JANE.into(), &2.into(), &0.into())
    );
    assert_eq!(status["oldest_at"], fresh.arrived.as_millis());
    assert!(status["remedy"].as_str().unwrap().contains("Set-CASMailbox"), "{status}");
    let status = bench.good(&["status"]);
    assert!(
        status.contains("2 waiting, the oldest for ") && status.contains("0 failed"),
        "{status}"
    );
    assert!(
        status.contains("4 min ago: 535 5.7.139") && status.contains("spool: remedy: "),
        "{status}"
    );
    spool.delivered(&tried, "250 2.0.0 OK").await.unwrap();
    let gone = bench.good(&["spool", "show", &tried.id]);
    assert!(gone.contains("was delivered at ") && gone.contains("250 2.0.0 OK"), "{gone}");
    bench.bad(&["spool", "show", &tried.id, "--message"], 1, &["it was delivered"]);
    bench.bad(&["spool", "retry", &tried.id], 1, &["was delivered already"]);
}

/// One recipient is refused, another is to wait: the remedy belongs to the words beside it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_remedy_is_for_what_was_said_last() {
    let bench = Bench::new();
    let spool = bench.spool();
    let mut entry = put(&spool, 100).await;
    try_in_vain(&spool, &mut entry).await;
    entry.progress.refused.push(("bad@b.example".into(), "550 5.1.10 RecipientNotFound".into()));
    spool.note(&entry, true).await.unwrap();
    let (status, shown) = (bench.good(&["status"]), bench.good(&["spool", "show", &entry.id]));
    for text in [status, shown] {
        assert!(text.contains("Set-CASMailbox") && !text.contains("address book"), "{text}");
    }
    // Words that nobody knows have no remedy, rather than that of others.
    entry.progress.last_error = Some("xyzzy".into());
    spool.note(&entry, true).await.unwrap();
    let status = bench.good(&["status"]);
    assert!(status.contains("xyzzy") && !status.contains("spool: remedy"), "{status}");
    // The other one has gone out: the refusal is what is left.
    entry.progress.last_error = None;
    spool.note(&entry, true).await.unwrap();
    let shown = bench.good(&["spool", "show", &entry.id]);
    assert!(shown.contains("address book"), "{shown}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn people_try_again_and_drop() {
    let bench = Bench::new();
    let say = bench.run(&["spool", "retry", "--all"]);
    assert!(say.status.success() && words(&say).contains("the spool is empty"), "{}", words(&say));
    let spool = bench.spool();
    let mut entries = Vec::new();
    for _ in 0..4 {
        let mut entry = put(&spool, 100).await;
        try_in_vain(&spool, &mut entry).await;
        entries.push(entry);
    }
    let [waits, one, two, three] = <[Entry; 4]>::try_from(entries).unwrap();
    for entry in [&one, &two, &three] {
        spool.fail(entry).await.unwrap();
    }
    let failed = bench.good(&["spool", "list", "--failed"]);
    assert!(failed.lines().count() == 4 && !failed.contains(&waits.id), "{failed}");
    assert_eq!(bench.json(&["status", "--json"])["spool"][0]["failed"], 3);
    // All four begin alike.
    bench.bad(&["spool", "retry", &one.id[..4]], 1, &["may be ", "hint: "]);
    bench.bad(&["spool", "drop", "1"], 2, &["too short", "hint: "]);
    bench.bad(&["spool", "drop"], 2, &["no message is named", "--all-failed"]);
    bench.bad(&["spool", "retry"], 2, &["no message is named", "--all"]);
    bench.bad(&["spool", "drop", "--all-failed", &one.id], 2, &["--all-failed"]);
    // Nothing is done when one of them is not known.
    bench.bad(&["spool", "drop", &one.id, "1NNNNNNNN"], 1, &["1NNNNNNNN"]);
    assert_eq!(spool.failed().await.unwrap().len(), 3);
    assert_eq!(bench.good(&["spool", "retry", &one.id, &waits.id[2..]]), "");
    let waiting = spool.waiting().await.unwrap();
    assert_eq!(ids(&waiting), [waits.id.as_str(), &one.id]);
    assert!(waiting.iter().all(|entry| entry.progress.next_try.is_none()), "{waiting:?}");
    assert_eq!(bench.good(&["spool", "drop", &waits.id]), "");
    assert_eq!(bench.good(&["spool", "drop", "--all-failed"]), "");
    assert!(spool.failed().await.unwrap().is_empty());
    assert_eq!(ids(&spool.waiting().await.unwrap()), [one.id.as_str()]);
    assert!(bench.good(&["spool", "show", &two.id]).contains("was dropped at "));
    bench.bad(&["spool", "drop", &two.id], 1, &["was dropped already"]);
    // A damaged one is listed, can be looked at, and goes by its name alone.
    fs::write(bench.0.path().join("state/spool/failed").join(&two.id), "half a mess").unwrap();
    assert!(bench.good(&["spool", "list"]).contains("damaged"));
    let status = bench.good(&["status"]);
    assert!(status.contains(&format!("message {} is damaged", two.id)), "{status}");
    assert!(status.contains(&format!("gatepost spool show {} --message", two.id)), "{status}");
    assert_eq!(bench.json(&["status", "--json"])["spool_damaged"][0]["id"], two.id);
    bench.bad(&["spool", "show", &two.id], 1, &["damaged", "--message"]);
    assert_eq!(bench.good(&["spool", "show", &two.id, "--message"]), "half a mess");
    bench.bad(&["spool", "retry", &two.id], 1, &["damaged"]);
    bench.good(&["spool", "drop", "--all-failed"]);
    assert!(bench.good(&["spool", "list"]).contains("damaged"));
    bench.good(&["spool", "drop", &two.id]);
    assert!(!bench.good(&["spool", "list"]).contains("damaged"));
}
