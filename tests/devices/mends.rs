//! What is mended on its way into the spool, and told in the log, judged by what arrives.

use gatepost::emulator::SentMail;

use crate::Wire;
use crate::panels::{MAPPED, OWN, Panels, SCAN, message, text};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn odd_envelopes_are_mended_and_the_log_tells() {
    let panels = Panels::new().await;
    let mut wire = panels.spooling(SCAN).await;
    let cases = [
        ("MAIL FROM:< >", "RCPT TO:<a@b.example>"),
        ("MAIL FROM:<>", "RCPT TO: <a@b.example>"),
        ("MAIL FROM: scan@contoso.example", "RCPT TO: a@b.example"),
        ("mail from:scan@contoso.example SIZE=1000", "rcpt to:a@b.example"),
        ("MAIL FROM: Floor 3 <scan@contoso.example>", "RCPT TO:\"Jane\" <a@b.example>"),
        ("MAIL FROM:<Floor 3 scan@contoso.example>", "RCPT TO:<Jane a@b.example>"),
        ("MAIL FROM:<scan@contoso.example> Floor 3", "RCPT TO:<a@b.example>"),
        ("MAIL FROM:<scan@contoso.example", "RCPT TO:<a@b.example"),
        ("MAIL FROM scan@contoso.example", "RCPT TO : <a@b.example> "),
        ("MAIL FROM:<scanner>", "RCPT TO:<<a@b.example>>"),
        (
            "MAIL FROM:<scan@contoso.example> BODY=8BITMIME AUTH=<>",
            "RCPT TO:<a@b.example> NOTIFY=NEVER",
        ),
        ("MAIL FROM:scan@contoso.example <scan@contoso.example>", "RCPT TO:'a@b.example'"),
    ];
    let mut faults = Vec::new();
    let mut count = 0;
    for (mail, rcpt) in cases {
        let answers = [wire.ask(mail).await, wire.ask(rcpt).await];
        if answers.iter().any(|answer| !answer.starts_with("250")) {
            faults.push(format!("{mail:?}, {rcpt:?}: {answers:?}"));
            wire.say("RSET", "250").await;
            continue;
        }
        wire.say("DATA", "354").await;
        wire.write(format!("{}.\r\n", message("odd"))).await;
        wire.expect("250").await;
        let arrived = panels.arrival(count).await;
        count += 1;
        if arrived.sender != SCAN || arrived.recipients != ["a@b.example"] {
            faults.push(format!("{mail:?}, {rcpt:?}: {} {:?}", arrived.sender, arrived.recipients));
        }
        assert_eq!(text(&arrived), message("odd"), "the content needs no mend");
    }
    assert!(faults.is_empty(), "{faults:#?}");
    let log = panels.site.logged("message accepted", count).await;
    for told in
        ["MAIL FROM without angle brackets", "MAIL FROM with a display name", "instead of <>"]
    {
        assert!(log.contains(told), "{told:?} is not in the log");
    }
    assert_eq!(log.matches("message accepted").count(), count);
    panels.is_content();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn missing_fields_are_put_in() {
    let panels = Panels::new().await;
    let mut wire = panels.spooling(SCAN).await;
    let cases = ["Subject: scan\r\n\r\npage\r\n", "\r\npage\r\n", "page\r\n", ""];
    for (number, message) in cases.into_iter().enumerate() {
        wire.send("", "a@b.example", message).await;
        let arrived = panels.arrival(number).await;
        assert_eq!(arrived.sender, SCAN);
        assert_eq!(field(&arrived, "From"), SCAN, "{message:?}: {}", text(&arrived));
        assert!(is_mail_date(&field(&arrived, "Date")), "{}", text(&arrived));
        let id = field(&arrived, "Message-ID");
        assert!(id.starts_with('<') && id.ends_with("@contoso.example>"), "{id}");
        let (_, body) = text(&arrived)
            .split_once("\r\n\r\n")
            .map(|(a, b)| (a.to_owned(), b.to_owned()))
            .unwrap();
        assert_eq!(body, if message.contains("page") { "page\r\n" } else { "" });
    }
    let log = panels.site.logged("message accepted", cases.len()).await;
    for told in ["From was missing", "Date was missing", "Message-ID was missing"] {
        assert_eq!(log.matches(told).count(), cases.len(), "{told}: {log}");
    }
    panels.is_content();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bare_line_feeds_are_taken_where_it_is_allowed_and_never_end_a_message() {
    let panels = Panels::new().await;
    let password = panels.password(SCAN);
    let head = message("bare").replace("scan\r\n", "");
    let smuggled = format!("MAIL FROM:<{SCAN}>\r\nRCPT TO:<evil@x.example>\r\nDATA\r\nx");
    let bodies = [
        ("one\ntwo\n\nthree\r\n".to_owned(), "one\r\ntwo\r\n\r\nthree\r\n".to_owned()),
        (format!("a\n.\n{smuggled}\r\n"), format!("a\r\n.\r\n{smuggled}\r\n")),
        (format!("a\n.\r\n{smuggled}\r\n"), format!("a\r\n.\r\n{smuggled}\r\n")),
        // A dot at the beginning of a line of the wire is the client's own (RFC 5321 section 4.5.2).
        (format!("a\r\n.\n{smuggled}\r\n"), format!("a\r\n\r\n{smuggled}\r\n")),
    ];
    let mut wire = Wire::open(panels.bare).await.log_in(SCAN, password).await;
    for (number, (body, wanted)) in bodies.iter().enumerate() {
        wire.send(SCAN, "a@b.example", format!("{head}{body}")).await;
        let arrived = panels.arrival(number).await;
        assert_eq!(text(&arrived), format!("{head}{wanted}"), "{body:?}");
        assert_eq!(arrived.recipients, ["a@b.example"]);
    }
    // Not even the header's.
    wire.send(SCAN, "a@b.example", format!("{}\r\n", message("header").replace("\r\n", "\n")))
        .await;
    assert_eq!(text(&panels.arrival(4).await).trim_end(), message("header").trim_end());
    panels.site.logged("bare line feed", 1).await;

    let mut wire = panels.spooling(SCAN).await;
    for (body, _) in &bodies {
        wire.envelope(SCAN, "a@b.example").await;
        wire.write(format!("{head}{body}.\r\n")).await;
        let answer = wire.expect("550 5.6.11").await;
        assert!(answer.contains("bare_lf"), "{answer}");
    }
    wire.send(SCAN, "a@b.example", message("good")).await;
    assert_eq!(text(&panels.arrival(5).await), message("good"));
    panels.is_content();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn senders_are_what_exchange_accepts() {
    let panels = Panels::new().await;
    let sent = async |mailbox: &str, from: &str, line: &str, before: usize| {
        let mut wire = panels.spooling(mailbox).await;
        wire.send(from, "a@b.example", message("sender").replace(&format!("From: <{SCAN}>"), line))
            .await;
        panels.arrival(before).await
    };
    // keep: as it came, to the octet.
    let kept = sent(SCAN, SCAN, "From: \"Floor 3\"  <SCAN@contoso.example> (x)", 0).await;
    assert_eq!(kept.sender, SCAN);
    assert!(
        text(&kept).starts_with("From: \"Floor 3\"  <SCAN@contoso.example> (x)\r\nTo:"),
        "{}",
        text(&kept)
    );
    // mailbox: a sender that can be answered is in Reply-To.
    let own = sent(OWN, "mfp@fabrikam.com", "From: Floor 3 <mfp@fabrikam.com>", 1).await;
    assert_eq!((own.sender.as_str(), own.mailbox.as_str()), (OWN, OWN));
    assert_eq!(field(&own, "From"), format!("Floor 3 <{OWN}>"));
    assert_eq!(field(&own, "Reply-To"), "<mfp@fabrikam.com>");
    // One that can't is to be seen.
    let own = sent(OWN, "", "From: scanner@printer.local", 2).await;
    assert_eq!((own.sender.as_str(), field(&own, "From").as_str()), (OWN, OWN));
    assert_eq!(field(&own, "Reply-To"), "");
    assert_eq!(field(&own, "X-Original-From"), "scanner@printer.local");
    // What the device has said of answers stays.
    let own = sent(OWN, "x", "From: <a@fabrikam.com>\r\nReply-To: <jane@fabrikam.com>", 3).await;
    assert_eq!(field(&own, "Reply-To"), "<jane@fabrikam.com>");
    assert_eq!(field(&own, "X-Original-From"), "<a@fabrikam.com>");
    // map: an address, a domain, in any case.
    for (number, from) in ["Floor3@Printers.local", "any@OLD.example.com"].into_iter().enumerate() {
        let mapped = sent(MAPPED, from, &format!("From: <{from}>"), 4 + number).await;
        assert_eq!(mapped.sender, MAPPED, "{from}");
        assert_eq!(field(&mapped, "From"), format!("<{MAPPED}>"), "{from}");
    }
    let log = panels.site.logged("message accepted", 6).await;
    assert!(log.contains("Reply-To added: <mfp@fabrikam.com>"), "{log}");
    assert!(log.contains("X-Original-From added"), "{log}");
    panels.is_content();
}

/// The value of a field; empty: there is none.
fn field(sent: &SentMail, name: &str) -> String {
    let text = text(sent);
    let header = text.split("\r\n\r\n").next().unwrap();
    let mut found = header.lines().filter_map(|line| line.strip_prefix(&format!("{name}: ")));
    let value = found.next().unwrap_or_default().to_owned();
    assert_eq!(found.next(), None, "{name} twice in {text}");
    value
}

/// `Tue, 3 Mar 2026 10:00:00 +0000`
fn is_mail_date(date: &str) -> bool {
    let words: Vec<_> = date.split(' ').collect();
    words.len() == 6
        && words[0].ends_with(',')
        && words[4].split(':').count() == 3
        && words[5].len() == 5
}
