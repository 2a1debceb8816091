//! What people have: `gatepost send-test`, `gatepost spool` and `gatepost status` beside the running proxy, the call for
//! attention and the report by mail.

use std::net::SocketAddr;
use std::process::Output;
use std::time::{Duration, Instant};

use gatepost::emulator::{LoginFault, Options, SentMail, SmtpFault, SmtpStage};
use mail_parser::{MessageParser, MimeHeaders};
use tokio::time::sleep;

use crate::ports::free_address;
use crate::site::with_listeners;
use crate::{Device, Plan, Site, Wire};

const SCAN: &str = "scan@contoso.example";
const ADMIN: &str = "it@fabrikam.example";

/// For what a running proxy does by itself.
const SOON: Duration = Duration::from_secs(10);

fn plan(mailboxes: &[&str]) -> Plan {
    let emulated = Options {
        mailboxes: mailboxes.iter().map(ToString::to_string).collect(),
        smtp_connections: 100,
        smtp_messages_per_minute: 0,
        ..Options::default()
    };
    let account = "notify = \"it@fabrikam.example\"\nlimits = { messages_per_minute = 0 }";
    // An attempt in vain is followed by none within a test, unless somebody asks for it.
    Plan { emulated, account, more: "[spool]\nretry = [\"10m\"]\n" }
}

fn message(subject: &str) -> String {
    format!(
        "From: <{SCAN}>\r\nSubject: {subject}\r\nDate: Tue, 3 Mar 2026 10:00:00 +0100\r\n\
         Message-ID: <{subject}@contoso.example>\r\n\r\nscan\r\n"
    )
}

/// Status, standard output and standard error.
fn run(site: &Site, args: &[&str]) -> (i32, String, String) {
    let Output { status, stdout, stderr } = site.try_command(args);
    let text = |octets: Vec<u8>| String::from_utf8(octets).unwrap();
    (status.code().unwrap(), text(stdout), text(stderr))
}

async fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let began = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(began.elapsed() < SOON, "{what} within {SOON:?}");
        sleep(Duration::from_millis(50)).await;
    }
}

fn assert_no_password_left(site: &Site) {
    let list = site.command(&["password", "list"]);
    assert!(!list.contains("send-test"), "{list}");
}

/// Without line breaks.
fn flat(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn send_test_reaches_the_provider_by_each_kind_of_listener() {
    let kinds = [
        "tls = \"starttls\"\ndelivery = \"spool\"",
        "tls = \"starttls\"",
        "tls = \"implicit\"\ndelivery = \"spool\"",
        "tls = \"implicit\"",
    ];
    let ports = kinds.map(|_| free_address());
    let site = Site::with(plan(&[SCAN]), |text| with_listeners(text, &ports, &kinds)).await;
    let to = "a@b.example";
    let (status, out, said) = run(&site, &["send-test", "--to", to]);
    assert_eq!(status, 0, "{said}");
    assert!(out.starts_with("delivered: 250 2.0.0 OK"), "{out}");
    let all = [
        (site.direct, false),
        (ports[0], true),
        (ports[1], false),
        (ports[2], true),
        (ports[3], false),
    ];
    for (address, spools) in all {
        let (status, out, said) =
            run(&site, &["send-test", "--to", to, "--listener", &address.to_string()]);
        assert_eq!(status, 0, "{said}");
        let wanted =
            if spools { "delivered: 250 2.0.0 OK" } else { "the provider has it: 250 2.0.0 OK" };
        assert!(out.starts_with(wanted), "{out}");
        assert!(said.contains("> MAIL FROM") && !said.contains("AUTH PLAIN A"), "{said}");
    }
    let sent = site.emulator.control().sent();
    assert_eq!(sent.len(), 6);
    for SentMail { sender, recipients, data, .. } in &sent {
        assert_eq!((sender.as_str(), recipients.as_slice()), (SCAN, &[to.to_owned()][..]));
        assert!(String::from_utf8_lossy(data).contains("Subject: gatepost: a test"));
    }
    assert_no_password_left(&site);
    let log = site.log();
    assert!(!log.contains("ERROR") && !log.contains("WARN"), "{log}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn send_test_tells_what_a_refusal_means_and_what_to_do() {
    let mut site = Site::new(plan(&[SCAN])).await;
    let control = site.emulator.control().clone();
    let refused = |site: &Site, listener: SocketAddr, wanted: &[&str]| {
        let listener = listener.to_string();
        let args = ["send-test", "--to", "a@b.example", "--listener", &listener, "--wait", "3s"];
        let (status, out, said) = run(site, &args);
        assert_eq!((status, out.as_str()), (1, ""), "{said}");
        let said = flat(&said);
        for words in wanted {
            assert!(said.contains(words), "{words:?} is not in {said}");
        }
        assert!(said.matches("Remedy:").count() <= 1, "said twice: {said}");
        assert_no_password_left(site);
    };
    let refuse = |stage, line: &str| {
        control.fail_smtp(stage, SmtpFault::Reply(line.into()), None);
    };
    for listener in [site.spool, site.direct] {
        refuse(SmtpStage::EndOfData, "554 5.2.252 SendAsDenied; scan not allowed to send as x");
        refused(&site, listener, &["5.2.252", "Remedy:", "Send As"]);
        control.clear_smtp_faults();
        let unknown =
            "550 5.1.10 RESOLVER.ADR.RecipientNotFound; Recipient not found by SMTP address lookup";
        refuse(SmtpStage::Rcpt(None), unknown);
        refused(&site, listener, &["5.1.10", "Remedy:"]);
        control.clear_smtp_faults();
    }
    // A switch that is off can be switched on: what is spooled waits.
    control.set_login_fault(Some(LoginFault::SmtpAuthDisabled));
    control.disconnect_all();
    refused(&site, site.direct, &["5.7.139", "Remedy:", "SmtpClientAuthenticationDisabled"]);
    // The mailbox is held: for the message itself that is no attempt.
    let held = ["held: 535 5.7.139", "Remedy:", "SmtpClientAuthenticationDisabled"];
    refused(&site, site.spool, &held);
    control.set_login_fault(None);
    site.kill();
    refused(&site, site.spool, &["nobody listens", "gatepost run"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn send_test_asks_for_what_is_not_clear() {
    let site = Site::new(plan(&[SCAN, "jane@contoso.example"])).await;
    let (status, _, said) = run(&site, &["send-test", "--to", "a@b.example"]);
    assert_eq!(status, 2, "{said}");
    assert!(said.contains("--mailbox"), "{said}");
    let (status, _, said) = run(&site, &["send-test", "--to", "nobody", "--mailbox", SCAN]);
    assert_eq!(status, 2, "{said}");
    let unknown = ["send-test", "--to", "a@b.example", "--mailbox", "joe@contoso.example"];
    let (status, _, said) = run(&site, &unknown);
    assert_ne!(status, 0, "{said}");
    let (status, out, said) = run(&site, &["send-test", "--to", "a@b.example", "--mailbox", SCAN]);
    assert_eq!(status, 0, "{said}");
    assert!(out.starts_with("delivered: "), "{out}");
    assert_eq!(site.emulator.control().sent()[0].mailbox, SCAN);
}

fn listed(site: &Site, place: &str) -> Vec<serde_json::Value> {
    let list = site.command(&["spool", "list", "--json"]);
    let list: serde_json::Value = serde_json::from_str(&list).unwrap();
    list[place].as_array().unwrap().clone()
}

async fn send(site: &Site, to: &str, subject: &str) {
    let mut wire = Wire::open(site.spool).await.log_in(SCAN, &site.passwords[0]).await;
    wire.send(SCAN, to, message(subject)).await;
    wire.say("QUIT", "221").await;
}

/// The key that has calls written to this file.
fn calling(file: &std::path::Path) -> String {
    let script = format!(
        "printf '%s|%s|%s|%s' \"$GATEPOST_EVENT\" \"$1\" \"$2\" \"$3\" >>{}",
        file.display()
    );
    let call = serde_json::to_string(&["/bin/sh", "-c", &script, "sh"]).unwrap();
    format!("on_attention = {call}")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_spool_is_told_to_devices_and_people() {
    let calls = tempfile::tempdir().unwrap();
    let file = calls.path().join("calls");
    let plan = Plan { more: "[spool]\nsize = \"8 KB\"\n", ..plan(&[SCAN]) };
    let site = Site::with(plan, |text| format!("{}\n{text}", calling(&file))).await;
    site.emulator.control().set_mail_outage(true);
    send(&site, "a@b.example", &"kept ".repeat(600)).await;
    let mut device = Device::connect(site.spool).await.unwrap();
    device.log_in(SCAN, &site.passwords[0]).await.unwrap();
    let large = message(&"lost ".repeat(1200));
    let refused = device.send(SCAN, "a@b.example", large.as_bytes()).await.unwrap_err();
    assert!(refused.to_string().contains("452 4.3.1"), "{refused}");
    let call = until("somebody is called", || {
        std::fs::read_to_string(&file).ok().filter(|it| !it.is_empty())
    })
    .await;
    assert!(call.starts_with("spool_full|all mailboxes|"), "{call}");
    let again = device.send(SCAN, "a@b.example", large.as_bytes()).await.unwrap_err();
    assert!(again.to_string().contains("452 4.3.1"), "{again}");
    // Once an hour is enough.
    assert_eq!(std::fs::read_to_string(&file).unwrap().matches("spool_full").count(), 1);
    let status = site.command(&["status"]);
    assert!(!status.contains("are used"), "it is half full: {status}");
    send(&site, "a@b.example", &"more ".repeat(40)).await;
    let status = site.command(&["status", "--json"]);
    let status: serde_json::Value = serde_json::from_str(&status).unwrap();
    assert_eq!(status["spool_fill"]["size"], 8000, "{status}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failed_message_is_told_shown_and_tried_again() {
    let calls = tempfile::tempdir().unwrap();
    let file = calls.path().join("calls");
    let site = Site::with(plan(&[SCAN]), |text| format!("{}\n{text}", calling(&file))).await;
    let control = site.emulator.control().clone();
    let stage = SmtpStage::Rcpt(Some("bad@b.example".into()));
    let reply =
        "550 5.1.10 RESOLVER.ADR.RecipientNotFound; Recipient not found by SMTP address lookup";
    control.fail_smtp(stage, SmtpFault::Reply(reply.into()), None);
    send(&site, "bad@b.example", "lost").await;
    let entry = until("it fails", || listed(&site, "failed").pop()).await;
    let id = entry["id"].as_str().unwrap();

    let list = site.command(&["spool", "list"]);
    let row = list.lines().find(|line| line.contains(id)).unwrap();
    assert!(row.contains("bad@b.example") && row.contains("failed, tried once"), "{list}");
    let shown = flat(&site.command(&["spool", "show", id]));
    for words in ["5.1.10", "remedy", "bad@b.example", "refused"] {
        assert!(shown.contains(words), "{words:?} is not in {shown}");
    }
    assert_eq!(site.command(&["spool", "show", id, "--message"]), message("lost"));
    let status = site.command(&["status"]);
    assert!(status.contains(&format!("{SCAN}: spool: 0 waiting; 1 failed")), "{status}");
    let call = until("somebody is called", || {
        std::fs::read_to_string(&file).ok().filter(|it| !it.is_empty())
    })
    .await;
    assert!(
        call.starts_with(&format!("message_failed|{SCAN}|1 message not delivered: ")),
        "{call}"
    );
    assert!(call.contains("5.1.10"), "{call}");

    let bounce = site.arrived(1, SOON).await.remove(0);
    judge_bounce(&bounce, id);

    control.clear_smtp_faults();
    let (status, _, said) = run(&site, &["spool", "retry", id]);
    assert_eq!(status, 0, "{said}");
    let sent = site.arrived(2, SOON).await;
    assert_eq!(String::from_utf8_lossy(&sent[1].data), message("lost"));
    assert_eq!(sent[1].recipients, ["bad@b.example"]);
    until("the spool is empty", || listed(&site, "failed").is_empty().then_some(())).await;
    let shown = site.command(&["spool", "show", id]);
    assert!(shown.contains("was delivered"), "{shown}");
    assert_ne!(run(&site, &["spool", "retry", id]).0, 0);
    assert_eq!(std::fs::read_to_string(&file).unwrap(), call, "it was called again");
}

/// A report (RFC 3462, RFC 3464) as a mail program reads it.
fn judge_bounce(bounce: &SentMail, id: &str) {
    let raw = String::from_utf8_lossy(&bounce.data);
    assert_eq!(
        (bounce.sender.as_str(), bounce.recipients.as_slice()),
        (SCAN, &[ADMIN.to_owned()][..])
    );
    assert_eq!(bounce.recipient_parameters, [["NOTIFY=NEVER"]]);
    let parsed = MessageParser::default().parse(&*bounce.data).unwrap();
    let kind = parsed.content_type().unwrap();
    assert_eq!((kind.ctype(), kind.subtype()), ("multipart", Some("report")), "{raw}");
    assert_eq!(kind.attribute("report-type"), Some("delivery-status"), "{raw}");
    assert!(raw.contains("Auto-Submitted: auto-"), "{raw}");
    let parts: Vec<_> = parsed.parts[1..]
        .iter()
        .map(|part| {
            let kind = part.content_type().unwrap();
            format!("{}/{}", kind.ctype(), kind.subtype().unwrap_or_default())
        })
        .collect();
    assert_eq!(parts, ["text/plain", "message/delivery-status", "text/rfc822-headers"], "{raw}");
    let words = flat(parsed.parts[1].text_contents().unwrap());
    for told in ["bad@b.example", "Subject: lost", "5.1.10", &format!("gatepost spool retry {id}")]
    {
        assert!(words.contains(told), "{told:?} is not in {words}");
    }
    for field in ["Final-Recipient: rfc822; bad@b.example", "Action: failed", "Status: 5.1.10"] {
        assert!(raw.contains(&format!("{field}\r\n")), "{field:?} is not in {raw}");
    }
    assert!(
        parsed.parts[3].text_contents().unwrap().contains("Message-ID: <lost@contoso.example>")
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_waits_is_shown_dropped_and_hurried() {
    let site = Site::new(plan(&[SCAN])).await;
    let control = site.emulator.control().clone();
    control.set_mail_outage(true);
    send(&site, "a@b.example", "hurried").await;
    site.logged("mail is held", 1).await;
    let (list, status) = (site.command(&["spool", "list"]), site.command(&["status"]));
    assert!(
        list.contains("held") && status.contains("has closed the connection"),
        "{list}{status}"
    );
    control.set_mail_outage(false);
    sleep(Duration::from_millis(300)).await;
    assert!(control.sent().is_empty(), "its next attempt is in ten minutes");
    let (status, _, said) = run(&site, &["spool", "retry", "--all"]);
    assert_eq!(status, 0, "{said}");
    let sent = site.arrived(1, SOON).await;
    assert_eq!(String::from_utf8_lossy(&sent[0].data), message("hurried"));

    control.set_mail_outage(true);
    control.disconnect_all();
    send(&site, "a@b.example", "dropped").await;
    send(&site, "a@b.example", "kept").await;
    let waiting =
        until("both wait", || Some(listed(&site, "waiting")).filter(|it| it.len() == 2)).await;
    let status = site.command(&["status"]);
    assert!(status.contains(&format!("{SCAN}: spool: 2 waiting")), "{status}");
    let shown: serde_json::Value =
        serde_json::from_str(&site.command(&["status", "--json"])).unwrap();
    assert_eq!(shown["spool"][0]["waiting"], 2, "{shown}");
    let dropped = waiting.iter().map(|entry| entry["id"].as_str().unwrap()).min().unwrap();
    assert_eq!(run(&site, &["spool", "drop", &dropped[..2]]).0, 2);
    assert_eq!(run(&site, &["spool", "drop"]).0, 2);
    assert_eq!(run(&site, &["spool", "drop", "NOTTHERE"]).0, 1);
    let (status, _, said) = run(&site, &["spool", "drop", dropped]);
    assert_eq!(status, 0, "{said}");
    assert!(site.command(&["spool", "show", dropped]).contains("dropped"));
    control.set_mail_outage(false);
    site.command(&["spool", "retry", "--all"]);
    let sent = site.arrived(2, SOON).await;
    assert_eq!(String::from_utf8_lossy(&sent[1].data), message("kept"));
    until("the spool is empty", || listed(&site, "waiting").is_empty().then_some(())).await;
    send(&site, "a@b.example", "later").await;
    let sent = site.arrived(3, SOON).await;
    assert_eq!(String::from_utf8_lossy(&sent[2].data), message("later"));
    let (status, _, said) = run(&site, &["spool", "retry", dropped]);
    assert!(status == 1 && said.contains("dropped"), "{said}");
}
