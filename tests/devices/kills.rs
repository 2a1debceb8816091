//! The proxy is killed again and again while devices send.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use gatepost::emulator::Options;
use tokio::time::sleep;

use crate::site::mailboxes;
use crate::{Device, Plan, Site};

const DEVICES: usize = 10;
const MESSAGES: usize = 200;
const KILLS: usize = 50;

/// No limits: what is judged here is durability.
const UNLIMITED: &str = "limits = { connections = 3, messages_per_minute = 0 }";

/// Short waits: what was under way at a kill is tried again at once anyway.
const HASTY: &str = "[spool]\nretry = [\"1s\"]\n";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes minutes"]
async fn two_thousand_messages_and_fifty_kills() {
    let emulated = Options {
        mailboxes: mailboxes(DEVICES),
        smtp_messages_per_minute: 0,
        ..Options::default()
    };
    let mut site = Site::new(Plan { emulated, account: UNLIMITED, more: HASTY }).await;
    let stop = Arc::new(AtomicBool::new(false));
    let mut devices = tokio::task::JoinSet::new();
    for number in 0..DEVICES {
        let (address, password) = (site.spool, site.passwords[number].clone());
        devices.spawn(send_all(number, address, password));
    }
    let mut kills = 0;
    let mut accepted = BTreeSet::new();
    while kills < KILLS || !devices.is_empty() {
        if kills < KILLS {
            sleep(Duration::from_millis(fastrand::u64(200..900))).await;
            site.kill();
            kills += 1;
            site.start();
            while let Some(done) = devices.try_join_next() {
                accepted.extend(done.unwrap());
            }
        } else {
            accepted.extend(devices.join_next().await.unwrap().unwrap());
        }
    }
    stop.store(true, Ordering::Relaxed);
    assert_eq!(accepted.len(), DEVICES * MESSAGES);
    let limit = Duration::from_secs(180);
    let mut times = BTreeMap::<String, usize>::new();
    let began = std::time::Instant::now();
    loop {
        times.clear();
        for sent in site.emulator.control().sent() {
            *times.entry(subject(&sent.data)).or_default() += 1;
        }
        if accepted.iter().all(|name| times.contains_key(name)) {
            break;
        }
        let lost = accepted.iter().filter(|name| !times.contains_key(*name)).count();
        assert!(began.elapsed() < limit, "{lost} messages were accepted and have not arrived");
        sleep(Duration::from_millis(200)).await;
    }
    let doubled: usize = times.values().map(|times| times - 1).sum();
    // Each kill meets at most three deliveries of each mailbox.
    println!("{} arrived, {doubled} of them again, {KILLS} kills", times.len());
    assert!(doubled <= KILLS * 3 * DEVICES, "{doubled} messages came twice");
}

/// Sends until each message was accepted; the names of those that were.
async fn send_all(number: usize, address: std::net::SocketAddr, password: String) -> Vec<String> {
    let mailbox = format!("device{number}@contoso.example");
    let mut accepted = Vec::new();
    let mut attempt = 0;
    while accepted.len() < MESSAGES {
        attempt += 1;
        let Ok(mut device) = Device::connect(address).await else {
            sleep(Duration::from_millis(20)).await;
            continue;
        };
        if device.log_in(&mailbox, &password).await.is_err() {
            continue;
        }
        while accepted.len() < MESSAGES {
            // One whose answer was lost is another message the next time: it may have been accepted.
            let name = format!("{number}-{}-{attempt}", accepted.len());
            let message = format!(
                "From: <{mailbox}>\r\nTo: <a@b.example>\r\nSubject: {name}\r\n\r\n{}\r\n",
                "scan ".repeat(fastrand::usize(1..2000))
            );
            match device.send(&mailbox, "a@b.example", message.as_bytes()).await {
                Ok(_) => accepted.push(name),
                Err(_) => break,
            }
            sleep(Duration::from_millis(fastrand::u64(0..150))).await;
        }
    }
    accepted
}

fn subject(data: &[u8]) -> String {
    let text = String::from_utf8_lossy(data);
    let line = text.lines().find_map(|line| line.strip_prefix("Subject: "));
    line.unwrap_or_default().to_owned()
}
