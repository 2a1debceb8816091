//! The emulator's Microsoft Graph, over raw HTTP: before it may judge the proxy, it is judged here.

use std::time::{Duration, Instant};

use crate::wire::{Wire, trusting};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use gatepost::emulator::{
    App, Emulator, GraphFault, GraphStep, Options, Registration, Shared, Tls, Way,
};
use serde_json::{Value, json};

const JANE: &str = "jane@contoso.example";
const SUPPORT: &str = "support@contoso.example";
const BOB: &str = "bob@contoso.example";
const MAIL: &str =
    "From: Jane <jane@contoso.example>\r\nTo: x@fabrikam.example\r\nSubject: s\r\n\r\nhi\r\n";
const MIB: usize = 1024 * 1024;

/// An emulator and a client of its Graph.
struct Desk {
    emulator: Emulator,
    /// What is sent as `Authorization`; nothing if it is empty.
    token: String,
}

struct Answer {
    status: u16,
    head: String,
    body: Value,
}

impl Desk {
    /// Signed in as this user, or as the app.
    async fn with(options: Options, user: Option<&str>) -> Self {
        let options = Options {
            mailboxes: vec![JANE.into(), SUPPORT.into(), BOB.into()],
            shared: vec![Shared { mailbox: SUPPORT.into(), users: vec![JANE.into()] }],
            ..options
        };
        let emulator = Emulator::start(options).await.unwrap();
        let token = emulator.control().issue_graph_token(user);
        Self { emulator, token }
    }

    async fn new(user: Option<&str>) -> Self {
        Self::with(Options::default(), user).await
    }

    /// One request to a path of Graph's.
    async fn ask(&self, line: &str, headers: &str, body: &[u8]) -> Answer {
        let (method, path) = line.split_once(' ').unwrap();
        let url = format!("{}{path}", self.emulator.graph_url());
        let token = match self.token.as_str() {
            "" => String::new(),
            token => format!("Authorization: Bearer {token}\r\n"),
        };
        ask(method, &url, &(token + headers), body).await.expect("no answer")
    }

    async fn post_mime(&self, path: &str, mime: &str) -> Answer {
        let body = STANDARD.encode(mime);
        let line = format!("POST {path}");
        self.ask(&line, "Content-Type: text/plain\r\n", body.as_bytes()).await
    }

    async fn post_json(&self, path: &str, body: &Value) -> Answer {
        let headers = "Content-Type: application/json\r\n";
        let line = format!("POST {path}");
        self.ask(&line, headers, body.to_string().as_bytes()).await
    }

    async fn draft(&self, mailbox: &str) -> String {
        let answer = self.post_mime(&format!("/users/{mailbox}/messages"), MAIL).await;
        answer.is(201, "");
        assert_eq!((&answer.body["isDraft"], &answer.body["subject"]), (&true.into(), &"s".into()));
        let id = answer.body["id"].as_str().unwrap();
        format!("/users/{mailbox}/messages/{id}")
    }

    async fn form(&self, url: &str, form: &str) -> Answer {
        let headers = "Content-Type: application/x-www-form-urlencoded\r\n";
        ask("POST", url, headers, form.as_bytes()).await.unwrap()
    }
}

/// One request; `None` if the connection closes instead.
async fn ask(method: &str, url: &str, headers: &str, body: &[u8]) -> Option<Answer> {
    let (host, path) = url.strip_prefix("http://").unwrap().split_once('/').unwrap();
    let length = body.len();
    let mut wire = Wire::connect(host.parse().unwrap()).await;
    wire.send(format!(
        "{method} /{path} HTTP/1.1\r\nHost: {host}\r\n{headers}Connection: close\r\n\
         Content-Length: {length}\r\n\r\n"
    ))
    .await;
    wire.send(body).await;
    let answer = String::from_utf8(wire.rest().await).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n")?;
    let body = serde_json::from_str(body).unwrap_or(Value::Null);
    Some(Answer { status: head[9..12].parse().unwrap(), head: head.into(), body })
}

/// A piece of an upload, which has no `Authorization`.
async fn put(url: &str, piece: &[u8], range: &str) -> Answer {
    let range = format!("Content-Range: bytes {range}\r\n");
    ask("PUT", url, &range, piece).await.unwrap()
}

impl Answer {
    #[track_caller]
    fn is(&self, status: u16, code: &str) {
        let told = self.body["error"]["code"].as_str().unwrap_or_default();
        assert_eq!((self.status, told), (status, code), "{} {}", self.head, self.body);
        if !code.is_empty() {
            assert!(self.body["error"]["innerError"]["request-id"].is_string(), "{}", self.body);
        }
    }
}

#[tokio::test]
async fn a_message_at_once() {
    let desk = Desk::new(Some(JANE)).await;
    let control = desk.emulator.control();
    let mime = "From: Jane <jane@contoso.example>\r\nTo: \"Doe, Bob\" <bob@contoso.example>,\r\n \
        Friends: x@fabrikam.example, BOB@contoso.example;\r\nBcc: y@fabrikam.example,\r\n\
        \tSupport <support@contoso.example>\r\nX-Odd:\ta  b\r\n\r\n.\r\nBcc: stays\r\n";
    let delivered =
        mime.replace("Bcc: y@fabrikam.example,\r\n\tSupport <support@contoso.example>\r\n", "");
    for (path, sequence) in [("/me/sendMail", 1), ("/users/JANE%40contoso.example/sendMail", 2)] {
        let answer = desk.post_mime(path, mime).await;
        answer.is(202, "");
        let sent = control.sent();
        let mail = sent.last().unwrap();
        assert_eq!((mail.sequence, mail.way, mail.mailbox.as_str()), (sequence, Way::Graph, JANE));
        assert_eq!(mail.sender, JANE);
        let all = ["bob@contoso.example", "x@fabrikam.example", "y@fabrikam.example", SUPPORT];
        assert_eq!(mail.recipients, all);
        assert_eq!(String::from_utf8_lossy(&mail.data), delivered);
        for mailbox in [BOB, SUPPORT] {
            let last = control.messages(mailbox, "INBOX").pop().unwrap();
            assert_eq!(last, delivered.as_bytes());
        }
        assert_eq!(control.messages(JANE, "Sent Items").last().unwrap(), mime.as_bytes());
    }
    assert_eq!(control.sent_elsewhere()[0].recipients.len(), 2);
}

#[tokio::test]
async fn messages_that_graph_refuses() {
    let desk = Desk::new(Some(JANE)).await;
    let path = "/me/sendMail";
    let plain = "Content-Type: text/plain\r\n";
    for (mime, status, code) in [
        ("From: jane@contoso.example\r\n\r\nhi", 400, "ErrorInvalidRecipients"),
        ("To: Friends:;\r\n\r\nhi", 400, "ErrorInvalidRecipients"),
        ("To: nobody\r\n\r\nhi", 400, "ErrorInvalidRecipients"),
        ("no header\r\n\r\nhi", 400, "ErrorMimeContentInvalidBase64String"),
        ("From: bob@contoso.example\r\nTo: a@b\r\n\r\n", 403, "ErrorSendAsDenied"),
        ("From: jane@contoso.example, z@y\r\nTo: a@b\r\n\r\n", 403, "ErrorSendAsDenied"),
        ("Sender: z@y\r\nTo: a@b\r\n\r\n", 403, "ErrorSendAsDenied"),
    ] {
        desk.post_mime(path, mime).await.is(status, code);
    }
    for (headers, body) in [(plain, &b"not base64!"[..]), (plain, b""), (plain, b"AAA")] {
        let answer = desk.ask(&format!("POST {path}"), headers, body).await;
        answer.is(400, "ErrorMimeContentInvalidBase64String");
    }
    desk.post_json(path, &json!({ "message": { "subject": "x" } })).await.is(400, "BadRequest");
    let missing = desk.ask("GET /me/messages", "", b"").await;
    missing.is(400, "BadRequest");
    // Graph's limit is that of the request, which base64 has made a third longer
    let sized = |size: usize| MAIL.to_owned() + &"x".repeat(size - MAIL.len());
    assert_eq!(STANDARD.encode(sized(3 * MIB)).len(), 4 * MIB);
    desk.post_mime(path, &sized(3 * MIB)).await.is(202, "");
    desk.post_mime(path, &sized(3 * MIB + 1)).await.is(413, "RequestEntityTooLarge");
    assert_eq!(desk.emulator.control().sent().len(), 1);
}

#[tokio::test]
async fn whose_token_opens_what() {
    let mut desk = Desk::new(Some(JANE)).await;
    let from = |sender: &str| format!("From: {sender}\r\nTo: a@b.example\r\n\r\n");
    // her shared mailbox, from her own and by its own name; not another's
    desk.post_mime("/me/sendMail", &from(SUPPORT)).await.is(202, "");
    desk.post_mime(&format!("/users/{SUPPORT}/sendMail"), &from(SUPPORT)).await.is(202, "");
    desk.post_mime(&format!("/users/{BOB}/sendMail"), &from(BOB))
        .await
        .is(403, "ErrorAccessDenied");
    desk.post_mime("/users/no@contoso.example/sendMail", MAIL).await.is(404, "ErrorInvalidUser");

    let control = desk.emulator.control().clone();
    desk.token = control.issue_graph_token(None);
    desk.post_mime(&format!("/users/{BOB}/sendMail"), &from(BOB)).await.is(202, "");
    let path = format!("/users/{JANE}/sendMail");
    desk.post_mime(&path, &from(SUPPORT)).await.is(403, "ErrorSendAsDenied");
    desk.post_mime("/me/sendMail", MAIL).await.is(400, "BadRequest");
    let senders: Vec<_> =
        control.sent().into_iter().map(|mail| (mail.mailbox, mail.sender)).collect();
    let own = |mailbox: &str, sender: &str| (mailbox.to_owned(), sender.to_owned());
    assert_eq!(senders, [own(JANE, SUPPORT), own(SUPPORT, SUPPORT), own(BOB, BOB)]);

    for (token, text) in [
        (String::new(), "empty"),
        ("nonsense".to_owned(), "Invalid token"),
        (control.issue_access_token(Some(JANE)), "Invalid audience"),
    ] {
        desk.token = token;
        let answer = desk.post_mime(&path, MAIL).await;
        answer.is(401, "InvalidAuthenticationToken");
        let message = answer.body["error"]["message"].as_str().unwrap();
        assert!(message.contains(text) && answer.head.contains("www-authenticate"), "{message}");
    }
    control.set_token_life(Some(Duration::ZERO));
    desk.token = control.issue_graph_token(None);
    desk.post_mime(&path, MAIL).await.is(401, "InvalidAuthenticationToken");
    control.set_token_life(None);
    // and a token for Graph opens no session
    let response = control.issue_graph_token(Some(JANE));
    let response = STANDARD.encode(format!("user={JANE}\x01auth=Bearer {response}\x01\x01"));
    let wire = Wire::connect(desk.emulator.smtp(Tls::Implicit)).await;
    let mut wire = wire.start_tls(&trusting(desk.emulator.ca_pem().as_bytes())).await.unwrap();
    wire.send("EHLO x\r\nAUTH XOAUTH2\r\n").await;
    wire.until("334 ").await;
    wire.send(format!("{response}\r\n")).await;
    wire.expect("535 5.7.3").await;
}

#[tokio::test]
async fn the_app_policy_and_missing_permissions() {
    let app = App { mailboxes: Some(vec![JANE.into()]), ..Options::default().app };
    let registration = Registration {
        graph_roles: vec!["Mail.Send".into()],
        graph_consented: vec!["Mail.Send".into(), "Mail.ReadWrite".into()],
        ..Registration::default()
    };
    let mut desk = Desk::with(Options { app, registration, ..Options::default() }, None).await;
    let bob = format!("/users/{BOB}/sendMail");
    desk.post_mime(&bob, MAIL).await.is(403, "ErrorAccessDenied");

    let url = desk.emulator.token_url();
    let Options { app, .. } = Options::default();
    let client = format!("client_id={}&client_secret={}", app.client_id, app.client_secret);
    let graph = "https://graph.microsoft.com";
    let form = format!("{client}&grant_type=client_credentials&scope={graph}/.default");
    desk.token = desk.form(&url, &form).await.body["access_token"].as_str().unwrap().to_owned();
    desk.post_mime(&format!("/users/{JANE}/sendMail"), MAIL).await.is(202, "");
    let create = format!("/users/{JANE}/messages");
    desk.post_mime(&create, MAIL).await.is(403, "ErrorAccessDenied");

    // a person's refresh token serves both resources, but one at a time, and only what was consented to
    let refresh = desk.emulator.control().issue_refresh_token(JANE);
    let form = |scope: &str| {
        format!("{client}&grant_type=refresh_token&refresh_token={refresh}&scope={scope}")
    };
    let outlook = "https://outlook.office.com/SMTP.Send";
    assert_eq!(desk.form(&url, &form(outlook)).await.status, 200);
    let issued = desk.form(&url, &form(&format!("{graph}/Mail.Send"))).await;
    assert_eq!(issued.body["scope"], format!("{graph}/Mail.Send"));
    desk.token = issued.body["access_token"].as_str().unwrap().to_owned();
    desk.post_mime("/me/sendMail", MAIL).await.is(202, "");
    desk.post_mime("/me/messages", MAIL).await.is(403, "ErrorAccessDenied");
    let shared = format!("From: {SUPPORT}\r\nTo: a@b\r\n\r\n");
    desk.post_mime("/me/sendMail", &shared).await.is(403, "ErrorAccessDenied");
    let path = format!("/users/{SUPPORT}/sendMail");
    desk.post_mime(&path, &shared).await.is(403, "ErrorAccessDenied");
    for (scope, number) in [
        (format!("{outlook}+{graph}/Mail.Send"), 28_000),
        (format!("{graph}/Mail.Send.Shared"), 65_001),
    ] {
        let refused = desk.form(&url, &form(&scope)).await;
        assert_eq!((refused.status, &refused.body["error_codes"][0]), (400, &number.into()));
    }
}

#[tokio::test]
async fn a_draft_with_attachments() {
    let desk = Desk::new(Some(JANE)).await;
    let control = desk.emulator.control();
    let draft = desk.draft(JANE).await;
    let small = json!({ "@odata.type": "#microsoft.graph.fileAttachment", "name": "small \"1\".txt",
        "contentType": "text/plain", "contentBytes": STANDARD.encode("small"), "isInline": true,
        "contentId": "one@x" });
    desk.post_json(&format!("{draft}/attachments"), &small).await.is(201, "");
    let large: Vec<u8> = (0..251).cycle().take(3 * MIB + 7).collect();
    let size = large.len();
    let session = |size: usize| {
        json!({ "AttachmentItem": { "attachmentType": "file", "name": "large.bin", "size": size,
            "contentType": "application/pdf" } })
    };
    let open = format!("{draft}/attachments/createUploadSession");
    let refused = desk.post_json(&open, &session(3 * MIB - 1)).await;
    refused.is(400, "ErrorAttachmentSizeShouldNotBeLessThanMinimumSize");
    let refused = desk.post_json(&open, &session(150 * MIB + 1)).await;
    refused.is(413, "ErrorAttachmentSizeLimitExceeded");
    desk.post_json(&open, &json!({ "size": size })).await.is(400, "BadRequest");
    let opened = desk.post_json(&open, &session(size)).await;
    opened.is(201, "");
    assert_eq!(opened.body["nextExpectedRanges"], json!(["0-"]));
    assert!(opened.body["expirationDateTime"].as_str().unwrap().ends_with('Z'));
    let url = opened.body["uploadUrl"].as_str().unwrap();

    let unit = 320 * 1024;
    let (first, second) = large.split_at(6 * unit);
    let token = format!("Authorization: Bearer {}\r\n", desk.token);
    let range = format!("Content-Range: bytes 0-{}/{size}\r\n", first.len() - 1);
    let refused = ask("PUT", url, &(token + &range), first).await.unwrap();
    refused.is(401, "InvalidAudienceForResource");
    for (piece, range, status, code) in [
        (first, format!("1-{}/{size}", first.len()), 416, "ErrorInvalidRange"),
        (first, format!("0-{}/{size}", first.len()), 400, "ErrorInvalidRequest"),
        (first, format!("0-{}/{}", first.len() - 1, size + 1), 400, "ErrorInvalidRequest"),
        (&first[1..], format!("0-{}/{size}", first.len() - 2), 400, "ErrorInvalidRequest"),
        (first, "all".to_owned(), 400, "ErrorInvalidRequest"),
    ] {
        put(url, piece, &range).await.is(status, code);
    }
    let answer = put(url, first, &format!("0-{}/{size}", first.len() - 1)).await;
    answer.is(200, "");
    assert_eq!(answer.body["nextExpectedRanges"], json!([first.len().to_string()]));
    let status = ask("GET", url, "", b"").await.unwrap();
    assert_eq!(status.body["nextExpectedRanges"], json!([first.len().to_string()]));
    put(url, first, &format!("0-{}/{size}", first.len() - 1)).await.is(416, "ErrorInvalidRange");
    let answer = put(url, second, &format!("{}-{}/{size}", first.len(), size - 1)).await;
    answer.is(201, "");
    assert!(answer.head.contains("\r\nlocation: https://outlook.office.com/"), "{}", answer.head);
    put(url, second, &format!("{}-{}/{size}", first.len(), size - 1))
        .await
        .is(404, "ErrorItemNotFound");

    assert_eq!((control.drafts(JANE), control.sent().len()), (1, 0));
    desk.ask(&format!("POST {draft}/send"), "", b"").await.is(202, "");
    assert_eq!(control.drafts(JANE), 0);
    let mail = control.sent().remove(0);
    assert_eq!((mail.way, &*mail.data), (Way::Graph, MAIL.as_bytes()));
    let [one, two] = mail.attachments.as_slice() else { panic!("{}", mail.attachments.len()) };
    assert_eq!((one.name.as_str(), &*one.data), ("small \"1\".txt", &b"small"[..]));
    assert_eq!((one.inline, one.content_id.as_deref()), (true, Some("one@x")));
    assert_eq!((two.name.as_str(), two.content_type.as_str()), ("large.bin", "application/pdf"));
    assert!(*two.data == *large, "the attachment has changed");
    let kept = String::from_utf8(control.messages(JANE, "Sent Items").remove(0)).unwrap();
    assert!(
        kept.contains(&STANDARD.encode("small")) && kept.contains("\r\n\r\nhi\r\n"),
        "{}",
        kept.len()
    );
    desk.ask(&format!("POST {draft}/send"), "", b"").await.is(404, "ErrorItemNotFound");
}

#[tokio::test]
async fn drafts_that_are_left_and_deleted() {
    let mut desk = Desk::new(Some(JANE)).await;
    let control = desk.emulator.control().clone();
    let (first, _second) = (desk.draft(JANE).await, desk.draft(JANE).await);
    desk.draft(SUPPORT).await;
    assert_eq!((control.drafts(JANE), control.drafts(SUPPORT), control.drafts(BOB)), (2, 1, 0));
    desk.token = control.issue_graph_token(None);
    let elsewhere = first.replace(JANE, BOB);
    desk.ask(&format!("DELETE {elsewhere}"), "", b"").await.is(404, "ErrorItemNotFound");
    desk.ask(&format!("DELETE {first}"), "", b"").await.is(204, "");
    desk.ask(&format!("DELETE {first}"), "", b"").await.is(404, "ErrorItemNotFound");
    assert_eq!(control.drafts(JANE), 1);
    assert_eq!(control.sent(), []);
}

#[tokio::test]
async fn graph_fails_on_request() {
    let desk = Desk::new(Some(JANE)).await;
    let control = desk.emulator.control();
    let throttled = GraphFault::Throttled { retry_after: Some(7) };
    control.fail_graph(GraphStep::SendMail, throttled, Some(2));
    desk.draft(JANE).await;
    for _ in 0..2 {
        let answer = desk.post_mime("/me/sendMail", MAIL).await;
        answer.is(429, "ApplicationThrottled");
        assert!(answer.head.contains("\r\nretry-after: 7"), "{}", answer.head);
    }
    desk.post_mime("/me/sendMail", MAIL).await.is(202, "");
    let unavailable = GraphFault::Unavailable { retry_after: None };
    for (fault, status, code) in [
        (unavailable, 503, "serviceNotAvailable"),
        (GraphFault::AccessDenied, 403, "ErrorAccessDenied"),
        (GraphFault::MailboxNotEnabled, 404, "MailboxNotEnabledForRESTAPI"),
    ] {
        control.fail_graph(GraphStep::Any, fault, None);
        for _ in 0..2 {
            desk.post_mime("/me/sendMail", MAIL).await.is(status, code);
        }
        control.clear_graph_faults();
    }
    let (url, token) = (desk.emulator.graph_url(), &desk.token);
    let headers = format!("Authorization: Bearer {token}\r\nContent-Type: text/plain\r\n");
    let body = STANDARD.encode(MAIL);
    let send = async || ask("POST", &format!("{url}/me/sendMail"), &headers, body.as_bytes()).await;
    control.fail_graph(GraphStep::Any, GraphFault::Closed, Some(1));
    assert!(send().await.is_none());
    assert_eq!(control.sent().len(), 1);
    control.fail_graph(GraphStep::Any, GraphFault::Unanswered, Some(1));
    assert!(send().await.is_none());
    assert_eq!(control.sent().len(), 2);
    let delay = Duration::from_millis(200);
    control.fail_graph(GraphStep::Any, GraphFault::Delay(delay), Some(1));
    let begun = Instant::now();
    send().await.unwrap().is(202, "");
    assert!(begun.elapsed() >= delay);

    let control_url = desk.emulator.control_url();
    let form = async |action: &str, form: &str| {
        desk.form(&format!("{control_url}/{action}"), form).await.status
    };
    assert_eq!(form("graph-fault", "status=503&step=send-mail&count=1").await, 204);
    send().await.unwrap().is(503, "serviceNotAvailable");
    assert_eq!(form("graph-fault", "status=200").await, 400);
    assert_eq!(form("graph-fault", "closed=1&step=nowhere").await, 400);
    // Graph may be away while the other services are there, and the other way round
    assert_eq!(form("graph-outage", "closed=1").await, 204);
    assert!(send().await.is_none());
    assert_eq!(form("graph-token", "").await, 200);
    Wire::connect(desk.emulator.imap(Tls::StartTls)).await.expect("* OK").await;
    assert_eq!(form("graph-outage", "off=1").await, 204);
    control.set_mail_outage(true);
    send().await.unwrap().is(202, "");
}

#[tokio::test]
async fn requests_at_once() {
    let desk = Desk::with(Options { graph_requests: 1, ..Options::default() }, Some(JANE)).await;
    let control = desk.emulator.control();
    control.fail_graph(GraphStep::SendMail, GraphFault::Delay(Duration::from_secs(1)), Some(1));
    let slow = desk.post_mime("/me/sendMail", MAIL);
    let quick = async {
        while control.sent().is_empty() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let answer = desk.post_mime("/me/sendMail", MAIL).await;
        answer.is(429, "ApplicationThrottled");
        assert!(answer.head.contains("\r\nretry-after: 1"), "{}", answer.head);
    };
    let (slow, ()) = tokio::join!(slow, quick);
    slow.is(202, "");
    assert_eq!((control.graph_limits_hit(), control.sent().len()), (1, 1));
    desk.post_mime("/me/sendMail", MAIL).await.is(202, "");
}
