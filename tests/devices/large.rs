//! Large messages: memory, and every octet.

use std::time::{Duration, Instant};

use gatepost::emulator::Options;
use tokio::task::JoinSet;

use crate::{Device, Plan, Site};

const MAILBOX: &str = "scans@contoso.example";
const MIB: usize = 1 << 20;
const UNLIMITED: &str = "limits = { connections = 0, messages_per_minute = 0 }";

fn emulated() -> Options {
    Options {
        mailboxes: vec![MAILBOX.into()],
        smtp_connections: 100,
        smtp_messages_per_minute: 0,
        ..Options::default()
    }
}

/// A signed message of about this size, with everything that a careless relay would touch: odd line lengths, lines
/// that begin with dots, 8-bit octets, tabs and spaces at the ends of lines, an empty part, a boundary that looks like
/// another.
pub(crate) fn signed(size: usize) -> Vec<u8> {
    let mut message = format!(
        "From: \"S\u{e9}nder\" <{MAILBOX}>\r\nTo: <a@b.example>\r\nDate: Tue, 3 Mar 2026 10:00:00 +0100\r\n\
         Message-ID: <1@contoso.example>\r\nSubject: =?utf-8?q?odd?=\r\n\tfolded \r\nMIME-Version: 1.0\r\n\
         X-Empty:\r\nContent-Type: multipart/signed; micalg=sha-256;\r\n protocol=\"application/pkcs7-signature\"; \
         boundary=\"=_a\"\r\n\r\nThis is S/MIME.\r\n--=_a\r\nContent-Type: text/plain; charset=iso-8859-1\r\n\
         Content-Transfer-Encoding: 8bit\r\n\r\n.\r\n..\r\n.dots\r\n\r\n"
    )
    .into_bytes();
    let mut random = fastrand::Rng::with_seed(7);
    while message.len() < size {
        let length = random.usize(0..998);
        message.extend((0..length).map(|_| match random.u8(..) {
            0 | b'\r' | b'\n' => b' ',
            octet => octet,
        }));
        message.extend_from_slice(b" \t\r\n");
    }
    message.extend_from_slice(
        b"--=_a\r\nContent-Type: application/pkcs7-signature; name=smime.p7s\r\n\
          Content-Transfer-Encoding: base64\r\n\r\nMIIB\r\n--=_a--\r\n\r\n",
    );
    message
}

async fn send(address: std::net::SocketAddr, password: &str, message: &[u8]) {
    let mut device = Device::connect(address).await.unwrap();
    device.log_in(MAILBOX, password).await.unwrap();
    device.send(MAILBOX, "a@b.example", message).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn forty_megabytes_of_signed_mail_arrive_octet_for_octet() {
    let site = Site::new(Plan { emulated: emulated(), account: UNLIMITED, more: "" }).await;
    let message = signed(40_000_000);
    send(site.spool, &site.passwords[0], &message).await;
    let sent = site.arrived(1, Duration::from_secs(60)).await;
    assert!(*sent[0].data == message[..], "the spool has changed it");
    send(site.direct, &site.passwords[0], &message).await;
    let sent = site.arrived(2, Duration::from_secs(1)).await;
    assert!(*sent[1].data == message[..], "direct mode has changed it");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "moves two gigabytes"]
async fn twenty_times_fifty_megabytes_need_little_memory() {
    let site = Site::new(Plan { emulated: emulated(), account: UNLIMITED, more: "" }).await;
    let message: &'static [u8] = Box::leak(signed(50 * MIB).into_boxed_slice());
    for (name, address, already) in [("direct", site.direct, 0), ("spool", site.spool, 20)] {
        site.reset_peak();
        let (_, rest) = site.memory();
        let began = Instant::now();
        let mut devices = JoinSet::new();
        for _ in 0..20 {
            let password = site.passwords[0].clone();
            devices.spawn(async move { send(address, &password, message).await });
        }
        while let Some(done) = devices.join_next().await {
            done.unwrap();
        }
        let accepted = began.elapsed();
        site.arrived(already + 20, Duration::from_secs(120)).await;
        let (peak, _) = site.memory();
        println!(
            "{name}: {rest} KiB at rest, {peak} KiB at most, accepted within {accepted:?}, sent within {:?}",
            began.elapsed()
        );
        assert!(peak < rest + 32 * 1024, "{name}: {rest} KiB at rest, {peak} KiB at most");
    }
}
