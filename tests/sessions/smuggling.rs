//! SMTP smuggling (Longin, "SMTP Smuggling: Spoofing E-Mails Worldwide", 2023): an end of the message that one server
//! sees and the other does not makes two messages out of one. In direct mode each octet arrives as it was sent; in the
//! spool only CRLF "." CRLF ends a message, and what goes on has no line that any server could take for an end.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::support::{Authority, Fake, House, LIMIT, Leaf, MAILBOX, Settings, Wire, admit};
use gatepost::vocabulary::{Protocol, TlsMode};
use tokio::time::sleep;

/// What somebody has taken for a line end, or has not read at all.
const BREAKS: [&str; 7] = ["\n", "\r", "\r\n", "\r\r\n", "\n\r", "\r\n\0", "\0\r\n"];

/// The end of a message (RFC 5321 section 4.1.1.4).
const END: &[u8] = b"\r\n.\r\n";

/// It needs no mending in the spool.
const HEADER: &str = "Date: Mon, 3 Mar 2025 08:00:00 +0000\r\nMessage-ID: <1@contoso.example>\r\n\
    From: jane@contoso.example\r\nTo: post@fabrikam.example\r\nSubject: invoice\r\n\r\n";

/// What an attacker would have the next server read as commands.
const SMUGGLED: &str = "MAIL FROM:<admin@contoso.example>\r\nRCPT TO:<victim@fabrikam.example>\r\n\
    DATA\r\nSubject: smuggled\r\n\r\nsmuggled";

/// Each dot between two breaks that is no end.
fn false_ends() -> Vec<String> {
    let pairs = BREAKS.iter().flat_map(|before| BREAKS.map(|behind| format!("{before}.{behind}")));
    let ends: Vec<_> = pairs.filter(|end| !end.contains("\r\n.\r\n")).collect();
    assert_eq!(ends.len(), 7 * 7 - 6);
    ends
}

/// A carriage return or a line feed without the other.
fn has_bare(octets: &[u8]) -> bool {
    let text = String::from_utf8_lossy(octets).replace("\r\n", "");
    text.contains(['\r', '\n'])
}

/// A server that takes nothing but CRLF for a line end, and keeps the content of each message as it came.
struct Recorder {
    fake: Fake,
    messages: Arc<Mutex<Vec<Vec<u8>>>>,
}

impl Recorder {
    async fn start(authority: &Authority) -> Self {
        let acceptor = authority.acceptor(Leaf::Good);
        let messages = Arc::new(Mutex::new(Vec::new()));
        let kept = Arc::clone(&messages);
        let fake = Fake::start(move |wire| {
            let (acceptor, kept) = (acceptor.clone(), Arc::clone(&kept));
            async move {
                let Ok(wire) = wire.accept_tls(&acceptor).await else { return };
                if let Some(wire) = admit(wire, Protocol::Smtp, "").await {
                    take_mail(wire, &kept).await;
                }
            }
        });
        Self { fake: fake.await, messages }
    }

    /// What has come, once there are so many.
    async fn messages(&self, count: usize) -> Vec<Vec<u8>> {
        let start = Instant::now();
        loop {
            let messages = self.messages.lock().unwrap().clone();
            if messages.len() >= count {
                return messages;
            }
            assert!(start.elapsed() < 6 * LIMIT, "{} of {count} messages", messages.len());
            sleep(Duration::from_millis(20)).await;
        }
    }
}

async fn take_mail(mut wire: Wire, kept: &Mutex<Vec<Vec<u8>>>) {
    while let Some(command) = wire.until_octets(b"\r\n").await {
        let verb = String::from_utf8_lossy(&command).to_ascii_uppercase();
        let answer = match verb.get(..4) {
            Some("MAIL" | "RCPT" | "RSET" | "NOOP") => "250 fine\r\n",
            Some("DATA") => {
                wire.send("354 go on\r\n").await;
                let Some(content) = wire.until_octets(END).await else { return };
                kept.lock().unwrap().push(content);
                "250 taken\r\n"
            }
            Some("QUIT") => "221 bye\r\n",
            _ => "500 what?\r\n",
        };
        if wire.try_send(answer).await.is_err() {
            return;
        }
    }
}

/// A proxy in front of a recorder, and a client that is logged in.
async fn begin(smtp_listener: &'static str) -> (House, Recorder, Wire) {
    let authority = Authority::new();
    let recorder = Recorder::start(&authority).await;
    let house = House::start(Settings {
        instead: vec![(Protocol::Smtp, recorder.fake.endpoint(TlsMode::Implicit))],
        trusted: vec![authority.pem()],
        smtp_listener,
        account: "limits = { connections = 0, messages_per_minute = 0 }",
        ..Settings::default()
    });
    let house = house.await;
    let client = house.log_in(Protocol::Smtp).await;
    (house, recorder, client)
}

/// Sends a message with a false end in it, each octet of that in a segment of its own; what it was answered, and what
/// was sent.
async fn send(client: &mut Wire, false_end: &str) -> (String, Vec<u8>) {
    for command in [&format!("MAIL FROM:<{MAILBOX}>"), "RCPT TO:<post@fabrikam.example>"] {
        client.send(format!("{command}\r\n")).await;
        client.expect("250 ").await;
    }
    client.send("DATA\r\n").await;
    client.expect("354 ").await;
    let head = format!("{HEADER}one");
    client.send(&head).await;
    client.send_bytewise(false_end).await;
    let tail = [SMUGGLED.as_bytes(), END].concat();
    client.send(&tail).await;
    let answer = client.answer(Protocol::Smtp).await;
    // Had the false end been one, answers to the commands behind it would come first.
    client.send("NOOP\r\n").await;
    client.expect("250 ").await;
    (answer, [head.as_bytes(), false_end.as_bytes(), &tail].concat())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn in_direct_mode_each_octet_arrives_as_it_was_sent() {
    let (_house, recorder, mut client) = begin("").await;
    let mut all = Vec::new();
    for end in false_ends() {
        let (answer, sent) = send(&mut client, &end).await;
        assert!(answer.starts_with("250 taken"), "{end:?}: {answer}");
        all.push(sent);
    }
    assert_eq!(recorder.messages(all.len()).await, all);
    client.send("QUIT\r\n").await;
    client.expect("221 ").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_spool_refuses_a_message_with_a_bare_line_end() {
    let (_house, recorder, mut client) = begin("delivery = \"spool\"").await;
    let mut all = Vec::new();
    for end in false_ends() {
        let (answer, sent) = send(&mut client, &end).await;
        if has_bare(&sent) {
            assert!(answer.starts_with("550 5.6.11 "), "{end:?}: {answer}");
        } else {
            assert!(answer.starts_with("250 "), "{end:?}: {answer}");
            all.push(sent);
        }
    }
    assert_eq!(all.len(), 5, "those with NUL and whole line ends, and no others");
    let mut arrived = recorder.messages(all.len()).await;
    // A dot at the start of a line that has more is the sender's doubling (RFC 5321 section 4.5.2).
    let undotted = |octets: &[u8]| String::from_utf8_lossy(octets).replace("\r\n.\0", "\r\n\0");
    let mut expected: Vec<_> = all.iter().map(|octets| undotted(octets).into_bytes()).collect();
    arrived.sort();
    expected.sort();
    assert_eq!(arrived, expected);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_spool_mends_has_one_end_for_every_server() {
    let (_house, recorder, mut client) = begin("delivery = \"spool\"\nbare_lf = \"accept\"").await;
    let ends = false_ends();
    for end in &ends {
        let (answer, _) = send(&mut client, end).await;
        assert!(answer.starts_with("250 "), "{end:?}: {answer}");
    }
    for message in recorder.messages(ends.len()).await {
        assert!(!has_bare(&message), "{}", message.escape_ascii());
        assert!(message.ends_with(&[SMUGGLED.as_bytes(), END].concat()), "a message was cut");
        // With CRLF alone for line ends there is nothing left to see differently but a line of one dot.
        let lines: Vec<_> = message.split(|octet| *octet == b'\n').collect();
        let lone = lines.iter().filter(|line| **line == b".\r").count();
        assert_eq!(lone, 1, "{}", message.escape_ascii());
    }
    assert_eq!(recorder.messages(0).await.len(), ends.len(), "one message makes one");
}
