//! Devices that can't log in: who is taken for one, what it may do, and that nobody else may.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use gatepost::emulator::{Options, SentMail};
use tokio::time::sleep;

use crate::ports::free_address;
use crate::{Plan, Site, Wire};

const SCAN: &str = "scan@contoso.example";
const JANE: &str = "jane@contoso.example";

/// With rules for its recipients.
const RULED: Ipv4Addr = Ipv4Addr::LOCALHOST;
/// Nobody's.
const STRANGER: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);
/// Messages of 10,000 octets at most.
const SMALL: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 4);
/// Two messages a minute.
const SLOW: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 5);
/// Its sender is the mailbox's.
const FREE: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 6);

const DEVICES: &str = "
[[device]]
name = \"ruled\"
networks = [\"127.0.0.1\"]
mailbox = \"scan@contoso.example\"
recipients = [\"kontoso.example\", \"It@partner.example\"]
[[device]]
name = \"small\"
networks = [\"127.0.0.4/32\"]
mailbox = \"scan@contoso.example\"
size = \"10 KB\"
[[device]]
name = \"slow\"
networks = [\"127.0.0.5\"]
mailbox = \"scan@contoso.example\"
rate = 2
[[device]]
name = \"free\"
networks = [\"127.0.0.6\", \"127.0.1.0/24\"]
mailbox = \"scan@contoso.example\"
sender = \"mailbox\"
";

/// For a message to arrive.
const ARRIVAL: Duration = Duration::from_secs(10);

/// How long nothing arrives that never will.
const SILENCE: Duration = Duration::from_millis(300);

fn plan(more: &'static str) -> Plan {
    let emulated = Options {
        mailboxes: [SCAN, JANE].map(String::from).to_vec(),
        smtp_connections: 100,
        smtp_messages_per_minute: 0,
        ..Options::default()
    };
    let account = "limits = { connections = 0, messages_per_minute = 0 }";
    Plan { emulated, account, more }
}

/// A site with more listeners, by their keys.
async fn with_listeners(more: &'static str, kinds: &[&str]) -> (Site, Vec<SocketAddr>) {
    let ports: Vec<_> = kinds.iter().map(|_| free_address()).collect();
    let site = Site::with(plan(more), |text| crate::site::with_listeners(text, &ports, kinds));
    (site.await, ports)
}

fn message(subject: &str) -> String {
    format!(
        "From: <{SCAN}>\r\nSubject: {subject}\r\nDate: Tue, 3 Mar 2026 10:00:00 +0100\r\n\
         Message-ID: <{subject}@contoso.example>\r\n\r\nscan\r\n"
    )
}

fn text(sent: &SentMail) -> String {
    String::from_utf8_lossy(&sent.data).into_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_device_sends_without_a_login_and_a_stranger_does_not() {
    let kinds = [
        "tls = \"starttls\"\ndelivery = \"spool\"",
        "tls = \"starttls\"",
        "tls = \"implicit\"\ndelivery = \"spool\"",
        "tls = \"implicit\"",
    ];
    let (site, ports) = with_listeners(DEVICES, &kinds).await;
    let plain = [site.spool, site.direct, ports[0], ports[1]];
    let mut count = 0;
    let mut wires = Vec::new();
    for address in plain {
        wires.push(Wire::open_from(FREE, address).await);
        // With TLS, too, where there is one.
        if ports[..2].contains(&address) {
            let mut wire = Wire::open_from(FREE, address).await;
            wire.say("EHLO x", "250").await;
            wires.push(wire.start_tls().await);
        }
    }
    for address in &ports[2..] {
        wires.push(Wire::open_tls_from(FREE, *address).await);
    }
    for (number, mut wire) in wires.into_iter().enumerate() {
        // Some devices do not even say HELO.
        if number % 2 == 0 {
            wire.say("HELO device", "250").await;
        }
        let subject = format!("free-{number}");
        wire.send(SCAN, "a@b.example", message(&subject)).await;
        count += 1;
        let sent = site.arrived(count, ARRIVAL).await;
        assert_eq!(text(&sent[count - 1]), message(&subject));
        assert_eq!(
            (sent[count - 1].mailbox.as_str(), sent[count - 1].sender.as_str()),
            (SCAN, SCAN)
        );
        wire.say("AUTH PLAIN AGEAYg==", "503").await;
        wire.say("QUIT", "221").await;
    }
    for address in plain {
        let mut wire = Wire::open_from(STRANGER, address).await;
        wire.say("EHLO x", "250").await;
        let answer = wire.say(&format!("MAIL FROM:<{SCAN}>"), "530 5.7.0").await;
        assert!(answer.contains("AUTH") || answer.contains("STARTTLS"), "{answer}");
        wire.say("RCPT TO:<a@b.example>", "530 5.7.0").await;
        wire.say("DATA", "530 5.7.0").await;
    }
    let mut wire = Wire::open_tls_from(STRANGER, ports[2]).await;
    wire.say("EHLO x", "250").await;
    wire.say("MAIL FROM:<>", "530 5.7.0").await;
    assert_eq!(site.emulator.control().sent().len(), count);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_device_nobody_sends_without_a_login() {
    let (site, _) = with_listeners("", &[]).await;
    for address in [site.spool, site.direct] {
        for own in [Ipv4Addr::LOCALHOST, STRANGER] {
            let mut wire = Wire::open_from(own, address).await;
            wire.say("HELO x", "250").await;
            wire.say(&format!("MAIL FROM:<{SCAN}>"), "530 5.7.0").await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_mailbox_alone_counts_and_others_log_in() {
    let (site, _) = with_listeners(DEVICES, &[]).await;
    // Who can log in does so, at a device's address and elsewhere, and device rules are not for it.
    for (number, (own, address)) in
        [(RULED, site.spool), (RULED, site.direct), (STRANGER, site.spool), (STRANGER, site.direct)]
            .into_iter()
            .enumerate()
    {
        let mut wire = Wire::open_from(own, address).await.log_in(JANE, &site.passwords[1]).await;
        wire.send(JANE, "a@b.example", message("jane").replace(SCAN, JANE)).await;
        let sent = site.arrived(number + 1, ARRIVAL).await;
        assert_eq!(sent[number].mailbox, JANE);
    }
    // With the rule, the sender is the mailbox's, whatever the device says.
    let mut wire = Wire::open_from(FREE, site.spool).await;
    wire.send(JANE, "a@b.example", message("borrowed").replace(SCAN, JANE)).await;
    let sent = site.arrived(5, ARRIVAL).await;
    assert_eq!((sent[4].mailbox.as_str(), sent[4].sender.as_str()), (SCAN, SCAN));
    assert!(text(&sent[4]).contains(&format!("From: <{SCAN}>")), "{}", text(&sent[4]));
    assert!(
        text(&sent[4]).contains(&format!("Reply-To: <{JANE}>"))
            || text(&sent[4]).contains("X-Original-From")
    );
    // Without, Exchange refuses it.
    let mut wire = Wire::open_from(SLOW, site.direct).await;
    wire.envelope(JANE, "a@b.example").await;
    wire.write(format!("{}.\r\n", message("borrowed").replace(SCAN, JANE))).await;
    wire.expect("554 5.2.252").await;
    let mut wire = Wire::open_from(SLOW, site.spool).await;
    wire.send(JANE, "a@b.example", message("borrowed").replace(SCAN, JANE)).await;
    let failed = async || {
        let list = site.command(&["spool", "list", "--failed", "--json"]);
        let list: serde_json::Value = serde_json::from_str(&list).unwrap();
        list["failed"].as_array().unwrap().clone()
    };
    let began = std::time::Instant::now();
    while failed().await.is_empty() {
        assert!(began.elapsed() < ARRIVAL, "it is not in the failed folder");
        sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(failed().await[0]["device"], "slow");
    assert_eq!(site.emulator.control().sent().len(), 5);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn size_and_rate_of_a_device() {
    let (site, _) = with_listeners(DEVICES, &[]).await;
    let large = message("large") + &"scan scan\r\n".repeat(1000);
    let fitting = message("fits") + &"scan scan\r\n".repeat(800);
    let mut count = 0;
    for address in [site.spool, site.direct] {
        let mut wire = Wire::open_from(SMALL, address).await;
        wire.say("EHLO x", "250").await;
        wire.say(&format!("MAIL FROM:<{SCAN}> SIZE={}", large.len()), "552 5.3.4").await;
        wire.say("RSET", "250").await;
        wire.say(&format!("MAIL FROM:<{SCAN}> SIZE={}", fitting.len()), "250").await;
        wire.say("RCPT TO:<a@b.example>", "250").await;
        wire.say("DATA", "354").await;
        wire.write(format!("{fitting}.\r\n")).await;
        wire.expect("250").await;
        count += 1;
        assert_eq!(text(&site.arrived(count, ARRIVAL).await[count - 1]), fitting);
        // One that says nothing of its size, or lies.
        for mail in [format!("MAIL FROM:<{SCAN}>"), format!("MAIL FROM:<{SCAN}> SIZE=5")] {
            let mut wire = Wire::open_from(SMALL, address).await;
            wire.say(&mail, "250").await;
            wire.say("RCPT TO:<a@b.example>", "250").await;
            wire.say("DATA", "354").await;
            wire.write(format!("{large}.\r\n")).await;
            wire.expect("552 5.3.4").await;
        }
        let mut wire = Wire::open_from(SMALL, address).await;
        wire.say(&format!("MAIL FROM:<{SCAN}>"), "250").await;
        wire.say("RCPT TO:<a@b.example>", "250").await;
        wire.write(format!("BDAT 9000\r\n{}", "x".repeat(9000))).await;
        wire.expect("250").await;
        wire.write(format!("BDAT 2000 LAST\r\n{}", "x".repeat(2000))).await;
        wire.expect("552 5.3.4").await;
    }
    // The two kinds of listener count together: it is one device.
    for address in [site.spool, site.direct] {
        let mut wire = Wire::open_from(SLOW, address).await;
        wire.send(SCAN, "a@b.example", message("slow")).await;
    }
    let mut wire = Wire::open_from(SLOW, site.direct).await;
    wire.say(&format!("MAIL FROM:<{SCAN}>"), "450 4.7.1").await;
    let mut wire = Wire::open_from(SLOW, site.spool).await;
    wire.say(&format!("MAIL FROM:<{SCAN}>"), "250").await;
    wire.say("RCPT TO:<a@b.example>", "250").await;
    wire.say("DATA", "450 4.7.1").await;
    site.arrived(count + 2, ARRIVAL).await;
    sleep(SILENCE).await;
    assert_eq!(site.emulator.control().sent().len(), count + 2);
}

/// What stands behind RCPT, and who gets the message from a spooling listener; empty: it is refused.
const RECIPIENTS: [(&[u8], &str); 36] = [
    (b"TO:<a@kontoso.example>", "a@kontoso.example"),
    (b"TO:<A@KONTOSO.Example>", "A@KONTOSO.Example"),
    (b"TO:<a@kontoso.example.>", "a@kontoso.example"),
    (b"TO:<it@partner.example>", "it@partner.example"),
    (b"TO:<IT@Partner.Example> NOTIFY=NEVER", "IT@Partner.Example"),
    (b"TO:<a+b@kontoso.example>", "a+b@kontoso.example"),
    // A source route is thrown away (RFC 5321 section 4.1.1.3).
    (b"TO:<@evil.example:a@kontoso.example>", "a@kontoso.example"),
    (b"TO:<@kontoso.example:a@evil.example>", ""),
    (b"TO:<@kontoso.example,@b:a@evil.example>", ""),
    (b"TO:<a@evil.example>", ""),
    (b"TO:<a@sub.kontoso.example>", ""),
    (b"TO:<a@evilkontoso.example>", ""),
    (b"TO:<a@kontoso.example.evil.example>", ""),
    (b"TO:<it2@partner.example>", ""),
    (b"TO:<a%evil.example@kontoso.example>", ""),
    (b"TO:<evil.example!a@kontoso.example>", ""),
    (b"TO:<\"a@evil.example\"@kontoso.example>", ""),
    (b"TO:<\"a@evil.example>\"@kontoso.example>", ""),
    (b"TO:<\"a\\\"@evil.example\"@kontoso.example>", ""),
    (b"TO:<a@evil.example@kontoso.example>", ""),
    (b"TO:<a@kontoso.example@evil.example>", ""),
    (b"TO:<a@kontoso.example\0@evil.example>", ""),
    (b"TO:<a@evil.example\0@kontoso.example>", ""),
    (b"TO:<a@kontoso.example\r@evil.example>", ""),
    (b"TO:<a@evil.example\x7f@kontoso.example>", ""),
    ("TO:<a@k\u{43e}ntoso.example>".as_bytes(), ""),
    ("TO:<a@\u{212a}ontoso.example>".as_bytes(), ""),
    ("TO:<a@\u{ff4b}ontoso.example>".as_bytes(), ""),
    ("TO:<a@kontoso\u{3002}example>".as_bytes(), ""),
    (b"TO:<postmaster>", ""),
    (b"TO:<Postmaster@evil.example>", ""),
    (b"TO:<a@kontoso.example,b@evil.example>", ""),
    (b"TO:<a@kontoso.example b@evil.example>", ""),
    (b"TO:<a@kontoso.example>b@evil.example>", ""),
    (b"TO:<a@kontoso.example> <b@evil.example>", ""),
    (b"TO:<a@evil.example> (a@kontoso.example)", ""),
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_gets_past_the_recipients_of_a_device() {
    let (site, _) = with_listeners(DEVICES, &[]).await;
    let mut faults = Vec::new();
    let mut count = 0;
    for address in [site.spool, site.direct] {
        for (written, wanted) in RECIPIENTS {
            let shown = String::from_utf8_lossy(written);
            let mut wire = Wire::open_from(RULED, address).await;
            wire.say("HELO x", "250").await;
            wire.say(&format!("MAIL FROM:<{SCAN}>"), "250").await;
            wire.write([b"RCPT ", written, b"\r\n"].concat()).await;
            let answer = wire.reply().await;
            if !answer.starts_with("250") {
                // In direct mode, what two servers could read differently is refused.
                let strict = address == site.direct && wanted == "a@kontoso.example";
                if !(wanted.is_empty() || strict) || !answer.starts_with('5') {
                    faults.push(format!("{shown}: {answer}"));
                }
                wire.say("DATA", "5").await;
                continue;
            }
            wire.say("DATA", "354").await;
            wire.write(format!("{}.\r\n", message("door"))).await;
            wire.expect("250").await;
            count += 1;
            let sent = site.arrived(count, ARRIVAL).await;
            if sent[count - 1].recipients != [wanted]
                && (address == site.spool || wanted.is_empty())
            {
                faults.push(format!("{shown} went to {:?}", sent[count - 1].recipients));
            }
        }
        // Two commands by a bare line feed are two.
        let mut wire = Wire::open_from(RULED, address).await;
        wire.say(&format!("MAIL FROM:<{SCAN}>"), "250").await;
        wire.write("RCPT TO:<a@kontoso.example>\nRCPT TO:<b@evil.example>\r\n").await;
        let answers = [wire.reply().await, wire.reply().await];
        assert!(answers[1].starts_with('5'), "{answers:?}");
    }
    assert!(faults.is_empty(), "{faults:#?}");
    let mut all = site.emulator.control().sent().into_iter().flat_map(|sent| sent.recipients);
    assert!(all.all(|to| {
        let to = to.to_ascii_lowercase();
        to.trim_end_matches('.').ends_with("@kontoso.example") || to == "it@partner.example"
    }));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_listener_for_devices_alone_starts_without_a_password() {
    let port = free_address().port();
    let mut site = Site::with(plan(DEVICES), |text| {
        text + &format!(
            "[[listener]]\nprotocol = \"smtp\"\nprovider = \"lab\"\nlisten = \"0.0.0.0:{port}\"\n\
             delivery = \"spool\"\nallow_plaintext_lan = true\n"
        )
    })
    .await;
    for mailbox in [SCAN, JANE] {
        site.command(&["password", "revoke", mailbox, "device"]);
    }
    site.kill();
    site.start();
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let mut wire = Wire::open_from(RULED, address).await;
    wire.send(SCAN, "a@kontoso.example", message("lan")).await;
    assert_eq!(text(&site.arrived(1, ARRIVAL).await[0]), message("lan"));
    let mut wire = Wire::open_from(STRANGER, address).await;
    wire.say("MAIL FROM:<>", "530 5.7.0").await;
    // Without the devices it does not start.
    site.kill();
    let file = site.folder.path().join("gatepost.toml");
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, text.replace(DEVICES, "")).unwrap();
    let output = site.try_command(&["run"]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && said.contains("gatepost password add"), "{said}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wide_network_is_refused_unless_it_is_meant() {
    let (site, _) = with_listeners("", &[]).await;
    let file = site.folder.path().join("gatepost.toml");
    let text = std::fs::read_to_string(&file).unwrap();
    let device = |network: &str, more: &str| {
        format!(
            "{text}\n[[device]]\nname = \"all\"\nnetworks = [\"{network}\"]\nmailbox = \"{SCAN}\"\n{more}\n"
        )
    };
    for (network, more, wanted) in [
        ("127.0.0.0/24", "", 0),
        ("127.0.0.0/23", "", 2),
        ("0.0.0.0/0", "", 2),
        ("::/0", "", 2),
        ("fd00::/64", "", 0),
        ("fd00::/63", "", 2),
        ("10.0.0.0/8", "i_know = true", 0),
        ("10.0.0.0/8", "i_know = false", 2),
    ] {
        std::fs::write(&file, device(network, more)).unwrap();
        let output = site.try_command(&["check"]);
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(wanted), "{network} {more}: {said}");
        assert!(wanted == 0 || said.contains("i_know"), "{network}: {said}");
    }
}
