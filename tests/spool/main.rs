//! The spool on the disk: what was accepted stays, whatever ends the process; what was not is not there.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "tests"
)]

mod commands;
mod crashes;
mod measures;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use gatepost::clock::{Clock, Timestamp};
use gatepost::config::{SenderRule, SpoolSettings};
use gatepost::outbox::{Entry, Place, Source, Spool, SpoolError, What};
use gatepost::protocol::{Envelope, Recipient};

const JANE: &str = "jane@contoso.example";
const TO: &str = "post@fabrikam.example";

/// A message that needs no mending.
const HEADER: &str = "Date: Mon, 3 Mar 2025 08:00:00 +0000\r\nMessage-ID: <1@contoso.example>\r\n\
    From: jane@contoso.example\r\nTo: post@fabrikam.example\r\nSubject: scan\r\n\r\n";

fn settings(size: u64) -> SpoolSettings {
    SpoolSettings { size, ..SpoolSettings::default() }
}

fn open(folder: &Path) -> Spool {
    Spool::open(folder, &settings(1 << 30), Clock::system()).unwrap()
}

fn source() -> Source {
    let sender = SenderRule::Keep;
    Source { mailbox: JANE.into(), device: "scanner".into(), peer: None, sender }
}

fn envelope() -> Envelope {
    let recipient = Recipient { address: TO.into(), parameters: Vec::new() };
    Envelope { sender: JANE.into(), parameters: Vec::new(), recipients: vec![recipient] }
}

fn message(octets: usize) -> Vec<u8> {
    let mut message = HEADER.as_bytes().to_vec();
    while message.len() + 20 < octets {
        message.extend_from_slice(b"seventy-six letters\r\n");
    }
    message
}

async fn put(spool: &Spool, octets: usize) -> Entry {
    spool.enqueue(source(), envelope(), &message(octets), false).await.unwrap()
}

fn ids(entries: &[Entry]) -> Vec<&str> {
    entries.iter().map(|entry| entry.id.as_str()).collect()
}

fn names(folder: PathBuf) -> Vec<String> {
    let files = fs::read_dir(folder).unwrap();
    let mut names: Vec<_> =
        files.map(|file| file.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[tokio::test]
async fn taken_read_and_delivered() {
    let folder = tempfile::tempdir().unwrap();
    let spool = open(folder.path());
    let mut expected = message(200_000);
    expected.extend_from_slice(b"8-bit \xff\r\n");
    let mut incoming = spool.receive(source(), envelope()).await.unwrap();
    for piece in expected.chunks(777) {
        incoming.write(piece).await.unwrap();
    }
    assert!(spool.waiting().await.unwrap().is_empty(), "waits before its commit");
    let entry = incoming.commit(vec!["bare line feeds".into()]).await.unwrap();
    assert_eq!(entry.mends, ["bare line feeds"]);
    assert_eq!(entry.size, u64::try_from(expected.len()).unwrap());
    for spool in [&spool, &open(folder.path())] {
        assert_eq!(spool.waiting().await.unwrap(), std::slice::from_ref(&entry));
        let mut content = spool.content(&entry).await.unwrap();
        assert!(content.read_all().await.unwrap() == expected);
        assert_eq!(spool.header(&entry, 1 << 20).await.unwrap(), HEADER.as_bytes());
    }
    spool.delivered(&entry, "250 2.0.0 OK").await.unwrap();
    assert!(spool.waiting().await.unwrap().is_empty());
    assert!(matches!(spool.content(&entry).await, Err(SpoolError::Gone(_))));
    let event = spool.journal().recent(&entry.id).unwrap();
    assert_eq!((event.event, event.said.as_str()), (What::Delivered, "250 2.0.0 OK"));
    for part in ["incoming", "queue", "failed"] {
        assert_eq!(names(folder.path().join("spool").join(part)), [""; 0], "{part}");
    }
}

#[tokio::test]
async fn what_was_not_committed_is_not_there() {
    let folder = tempfile::tempdir().unwrap();
    let spool = open(folder.path());
    for octets in [10, 1_000, 300_000] {
        let mut incoming = spool.receive(source(), envelope()).await.unwrap();
        incoming.write(&message(octets)).await.unwrap();
        assert_eq!(names(folder.path().join("spool/incoming")).is_empty(), octets < 300_000);
        drop(incoming);
        assert_eq!(names(folder.path().join("spool/incoming")), [""; 0]);
    }
    assert!(spool.waiting().await.unwrap().is_empty());
    // A write that nobody waits for leaves nothing either, and nothing can follow it.
    let mut incoming = spool.receive(source(), envelope()).await.unwrap();
    let big = message(1 << 20);
    assert!(incoming.write(&big).now_or_never().is_none(), "a megabyte was written in no time");
    assert!(incoming.commit(Vec::new()).await.is_err());
    assert!(spool.waiting().await.unwrap().is_empty());
    // A commit that nobody waits for goes to its end.
    let mut incoming = spool.receive(source(), envelope()).await.unwrap();
    incoming.write(&message(100)).await.unwrap();
    assert!(incoming.commit(Vec::new()).now_or_never().is_none(), "a commit took no time");
    let arrived = async {
        while spool.waiting().await.unwrap().is_empty() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), arrived).await.expect("the commit did not go on");
    assert_eq!(names(folder.path().join("spool/incoming")), [""; 0]);
}

/// Odd headers come out as they went in, wherever the pieces end.
#[tokio::test]
async fn any_octets_in_any_pieces() {
    let folder = tempfile::tempdir().unwrap();
    let spool = open(folder.path());
    let long = format!("X-Long: {}\r\n", "a".repeat(300 << 10));
    let bodies: [&[u8]; 3] = [b"", b"\r\n\r\nbody\r\n", b"a\r\n\r\n\r\nb"];
    for body in bodies {
        for head in [HEADER.to_owned(), format!("{long}{HEADER}")] {
            let expected = [head.as_bytes(), body].concat();
            for piece in [1, 3, 4096, 1 << 20] {
                if piece < 4096 && head.len() > 4096 {
                    continue;
                }
                let mut incoming = spool.receive(source(), envelope()).await.unwrap();
                for piece in expected.chunks(piece) {
                    incoming.write(piece).await.unwrap();
                }
                let entry = incoming.commit(Vec::new()).await.unwrap();
                let kept = spool.content(&entry).await.unwrap().read_all().await.unwrap();
                assert!(kept == expected, "{} octets in pieces of {piece}", expected.len());
                assert_eq!(entry.mends.len(), usize::from(head.len() > 4096), "{:?}", entry.mends);
            }
        }
    }
}

#[tokio::test]
async fn a_full_spool_says_so_and_takes_again_when_there_is_room() {
    let folder = tempfile::tempdir().unwrap();
    let spool = Spool::open(folder.path(), &settings(300_000), Clock::system()).unwrap();
    let kept = put(&spool, 100_000).await;
    // Two that come at once don't take together more than there is.
    let mut one = spool.receive(source(), envelope()).await.unwrap();
    let mut two = spool.receive(source(), envelope()).await.unwrap();
    let half = message(140_000);
    one.write(&half).await.unwrap();
    let mut failed = two.write(&half).await.err();
    if failed.is_none() {
        failed = two.commit(Vec::new()).await.err();
    } else {
        drop(two);
    }
    let failed = failed.unwrap();
    assert!(failed.is_full() && failed.to_string().contains("hint: "), "{failed}");
    drop(one);
    let big = spool.enqueue(source(), envelope(), &message(250_000), false).await;
    assert!(big.unwrap_err().is_full());
    assert_eq!(names(folder.path().join("spool/incoming")), [""; 0]);
    assert_eq!(spool.waiting().await.unwrap().len(), 1);
    // A report of a failure is taken all the same.
    let report = spool.enqueue(source(), envelope(), &message(250_000), true).await.unwrap();
    assert!(report.bounce);
    assert!(spool.receive(source(), envelope()).await.unwrap_err().is_full());
    spool.delivered(&report, "").await.unwrap();
    // What another process removes makes room.
    let two = put(&spool, 190_000).await;
    assert!(spool.enqueue(source(), envelope(), &message(50_000), false).await.is_err());
    let other = open(folder.path());
    assert!(other.drop_message(&two.id).await.unwrap());
    put(&spool, 190_000).await;
    // What has failed takes room too: it is on the disk.
    spool.fail(&kept).await.unwrap();
    assert!(spool.enqueue(source(), envelope(), &message(50_000), false).await.is_err());
    // So it does in a new process.
    let again = Spool::open(folder.path(), &settings(300_000), Clock::system()).unwrap();
    assert!(again.enqueue(source(), envelope(), &message(50_000), false).await.is_err());
    again.set(&settings(400_000));
    put(&again, 50_000).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ids_sort_in_order_of_arrival_and_are_unique() {
    let folder = tempfile::tempdir().unwrap();
    let clock = Clock::with_tokio();
    let one = Spool::open(folder.path(), &settings(1 << 30), clock.clone()).unwrap();
    let two = Spool::open(folder.path(), &settings(1 << 30), clock.clone()).unwrap();
    let tasks = (0..8).map(|number| {
        let spool = if number % 2 == 0 { one.clone() } else { two.clone() };
        tokio::spawn(async move {
            let mut ids = Vec::new();
            for _ in 0..20 {
                ids.push(put(&spool, 100).await.id);
            }
            assert!(ids.is_sorted(), "{ids:?}");
            ids
        })
    });
    let mut all = BTreeSet::new();
    for task in tasks.collect::<Vec<_>>() {
        all.extend(task.await.unwrap());
    }
    assert_eq!(all.len(), 160);
    let waiting = one.waiting().await.unwrap();
    assert_eq!(ids(&waiting), all.iter().map(String::as_str).collect::<Vec<_>>());
    // A clock that was set back meanwhile does not put new ones before them.
    clock.set_off(-3_600_000);
    let late = Spool::open(folder.path(), &settings(1 << 30), clock).unwrap();
    let newest = put(&late, 100).await;
    assert!(Some(&newest.id) > all.last(), "{} {all:?}", newest.id);
    // A name from the far future does not carry others there.
    fs::write(folder.path().join("spool/queue/ZZZZZZZZZ"), "").unwrap();
    let later = put(&open(folder.path()), 100).await;
    assert!(later.id > newest.id && later.id.as_str() < "2", "{}", later.id);
}

#[tokio::test]
async fn failed_and_tried_again_beside_another_process() {
    let folder = tempfile::tempdir().unwrap();
    let clock = Clock::with_tokio();
    let proxy = Spool::open(folder.path(), &settings(1 << 30), clock.clone()).unwrap();
    let _lock = proxy.lock().unwrap().unwrap();
    let hand = open(folder.path());
    assert!(hand.lock().unwrap().is_none(), "two deliver");
    let mut entry = put(&proxy, 500).await;
    entry.progress.attempts = 3;
    entry.progress.last_error = Some("451 4.7.0 later".into());
    entry.progress.next_try = Some(Timestamp::from_millis(i64::MAX));
    proxy.note(&entry, false).await.unwrap();
    assert_eq!(hand.waiting().await.unwrap(), [entry.clone()]);
    // Due now, and nothing else is forgotten.
    let stamp = proxy.stamp();
    assert!(hand.retry(&entry.id).await.unwrap());
    assert_ne!(proxy.stamp(), stamp, "the proxy can't see it");
    let due = proxy.waiting().await.unwrap().remove(0);
    assert_eq!((due.progress.next_try, due.progress.attempts), (None, 3));
    // A new attempt ends that.
    entry.progress.attempts = 4;
    entry.progress.done = vec!["served@fabrikam.example".into()];
    entry.progress.refused = vec![(TO.into(), "550 5.1.1 nobody".into())];
    proxy.note(&entry, false).await.unwrap();
    assert_eq!(proxy.waiting().await.unwrap(), [entry.clone()]);
    proxy.fail(&entry).await.unwrap();
    assert!(proxy.waiting().await.unwrap().is_empty());
    assert_eq!(proxy.find(&entry.id).await.unwrap(), Some((entry.clone(), Place::Failed)));
    assert_eq!(hand.failed().await.unwrap(), [entry.clone()]);
    assert_eq!(hand.journal().recent(&entry.id).unwrap().event, What::Failed);
    assert_eq!(names(folder.path().join("spool/queue")), [""; 0]);
    // Anew, but not at those that have it; and the time until it fails begins anew.
    clock.set_off(86_400_000);
    let stamp = proxy.stamp();
    assert!(hand.retry(&entry.id).await.unwrap());
    assert_ne!(proxy.stamp(), stamp);
    let again = proxy.waiting().await.unwrap().remove(0);
    assert_eq!((again.progress.attempts, &again.progress.done), (0, &entry.progress.done));
    assert!(again.progress.refused.is_empty() && again.since() > again.arrived, "{again:?}");
    assert_eq!(names(folder.path().join("spool/failed")), [""; 0]);
    // Dropped while it is handed over.
    let mut content = proxy.content(&again).await.unwrap();
    let stamp = proxy.stamp();
    assert!(hand.drop_message(&entry.id).await.unwrap());
    assert_ne!(proxy.stamp(), stamp);
    assert_eq!(content.read_all().await.unwrap(), message(500));
    assert!(matches!(proxy.note(&again, true).await, Err(SpoolError::Gone(_))));
    assert!(matches!(proxy.fail(&again).await, Err(SpoolError::Gone(_))));
    assert_eq!(hand.journal().recent(&entry.id).unwrap().event, What::Dropped);
    proxy.delivered(&again, "250 OK").await.unwrap();
    assert_eq!(names(folder.path().join("spool/queue")), [""; 0]);
    assert_eq!(names(folder.path().join("spool/failed")), [""; 0]);
    for id in [entry.id.as_str(), "../../../etc/passwd", "lock", ""] {
        assert!(!hand.retry(id).await.unwrap() && !hand.drop_message(id).await.unwrap(), "{id}");
        assert!(hand.find(id).await.unwrap().is_none(), "{id}");
    }
}

#[tokio::test]
async fn the_process_that_delivers_sees_what_another_one_puts_in() {
    let folder = tempfile::tempdir().unwrap();
    let proxy = open(folder.path());
    let lock = proxy.lock().unwrap().unwrap();
    let stamp = proxy.stamp();
    let own = put(&proxy, 100).await;
    assert!(proxy.stamp() == stamp);
    let others = put(&open(folder.path()), 100).await;
    assert!(proxy.stamp() != stamp);
    assert_eq!(ids(&proxy.waiting().await.unwrap()), [own.id, others.id]);
    drop(lock);
    assert!(open(folder.path()).lock().unwrap().is_some(), "the turn did not end");
}

#[tokio::test]
async fn what_is_damaged_is_kept_and_shown() {
    let folder = tempfile::tempdir().unwrap();
    let spool = open(folder.path());
    let mut entries = Vec::new();
    for _ in 0..6 {
        entries.push(put(&spool, 5_000).await);
    }
    let queue = folder.path().join("spool/queue");
    let path = |number: usize| queue.join(&entries[number].id);
    let whole = fs::read(path(0)).unwrap();
    let damages =
        [&whole[..0], &whole[..5], &whole[..4_000], &whole[1..], &[&whole[..], b"\n"].concat()];
    for (number, damage) in damages.into_iter().enumerate() {
        fs::write(path(number), damage).unwrap();
    }
    fs::write(queue.join("notes.txt"), "somebody's").unwrap();
    // Whoever does not deliver leaves them where they are.
    let reader = open(folder.path());
    assert_eq!(ids(&reader.waiting().await.unwrap()), [entries[5].id.as_str()]);
    assert_eq!(names(queue.clone()).len(), 7);
    let damaged = reader.damaged().await.unwrap();
    let named: Vec<_> = damaged.iter().map(|damaged| damaged.id.clone()).collect();
    assert_eq!(named, entries[..5].iter().map(|entry| entry.id.clone()).collect::<Vec<_>>());
    assert!(damaged.iter().all(|damaged| !damaged.why.is_empty()), "{damaged:?}");
    assert!(matches!(reader.find(&entries[2].id).await, Err(SpoolError::Damaged { .. })));
    let proxy = open(folder.path());
    let _lock = proxy.lock().unwrap().unwrap();
    assert_eq!(ids(&proxy.waiting().await.unwrap()), [entries[5].id.as_str()]);
    assert_eq!(names(folder.path().join("spool/failed")).len(), 5);
    for (entry, damage) in entries.iter().zip(damages) {
        let kept = fs::read(folder.path().join("spool/failed").join(&entry.id)).unwrap();
        assert!(kept == damage, "{} was altered", entry.id);
        let mut content = proxy.content_of(&entry.id).await.unwrap();
        assert!(content.read_all().await.unwrap() == damage);
    }
    assert_eq!(reader.damaged().await.unwrap(), damaged);
    assert!(reader.drop_message(&entries[0].id).await.unwrap());
    assert_eq!(reader.damaged().await.unwrap(), damaged[1..]);
    // A message whose progress is damaged begins anew.
    fs::write(queue.join(format!("{}.progress", entries[5].id)), "").unwrap();
    assert_eq!(proxy.waiting().await.unwrap(), entries[5..]);
    assert_eq!(fs::read(queue.join("notes.txt")).unwrap(), b"somebody's");
}

#[cfg(unix)]
#[tokio::test]
async fn nobody_else_may_read_it() {
    use std::os::unix::fs::{MetadataExt, PermissionsExt};

    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("spool");
    fs::create_dir(&root).unwrap();
    fs::set_permissions(&root, fs::Permissions::from_mode(0o755)).unwrap();
    let spool = open(folder.path());
    let mut entry = put(&spool, 100).await;
    entry.progress.attempts = 1;
    spool.note(&entry, true).await.unwrap();
    let mut coming = spool.receive(source(), envelope()).await.unwrap();
    coming.write(&message(100_000)).await.unwrap();
    assert_eq!(names(root.join("incoming")).len(), 1);
    spool.delivered(&put(&spool, 100).await, "").await.unwrap();
    assert!(spool.lock().unwrap().is_some());
    for (name, mode) in [("", 0o700), ("incoming", 0o700), ("queue", 0o700), ("failed", 0o700)] {
        assert_eq!(fs::metadata(root.join(name)).unwrap().mode() & 0o777, mode, "{name}");
        for file in names(root.join(name)) {
            let file = fs::metadata(root.join(name).join(&file)).unwrap();
            assert!(file.mode() & 0o077 == 0, "{file:?}");
        }
    }
}

#[tokio::test]
async fn a_message_is_found_by_a_part_of_its_id() {
    let folder = tempfile::tempdir().unwrap();
    let spool = open(folder.path());
    let one = put(&spool, 100).await.id;
    let two = put(&spool, 100).await.id;
    spool.fail(&spool.find(&two).await.unwrap().unwrap().0).await.unwrap();
    assert_eq!(spool.ids_like(&one).await.unwrap(), std::slice::from_ref(&one));
    assert_eq!(spool.ids_like(&one[..3]).await.unwrap(), [one.clone(), two.clone()]);
    assert_eq!(spool.ids_like(&two[5..].to_lowercase()).await.unwrap(), std::slice::from_ref(&two));
    assert_eq!(spool.ids_like("1").await.unwrap().len(), 2, "{one}: its first digit until 2039");
    assert_eq!(spool.ids_like("nothing").await.unwrap(), [""; 0]);
}

#[tokio::test]
async fn leftovers_are_cleared_away_and_what_is_being_written_is_not() {
    let folder = tempfile::tempdir().unwrap();
    let spool = open(folder.path());
    let kept = put(&spool, 100).await;
    let mut coming = spool.receive(source(), envelope()).await.unwrap();
    coming.write(&message(100_000)).await.unwrap();
    let written = names(folder.path().join("spool/incoming"));
    let root = folder.path().join("spool");
    let left = ["incoming/01234567A", "queue/01234567B.progress", "failed/01234567C.1-2.new"];
    let young = ["incoming/01234567D", "queue/01234567E.progress"];
    let old = std::time::SystemTime::now() - Duration::from_secs(11 * 60);
    for name in left.iter().chain(&young) {
        fs::write(root.join(name), "x").unwrap();
    }
    for name in left.into_iter().chain([&*format!("incoming/{}", written[0])]) {
        fs::File::options().write(true).open(root.join(name)).unwrap().set_modified(old).unwrap();
    }
    let _lock = open(folder.path()).lock().unwrap().unwrap();
    assert!(left.iter().all(|name| !root.join(name).exists()));
    assert!(young.iter().all(|name| root.join(name).exists()));
    let second = coming.commit(Vec::new()).await.unwrap();
    assert_eq!(ids(&spool.waiting().await.unwrap()), [kept.id, second.id]);
}

#[tokio::test]
async fn the_journal_is_of_two_files_at_most() {
    let folder = tempfile::tempdir().unwrap();
    let spool = open(folder.path());
    let entry = put(&spool, 100).await;
    spool.delivered(&entry, "the first").await.unwrap();
    let path = folder.path().join("spool/journal");
    for _ in 0..2 {
        let filler = format!("{}\n", "x".repeat(1000)).repeat(1100);
        let mut journal = fs::read(&path).unwrap();
        journal.extend_from_slice(filler.as_bytes());
        fs::write(&path, journal).unwrap();
        let other = put(&spool, 100).await;
        spool.delivered(&other, &"words ".repeat(1000)).await.unwrap();
        assert!(fs::metadata(&path).unwrap().len() < 2000);
        assert_eq!(spool.journal().recent(&other.id).unwrap().said.len(), 1000);
    }
    assert!(spool.journal().recent(&entry.id).is_none(), "it is kept for ever");
    assert!(names(folder.path().join("spool")).contains(&"journal.1".to_owned()));
}

/// What is on the disk is what is sent, and the log and `gatepost spool show` say what was mended.
#[tokio::test]
async fn what_is_mended_is_mended_on_the_disk() {
    let folder = tempfile::tempdir().unwrap();
    let spool = open(folder.path());
    let envelope = Envelope { sender: "scanner".into(), ..envelope() };
    let source = Source { sender: SenderRule::Mailbox, ..source() };
    let mut incoming = spool.receive(source.clone(), envelope.clone()).await.unwrap();
    let body = "one\r\n\r\ntwo\r\n".repeat(10_000);
    incoming.write(b"From: scanner@copier.local\r\nSubject: scan\r").await.unwrap();
    incoming.write(b"\n\r\n").await.unwrap();
    incoming.write(body.as_bytes()).await.unwrap();
    let entry = incoming.commit(vec!["the last one".into()]).await.unwrap();
    assert_eq!(entry.envelope.sender, JANE);
    assert!(entry.mends.len() > 2 && entry.mends[0] == "the last one", "{:?}", entry.mends);
    let kept = spool.content(&entry).await.unwrap().read_all().await.unwrap();
    let kept = String::from_utf8(kept).unwrap();
    let (header, rest) = kept.split_once("\r\n\r\n").unwrap();
    assert!(rest == body && header.contains(JANE) && header.contains("Message-ID: <"), "{header}");
    assert_eq!(spool.waiting().await.unwrap(), [entry]);
    // gatepost's own reports are as they should be.
    let report = b"From: a@b.example\r\n\r\nreport\r\n";
    let report_entry = spool.enqueue(source, envelope.clone(), report, true).await.unwrap();
    assert_eq!((&report_entry.envelope, report_entry.mends.len()), (&envelope, 0));
    let kept = spool.content(&report_entry).await.unwrap().read_all().await.unwrap();
    assert_eq!(kept, report);
}
