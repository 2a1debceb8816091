//! The emulator alone, over raw sockets: before it may judge the proxy, it is judged here.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use gatepost::emulator::{
    Emulator, LoginFault, Options, Protocol, Registration, Shared, Tls, TokenFault,
};
use serde_json::Value;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::{
    TlsConnector,
    rustls::{
        ClientConfig, RootCertStore,
        crypto::ring,
        pki_types::{CertificateDer, ServerName, pem::PemObject as _},
    },
};

const JANE: &str = "jane@contoso.example";
const SUPPORT: &str = "support@contoso.example";
const BOB: &str = "bob@contoso.example";
const TOKEN: &str = "POST /contoso.example/oauth2/v2.0/token";

trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Stream for T {}

/// A client that plays transcripts; what it read and was not asked about stays in `seen`.
struct Client {
    stream: Box<dyn Stream>,
    seen: Vec<u8>,
    tls: TlsConnector,
}

impl Client {
    async fn new(emulator: &Emulator, address: SocketAddr) -> Self {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(emulator.ca_pem().as_bytes()).unwrap()).unwrap();
        let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let stream = Box::new(TcpStream::connect(address).await.unwrap());
        Self { stream, seen: Vec::new(), tls: TlsConnector::from(Arc::new(config)) }
    }

    async fn start_tls(&mut self) {
        let plain = std::mem::replace(&mut self.stream, Box::new(tokio::io::empty()));
        let name = ServerName::try_from("localhost").unwrap();
        self.stream = Box::new(self.tls.connect(name, plain).await.unwrap());
    }

    /// Plays lines of `command | text | text`: sends the command and waits until each text has come, in
    /// order. No command is `-`; `TLS` is the client's handshake.
    async fn play(&mut self, transcript: &str) {
        for line in transcript.lines().map(str::trim_start) {
            let mut columns = line.split(" | ");
            match columns.next().unwrap() {
                "-" => {}
                "TLS" => self.start_tls().await,
                command => self.send(format!("{}\r\n", command.trim_end())).await,
            }
            for text in columns {
                self.expect(&text.replace("\\r\\n", "\r\n")).await;
            }
        }
    }

    async fn send(&mut self, octets: impl AsRef<[u8]>) {
        self.stream.write_all(octets.as_ref()).await.unwrap();
        self.stream.flush().await.unwrap();
    }

    async fn expect(&mut self, text: &str) {
        loop {
            let found = self.seen.windows(text.len()).position(|part| part == text.as_bytes());
            if let Some(at) = found {
                self.seen.drain(..at + text.len());
                return;
            }
            let read = timeout(Duration::from_secs(10), self.stream.read_buf(&mut self.seen)).await;
            let so_far = String::from_utf8_lossy(&self.seen);
            assert!(read.is_ok_and(|read| read.unwrap_or(0) > 0), "no {text:?} in {so_far:?}");
        }
    }

    async fn rest(&mut self) -> String {
        let read = self.stream.read_to_end(&mut self.seen);
        let _ = timeout(Duration::from_secs(10), read).await.expect("stays open");
        String::from_utf8_lossy(&self.seen).into_owned()
    }
}

fn xoauth2(user: &str, token: &str) -> String {
    STANDARD.encode(format!("user={user}\x01auth=Bearer {token}\x01\x01"))
}

async fn start() -> Emulator {
    let options = Options {
        mailboxes: vec![JANE.into(), SUPPORT.into(), BOB.into()],
        shared: vec![Shared { mailbox: SUPPORT.into(), users: vec![JANE.into()] }],
        ..Options::default()
    };
    Emulator::start(options).await.unwrap()
}

/// A session of Jane's in this mailbox, logged in.
async fn imap(emulator: &Emulator, user: &str) -> Client {
    let mut client = Client::new(emulator, emulator.imap(Tls::Implicit)).await;
    client.start_tls().await;
    let response = xoauth2(user, &emulator.control().issue_access_token(Some(JANE)));
    client.play(&format!("in AUTHENTICATE XOAUTH2 {response} | in OK AUTH")).await;
    client
}

async fn pop3(emulator: &Emulator, token: &str, reply: &str) {
    let mut client = Client::new(emulator, emulator.pop3(Tls::Implicit)).await;
    client.start_tls().await;
    let response = xoauth2(JANE, token);
    client.play(&format!("AUTH XOAUTH2 | + \n{response} | {reply}")).await;
}

async fn smtp(emulator: &Emulator, token: &str, user: &str, reply: &str) -> Client {
    let mut client = Client::new(emulator, emulator.smtp(Tls::Implicit)).await;
    client.start_tls().await;
    let response = xoauth2(user, token);
    client.play(&format!("EHLO x\nAUTH XOAUTH2 | 334 \n{response} | {reply}")).await;
    client
}

/// Status and the whole answer of one HTTP request; 0 if there was none.
async fn http(emulator: &Emulator, request: &str, form: &str) -> (u16, String) {
    let url = emulator.control_url();
    let host = url.trim_start_matches("http://").trim_end_matches("/emulator");
    let mut client = Client::new(emulator, host.parse().unwrap()).await;
    let head = format!("{request} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: ");
    client.send(format!("{head}{}\r\n\r\n{form}", form.len())).await;
    let answer = client.rest().await;
    let status = answer.split(' ').nth(1).and_then(|status| status.parse().ok());
    (status.unwrap_or(0), answer)
}

async fn token(emulator: &Emulator, form: &str) -> (u16, Value) {
    let (status, answer) = http(emulator, TOKEN, form).await;
    let body = answer.split_once("\r\n\r\n").unwrap().1;
    (status, serde_json::from_str(body).unwrap())
}

fn app_form(secret: &str) -> String {
    let id = Options::default().app.client_id;
    let scope = "https://outlook.office365.com/.default";
    format!("grant_type=client_credentials&client_id={id}&client_secret={secret}&scope={scope}")
}

fn refresh_form(refresh: &str) -> String {
    let id = Options::default().app.client_id;
    let scope = "https://outlook.office.com/SMTP.Send+offline_access";
    format!("grant_type=refresh_token&client_id={id}&refresh_token={refresh}&scope={scope}")
}

#[tokio::test]
async fn imap_reads_over_starttls() {
    let emulator = start().await;
    let mut client = Client::new(&emulator, emulator.imap(Tls::StartTls)).await;
    let response = xoauth2(JANE, &emulator.control().issue_access_token(Some(JANE)));
    let transcript = r#"- | * OK The Microsoft Exchange IMAP4 service is ready.
        1 CAPABILITY | LOGINDISABLED STARTTLS | 1 OK CAPABILITY completed.\r\n
        2 LOGIN a b | 2 BAD
        3 STARTTLS | 3 OK Begin TLS negotiation now.\r\n
        TLS
        4 CAPABILITY | AUTH=XOAUTH2
        5 LOGIN a b | 5 NO LOGIN failed.\r\n
        6 AUTHENTICATE PLAIN AGEAYg== | 6 NO AUTHENTICATE failed.\r\n
        7 AUTHENTICATE XOAUTH2 | + \r\n
        RESPONSE | 7 OK AUTHENTICATE completed.\r\n
        8 LIST "" {1+}
        % | * LIST (\HasNoChildren) "/" "Sent Items"\r\n
        9 STATUS INBOX (MESSAGES UNSEEN) | (MESSAGES 3 UNSEEN 3)\r\n
        a SELECT inbox | * 3 EXISTS\r\n | a OK [READ-WRITE] SELECT completed.\r\n
        b FETCH 2 (FLAGS BODY.PEEK[TEXT]) | * 2 FETCH (FLAGS () BODY[TEXT] { | \r\n.\r\n..two dots
        c UID FETCH 1 BODY[HEADER.FIELDS (SUBJECT)]<0.12> | * 1 FETCH (UID 1 BODY[HEADER.FIELDS (SUBJECT)]<0> {12}\r\nSubject: Wel FLAGS (\Seen))\r\n
        d SEARCH UNSEEN NOT SUBJECT invoice | * SEARCH 2\r\n
        f BOGUS | f BAD
        g LOGOUT | g OK LOGOUT completed.\r\n"#;
    client.play(&transcript.replace("RESPONSE", &response)).await;
    client.rest().await;
}

#[tokio::test]
async fn imap_changes_and_wakes() {
    let emulator = start().await;
    let mut client = imap(&emulator, JANE).await;
    let changes = r#"1 CREATE Work | 1 OK
        2 APPEND Work (\Flagged) "01-Feb-2024 10:00:00 +0000" {5} | + Ready
        a..bc | 2 OK [APPENDUID
        3 APPEND Work {2+}
        hi
        4 SELECT Work | * 2 EXISTS\r\n
        5 FETCH 1 (FLAGS INTERNALDATE RFC822.SIZE) | (FLAGS (\Flagged) INTERNALDATE "01-Feb-2024 10:00:00 +0000" RFC822.SIZE 5)\r\n
        6 COPY 1 INBOX | 6 OK [COPYUID
        7 STORE 1 +FLAGS (\Deleted) | * 1 FETCH (UID 1 FLAGS (\Deleted \Flagged))\r\n
        8 EXPUNGE | * 1 EXPUNGE\r\n | 8 OK
        9 MOVE 1 INBOX | * OK [COPYUID | * 1 EXPUNGE\r\n
        a SELECT INBOX | * 5 EXISTS\r\n
        b IDLE | + IDLE accepted"#;
    client.play(changes).await;
    assert!(emulator.control().deliver(JANE, b"Subject: new\r\n\r\n.\r\n"));
    let woken = r"- | * 6 EXISTS\r\n
        DONE | b OK IDLE completed.\r\n
        c DELETE Work | c OK
        d SELECT Work | d NO";
    client.play(woken).await;
}

#[tokio::test]
async fn imap_refuses_as_exchange_does() {
    let emulator = start().await;
    let control = emulator.control();
    let login = xoauth2(JANE, &control.issue_access_token(Some(JANE)));
    let mut client = Client::new(&emulator, emulator.imap(Tls::Implicit)).await;
    client.start_tls().await;
    control.fail_logins(1, LoginFault::Throttled { milliseconds: 2_500 });
    let throttled = "a NO Request is throttled. Suggested Backoff Time: 2500 milliseconds";
    client.play(&format!("a AUTHENTICATE XOAUTH2 {login} | {throttled}")).await;
    control.set_challenge(true);
    control.revoke_access_tokens();
    client.play(&format!("a AUTHENTICATE XOAUTH2 {login} | + eyJ")).await;
    client.send("\r\n").await;
    client.play("- | a NO AUTHENTICATE failed.").await;
    // bob's mailbox is not jane's: Exchange says so behind the OK
    let mut client = imap(&emulator, BOB).await;
    let not_connected = r"c SELECT INBOX | c BAD User is authenticated but not connected.\r\n
        d NOOP | d BAD User is authenticated but not connected.\r\n* BYE Connection closed. 14\r\n";
    client.play(not_connected).await;
    client.rest().await;
    // the shared mailbox is hers, and the session ends with its token
    control.set_token_life(Some(Duration::from_millis(500)));
    let mut client = imap(&emulator, SUPPORT).await;
    assert!(client.rest().await.ends_with("* BYE Session invalidated - AccessTokenExpired\r\n"));
}

#[tokio::test]
async fn pop3_over_starttls() {
    let emulator = start().await;
    let mut client = Client::new(&emulator, emulator.pop3(Tls::StartTls)).await;
    let response = xoauth2(JANE, &emulator.control().issue_access_token(None));
    let transcript = r"- | +OK The Microsoft Exchange POP3 service is ready.
        CAPA | STLS
        STLS | +OK Begin TLS negotiation.\r\n
        TLS
        CAPA | SASL PLAIN XOAUTH2\r\nUSER\r\n.\r\n
        USER jane | +OK
        PASS secret | -ERR Logon failure: unknown user name or bad password.\r\n
        AUTH XOAUTH2 | + \r\n
        bm90aGluZw== | -ERR Authentication failure: unknown user name or bad password.\r\n
        AUTH XOAUTH2 | + \r\n
        RESPONSE | +OK User successfully authenticated.\r\n
        STAT
        UIDL
        TOP 2 1 | +OK 3 | 3 3\r\n.\r\n | \r\n\r\nSchöne Grüße.\r\n.\r\n
        RETR 2 | \r\n..\r\n...two dots | \r\n..hidden\r\n.\r\n
        DELE 2 | +OK
        RETR 2 | -ERR
        QUIT | signing off.\r\n";
    client.play(&transcript.replace("RESPONSE", &response)).await;
    client.rest().await;
    assert_eq!(emulator.control().messages(JANE, "INBOX").len(), 2);
}

#[tokio::test]
async fn smtp_over_starttls() {
    let emulator = start().await;
    let control = emulator.control();
    let mut client = Client::new(&emulator, emulator.smtp(Tls::StartTls)).await;
    let response = xoauth2(JANE, &control.issue_access_token(Some(JANE)));
    let transcript = r"- | 220
        EHLO x | 250-STARTTLS\r\n | 250 SMTPUTF8\r\n
        MAIL FROM:<a@b> | 530 5.7.57
        STARTTLS | 220 2.0.0 SMTP server ready\r\n
        TLS
        EHLO x | 250-AUTH LOGIN XOAUTH2\r\n
        AUTH PLAIN AGEAYg== | 504 5.7.4
        AUTH XOAUTH2 RESPONSE | 500 5.5.2 Command line too long\r\n
        AUTH XOAUTH2 | 334 \r\n
        RESPONSE | 235 2.7.0 Authentication successful\r\n
        MAIL FROM:<support@contoso.example> SIZE=20 BODY=8BITMIME
        RCPT TO:<bob@contoso.example> NOTIFY=NEVER
        RCPT TO:<x@fabrikam.example>
        DATA | 354
        Subject: s
        
        ..
        hé
        . | 250 2.0.0 OK
        MAIL FROM:<jane@contoso.example>
        RCPT TO:<support@contoso.example>
        BDAT 4
        ab
        BDAT 3 LAST
        c | 250 2.6.0 | 250 2.0.0 OK
        MAIL FROM:<bob@contoso.example>
        RCPT TO:<support@contoso.example>
        BDAT 0 LAST | 554 5.2.252 SendAsDenied
        MAIL FROM:<eve@evil.example>
        RCPT TO:<support@contoso.example>
        BDAT 0 LAST | 550 5.7.60
        QUIT | 221 2.0.0";
    client.play(&transcript.replace("RESPONSE", &response)).await;
    let message = "Subject: s\r\n\r\n.\r\nhé\r\n".as_bytes();
    assert_eq!(control.messages(BOB, "INBOX").last().unwrap(), message);
    assert_eq!(control.messages(SUPPORT, "INBOX").last().unwrap(), b"ab\r\nc\r\n");
    let elsewhere = control.sent_elsewhere().remove(0);
    assert_eq!(elsewhere.recipients, ["x@fabrikam.example"]);
    assert_eq!((elsewhere.sender.as_str(), &*elsewhere.data), (SUPPORT, message));
}

#[tokio::test]
async fn smtp_refuses_as_exchange_does() {
    let emulator = start().await;
    let control = emulator.control();
    let token = control.issue_access_token(Some(JANE));
    control.fail_logins(1, LoginFault::SmtpAuthDisabled);
    let disabled = "535 5.7.139 Authentication unsuccessful, SmtpClientAuthentication is disabled";
    smtp(&emulator, &token, JANE, disabled).await;
    smtp(&emulator, &token, SUPPORT, "535 5.7.3 Authentication unsuccessful").await;
    let mut open = Vec::new();
    for _ in 0..4 {
        open.push(smtp(&emulator, &token, JANE, "235").await);
    }
    let mail = format!("MAIL FROM:<{JANE}>\nRCPT TO:<{JANE}>\nBDAT 0 LAST | ");
    let limit = "432 4.3.2 Concurrent connections limit exceeded.";
    open[3].play(&(mail.clone() + limit)).await;
    drop(open.remove(0));
    while control.live_connections() > 3 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    open[2].play(&(mail + "250 2.0.0 OK")).await;
    control.disconnect_all();
    open[0].rest().await;
    control.set_mail_outage(true);
    assert_eq!(Client::new(&emulator, emulator.smtp(Tls::StartTls)).await.rest().await, "");
}

#[tokio::test]
async fn senders_are_refused_as_exchange_does() {
    let emulator = start().await;
    let token = emulator.control().issue_access_token(Some(JANE));
    let mail = |sender: &str| format!("MAIL FROM:<{sender}>\nRCPT TO:<{JANE}>\nBDAT 0 LAST | ");
    emulator.control().set_login_fault(Some(LoginFault::SendAsDenied));
    let mut client = smtp(&emulator, &token, JANE, "235").await;
    for (sender, reply) in [(JANE, "250 2.0.0"), (SUPPORT, "554 5.2.252"), ("x@y", "554 5.2.252")] {
        client.play(&(mail(sender) + reply)).await;
    }
    emulator.control().set_login_fault(Some(LoginFault::SenderRefused));
    let mut client = smtp(&emulator, &token, JANE, "235").await;
    client.play(&format!("MAIL FROM:<{SUPPORT}> | 550 5.7.60 SMTP; Client does not have")).await;
    client.play(&(mail(JANE) + "250 2.0.0")).await;
    emulator.control().set_login_fault(None);
    let mut client = smtp(&emulator, &token, JANE, "235").await;
    client.play(&(mail(SUPPORT) + "250 2.0.0")).await;
}

#[tokio::test]
async fn a_mailbox_without_a_protocol() {
    let all = [Protocol::Imap, Protocol::Pop3, Protocol::Smtp];
    let switched_off = all.map(|protocol| (JANE.to_owned(), protocol)).to_vec();
    let registration = Registration { switched_off, ..Registration::default() };
    let emulator = Emulator::start(Options { registration, ..Options::default() }).await.unwrap();
    let token = emulator.control().issue_access_token(None);
    let mut client = imap(&emulator, JANE).await;
    client.play("1 SELECT INBOX | 1 BAD User is authenticated but not connected.").await;
    pop3(&emulator, &token, "-ERR User is authenticated but not connected.").await;
    let reply = "535 5.7.139 Authentication unsuccessful, SmtpClientAuthentication is disabled for \
        the Mailbox.";
    smtp(&emulator, &token, JANE, reply).await;
    smtp(&emulator, &token, SUPPORT, "235").await;
}

#[tokio::test]
async fn logins_fail_until_that_is_taken_back() {
    let emulator = start().await;
    let token = emulator.control().issue_access_token(Some(JANE));
    let fault = "kind=access-token-expired";
    assert_eq!(http(&emulator, "POST /emulator/login-outage", fault).await.0, 204);
    let mut client = imap(&emulator, JANE).await;
    client.play("- | * BYE Session invalidated - AccessTokenExpired").await;
    pop3(&emulator, &token, "-ERR Authentication failure").await;
    smtp(&emulator, &token, JANE, "535 5.7.3").await;
    http(&emulator, "POST /emulator/login-outage", "off").await;
    pop3(&emulator, &token, "+OK").await;
}

#[tokio::test]
async fn a_token_opens_what_it_was_issued_for() {
    let roles = vec!["POP.AccessAsApp".to_owned()];
    let registration = Registration { roles, ..Registration::default() };
    let emulator = Emulator::start(Options { registration, ..Options::default() }).await.unwrap();
    let access = async |form: &str| {
        let (_, issued) = token(&emulator, form).await;
        issued["access_token"].as_str().unwrap().to_owned()
    };
    let mail = access(&app_form("emulated-secret")).await;
    pop3(&emulator, &mail, "+OK").await;
    smtp(&emulator, &mail, JANE, "535 5.7.3").await;
    let graph = app_form("emulated-secret").replace("outlook.office365.com", "graph.microsoft.com");
    pop3(&emulator, &access(&graph).await, "-ERR Authentication failure").await;
}

#[tokio::test]
async fn tokens_are_issued_and_refused_as_entra_does() {
    let emulator = start().await;
    let (status, issued) = token(&emulator, &app_form("emulated-secret")).await;
    assert_eq!((status, issued["token_type"].as_str()), (200, Some("Bearer")));
    assert!(issued.get("refresh_token").is_none());
    assert!((3_600..=5_400).contains(&issued["expires_in"].as_u64().unwrap()));
    let access = issued["access_token"].as_str().unwrap();
    assert!(access.len().abs_diff(Options::default().token_size) < 40, "{}", access.len());
    smtp(&emulator, access, SUPPORT, "235").await;

    let good = app_form("emulated-secret");
    for (form, status, error, number) in [
        (app_form("wrong"), 401, "invalid_client", 7_000_215),
        (String::new(), 400, "invalid_request", 900_144),
        ("grant_type=x&client_id=x".into(), 400, "unauthorized_client", 700_016),
        (refresh_form("nonsense"), 400, "invalid_grant", 70_008),
        (good.replace("/.default", "/IMAP"), 400, "invalid_scope", 1_002_012),
        (good.replace("client_credentials", "x"), 400, "unsupported_grant_type", 70_003),
    ] {
        let refused = token(&emulator, &form).await;
        assert_eq!((refused.0, refused.1["error"].as_str()), (status, Some(error)), "{form}");
        assert_eq!(refused.1["error_codes"][0], number);
    }

    let first = emulator.issue_refresh_token(JANE);
    let (_, issued) = token(&emulator, &refresh_form(&first)).await;
    let access = issued["access_token"].as_str().unwrap();
    smtp(&emulator, access, JANE, "235").await;
    let second = issued["refresh_token"].as_str().unwrap();
    assert_ne!(first, second);
    assert_eq!(token(&emulator, &refresh_form(&first)).await.0, 200);
    emulator.control().revoke_refresh_tokens(JANE);
    assert_eq!(token(&emulator, &refresh_form(second)).await.1["error_codes"][0], 50_173);
    assert_eq!(emulator.control().token_requests(), 10);
}

#[tokio::test]
async fn faults_over_http_and_in_rust() {
    let emulator = start().await;
    let good = app_form("emulated-secret");
    let fault = "count=1&status=429&retry_after=7";
    assert_eq!(http(&emulator, "POST /emulator/token-fault", fault).await.0, 204);
    let (status, answer) = http(&emulator, TOKEN, &good).await;
    assert!(status == 429 && answer.contains("retry-after: 7\r\n"), "{answer}");
    emulator.control().set_token_outage(Some(TokenFault::Closed));
    assert_eq!(http(&emulator, TOKEN, &good).await.0, 0);
    http(&emulator, "POST /emulator/clear", "").await;
    emulator.control().fail_token_requests(1, TokenFault::Aadsts(50_076));
    let (_, refused) = token(&emulator, &good).await;
    assert_eq!(refused["error"], "invalid_grant");
    assert_eq!(refused["suberror"], "basic_action");
    http(&emulator, "POST /emulator/token-life", "seconds=90000").await;
    let (_, issued) = token(&emulator, &good).await;
    assert_eq!((&issued["expires_in"], &issued["refresh_in"]), (&90_000.into(), &45_000.into()));
    assert_eq!(http(&emulator, "POST /emulator/login-fault", "kind=what").await.0, 400);
    let mail = format!("mailbox={JANE}&message=hi");
    assert_eq!(http(&emulator, "POST /emulator/deliver", &mail).await.0, 204);
    assert_eq!(emulator.control().messages(JANE, "INBOX").last().unwrap(), b"hi");
    let (_, state) = http(&emulator, "GET /emulator/state", "").await;
    assert!(state.contains("\"token_requests\":4"), "{state}");
}

#[tokio::test]
async fn stopping_ends_everything() {
    let emulator = start().await;
    let mail = emulator.imap(Tls::StartTls);
    let mut session = imap(&emulator, JANE).await;
    timeout(Duration::from_secs(5), emulator.stop()).await.expect("does not stop");
    session.rest().await;
    assert!(TcpStream::connect(mail).await.is_err());
}
