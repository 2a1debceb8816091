//! The spool on the disk: what was accepted stays, whatever ends the process; what was not is not there.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

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
    let id = incoming.id().to_owned();
    for piece in expected.chunks(777) {
        incoming.write(piece).await.unwrap();
    }
    assert!(spool.waiting().await.unwrap().is_empty(), "waits before its commit");
    let entry = incoming.commit(vec!["bare line feeds".into()]).await.unwrap();
    assert_eq!((&entry.id, &entry.mends), (&id, &vec!["bare line feeds".to_owned()]));
    assert_eq!(entry.size, u64::try_from(expected.len()).unwrap());
    for spool in [&spool, &open(folder.path())] {
        assert_eq!(spool.waiting().await.unwrap(), [entry.clone()]);
        let mut content = spool.content(&entry).await.unwrap();
        assert!(content.read_all().await.unwrap() == expected);
        assert_eq!(spool.header(&entry, 1 << 20).await.unwrap(), HEADER.as_bytes());
    }
    spool.delivered(&entry, "250 2.0.0 OK").await.unwrap();
    assert!(spool.waiting().await.unwrap().is_empty());
    assert!(matches!(spool.content(&entry).await, Err(SpoolError::Gone(_))));
    let event = spool.journal().recent(&id).unwrap();
    assert_eq!((event.event, event.said.as_str()), (What::Delivered, "250 2.0.0 OK"));
    for part in ["incoming", "queue", "failed"] {
        assert_eq!(names(folder.path().join("spool").join(part)), [""; 0], "{part}");
    }
}
