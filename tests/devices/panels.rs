//! What old devices do works, judged by what arrives.

use std::net::SocketAddr;
use std::time::Duration;

use gatepost::emulator::{Options, SentMail};
use tokio::time::sleep;

use crate::ports::free_address;
use crate::site::with_listeners;
use crate::wire::base64;
use crate::{Plan, Site, Wire};

pub(crate) const SCAN: &str = "scan@contoso.example";
/// Its mail goes out in its own name.
pub(crate) const OWN: &str = "own@contoso.example";
/// Its senders are mapped.
pub(crate) const MAPPED: &str = "mapped@contoso.example";

const UNLIMITED: &str = "limits = { connections = 0, messages_per_minute = 0 }";

/// For a message to arrive.
pub(crate) const ARRIVAL: Duration = Duration::from_secs(10);

/// The pause of a scanner that fetches the next sheet: RFC 5321 section 4.5.3.2.5 has servers wait three minutes.
const PAUSE: Duration = Duration::from_secs(120);

/// A site with listeners of all kinds.
pub(crate) struct Panels {
    pub(crate) site: Site,
    /// Implicit TLS, the spool.
    spool_tls: SocketAddr,
    direct_tls: SocketAddr,
    spool_starttls: SocketAddr,
    direct_starttls: SocketAddr,
    /// The spool with `bare_lf = "accept"`.
    pub(crate) bare: SocketAddr,
}

impl Panels {
    pub(crate) async fn new() -> Self {
        let emulated = Options {
            mailboxes: [SCAN, OWN, MAPPED].map(String::from).to_vec(),
            smtp_connections: 100,
            smtp_messages_per_minute: 0,
            ..Options::default()
        };
        let ports = [(); 5].map(|()| free_address());
        let kinds = [
            "tls = \"implicit\"\ndelivery = \"spool\"",
            "tls = \"implicit\"",
            "tls = \"starttls\"\ndelivery = \"spool\"",
            "tls = \"starttls\"",
            "bare_lf = \"accept\"\ndelivery = \"spool\"",
        ];
        let plan = Plan { emulated, account: UNLIMITED, more: "" };
        let site = Site::with(plan, |mut text| {
            let rules = [
                (OWN, "\"mailbox\""),
                (
                    MAPPED,
                    "{ \"floor3@printers.local\" = \"mapped@contoso.example\", \
                     \"*@old.example.com\" = \"mapped@contoso.example\" }",
                ),
            ];
            for (mailbox, rule) in rules {
                let key = format!("mailbox = \"{mailbox}\"\n");
                assert!(text.contains(&key));
                text = text.replace(&key, &format!("{key}sender = {rule}\n"));
            }
            with_listeners(text, &ports, &kinds)
        })
        .await;
        let [spool_tls, direct_tls, spool_starttls, direct_starttls, bare] = ports;
        Self { site, spool_tls, direct_tls, spool_starttls, direct_starttls, bare }
    }

    pub(crate) fn password(&self, mailbox: &str) -> &str {
        let place = [SCAN, OWN, MAPPED].iter().position(|known| *known == mailbox).unwrap();
        &self.site.passwords[place]
    }

    /// Both kinds of delivery, on plain listeners.
    fn both(&self) -> [SocketAddr; 2] {
        [self.site.spool, self.site.direct]
    }

    pub(crate) async fn spooling(&self, mailbox: &str) -> Wire {
        Wire::open(self.site.spool).await.log_in(mailbox, self.password(mailbox)).await
    }

    /// The one that arrives behind so many others.
    pub(crate) async fn arrival(&self, before: usize) -> SentMail {
        let sent = self.site.arrived(before + 1, ARRIVAL).await;
        assert_eq!(sent.len(), before + 1, "more has arrived than was sent");
        sent[before].clone()
    }

    /// Nobody has to look at the log.
    pub(crate) fn is_content(&self) {
        let log = self.site.log();
        assert!(!log.contains("ERROR") && !log.contains("WARN"), "{log}");
    }
}

/// A message that needs no mend.
pub(crate) fn message(subject: &str) -> String {
    format!(
        "From: <{SCAN}>\r\nTo: <a@b.example>\r\nSubject: {subject}\r\nDate: Tue, 3 Mar 2026 10:00:00 +0100\r\n\
         Message-ID: <{subject}@contoso.example>\r\n\r\nscan\r\n"
    )
}

pub(crate) fn text(sent: &SentMail) -> String {
    String::from_utf8_lossy(&sent.data).into_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn logins_of_all_manners() {
    let panels = Panels::new().await;
    let (user, password) = (base64(SCAN), base64(panels.password(SCAN)));
    let envelope = format!("MAIL FROM:<{SCAN}>\r\nRCPT TO:<a@b.example>\r\nDATA\r\n");
    let mut count = 0;
    for address in panels.both() {
        // HELO alone, and a lower case login with its user name inline.
        let mut wire = Wire::open(address).await;
        wire.say("helo scanner", "250").await;
        wire.say(&format!("auth login {user}"), "334 UGFzc3dvcmQ6").await;
        wire.say(&password, "235").await;
        wire.send(SCAN, "a@b.example", message("helo")).await;
        assert_eq!(text(&panels.arrival(count).await), message("helo"));
        wire.say("quit", "221").await;

        // Without a look at what is answered.
        let mut wire = Wire::open(address).await;
        for line in ["EHLO [192.168.0.9]", "AUTH LOGIN", &user, &password] {
            wire.write(format!("{line}\r\n")).await;
            sleep(Duration::from_millis(20)).await;
        }
        for wanted in ["250", "334 VXNlcm5hbWU6", "334 UGFzc3dvcmQ6", "235"] {
            wire.expect(wanted).await;
        }
        wire.send(SCAN, "a@b.example", message("blind")).await;
        assert_eq!(text(&panels.arrival(count + 1).await), message("blind"));

        // Credentials in one write, then the message in one.
        let mut wire = Wire::open(address).await;
        wire.write(format!("EHLO x\r\nAUTH LOGIN\r\n{user}\r\n{password}\r\n")).await;
        for wanted in ["250", "334", "334", "235"] {
            wire.expect(wanted).await;
        }
        wire.write(format!("{envelope}{}.\r\nQUIT\r\n", message("group"))).await;
        for wanted in ["250", "250", "354", "250", "221"] {
            wire.expect(wanted).await;
        }
        assert!(wire.is_over().await);
        assert_eq!(text(&panels.arrival(count + 2).await), message("group"));

        // All of it in one write.
        let mut wire = Wire::open(address).await;
        let login = format!("HELO x\r\nAUTH LOGIN {user}\r\n{password}\r\n");
        wire.write(format!("{login}{envelope}{}.\r\nQUIT\r\n", message("all"))).await;
        for wanted in ["250", "334", "235", "250", "250", "354", "250", "221"] {
            wire.expect(wanted).await;
        }
        assert_eq!(text(&panels.arrival(count + 3).await), message("all"));
        count += 4;
    }
    panels.is_content();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_leaves_without_a_word_has_sent_all_the_same() {
    let panels = Panels::new().await;
    for (number, address) in panels.both().into_iter().enumerate() {
        let mut wire = Wire::open_rude(address).await.log_in(SCAN, panels.password(SCAN)).await;
        wire.send(SCAN, "a@b.example", message("rude")).await;
        drop(wire);
        assert_eq!(text(&panels.arrival(number).await), message("rude"));
    }
    // It does not even wait for the answer.
    let password = panels.password(SCAN);
    let mut wire = Wire::open_rude(panels.site.spool).await.log_in(SCAN, password).await;
    wire.envelope(SCAN, "a@b.example").await;
    wire.write(format!("{}.\r\n", message("hasty"))).await;
    drop(wire);
    assert_eq!(text(&panels.arrival(2).await), message("hasty"));
    // Nor for any.
    let mut wire = Wire::open_rude(panels.site.spool).await.log_in(SCAN, password).await;
    let large = message("blind") + &"scan scan scan scan scan\r\n".repeat(1500);
    wire.write(format!("MAIL FROM:<{SCAN}>\r\nRCPT TO:<a@b.example>\r\nDATA\r\n{large}.\r\n"))
        .await;
    drop(wire);
    assert_eq!(text(&panels.arrival(3).await), large);
    // A reset in the midst of a message is the end of it.
    let mut wire = Wire::open_rude(panels.site.spool).await.log_in(SCAN, password).await;
    wire.envelope(SCAN, "a@b.example").await;
    wire.write(message("half")).await;
    drop(wire);
    sleep(Duration::from_millis(300)).await;
    assert_eq!(panels.site.emulator.control().sent().len(), 4);
    panels.is_content();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tls_without_a_look_at_the_certificate() {
    let panels = Panels::new().await;
    let password = panels.password(SCAN);
    let mut count = 0;
    for address in [panels.spool_tls, panels.direct_tls] {
        let mut wire = Wire::open_tls(address).await.log_in(SCAN, password).await;
        wire.send(SCAN, "a@b.example", message("implicit")).await;
        assert_eq!(text(&panels.arrival(count).await), message("implicit"));
        count += 1;
    }
    for address in [panels.spool_starttls, panels.direct_starttls] {
        let mut wire = Wire::open(address).await;
        let offered = wire.say("EHLO x", "250").await;
        assert!(offered.contains("STARTTLS") && !offered.contains("AUTH"), "{offered}");
        wire.say("AUTH LOGIN", "530 5.7.0").await;
        let mut wire = wire.start_tls().await.log_in(SCAN, password).await;
        wire.send(SCAN, "a@b.example", message("starttls")).await;
        assert_eq!(text(&panels.arrival(count).await), message("starttls"));
        count += 1;
    }
    panels.is_content();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn odd_octets_and_long_lines_arrive_as_they_were_sent() {
    let panels = Panels::new().await;
    let head = "Date: Tue, 3 Mar 2026 10:00:00 +0100\r\nMessage-ID: <1@contoso.example>\r\n";
    let mut cases: Vec<Vec<u8>> = Vec::new();
    for subject in
        [&b"B\xfcro"[..], "Büro".as_bytes(), b"=?iso-8859-1?q?B=FCro?=", b"\x1b$B%9\x1b(B"]
    {
        let body = b"8-bit: \xe4\xf6\xfc \xc3\xa4 \x80\xff\r\n\r\n\x0c\x07\x1b[0m\t \r\n";
        let name = format!("From: \"Etage 3\" <{SCAN}>\r\nSubject: ");
        cases.push([name.as_bytes(), subject, b"\r\n", head.as_bytes(), b"\r\n", body].concat());
    }
    for length in [998, 2_000, 20_000] {
        let (long, folded) = ("x".repeat(length), "word ".repeat(length / 5));
        cases.push(
            format!("From: <{SCAN}>\r\nX-Long: {long}\r\n{head}\r\n{folded}\r\n..\r\n").into(),
        );
        cases.push(format!("From: <{SCAN}>\r\n{head}\r\n{long}\r\n").into());
    }
    cases.push(format!("From: <{SCAN}>\r\n{head}\r\nnul: \0 \0\0\r\n\0\r\n").into());
    let mut count = 0;
    for address in panels.both() {
        let mut wire = Wire::open(address).await.log_in(SCAN, panels.password(SCAN)).await;
        for case in &cases {
            // Stuffed: the one line with a dot in front.
            let sent = String::from_utf8_lossy(case).contains("\r\n..\r\n");
            let stuffed = match sent {
                true => String::from_utf8(case.clone())
                    .unwrap()
                    .replace("\r\n..\r\n", "\r\n...\r\n")
                    .into(),
                false => case.clone(),
            };
            wire.send(SCAN, "a@b.example", &stuffed).await;
            let arrived = panels.arrival(count).await;
            assert!(
                *arrived.data == case[..],
                "{} instead of {}",
                text(&arrived),
                String::from_utf8_lossy(case)
            );
            count += 1;
        }
    }
    panels.is_content();
}

/// A sheet is stuck.
async fn pause_in_data(pause: Duration) {
    let panels = Panels::new().await;
    let [spool, direct] = panels.both();
    let send = async |address, subject: &str| {
        let mut wire = Wire::open(address).await.log_in(SCAN, panels.password(SCAN)).await;
        wire.envelope(SCAN, "a@b.example").await;
        let message = message(subject);
        let (first, second) = message.split_at(70);
        wire.write(first).await;
        sleep(pause).await;
        wire.write(format!("{second}.\r\n")).await;
        wire.expect("250").await;
    };
    tokio::join!(send(spool, "one"), send(direct, "two"));
    let sent = panels.site.arrived(2, ARRIVAL).await;
    let mut texts: Vec<_> = sent.iter().map(text).collect();
    texts.sort();
    let mut wanted = [message("one"), message("two")];
    wanted.sort();
    assert_eq!(texts, wanted);
    panels.is_content();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_short_pause_in_the_content() {
    pause_in_data(Duration::from_secs(3)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes two minutes"]
async fn two_minutes_of_pause_in_the_content() {
    pause_in_data(PAUSE).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sessions_of_all_manners() {
    let panels = Panels::new().await;
    let password = panels.password(SCAN);
    for (number, address) in panels.both().into_iter().enumerate() {
        let before = number * 4;
        let mut wire = Wire::open(address).await.log_in(SCAN, password).await;
        wire.say("EHLO again", "250").await;
        wire.say("NOOP", "250").await;
        // The emulated Exchange does not know it.
        if number == 0 {
            wire.say("VRFY jane", "252").await;
        }
        wire.say(&format!("MAIL FROM:<{SCAN}>"), "250").await;
        wire.say("RCPT TO:<nobody@x.example>", "250").await;
        wire.say("RSET", "250").await;
        wire.say("DATA", "503").await;
        wire.send(SCAN, "a@b.example", message("first")).await;
        wire.say(&format!("MAIL FROM:<{SCAN}>"), "250").await;
        wire.say("EHLO in between", "250").await;
        wire.send(SCAN, "c@d.example", message("second")).await;
        let first = panels.site.arrived(before + 2, ARRIVAL).await;
        assert_eq!(
            (text(&first[before]), text(&first[before + 1])),
            (message("first"), message("second"))
        );
        assert_eq!(first[before].recipients, ["a@b.example"]);
        assert_eq!(first[before + 1].recipients, ["c@d.example"]);

        // BDAT, with dots that are no ends.
        let chunks = [message("chunks") + ".\r\n", "\r\n.\r\nend\r\n".to_owned()];
        wire.say(&format!("MAIL FROM:<{SCAN}> BODY=8BITMIME"), "250").await;
        wire.say("RCPT TO:<a@b.example>", "250").await;
        for chunk in &chunks {
            wire.write(format!("BDAT {}\r\n{chunk}", chunk.len())).await;
            wire.expect("250").await;
        }
        wire.say("BDAT 0 LAST", "250").await;
        assert_eq!(text(&panels.arrival(before + 2).await), chunks.concat());

        // A hundred at once.
        wire.say(&format!("MAIL FROM:<{SCAN}>"), "250").await;
        let all: Vec<_> = (0..100).map(|number| format!("p{number}@b.example")).collect();
        for recipient in &all {
            wire.say(&format!("RCPT TO:<{recipient}>"), "250").await;
        }
        wire.say("DATA", "354").await;
        wire.write(format!("{}.\r\n", message("many"))).await;
        wire.expect("250").await;
        assert_eq!(panels.arrival(before + 3).await.recipients, all);
        wire.say("QUIT", "221").await;
    }
    panels.is_content();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_octet_at_a_time() {
    let panels = Panels::new().await;
    let (user, password) = (base64(SCAN), base64(panels.password(SCAN)));
    for (number, address) in panels.both().into_iter().enumerate() {
        let mut wire = Wire::open(address).await;
        let session = format!(
            "HELO x\r\nAUTH LOGIN\r\n{user}\r\n{password}\r\nMAIL FROM:<{SCAN}>\r\nRCPT TO:<a@b.example>\r\n\
             DATA\r\n{}..\r\n.\r\nQUIT\r\n",
            message("slow")
        );
        for octet in session.as_bytes() {
            wire.write([*octet]).await;
        }
        for wanted in ["250", "334", "334", "235", "250", "250", "354", "250", "221"] {
            wire.expect(wanted).await;
        }
        assert_eq!(text(&panels.arrival(number).await), message("slow") + ".\r\n");
    }
    panels.is_content();
}
