//! The report that a message could not be delivered (RFC 3464, RFC 6522): words for a person, the same for
//! programs, and the header of the message.
//!
//! Invariant: 7-bit and CRLF throughout, and nothing that a device or a server said begins a line, a field or
//! a part of its own: whatever is not ours goes through [`one_line`] or is encoded.

use mail_builder::MessageBuilder;
use mail_builder::headers::address::Address;
use mail_builder::headers::content_type::ContentType;
use mail_builder::headers::raw::Raw;
use mail_builder::mime::{BodyPart, MimePart};
use mail_parser::MessageParser;

use super::header::Header;
use super::lines::{line, one_line, wrap};
use super::mend::message_id;
use crate::clock::Timestamp;
use crate::explain;
use crate::protocol::is_status;

/// How much of the original's header goes back with it: more than people's mail has, and a report stays small.
pub(super) const MAX_HEADER: usize = 64 << 10;

/// A recipient who did not get the message.
#[derive(Clone, Debug)]
pub(super) struct Failure<'a> {
    /// The address.
    pub(super) recipient: &'a str,
    /// Enhanced status code (RFC 3463), `5.1.1`.
    pub(super) code: Option<&'a str>,
    /// The server's own words.
    pub(super) said: &'a str,
    /// What to do; `None`: what `explain` knows of the server's words.
    pub(super) remedy: Option<String>,
}

/// What a report tells.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounce<'a> {
    /// The mailbox that the message was to go out by; the report comes from it.
    pub(super) mailbox: &'a str,
    /// Who gets the report.
    pub(super) notify: &'a str,
    /// The message's name in the spool.
    pub(super) queue_id: &'a str,
    /// Who handed the message over.
    pub(super) device: &'a str,
    /// When.
    pub(super) arrived: Timestamp,
    /// When the last attempt was.
    pub(super) now: Timestamp,
    /// Who did not get it.
    pub(super) failures: &'a [Failure<'a>],
    /// The message's header.
    pub(super) header: &'a [u8],
    /// The envelope's sender as the device gave it.
    pub(super) original_sender: &'a str,
    /// How often it was tried.
    pub(super) attempts: u32,
}

/// The whole message.
pub(super) fn bounce(b: &Bounce<'_>) -> Vec<u8> {
    let header = Header::read(b.header);
    let subject = subject(&header);
    let mut parts = vec![
        MimePart::new("text/plain", BodyPart::Text(words(b, &header, &subject).into())),
        MimePart::raw(BodyPart::Text(status(b).into()))
            .header("Content-Type", ContentType::new("message/delivery-status"))
            .transfer_encoding("7bit"),
    ];
    let fields = capped(&header);
    if !fields.is_empty() {
        parts.push(MimePart::new("text/rfc822-headers", BodyPart::Binary(fields.into())));
    }
    let report = ContentType::new("multipart/report").attribute("report-type", "delivery-status");
    let id = message_id(b.now, &format!("{}-bounce", b.queue_id), b.mailbox);
    let mut message = MessageBuilder::new()
        .from(Address::new_address(Some("gatepost"), one_line(b.mailbox)))
        .to(Address::from(one_line(b.notify)))
        .subject(format!("Not delivered: {subject}"))
        .header("Date", Raw::new(b.now.mail_date()))
        .header("Message-ID", Raw::new(id));
    if let Some(original) = original_id(&header) {
        message = message.header("In-Reply-To", Raw::new(original.clone()));
        message = message.header("References", Raw::new(original));
    }
    // RFC 3834 section 5: nobody's absence notice answers it.
    message = message.header("Auto-Submitted", Raw::new("auto-replied"));
    let mut octets = Vec::new();
    message.body(MimePart::new(report, BodyPart::Multipart(parts))).serialize(&mut octets);
    octets
}

/// The part for a person.
fn words(b: &Bounce<'_>, header: &Header<'_>, subject: &str) -> String {
    let mut text = String::new();
    let device = one_line(b.device);
    line(&mut text, "", &format!("A message from {device} could not be delivered."));
    text.push_str("\r\n");
    let date = header.field("Date").map(|field| one_line(&field.text()));
    let sender = match b.original_sender {
        "" => "nobody (<>)".to_owned(),
        sender => one_line(sender),
    };
    let facts = [
        ("Subject", subject.to_owned()),
        ("Date", date.unwrap_or_else(|| "none".into())),
        ("Sender", sender),
        ("Taken", format!("{}, to be sent by {}", b.arrived.text(), one_line(b.mailbox))),
        ("Tried", format!("{}, last at {}", times(b.attempts), b.now.text())),
    ];
    for (name, value) in facts {
        line(&mut text, "", &format!("{name}: {value}"));
    }
    text.push_str("\r\n");
    line(&mut text, "", "Not delivered to:");
    text.push_str("\r\n");
    for failure in b.failures {
        told(&mut text, b.mailbox, failure);
    }
    let id: String =
        b.queue_id.chars().filter(|c| c.is_ascii_alphanumeric() || *c == '-').collect();
    let closing = [
        format!("The message is kept. To see it: gatepost spool show {id}"),
        format!("To send it again once the cause is gone: gatepost spool retry {id}"),
    ];
    for sentence in closing {
        line(&mut text, "", &sentence);
    }
    text
}

/// One recipient: what it means, what the server said, what to do.
fn told(text: &mut String, mailbox: &str, failure: &Failure<'_>) {
    line(text, "  ", &one_line(failure.recipient));
    let known = explain::best(failure.said).or_else(|| explain::best(failure.code?));
    if let Some(entry) = known {
        line(text, "    ", &format!("{}. {}", entry.title, entry.meaning));
    }
    let said = match one_line(failure.said) {
        said if said.is_empty() => "The server gave no reason.".to_owned(),
        said => format!("The server said: {said}"),
    };
    line(text, "    ", &said);
    let remedy = failure.remedy.clone().or_else(|| Some(known?.remedy_for(mailbox)));
    if let Some(remedy) = remedy {
        line(text, "    ", &format!("What to do: {}", one_line(&remedy)));
    }
    text.push_str("\r\n");
}

/// The part for programs (RFC 3464 section 2).
fn status(b: &Bounce<'_>) -> String {
    let mut text = String::new();
    field(&mut text, "Reporting-MTA", "dns; gatepost");
    field(&mut text, "X-Gatepost-Queue-ID", b.queue_id);
    field(&mut text, "Arrival-Date", &b.arrived.mail_date());
    for failure in b.failures {
        text.push_str("\r\n");
        field(&mut text, "Final-Recipient", &typed_address(failure.recipient));
        field(&mut text, "Action", "failed");
        let code = failure.code.filter(|code| is_refusal(code)).unwrap_or("5.0.0");
        field(&mut text, "Status", code);
        if !failure.said.trim().is_empty() {
            field(&mut text, "Diagnostic-Code", &format!("smtp; {}", failure.said));
        }
        field(&mut text, "Last-Attempt-Date", &b.now.mail_date());
    }
    text
}

/// Whether this is the enhanced code (RFC 3463 section 2) of something that was refused.
pub(super) fn is_refusal(code: &str) -> bool {
    code.starts_with(['4', '5']) && is_status(code)
}

/// RFC 6533 section 3: what is not ASCII is escaped.
fn typed_address(address: &str) -> String {
    let address = one_line(address);
    if address.is_ascii() {
        return format!("rfc822; {address}");
    }
    let escape = |c: char| match c {
        c if c.is_ascii_graphic() && !"\\+=".contains(c) => c.to_string(),
        c => format!("\\x{{{:X}}}", u32::from(c)),
    };
    format!("utf-8; {}", address.chars().map(escape).collect::<String>())
}

fn field(text: &mut String, name: &str, value: &str) {
    let ascii = |c: char| if c.is_ascii() { c } else { '?' };
    let value: String = one_line(value).chars().map(ascii).collect();
    wrap(text, &format!("{name}: "), " ", &value);
}

/// Decoded (RFC 2047), and short enough for a subject again.
fn subject(header: &Header<'_>) -> String {
    /// Longer ones are cut in every list of messages.
    const LONGEST: usize = 150;
    let none = || "a message without subject".to_owned();
    let Some(raw) = header.field("Subject").map(|field| field.raw()) else { return none() };
    let parsed = MessageParser::new().header_text("Subject").parse_headers(raw);
    let subject = parsed.as_ref().and_then(|message| message.subject()).unwrap_or_default();
    match one_line(subject).chars().take(LONGEST).collect::<String>() {
        subject if subject.is_empty() => none(),
        subject => subject,
    }
}

/// The original's Message-ID, if it is one (RFC 5322 section 3.6.4).
fn original_id(header: &Header<'_>) -> Option<String> {
    /// So that its field stays on a line.
    const LONGEST: usize = 250;
    let id = header.field("Message-ID")?.text();
    let inner = id.strip_prefix('<')?.strip_suffix('>')?;
    let good = |c: char| c.is_ascii_graphic() && c != '<' && c != '>';
    (id.len() <= LONGEST && inner.contains('@') && inner.chars().all(good)).then_some(id)
}

/// Whole fields, up to the limit, without the controls that a line can't have (RFC 5322 section 4.1).
fn capped(header: &Header<'_>) -> Vec<u8> {
    let mut octets = Vec::new();
    for field in header.fields() {
        if octets.len() + field.raw().len() > MAX_HEADER {
            break;
        }
        for line in field.raw().trim_ascii_end().split(|&octet| octet == b'\n') {
            let line = line.strip_suffix(b"\r").unwrap_or(line).iter();
            let printable = |&octet: &u8| if octet < b' ' && octet != b'\t' { b'?' } else { octet };
            octets.extend(line.map(printable));
            octets.extend_from_slice(b"\r\n");
        }
    }
    octets
}

fn times(attempts: u32) -> String {
    match attempts {
        1 => "once".into(),
        more => format!("{more} times"),
    }
}

#[cfg(test)]
mod tests {
    use mail_parser::MimeHeaders;

    use super::*;

    fn now() -> Timestamp {
        Timestamp::from_millis(1_800_003_600_000)
    }

    fn example<'a>(failures: &'a [Failure<'a>], header: &'a [u8]) -> Bounce<'a> {
        Bounce {
            mailbox: "scan@contoso.com",
            notify: "it@contoso.com",
            queue_id: "7f3a-1",
            device: "third floor",
            arrived: Timestamp::from_millis(1_800_000_000_000),
            now: now(),
            failures,
            header,
            original_sender: "mfp@printer.local",
            attempts: 3,
        }
    }

    fn failure<'a>(recipient: &'a str, code: Option<&'a str>, said: &'a str) -> Failure<'a> {
        Failure { recipient, code, said, remedy: None }
    }

    /// What is to hold of every report, whatever the others said.
    fn check(octets: &[u8]) {
        assert!(octets.is_ascii());
        let text = str::from_utf8(octets).unwrap();
        assert!(text.ends_with("\r\n"));
        for line in text.strip_suffix("\r\n").unwrap().split("\r\n") {
            assert!(line.len() <= 998 && !line.contains(['\r', '\n', '\0']), "{line:?}");
        }
        let message = MessageParser::default().parse(octets).unwrap();
        let names: Vec<_> = message.parts[0].headers.iter().map(|it| it.name.as_str()).collect();
        let known = [
            "From",
            "To",
            "Subject",
            "Date",
            "Message-ID",
            "In-Reply-To",
            "References",
            "Auto-Submitted",
            "MIME-Version",
            "Content-Type",
        ];
        for name in &names {
            assert_eq!(names.iter().filter(|it| it == &name).count(), 1, "{names:?}");
            assert!(known.contains(name), "{name} in {names:?}");
        }
        let to = message.to().and_then(|to| to.first()).and_then(|to| to.address()).unwrap();
        assert_eq!(to, "it@contoso.com");
    }

    fn status_of(octets: &[u8]) -> String {
        let message = MessageParser::default().parse(octets).unwrap();
        String::from_utf8(message.parts[2].contents().to_vec()).unwrap()
    }

    #[test]
    fn three_parts_that_an_independent_parser_reads() {
        let failures = [
            failure(
                "nobody@fabrikam.com",
                Some("5.1.10"),
                "550 5.1.10 RESOLVER.ADR.RecipientNotFound; Recipient not found",
            ),
            Failure {
                remedy: Some("make the scan smaller".into()),
                ..failure("boss@fabrikam.com", None, "552 message too large")
            },
        ];
        let header = "Subject: =?utf-8?q?B=C3=BCro-Scan?=\r\nFrom: B\u{fc}ro <x@y.de>\r\n\
            Date: Fri, 15 Jan 2027 08:00:00 +0000\r\nMessage-ID: <1@printer>\r\n\r\n";
        let octets = bounce(&example(&failures, header.as_bytes()));
        check(&octets);
        let message = MessageParser::default().parse(&octets).unwrap();
        assert_eq!(message.subject(), Some("Not delivered: B\u{fc}ro-Scan"));
        let from = message.from().and_then(|from| from.first()).unwrap();
        assert_eq!((from.name(), from.address()), (Some("gatepost"), Some("scan@contoso.com")));
        assert_eq!(message.message_id(), Some("1800003600000.7f3a-1-bounce.gatepost@contoso.com"));
        assert_eq!(message.in_reply_to().as_text(), Some("1@printer"));
        assert_eq!(message.date().unwrap().to_timestamp(), now().as_millis() / 1000);
        let report = message.content_type().unwrap();
        assert_eq!((report.ctype(), report.subtype()), ("multipart", Some("report")));
        assert_eq!(report.attribute("report-type"), Some("delivery-status"));
        assert_eq!(message.parts.len(), 4);
        assert_eq!(message.parts[3].text_contents(), Some(header.strip_suffix("\r\n").unwrap()));

        let words = message.parts[1].text_contents().unwrap();
        for told in [
            "from third floor could not",
            "Subject: B\u{fc}ro-Scan",
            "Sender: mfp@printer.local",
            "Tried: 3 times",
            "  nobody@fabrikam.com",
            "The server said: 552 message too large",
            "What to do: make the scan smaller",
            "gatepost spool show 7f3a-1",
            "gatepost spool retry 7f3a-1",
        ] {
            assert!(words.contains(told), "{told:?} is missing in {words}");
        }
        let expected = "Reporting-MTA: dns; gatepost\r\nX-Gatepost-Queue-ID: 7f3a-1\r\n\
            Arrival-Date: Fri, 15 Jan 2027 08:00:00 +0000\r\n\r\n\
            Final-Recipient: rfc822; nobody@fabrikam.com\r\nAction: failed\r\nStatus: 5.1.10\r\n\
            Diagnostic-Code: smtp; 550 5.1.10 RESOLVER.ADR.RecipientNotFound; Recipient\r\n not found\r\n\
            Last-Attempt-Date: Fri, 15 Jan 2027 09:00:00 +0000\r\n\r\n\
            Final-Recipient: rfc822; boss@fabrikam.com\r\nAction: failed\r\nStatus: 5.0.0\r\n\
            Diagnostic-Code: smtp; 552 message too large\r\n\
            Last-Attempt-Date: Fri, 15 Jan 2027 09:00:00 +0000\r\n";
        assert_eq!(status_of(&octets).trim_end(), expected.trim_end());
    }

    #[test]
    fn what_exchange_says_is_told_in_plain_words() {
        let said = "550 5.7.60 SMTP; Client does not have permissions to send as this sender";
        let known = explain::best(said).expect("a reply that is explained");
        let failures = [failure("a@b.de", Some("5.7.60"), said)];
        let octets = bounce(&example(&failures, b"Subject: x\r\n\r\n"));
        let message = MessageParser::default().parse(&octets).unwrap();
        let words = message.parts[1].text_contents().unwrap();
        let flat = words.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(flat.contains(&known.title) && flat.contains(said), "{words}");
        assert!(flat.contains(&known.remedy_for("scan@contoso.com")), "{words}");
    }

    #[test]
    fn hostile_words_stay_in_their_place() {
        let evil = "x\r\nBcc: evil@x.de\r\n\r\n--_\r\n.\r\n\u{85}\u{2028}<b>\0\u{202e}";
        let failures =
            [failure(evil, Some("5.1.1\r\nX: y"), evil), failure("\u{fc}@x.de", Some("9.9.9"), "")];
        let header = b"Subject: =?utf-8?q?a=0D=0ABcc:_evil@x.de?=\r\nMessage-ID: <a@b>\0<c@d>\r\n\
            Date: x\rBcc: y\nTo: z\r\n\xff\0: no\r\n\r\n";
        let mut report = example(&failures, header);
        (report.queue_id, report.device, report.original_sender) = (evil, evil, evil);
        let octets = bounce(&report);
        check(&octets);
        let status = status_of(&octets);
        assert!(!status.contains("\nBcc") && !status.contains("\nX:"), "{status}");
        assert_eq!(status.matches("\r\nStatus: 5.0.0\r\n").count(), 2, "{status}");
        assert!(status.contains("Final-Recipient: utf-8; \\x{FC}@x.de\r\n"), "{status}");
        let long = "y".repeat(100_000);
        let failures = [failure(&long, None, &long)];
        check(&bounce(&example(&failures, format!("Subject: {long}\r\n\r\n").as_bytes())));
    }

    #[test]
    fn a_header_goes_back_up_to_a_limit_and_none_without_fields() {
        let header = format!("Subject: x\r\n{}\r\n", "X-Odd: 0123456789\r\n".repeat(10_000));
        let octets = bounce(&example(&[], header.as_bytes()));
        check(&octets);
        assert!((MAX_HEADER - 100..MAX_HEADER + 6000).contains(&octets.len()), "{}", octets.len());
        let octets = bounce(&example(&[], b"just text\r\n"));
        check(&octets);
        let message = MessageParser::default().parse(&octets).unwrap();
        assert_eq!(
            (message.parts.len(), message.subject()),
            (3, Some("Not delivered: a message without subject"))
        );
    }
}
