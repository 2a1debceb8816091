//! Microsoft Graph through the whole program: which way is taken, what is remembered of it, and what arrives.

use std::fmt::Write;
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use gatepost::emulator::{GraphFault, GraphStep, LoginFault, Options, SentMail, Way};
use serde_json::Value;
use tokio::time::sleep;

use crate::large::signed;
use crate::site::mailboxes;
use crate::{Device, Plan, Site};

/// Of the mailbox that a signed message of `large.rs` is from.
const MAILBOX: &str = "scans@contoso.example";
const TO: &str = "a@b.example";
const GRAPH: &str = "via = [\"graph\"]\nlimits = { messages_per_minute = 0 }";
const GRAPH_FIRST: &str = "via = [\"graph\", \"smtp\"]\nlimits = { messages_per_minute = 0 }";
const SMTP_FIRST: &str = "via = [\"smtp\", \"graph\"]\nlimits = { messages_per_minute = 0 }";
const HASTY: &str = "[spool]\nretry = [\"1s\"]\n";
const SOON: Duration = Duration::from_secs(30);

fn emulated(mailboxes: Vec<String>) -> Options {
    Options { mailboxes, smtp_messages_per_minute: 0, ..Options::default() }
}

async fn site(account: &'static str) -> Site {
    let emulated = emulated(vec![MAILBOX.into()]);
    Site::new(Plan { emulated, account, more: HASTY }).await
}

/// A message that needs no mending, so that it is to arrive as it is.
fn scan(name: &str, more: &str) -> Vec<u8> {
    format!(
        "From: <{MAILBOX}>\r\nTo: <{TO}>\r\nDate: Tue, 3 Mar 2026 10:00:00 +0100\r\n\
         Message-ID: <{name}@contoso.example>\r\nSubject: {name}\r\n{more}\r\nscan\r\n"
    )
    .into_bytes()
}

async fn send(site: &Site, message: &[u8]) {
    send_to(site, message, &[TO]).await.unwrap();
}

async fn send_to(site: &Site, message: &[u8], recipients: &[&str]) -> io::Result<()> {
    let mut device = Device::connect(site.spool).await?;
    device.log_in(MAILBOX, &site.passwords[0]).await?;
    device.ask(&format!("MAIL FROM:<{MAILBOX}>"), 250).await?;
    for recipient in recipients {
        device.ask(&format!("RCPT TO:<{recipient}>"), 250).await?;
    }
    device.give(message).await
}

fn subject(mail: &SentMail) -> String {
    let text = String::from_utf8_lossy(&mail.data);
    text.lines().find_map(|line| line.strip_prefix("Subject: ")).unwrap_or_default().to_owned()
}

/// All that has come is these, each once, by this way.
fn assert_came(sent: &[SentMail], names: &[&str], way: Way) {
    let came: Vec<_> = sent.iter().map(|mail| (subject(mail), mail.way)).collect();
    let wanted: Vec<_> = names.iter().map(|name| ((*name).to_owned(), way)).collect();
    assert_eq!(came, wanted);
}

fn spooled(site: &Site) -> Value {
    serde_json::from_str(&site.command(&["spool", "list", "--json"])).unwrap()
}

/// Waits until what the spool lists is so.
async fn until(site: &Site, what: &str, is_so: impl Fn(&Value) -> bool) -> Value {
    let began = Instant::now();
    loop {
        let list = spooled(site);
        if is_so(&list) {
            return list;
        }
        assert!(began.elapsed() < SOON, "{what}: {list}");
        sleep(Duration::from_millis(50)).await;
    }
}

async fn until_empty(site: &Site) {
    until(site, "all has gone", |list| list["waiting"].as_array().unwrap().is_empty()).await;
}

fn has_failed(list: &Value) -> bool {
    !list["failed"].as_array().unwrap().is_empty()
}

/// Octets that don't compress and repeat nowhere.
fn noise(octets: usize, seed: u64) -> Vec<u8> {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut noise = vec![0; octets];
    random.fill(&mut noise);
    noise
}

fn in_base64(text: &mut String, octets: &[u8]) {
    for line in octets.chunks(57) {
        let _ = write!(text, "{}\r\n", BASE64_STANDARD.encode(line));
    }
}

/// A text and a file, as a multifunction device sends it.
pub(crate) fn with_pdf(name: &str, pdf: &[u8]) -> Vec<u8> {
    let header = "MIME-Version: 1.0\r\nContent-Type: multipart/mixed; boundary=\"=_b\"\r\n";
    let mut text = String::from_utf8(scan(name, header)).unwrap();
    text += "--=_b\r\nContent-Type: text/plain\r\n\r\nSee the file.\r\n--=_b\r\n\
             Content-Type: application/pdf; name=\"scan.pdf\"\r\n\
             Content-Disposition: attachment; filename=\"scan.pdf\"\r\n\
             Content-Transfer-Encoding: base64\r\n\r\n";
    in_base64(&mut text, pdf);
    text += "--=_b--\r\n";
    text.into_bytes()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_smtp_auth_off_graph_is_taken_and_remembered() {
    let site = site(SMTP_FIRST).await;
    let control = site.emulator.control();
    control.set_login_fault(Some(LoginFault::SmtpAuthDisabled));
    send(&site, &scan("one", "")).await;
    assert_came(&site.arrived(1, SOON).await, &["one"], Way::Graph);
    let connections = control.connections();
    for (count, name) in ["two", "three", "four"].iter().enumerate() {
        send(&site, &scan(name, "")).await;
        site.arrived(count + 2, SOON).await;
    }
    until_empty(&site).await;
    assert_came(&control.sent(), &["one", "two", "three", "four"], Way::Graph);
    assert_eq!(control.connections(), connections, "the closed way is tried for each message");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_graphs_permission_smtp_is_taken_and_remembered() {
    let mut options = emulated(vec![MAILBOX.into()]);
    options.registration.graph_roles = Vec::new();
    let site = Site::new(Plan { emulated: options, account: GRAPH_FIRST, more: HASTY }).await;
    let control = site.emulator.control();
    send(&site, &scan("one", "")).await;
    assert_came(&site.arrived(1, SOON).await, &["one"], Way::Smtp);
    let requests = control.graph_requests();
    for (count, name) in ["two", "three"].iter().enumerate() {
        send(&site, &scan(name, "")).await;
        site.arrived(count + 2, SOON).await;
    }
    until_empty(&site).await;
    assert_came(&control.sent(), &["one", "two", "three"], Way::Smtp);
    assert_eq!(control.graph_requests(), requests, "the closed way is tried for each message");
}

/// The calls of `on_attention` so far, a line each.
fn calls(file: &Path) -> Vec<String> {
    let text = std::fs::read_to_string(file).unwrap_or_default();
    text.lines().map(str::to_owned).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_both_ways_closed_mail_waits_and_a_person_is_called_once() {
    for again_by_hand in [false, true] {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("calls");
        let hook = format!(
            "on_attention = [\"/bin/sh\", \"-c\", 'echo \"$GATEPOST_EVENT $GATEPOST_REMEDY\" >> \"$0\"', {file:?}]"
        );
        // By hand it is tried when the next attempt is far.
        let more = match again_by_hand {
            true => "[spool]\nretry = [\"1s\", \"1s\", \"10m\"]\n",
            false => HASTY,
        };
        let plan = Plan { emulated: emulated(vec![MAILBOX.into()]), account: SMTP_FIRST, more };
        let site = Site::with(plan, |text| format!("{hook}\n{text}")).await;
        let control = site.emulator.control();
        control.set_login_fault(Some(LoginFault::SmtpAuthDisabled));
        control.fail_graph(GraphStep::Any, GraphFault::AccessDenied, None);
        let names = ["one", "two", "three"];
        for name in names {
            send(&site, &scan(name, "")).await;
        }
        let began = Instant::now();
        while calls(&file).is_empty() {
            assert!(began.elapsed() < SOON, "nobody was called");
            sleep(Duration::from_millis(50)).await;
        }
        // Some more attempts, where there are any.
        sleep(Duration::from_millis(2500)).await;
        let calls = calls(&file);
        assert_eq!(calls.len(), 1, "{calls:?}");
        assert!(calls[0].starts_with("delivery_held ") && calls[0].len() > 30, "{calls:?}");
        assert!(control.sent().is_empty());
        let list = spooled(&site);
        assert_eq!(list["waiting"].as_array().unwrap().len(), 3, "{list}");
        assert!(!has_failed(&list), "{list}");
        let tried = list["waiting"].as_array().unwrap().iter();
        let id = tried.map(|it| &it["id"]).next().unwrap().as_str().unwrap();
        let shown = site.command(&["spool", "show", id]);
        assert!(shown.contains("remedy"), "{shown}");
        let status = site.command(&["status"]);
        assert!(status.contains("remedy") && status.contains("3"), "{status}");
        for said in [&shown, &status] {
            assert!(said.contains("5.7.139") || said.contains("ErrorAccessDenied"), "{said}");
        }
        control.set_login_fault(None);
        if again_by_hand {
            site.command(&["spool", "retry", "--all"]);
        }
        let sent = site.arrived(3, Duration::from_secs(10)).await;
        until_empty(&site).await;
        assert_came(&sent, &names, Way::Smtp);
        assert_eq!(control.sent().len(), 3);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_throttled_mailbox_waits_as_told_and_others_go_on() {
    let plan = Plan { emulated: emulated(mailboxes(2)), account: GRAPH, more: HASTY };
    let site = Site::new(plan).await;
    let control = site.emulator.control();
    let fault = GraphFault::Throttled { retry_after: Some(4) };
    control.fail_graph(GraphStep::SendMail, fault, Some(1));
    let began = Instant::now();
    for number in [0, 1, 0, 1] {
        let mailbox = format!("device{number}@contoso.example");
        let mut device = Device::connect(site.spool).await.unwrap();
        device.log_in(&mailbox, &site.passwords[number]).await.unwrap();
        let message = format!("From: <{mailbox}>\r\nSubject: x\r\n\r\nscan\r\n");
        device.send(&mailbox, TO, message.as_bytes()).await.unwrap();
        while control.graph_requests() == 0 {
            assert!(began.elapsed() < SOON);
            sleep(Duration::from_millis(5)).await;
        }
    }
    let sent = site.arrived(2, Duration::from_secs(2)).await;
    assert!(began.elapsed() < Duration::from_secs(3), "the other mailbox has to wait");
    assert!(sent.iter().all(|mail| mail.mailbox == "device1@contoso.example"));
    let requests = control.graph_requests();
    assert_eq!(requests, 3, "the mailbox that was told to wait is tried");
    let sent = site.arrived(4, Duration::from_secs(10)).await;
    let waited = began.elapsed();
    assert!(waited >= Duration::from_secs(4), "only {waited:?}");
    assert!(waited < Duration::from_secs(8), "{waited:?}");
    assert!(sent[2..].iter().all(|mail| mail.mailbox == "device0@contoso.example"));
    until_empty(&site).await;
    assert_eq!(control.sent().len(), 4);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_large_signed_message_goes_by_smtp_octet_for_octet() {
    let site = site(GRAPH_FIRST).await;
    let message = signed(40_000_000);
    send(&site, &message).await;
    send(&site, &scan("small", "")).await;
    let sent = site.arrived(2, Duration::from_secs(60)).await;
    let large = sent.iter().find(|mail| mail.data.len() > 1_000_000).unwrap();
    assert!(*large.data == message[..] && large.way == Way::Smtp);
    // It was this message's matter alone.
    let small = sent.iter().find(|mail| mail.data.len() < 1_000_000).unwrap();
    assert_eq!(small.way, Way::Graph);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_large_signed_message_is_refused_by_graph_alone_with_the_reason() {
    let account = "via = [\"graph\"]\nnotify = \"admin@contoso.example\"\n";
    let site = site(account).await;
    send(&site, &signed(40_000_000)).await;
    let bounce = &site.arrived(1, Duration::from_secs(60)).await[0];
    assert_eq!(
        (bounce.recipients.as_slice(), bounce.way),
        (&["admin@contoso.example".to_owned()][..], Way::Graph)
    );
    let words = String::from_utf8_lossy(&bounce.data).replace("=\r\n", "").replace("\r\n", " ");
    assert!(words.contains("signed (multipart/signed)") && words.contains("SMTP"), "{words}");
    let list = until(&site, "it has failed", has_failed).await;
    let said = list["failed"][0]["progress"]["last_error"].as_str().unwrap();
    assert!(said.contains("too large for one request to Microsoft Graph"), "{said}");
    assert_eq!(site.emulator.control().drafts(MAILBOX), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_fits_goes_octet_for_octet_and_what_does_not_with_its_files() {
    let site = site(GRAPH).await;
    let small = signed(2_000_000);
    send(&site, &small).await;
    let mail = site.arrived(1, SOON).await.remove(0);
    assert!(*mail.data == small[..] && mail.way == Way::Graph && mail.attachments.is_empty());
    let pdf = noise(20_000_000, 1);
    send(&site, &with_pdf("large", &pdf)).await;
    let mail = site.arrived(2, SOON).await.remove(1);
    assert_eq!((mail.way, mail.attachments.len()), (Way::Graph, 1));
    assert!(*mail.attachments[0].data == pdf[..], "{}", mail.attachments[0].data.len());
    assert_eq!(mail.attachments[0].name, "scan.pdf");
    assert!(String::from_utf8_lossy(&mail.data).contains("See the file."));
    // A device that sends nothing but the file.
    let pdf = noise(10_000_000, 2);
    let header = "MIME-Version: 1.0\r\nContent-Type: application/pdf; name=\"scan.pdf\"\r\n\
        Content-Transfer-Encoding: base64\r\n";
    let mut text = String::from_utf8(scan("single", header)).unwrap().replace("scan\r\n", "");
    in_base64(&mut text, &pdf);
    send(&site, text.as_bytes()).await;
    let mail = site.arrived(3, SOON).await.remove(2);
    assert_eq!((subject(&mail).as_str(), mail.attachments.len()), ("single", 1));
    assert!(*mail.attachments[0].data == pdf[..]);
    assert_eq!(mail.attachments[0].content_type, "application/pdf");
    until_empty(&site).await;
    assert_eq!(site.emulator.control().drafts(MAILBOX), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_permission_for_drafts_small_messages_go_on() {
    for account in [GRAPH, GRAPH_FIRST] {
        let mut options = emulated(vec![MAILBOX.into()]);
        options.registration.graph_roles = vec!["Mail.Send".into()];
        let site = Site::new(Plan { emulated: options, account, more: HASTY }).await;
        send(&site, &with_pdf("large", &noise(4_000_000, 5))).await;
        let by_smtp = usize::from(account == GRAPH_FIRST);
        if by_smtp == 0 {
            let list = until(&site, "it has failed", has_failed).await;
            let id = list["failed"][0]["id"].as_str().unwrap();
            let shown = site.command(&["spool", "show", id]);
            assert!(shown.contains("Mail.ReadWrite") && shown.contains("entra script"), "{shown}");
        }
        assert_eq!(site.arrived(by_smtp, SOON).await.len(), by_smtp);
        send(&site, &scan("small", "")).await;
        let sent = site.arrived(by_smtp + 1, SOON).await;
        assert_eq!((sent[by_smtp].way, sent.len()), (Way::Graph, by_smtp + 1));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_envelope_is_who_gets_it() {
    let site = site(GRAPH).await;
    send_to(&site, &scan("hidden", ""), &[TO, "c@d.example", "C@d.example"]).await.unwrap();
    let mail = site.arrived(1, SOON).await.remove(0);
    assert_eq!(mail.recipients, [TO, "c@d.example"]);
    assert_eq!(*mail.data, scan("hidden", ""), "nobody else learns of it");
    // To somebody else than the header says: Graph would send to those whom it names.
    send_to(&site, &scan("other", ""), &["c@d.example"]).await.unwrap();
    let list = until(&site, "it has failed", has_failed).await;
    let said = list["failed"][0]["progress"]["last_error"].as_str().unwrap();
    assert!(said.contains(TO) && said.contains("name others"), "{said}");
    assert_eq!(site.emulator.control().sent().len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whom_the_header_does_not_name_is_reached_by_smtp() {
    let site = site(GRAPH_FIRST).await;
    send_to(&site, &scan("other", ""), &["c@d.example"]).await.unwrap();
    let mail = site.arrived(1, SOON).await.remove(0);
    assert_eq!(
        (mail.way, mail.recipients.as_slice()),
        (Way::Smtp, &["c@d.example".to_owned()][..])
    );
    assert_eq!(*mail.data, scan("other", ""));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_direct_listener_says_that_graph_needs_a_spool() {
    let site = site(GRAPH).await;
    let mut device = Device::connect(site.direct).await.unwrap();
    let refused = device.log_in(MAILBOX, &site.passwords[0]).await.unwrap_err().to_string();
    assert!(refused.contains("delivery = \"spool\""), "{refused}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_in_the_middle_of_an_upload_it_begins_anew_and_leaves_no_draft() {
    let mut site = site(GRAPH).await;
    let pdf = noise(20_000_000, 3);
    let control = site.emulator.control().clone();
    // Each piece is late, so that the kill meets the first one.
    control.fail_graph(GraphStep::Upload, GraphFault::Delay(Duration::from_secs(60)), None);
    send(&site, &with_pdf("large", &pdf)).await;
    let mut requests = 0;
    for kill in 0..3 {
        // A draft, an upload, a piece of it; at first what the kill before has left over is deleted.
        requests += if kill == 0 { 3 } else { 4 };
        let began = Instant::now();
        while control.graph_requests() < requests {
            assert!(began.elapsed() < SOON, "{} requests", control.graph_requests());
            sleep(Duration::from_millis(20)).await;
        }
        assert_eq!(control.drafts(MAILBOX), 1);
        site.kill();
        assert!(control.sent().is_empty());
        if kill == 2 {
            control.clear_graph_faults();
        }
        site.start();
    }
    let mail = site.arrived(1, SOON).await.remove(0);
    assert!(*mail.attachments[0].data == pdf[..]);
    until_empty(&site).await;
    assert_eq!((control.sent().len(), control.drafts(MAILBOX)), (1, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "moves half a gigabyte"]
async fn twenty_messages_at_once_need_little_memory() {
    let count = 20;
    let plan = Plan { emulated: emulated(mailboxes(count)), account: GRAPH, more: HASTY };
    let site = Site::new(plan).await;
    let large = with_pdf("large", &noise(20_000_000, 4));
    // As much as goes in one request.
    for (name, message, already) in [("by draft", large, 0), ("at once", signed(3_100_000), count)]
    {
        let message: &'static [u8] = Box::leak(message.into());
        site.reset_peak();
        let (_, rest) = site.memory();
        let began = Instant::now();
        let mut devices = tokio::task::JoinSet::new();
        for number in 0..count {
            let (address, password) = (site.spool, site.passwords[number].clone());
            devices.spawn(async move { send_as(number, address, &password, message).await });
        }
        while let Some(done) = devices.join_next().await {
            done.unwrap();
        }
        let accepted = began.elapsed();
        let sent = site.arrived(already + count, Duration::from_secs(120)).await;
        let (peak, _) = site.memory();
        println!(
            "{name}: {rest} KiB at rest, {peak} KiB at most, accepted within {accepted:?}, sent within {:?}",
            began.elapsed()
        );
        assert!(sent[..count].iter().all(|mail| mail.attachments.len() == 1));
        assert!(sent.iter().all(|mail| mail.way == Way::Graph));
        assert!(peak < rest + 32 * 1024, "{name}: {rest} KiB at rest, {peak} KiB at most");
    }
}

/// The same message, of another mailbox.
async fn send_as(number: usize, address: SocketAddr, password: &str, message: &[u8]) {
    let mailbox = format!("device{number}@contoso.example");
    let (head, body) = message.split_at(2000);
    let head = String::from_utf8_lossy(head).replace(MAILBOX, &mailbox);
    let own = [head.as_bytes(), body].concat();
    let mut device = Device::connect(address).await.unwrap();
    device.log_in(&mailbox, password).await.unwrap();
    device.send(&mailbox, TO, &own).await.unwrap();
}
