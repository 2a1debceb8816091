//! The upstream is away: acceptance goes on, and everything arrives in order when it is back.

use std::time::{Duration, Instant};

use gatepost::emulator::{Options, TokenFault};

use crate::site::mailboxes;
use crate::{Device, Plan, Site};

const HASTY: &str = "[spool]\nretry = [\"1s\", \"2s\"]\n";

async fn send(site: &Site, number: usize, name: &str) {
    let mailbox = format!("device{number}@contoso.example");
    let mut device = Device::connect(site.spool).await.unwrap();
    device.log_in(&mailbox, &site.passwords[number]).await.unwrap();
    let message = format!("From: <{mailbox}>\r\nSubject: {name}\r\n\r\nscan\r\n");
    device.send(&mailbox, "a@b.example", message.as_bytes()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn acceptance_never_waits_for_the_upstream() {
    let emulated = Options { mailboxes: mailboxes(2), ..Options::default() };
    let mut site = Site::new(Plan { emulated, account: "", more: HASTY }).await;
    let control = site.emulator.control().clone();
    control.set_mail_outage(true);
    control.set_token_outage(Some(TokenFault::Closed));
    // Started anew: it knows nothing of the upstream, not even its EHLO keywords.
    site.kill();
    site.start();
    let began = Instant::now();
    for count in 0..5 {
        for number in 0..2 {
            send(&site, number, &format!("{number}-{count}")).await;
        }
    }
    let took = began.elapsed();
    assert!(took < Duration::from_secs(2), "ten messages took {took:?}");
    assert!(control.sent().is_empty());
    let waiting = site.command(&["spool", "list", "--json"]);
    let waiting: serde_json::Value = serde_json::from_str(&waiting).unwrap();
    assert_eq!(waiting["waiting"].as_array().unwrap().len(), 10, "{waiting}");
    control.set_mail_outage(false);
    control.set_token_outage(None);
    // Two retry periods and a bit.
    let sent = site.arrived(10, Duration::from_secs(8)).await;
    for number in 0..2 {
        let own = format!("device{number}@contoso.example");
        let subjects: Vec<String> = sent
            .iter()
            .filter(|sent| sent.mailbox == own)
            .map(|sent| {
                let text = String::from_utf8_lossy(&sent.data).into_owned();
                text.lines().find_map(|l| l.strip_prefix("Subject: ").map(str::to_owned)).unwrap()
            })
            .collect();
        let wanted: Vec<String> = (0..5).map(|count| format!("{number}-{count}")).collect();
        assert_eq!(subjects, wanted);
    }
}
