//! A process that is killed while it takes messages.

use std::io::{BufRead, BufReader};

use super::*;

/// In the environment of a child: where it writes until it is killed.
const WRITER: &str = "GATEPOST_TEST_SPOOL";

/// Not a test of its own: what `nothing_accepted_is_lost_when_the_process_is_killed` kills.
#[test]
fn writer() {
    let Some(folder) = std::env::var_os(WRITER) else { return };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let spool = open(Path::new(&folder));
        let tasks = (0..6).map(|task| {
            let spool = spool.clone();
            tokio::spawn(async move {
                for round in 0.. {
                    let octets = [200, 70_000, 400, 200_000][(task + round) % 4];
                    let entry = put(&spool, octets).await;
                    println!("\naccepted {} {octets}", entry.id);
                }
            })
        });
        for task in tasks.collect::<Vec<_>>() {
            task.await.unwrap();
        }
    });
}

#[tokio::test]
async fn nothing_accepted_is_lost_when_the_process_is_killed() {
    let folder = tempfile::tempdir().unwrap();
    let mut accepted = Vec::new();
    for round in 0..20 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "crashes::writer", "--nocapture", "--test-threads=1"])
            .env(WRITER, folder.path())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
        let mut read = |line: String| {
            let mut words = line.split(' ').skip_while(|word| *word != "accepted").skip(1);
            if let (Some(id), Some(octets)) = (words.next(), words.next()) {
                accepted.push((id.to_owned(), octets.parse::<usize>().unwrap()));
            }
        };
        lines.by_ref().take(4).for_each(&mut read);
        std::thread::sleep(Duration::from_micros(fastrand::u64(0..3_000) * round));
        child.kill().unwrap();
        child.wait().unwrap();
        lines.for_each(&mut read);
    }
    assert!(accepted.len() > 40, "only {} were accepted", accepted.len());
    let spool = open(folder.path());
    let waiting = spool.waiting().await.unwrap();
    assert_eq!(spool.damaged().await.unwrap(), []);
    for (id, octets) in &accepted {
        let entry = waiting.iter().find(|entry| entry.id == *id);
        let entry = entry.unwrap_or_else(|| panic!("{id} is lost"));
        let kept = spool.content(entry).await.unwrap().read_all().await.unwrap();
        assert!(kept == message(*octets), "{id} was altered");
    }
    // What was accepted without a word being heard of it: one for each of the tasks of a child.
    assert!(waiting.len() <= accepted.len() + 20 * 6);
}
