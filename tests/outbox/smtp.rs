//! The courier that speaks SMTP, with the emulated Exchange as the judge of what arrives.

use std::fs;
use std::sync::Arc;
use std::time::{Duration, Instant};

use gatepost::attention::Attention;
use gatepost::clock::Clock;
use gatepost::config::Config;
use gatepost::emulator::{Control, Emulator, LoginFault, Options, SmtpFault, SmtpStage, Tls};
use gatepost::net::{ClientTls, Route, http_client};
use gatepost::oauth::{HttpEndpoint, TokenEndpoint, Tokens};
use gatepost::outbox::{Entry, Outbox, OutboxParts, SmtpCourier, SmtpRoute, Source, Spool};
use gatepost::pace::Pace;
use gatepost::protocol::{Envelope, Recipient};
use gatepost::store::Store;
use gatepost::upstream::Server;
use gatepost::vocabulary::{Protocol, Way};
use tempfile::TempDir;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::world::{JANE, TO};

/// For anything to happen; nothing that goes well comes near it.
const LIMIT: Duration = Duration::from_secs(30);

/// A delivery by SMTP, and an Exchange that takes it.
struct Site {
    emulator: Emulator,
    config: Arc<Config>,
    pace: Arc<Pace>,
    spool: Spool,
    outbox: Outbox,
    tracker: TaskTracker,
    stop: CancellationToken,
    _folder: TempDir,
}

impl Site {
    async fn new() -> Self {
        Self::start(Options::default(), "").await
    }

    async fn start(options: Options, account: &str) -> Self {
        let emulator = Emulator::start(options.clone()).await.unwrap();
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("ca.pem"), emulator.ca_pem()).unwrap();
        fs::write(folder.path().join("secret"), &options.app.client_secret).unwrap();
        let file = folder.path().join("gatepost.toml");
        fs::write(&file, configuration(&emulator, &options, account)).unwrap();
        let mut config = Config::load(&file).unwrap();
        // Retries are so late that a test can look at what happens before them.
        config.spool.retry = vec![Duration::from_secs(2)];
        let config = Arc::new(config);
        let clock = Clock::system();
        let store = Store::open(&config.state_dir, None).await.unwrap();
        let (tracker, stop) = (TaskTracker::new(), CancellationToken::new());
        let nobody = Attention::default();
        let tls = ClientTls::new(Some(&folder.path().join("ca.pem"))).unwrap();
        let http: Arc<dyn TokenEndpoint> =
            Arc::new(HttpEndpoint::new(http_client(&tls, &Route::direct()).unwrap()));
        let endpoint = |_: &_| Arc::clone(&http);
        let tokens =
            Tokens::start(&config.accounts, endpoint, &store, &clock, &nobody, &tracker, &stop);
        let smtp = config.accounts[0].app.provider.smtp.clone().unwrap();
        let pace = Pace::new(store, clock.clone(), nobody.clone());
        let route = Arc::new(SmtpRoute {
            server: Arc::new(Server::new(Protocol::Smtp, smtp, tls, Route::direct())),
            tokens: Arc::new(tokens),
            pace: Arc::clone(&pace),
            stop: stop.clone(),
        });
        let spool = Spool::open(&config.state_dir, &config.spool, clock.clone()).unwrap();
        let outbox = Outbox::start(OutboxParts {
            config: Arc::clone(&config),
            spool: spool.clone(),
            couriers: Arc::new(move |way, account| match way {
                Way::Smtp => {
                    Some(Box::new(SmtpCourier::new(Arc::clone(&route), Arc::clone(account))))
                }
                Way::Graph => None,
            }),
            clock,
            attention: nobody,
            tracker: tracker.clone(),
            stop: stop.clone(),
            cut: CancellationToken::new(),
        });
        Self { emulator, config, pace, spool, outbox, tracker, stop, _folder: folder }
    }

    fn control(&self) -> &Control {
        self.emulator.control()
    }

    async fn put(&self, device: &str, body: &[u8], to: &[&str]) -> Entry {
        let sender = gatepost::config::SenderRule::Keep;
        let (mailbox, device) = (JANE.to_owned(), device.to_owned());
        let source = Source { mailbox, device, peer: None, sender };
        let recipient = |to: &&str| Recipient { address: (*to).into(), parameters: Vec::new() };
        let recipients = to.iter().map(recipient).collect();
        let envelope = Envelope { sender: JANE.into(), parameters: Vec::new(), recipients };
        let mut incoming = self.spool.receive(source, envelope).await.unwrap();
        incoming.write(HEADER.as_bytes()).await.unwrap();
        incoming.write(body).await.unwrap();
        let entry = incoming.commit(Vec::new()).await.unwrap();
        self.outbox.arrived(entry.clone());
        entry
    }

    async fn drained(&self) {
        let start = Instant::now();
        while !self.spool.waiting().await.unwrap().is_empty() {
            let waiting = self.spool.waiting().await.unwrap();
            assert!(start.elapsed() < LIMIT, "still waiting: {waiting:?}");
            sleep(Duration::from_millis(20)).await;
        }
    }

    /// The bodies that arrived, in order.
    fn bodies(&self) -> Vec<Vec<u8>> {
        let sent = self.control().sent();
        sent.iter()
            .map(|mail| mail.data.strip_prefix(HEADER.as_bytes()).unwrap().to_vec())
            .collect()
    }

    async fn end(self) {
        self.stop.cancel();
        self.tracker.close();
        tokio::time::timeout(LIMIT, self.tracker.wait()).await.expect("the end");
        self.emulator.stop().await;
    }
}

/// It needs no mending.
const HEADER: &str = "Date: Mon, 3 Mar 2025 08:00:00 +0000\r\nMessage-ID: <1@contoso.example>\r\n\
    From: jane@contoso.example\r\nTo: post@fabrikam.example\r\nSubject: scan\r\n\r\n";

fn configuration(emulator: &Emulator, options: &Options, account: &str) -> String {
    let app = &options.app;
    format!(
        "state_dir = \"state\"\n\
         [app.lab]\nprovider = \"lab\"\ntenant = \"{}\"\nclient_id = \"{}\"\n\
         client_secret = {{ file = \"secret\" }}\ngrant = \"client_credentials\"\n\
         [[account]]\nmailbox = \"{JANE}\"\napp = \"lab\"\n{account}\n\
         [provider.lab]\ntoken_url = \"{}\"\nca_file = \"ca.pem\"\nsmtp = \"{}\"\n\
         app_scopes = [\"https://outlook.office365.com/.default\"]\n",
        app.tenant,
        app.client_id,
        emulator.token_url(),
        emulator.smtp(Tls::Implicit)
    )
}

/// Lone dots, lines of 2,000 characters, NUL, 8-bit octets, a bare CR, an end without a line end.
fn odd(octets: usize) -> Vec<u8> {
    let mut body = b".\r\n..\r\n.a\r\n\r\n.\r\n\0nul\0\r\nbare \r cr\r\n\xff\xfe8-bit\r\n".to_vec();
    body.extend(std::iter::repeat_n(b'.', 2000));
    body.extend_from_slice(b"\r\n");
    body.extend_from_slice(
        b"Content-Type: multipart/signed; boundary=\"=_ .\"\r\n\r\n--=_ .\r\n\r\n.\r\n",
    );
    let mut random = 1_u32;
    let mut column = 0;
    while body.len() < octets {
        random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let octet = random.to_be_bytes()[0];
        column += 1;
        match octet {
            b'\r' | b'\n' => {}
            _ if column == 1 && octet < 100 => body.push(b'.'),
            _ if octet > 250 || column > 2000 => {
                body.extend_from_slice(b"\r\n");
                column = 0;
            }
            _ => body.push(octet),
        }
    }
    body.extend_from_slice(b"\r\n.\r\n..\r\n");
    body
}

#[tokio::test(flavor = "multi_thread")]
async fn one_connection_carries_many_messages() {
    let site = Site::new().await;
    for number in 0..25 {
        site.put("scanner", format!("{number}\r\n").as_bytes(), &[TO]).await;
    }
    site.drained().await;
    let expected: Vec<Vec<u8>> =
        (0..25).map(|number| format!("{number}\r\n").into_bytes()).collect();
    assert_eq!(site.bodies(), expected);
    let control = site.control();
    assert_eq!((control.logins(), control.connections(), control.limits_hit()), (1, 1, 0));
    assert_eq!(control.sent()[0].sender_parameters, [format!("SIZE={}", HEADER.len() + 3)]);
    // given back when nothing comes any more
    let start = Instant::now();
    while site.control().live_connections() > 0 {
        assert!(start.elapsed() < LIMIT, "the connection is kept");
        sleep(Duration::from_millis(50)).await;
    }
    assert!(start.elapsed() > Duration::from_secs(3), "{:?}", start.elapsed());
    site.end().await;
}

/// By BDAT as it is, by DATA through its dots: 40 MB, octet for octet.
#[tokio::test(flavor = "multi_thread")]
async fn a_large_odd_message_arrives_octet_for_octet() {
    let body = odd(40_000_000);
    for without in
        [vec![], vec!["CHUNKING".to_owned()], vec!["CHUNKING".into(), "PIPELINING".into()]]
    {
        let by_data = !without.is_empty();
        let site = Site::start(Options { smtp_without: without, ..Options::default() }, "").await;
        site.put("scanner", &body, &[TO]).await;
        site.put("scanner", b"behind it, without an end", &[TO]).await;
        site.drained().await;
        let bodies = site.bodies();
        assert_eq!(bodies.len(), 2);
        assert!(bodies[0] == body, "{} octets of {}", bodies[0].len(), body.len());
        // A message by DATA ends with a line (RFC 5321 section 4.1.1.4).
        let end: &[u8] =
            if by_data { b"behind it, without an end\r\n" } else { b"behind it, without an end" };
        assert_eq!(bodies[1], end);
        assert_eq!(site.control().logins(), 1);
        site.end().await;
    }
}

/// Several devices: no more connections than the mailbox may have, and nobody hears 432.
#[tokio::test(flavor = "multi_thread")]
async fn the_limits_are_kept_not_hit() {
    let options = Options { smtp_messages_per_minute: 0, ..Options::default() };
    let site = Site::start(options, "limits = { messages_per_minute = 1000 }").await;
    for number in 0..40 {
        site.put(&format!("device {}", number % 8), b"scan\r\n", &[TO]).await;
    }
    site.drained().await;
    let control = site.control();
    assert_eq!((control.sent().len(), control.limits_hit()), (40, 0));
    assert!(control.most_smtp_sessions(JANE) <= 3, "{}", control.most_smtp_sessions(JANE));
    assert!(control.connections() <= 6, "{} connections", control.connections());
    site.end().await;
}

/// The provider may want the mailbox left alone for hours, and a person may change their mind meanwhile.
#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_is_dropped_while_it_waits_for_its_turn_is_not_sent() {
    let site = Site::new().await;
    let account = site.config.account(JANE).unwrap();
    site.pace.hold(&account, Protocol::Smtp, Some(Duration::from_secs(2)));
    let dropped = site.put("a", b"dropped\r\n", &[TO]).await;
    site.put("a", b"kept\r\n", &[TO]).await;
    sleep(Duration::from_millis(500)).await;
    assert!(site.spool.drop_message(&dropped.id).await.unwrap());
    site.drained().await;
    assert_eq!(site.bodies(), [b"kept\r\n"]);
    site.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn recipients_have_their_own_answers() {
    let site = Site::new().await;
    let reply = |text: &str| SmtpFault::Reply(text.into());
    let (bad, busy) = ("bad@fabrikam.example", "busy@fabrikam.example");
    site.control().fail_smtp(SmtpStage::Rcpt(Some(bad.into())), reply("550 5.1.1 nobody"), None);
    site.control().fail_smtp(SmtpStage::Rcpt(Some(busy.into())), reply("450 4.2.1 busy"), Some(1));
    site.put("scanner", b"scan\r\n", &[TO, bad, busy]).await;
    site.drained().await;
    let sent = site.control().sent();
    let got: Vec<_> = sent.iter().map(|mail| mail.recipients.clone()).collect();
    assert_eq!(got, [vec![TO.to_owned()], vec![busy.to_owned()]]);
    let failed = site.spool.failed().await.unwrap().remove(0);
    assert_eq!(failed.progress.refused, [(bad.to_owned(), "550 5.1.1 nobody".to_owned())]);
    site.end().await;
}

/// At each stage: what is temporary is tried again, and the message arrives once.
#[tokio::test(flavor = "multi_thread")]
async fn a_fault_at_any_stage_costs_a_wait_and_no_message() {
    let reply = |text: &str| SmtpFault::Reply(text.into());
    let faults = [
        (SmtpStage::Mail, reply("451 4.7.0 Temporary server error")),
        (SmtpStage::Mail, reply("421 4.3.2 Service not available")),
        (SmtpStage::Mail, SmtpFault::Lost),
        (SmtpStage::Rcpt(None), reply("432 4.3.2 Concurrent connections limit exceeded")),
        (SmtpStage::Rcpt(None), SmtpFault::Lost),
        (SmtpStage::EndOfData, reply("451 4.7.500 Server busy")),
        (SmtpStage::EndOfData, reply("452 4.3.1 no room")),
        (SmtpStage::EndOfData, SmtpFault::Lost),
        (SmtpStage::Auth, reply("451 4.7.0 Temporary server error")),
        (SmtpStage::Auth, reply("454 4.7.0 later")),
    ];
    for (stage, fault) in faults {
        let site = Site::new().await;
        site.control().fail_smtp(stage.clone(), fault.clone(), Some(1));
        site.put("scanner", b"1\r\n", &[TO]).await;
        site.put("scanner", b"2\r\n", &[TO]).await;
        site.drained().await;
        let mut bodies = site.bodies();
        bodies.sort();
        assert_eq!(bodies, [b"1\r\n".to_vec(), b"2\r\n".to_vec()], "{stage:?} {fault:?}");
        assert!(site.spool.failed().await.unwrap().is_empty());
        site.end().await;
    }
}

/// The one case in which a message may come twice: its answer was lost (RFC 1047).
#[tokio::test(flavor = "multi_thread")]
async fn a_lost_answer_may_double_a_message_and_loses_none() {
    let site = Site::new().await;
    site.control().fail_smtp(SmtpStage::EndOfData, SmtpFault::Closed, Some(1));
    site.put("scanner", b"1\r\n", &[TO]).await;
    site.drained().await;
    assert_eq!(site.bodies(), [b"1\r\n", b"1\r\n"]);
    site.end().await;
}

/// While it was idle: no attempt is lost by that, and nothing waits.
#[tokio::test(flavor = "multi_thread")]
async fn an_idle_connection_may_be_closed() {
    let site = Site::new().await;
    site.put("scanner", b"1\r\n", &[TO]).await;
    site.drained().await;
    site.control().disconnect_all();
    sleep(Duration::from_millis(200)).await;
    let start = Instant::now();
    site.put("scanner", b"2\r\n", &[TO]).await;
    site.drained().await;
    assert!(start.elapsed() < Duration::from_millis(1500), "{:?}", start.elapsed());
    assert_eq!((site.bodies().len(), site.control().logins()), (2, 2));
    site.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stale_token_is_renewed_once() {
    let site = Site::new().await;
    site.put("scanner", b"1\r\n", &[TO]).await;
    site.drained().await;
    site.control().revoke_access_tokens();
    site.control().disconnect_all();
    let before = site.control().token_requests();
    site.put("scanner", b"2\r\n", &[TO]).await;
    site.drained().await;
    assert_eq!((site.bodies().len(), site.control().token_requests()), (2, before + 1));
    site.end().await;
}

/// Kept, with the provider's words, until it is switched on again.
#[tokio::test(flavor = "multi_thread")]
async fn smtp_that_is_switched_off_keeps_the_mail() {
    let site = Site::new().await;
    site.control().set_login_fault(Some(LoginFault::SmtpAuthDisabled));
    let id = site.put("scanner", b"1\r\n", &[TO]).await.id;
    let start = Instant::now();
    let said = loop {
        assert!(start.elapsed() < LIMIT);
        let (entry, _) = site.spool.find(&id).await.unwrap().unwrap();
        match entry.progress.last_error {
            Some(said) => break said,
            None => sleep(Duration::from_millis(20)).await,
        }
    };
    assert!(said.contains("5.7.139"), "{said}");
    site.control().set_login_fault(None);
    site.outbox.wake();
    site.drained().await;
    assert_eq!(site.bodies().len(), 1);
    site.end().await;
}

/// An hour's rest, and not a failure.
#[tokio::test(flavor = "multi_thread")]
async fn a_used_up_quota_is_no_refusal() {
    let options = Options { smtp_recipients_per_day: 1, ..Options::default() };
    let site = Site::start(options, "").await;
    site.put("scanner", b"1\r\n", &[TO]).await;
    site.put("scanner", b"2\r\n", &[TO]).await;
    let start = Instant::now();
    let entry = loop {
        assert!(start.elapsed() < LIMIT);
        let waiting = site.spool.waiting().await.unwrap();
        match waiting.iter().find(|entry| entry.progress.last_error.is_some()) {
            Some(entry) => break entry.clone(),
            None => sleep(Duration::from_millis(20)).await,
        }
    };
    assert!(entry.progress.last_error.unwrap().contains("SubmissionQuotaExceeded"));
    // longer than the schedule's two seconds
    sleep(Duration::from_millis(2500)).await;
    assert_eq!(site.spool.waiting().await.unwrap().len(), 1);
    assert!(site.spool.failed().await.unwrap().is_empty());
    site.end().await;
}

/// The message leaves when the token endpoint and the server are there again.
#[tokio::test(flavor = "multi_thread")]
async fn an_outage_of_both() {
    use gatepost::emulator::TokenFault;
    let site = Site::new().await;
    site.control().set_token_outage(Some(TokenFault::Closed));
    site.control().set_mail_outage(true);
    site.put("scanner", b"1\r\n", &[TO]).await;
    site.put("printer", b"2\r\n", &[TO]).await;
    sleep(Duration::from_secs(3)).await;
    assert_eq!(site.spool.waiting().await.unwrap().len(), 2);
    site.control().clear_faults();
    site.drained().await;
    assert_eq!(site.bodies().len(), 2);
    site.end().await;
}
