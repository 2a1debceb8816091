//! Forty devices at eight in the morning, one mailbox.

use std::time::Duration;

use gatepost::emulator::Options;
use tokio::task::JoinSet;

use crate::{Device, Plan, Site};

const DEVICES: usize = 40;
const EACH: usize = 3;

fn emulated(per_minute: usize) -> Options {
    Options {
        mailboxes: vec!["scans@contoso.example".into()],
        smtp_messages_per_minute: per_minute,
        ..Options::default()
    }
}

/// Sends three messages from each device at once; all of them are accepted, or this fails.
async fn rush(site: &Site, address: std::net::SocketAddr) {
    let mut devices = JoinSet::new();
    for number in 0..DEVICES {
        let password = site.passwords[0].clone();
        devices.spawn(async move {
            let mut device = Device::connect(address).await.unwrap();
            device.log_in("scans@contoso.example", &password).await.unwrap();
            for count in 0..EACH {
                let message = format!(
                    "From: <scans@contoso.example>\r\nSubject: {number}-{count}\r\n\r\nscan\r\n"
                );
                device
                    .send("scans@contoso.example", "a@b.example", message.as_bytes())
                    .await
                    .unwrap();
            }
            device.ask("QUIT", 221).await.unwrap();
        });
    }
    while let Some(done) = devices.join_next().await {
        done.unwrap();
    }
}

async fn judge(site: &Site, limit: Duration) {
    site.arrived(DEVICES * EACH, limit).await;
    let control = site.emulator.control();
    assert_eq!(control.limits_hit(), 0, "the upstream had to say 432");
    assert_eq!(control.sent().len(), DEVICES * EACH);
    assert!(control.most_smtp_sessions("scans@contoso.example") <= 3);
}

/// 60 a minute, so that it takes one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes more than a minute"]
async fn forty_devices_into_the_spool() {
    let account = "limits = { messages_per_minute = 60 }";
    let site = Site::new(Plan { emulated: emulated(60), account, more: "" }).await;
    rush(&site, site.spool).await;
    judge(&site, Duration::from_secs(90)).await;
}

/// The same in direct mode: each device waits for its turn.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes more than a minute"]
async fn forty_devices_in_direct_mode() {
    let account = "limits = { messages_per_minute = 60 }";
    let site = Site::new(Plan { emulated: emulated(60), account, more: "" }).await;
    rush(&site, site.direct).await;
    judge(&site, Duration::from_secs(1)).await;
}

/// Exchange's own figures: 120 messages take three minutes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes more than three minutes"]
async fn forty_devices_and_thirty_messages_a_minute() {
    let site = Site::new(Plan { emulated: emulated(30), account: "", more: "" }).await;
    let began = std::time::Instant::now();
    rush(&site, site.spool).await;
    println!("accepted within {:?}", began.elapsed());
    judge(&site, Duration::from_secs(240)).await;
    println!("delivered within {:?}", began.elapsed());
}

/// The provider's minute goes on while the proxy is killed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes more than a minute"]
async fn the_minute_is_remembered_over_a_kill() {
    let account = "limits = { messages_per_minute = 10 }";
    let mut site = Site::new(Plan { emulated: emulated(10), account, more: "" }).await;
    let send = async |site: &Site, count: usize| {
        let mut device = Device::connect(site.spool).await.unwrap();
        device.log_in("scans@contoso.example", &site.passwords[0]).await.unwrap();
        for number in 0..count {
            let message =
                format!("From: <scans@contoso.example>\r\nSubject: {number}\r\n\r\nscan\r\n");
            device.send("scans@contoso.example", "a@b.example", message.as_bytes()).await.unwrap();
        }
    };
    send(&site, 10).await;
    site.arrived(10, Duration::from_secs(5)).await;
    site.kill();
    site.start();
    send(&site, 5).await;
    site.arrived(15, Duration::from_secs(75)).await;
    assert_eq!(site.emulator.control().limits_hit(), 0, "the upstream had to say 432");
}
