//! Delivery by Microsoft Graph, against the emulator's: what arrives, octet for octet, and what comes of faults.

use std::fmt::Write;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use gatepost::attention::Attention;
use gatepost::clock::Clock;
use gatepost::config::Config;
use gatepost::emulator::{
    Emulator, GraphFault, GraphStep, Options, Registration, SentMail, Shared, Way,
};
use gatepost::net::ClientTls;
use gatepost::oauth::{HttpEndpoint, NoToken, Principal, TokenEndpoint, Tokens};
use gatepost::outbox::{Begun, Content, Courier, Graph, GraphCourier, Message, Outcome, Verdict};
use gatepost::protocol::{Envelope, Recipient};
use gatepost::secret::Secret;
use gatepost::store::{Store, Token};
use gatepost::vocabulary::Resource;
use serde_json::Value;
use tempfile::TempDir;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

const JANE: &str = "jane@contoso.example";
const SUPPORT: &str = "support@contoso.example";

/// What fits into one request as base64.
const MIME: usize = 3 * 1024 * 1024;

/// Nothing here takes longer, unless it hangs.
const LIMIT: Duration = Duration::from_secs(60);

/// A proxy's tokens and couriers, whose provider is an emulator. Jane has signed in, the app opens Support's
/// mailbox by itself.
struct House {
    emulator: Emulator,
    config: Config,
    tokens: Arc<Tokens>,
    graph: Arc<Graph>,
    store: Store,
    file: PathBuf,
    _folder: TempDir,
}

impl House {
    async fn new() -> Self {
        Self::with(Options::default(), "via = [\"graph\", \"smtp\"]").await
    }

    async fn with(options: Options, account: &str) -> Self {
        let app = options.app.clone();
        let emulator = Emulator::start(options).await.unwrap();
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("gatepost.toml");
        let (tenant, id, secret) = (&app.tenant, &app.client_id, &app.client_secret);
        std::fs::write(folder.path().join("secret"), secret).unwrap();
        let registration = format!(
            "provider = \"lab\"\ntenant = \"{tenant}\"\nclient_id = \"{id}\"\n\
             client_secret = {{ file = \"secret\" }}\n"
        );
        let text = format!(
            "state_dir = \"state\"\n\
             [app.person]\n{registration}\
             [app.robot]\n{registration}grant = \"client_credentials\"\n\
             [[account]]\nmailbox = \"{JANE}\"\napp = \"person\"\n{account}\n\
             [[account]]\nmailbox = \"{SUPPORT}\"\napp = \"robot\"\n{account}\n\
             [[account]]\nmailbox = \"sales@contoso.example\"\napp = \"person\"\n\
             signed_in_as = \"{JANE}\"\n{account}\n\
             [provider.lab]\ntoken_url = \"{}\"\ngraph = \"{}\"\n\
             scopes = [\"https://outlook.office.com/IMAP.AccessAsUser.All\", \"offline_access\"]\n\
             app_scopes = [\"https://outlook.office365.com/.default\"]\n\
             graph_scopes = [\"https://graph.microsoft.com/Mail.Send\", \
             \"https://graph.microsoft.com/Mail.ReadWrite\", \"offline_access\"]\n\
             graph_app_scopes = [\"https://graph.microsoft.com/.default\"]\n",
            emulator.token_url(),
            emulator.graph_url(),
        );
        std::fs::write(&file, &text).unwrap();
        let config = Config::parse(&file, &text).unwrap();
        let store = Store::open(&config.state_dir, None).await.unwrap();
        let refresh_token = Some(Secret::new(emulator.issue_refresh_token(JANE)));
        let key = Principal::of(&config.account(JANE).unwrap()).key();
        let token = Token { refresh_token, ..Token::default() };
        store.replace_token(&key, &token).await.unwrap();
        let endpoint = |principal: &Principal| {
            Arc::new(HttpEndpoint::of(&principal.app).unwrap()) as Arc<dyn TokenEndpoint>
        };
        let (tracker, stop) = (TaskTracker::new(), CancellationToken::new());
        let (clock, nobody) = (Clock::system(), Attention::default());
        let accounts = &config.accounts;
        let tokens = Tokens::start(accounts, endpoint, &store, &clock, &nobody, &tracker, &stop);
        let provider = &accounts[0].app.provider;
        let graph = Graph::of(provider, &ClientTls::new(None).unwrap()).unwrap().unwrap();
        Self { emulator, config, tokens: Arc::new(tokens), graph, store, file, _folder: folder }
    }

    fn courier(&self, mailbox: &str) -> GraphCourier {
        let account = self.config.account(mailbox).unwrap();
        GraphCourier::new(Arc::clone(&self.graph), Arc::clone(&self.tokens), account)
    }

    async fn send(&self, mailbox: &str, octets: &[u8], recipients: &[&str]) -> Outcome {
        let mut message = message(mailbox, octets, recipients);
        timeout(LIMIT, self.courier(mailbox).send(&mut message)).await.expect("an outcome in time")
    }

    /// Sends it and gives what the emulator has got.
    async fn delivered(&self, mailbox: &str, octets: &[u8], recipients: &[&str]) -> SentMail {
        let before = self.emulator.control().sent().len();
        let outcome = self.send(mailbox, octets, recipients).await;
        assert!(is_delivered(&outcome, recipients.len()), "{outcome:?}");
        let sent = self.emulator.control().sent();
        assert_eq!(sent.len(), before + 1);
        let mut mail = sent.into_iter().next_back().unwrap();
        assert_eq!((mail.way, self.drafts()), (Way::Graph, 0));
        mail.recipients.sort();
        mail
    }

    fn drafts(&self) -> usize {
        [JANE, SUPPORT].iter().map(|mailbox| self.emulator.control().drafts(mailbox)).sum()
    }

    fn requests(&self) -> u64 {
        self.emulator.control().graph_requests()
    }
}

fn message(mailbox: &str, octets: &[u8], recipients: &[&str]) -> Message {
    let recipient = |address: &&str| Recipient { address: (*address).into(), parameters: vec![] };
    let recipients = recipients.iter().map(recipient).collect();
    let envelope = Envelope { sender: mailbox.into(), parameters: Vec::new(), recipients };
    Message { envelope, content: Content::of_octets(octets.to_vec()), begun: Begun::default() }
}

fn is_delivered(outcome: &Outcome, recipients: usize) -> bool {
    let Outcome::Answered(verdicts) = outcome else { return false };
    let good =
        |verdict: &Verdict| matches!(verdict, Verdict::Delivered(said) if said.contains("202"));
    verdicts.len() == recipients && verdicts.iter().all(good)
}

fn refused(outcome: Outcome) -> String {
    match outcome {
        Outcome::Answered(verdicts) => match verdicts.into_iter().next() {
            Some(Verdict::Refused(said)) => said,
            other => panic!("{other:?}"),
        },
        other => panic!("{other:?}"),
    }
}

fn closed(outcome: Outcome) -> String {
    match outcome {
        Outcome::Closed { said } => said,
        other => panic!("{other:?}"),
    }
}

fn later(outcome: Outcome) -> String {
    match outcome {
        Outcome::Answered(verdicts) => match verdicts.into_iter().next() {
            Some(Verdict::Later(said)) => said,
            other => panic!("{other:?}"),
        },
        other => panic!("{other:?}"),
    }
}

/// A scan of this many octets in all.
fn scan(octets: usize) -> Vec<u8> {
    let mut text = format!("From: {JANE}\r\nTo: a@fabrikam.example\r\nSubject: scan\r\n\r\n");
    while text.len() + 80 <= octets {
        let _ = write!(text, "{:076}\r\n", text.len());
    }
    let left = octets.saturating_sub(text.len() + 2);
    let _ = write!(text, "{:x<left$}\r\n", "");
    text.into_bytes()
}

fn noise(octets: usize, seed: u8) -> Vec<u8> {
    let mut state = u32::from(seed) + 1;
    let next = |_| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        state.to_be_bytes()[0]
    };
    (0..octets).map(next).collect()
}

/// A message with files of these sizes; `head` is put in front of its header.
fn with_files(head: &str, sizes: &[usize]) -> (Vec<u8>, Vec<(String, Vec<u8>)>) {
    let mut text = format!(
        "{head}From: {JANE}\r\nTo: a@fabrikam.example\r\nSubject: files\r\nMIME-Version: 1.0\r\n\
         Content-Type: multipart/mixed; boundary=\"=_b\"\r\n\r\nThis is MIME.\r\n--=_b\r\n\
         Content-Type: text/plain; charset=iso-8859-1\r\nContent-Transfer-Encoding: 8bit\r\n\r\n"
    )
    .into_bytes();
    text.extend_from_slice(b"Gr\xfc\xdfe\r\n");
    let mut files = Vec::new();
    for (index, size) in sizes.iter().enumerate() {
        let (name, octets) =
            (format!("scan-{index}.pdf"), noise(*size, u8::try_from(index).unwrap()));
        let header = format!(
            "--=_b\r\nContent-Type: application/pdf; name=\"{name}\"\r\n\
             Content-Disposition: attachment; filename=\"{name}\"\r\n\
             Content-Transfer-Encoding: base64\r\n\r\n"
        );
        text.extend_from_slice(header.as_bytes());
        for line in octets.chunks(57) {
            text.extend_from_slice(BASE64_STANDARD.encode(line).as_bytes());
            text.extend_from_slice(b"\r\n");
        }
        files.push((name, octets));
    }
    text.extend_from_slice(b"--=_b--\r\n");
    (text, files)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_fits_into_one_request_arrives_octet_for_octet() {
    let house = House::new().await;
    let odd =
        b"From: \"J\xfc\" <jane@contoso.example>\r\nTo: a@fabrikam.example\r\nSubject: =?x?\r\n \
        folded\r\nX-Odd:no blank\r\n\r\nbare\nline feed, NUL \0, \xff\r\n.\r\n..\r\n\
        and no line end";
    let long = [&scan(200)[..], &b"y".repeat(5000), b"\r\n"].concat();
    for octets in [odd.to_vec(), long, scan(1000), scan(1_000_001), scan(MIME)] {
        let before = house.requests();
        let mail = house.delivered(JANE, &octets, &["a@fabrikam.example"]).await;
        assert!(*mail.data == *octets, "{} octets came of {}", mail.data.len(), octets.len());
        assert_eq!(mail.recipients, ["a@fabrikam.example"]);
        assert_eq!((house.requests() - before, mail.mailbox.as_str()), (1, JANE));
    }
    // One more, and it takes a draft; which text alone can't be.
    let outcome = house.send(JANE, &scan(MIME + 1), &["a@fabrikam.example"]).await;
    let Outcome::Unsuited { said } = outcome else { panic!("{outcome:?}") };
    assert!(said.contains("too large for one request"), "{said}");
    let octets = String::from_utf8(scan(500)).unwrap().replace(JANE, SUPPORT);
    let mail = house.delivered(SUPPORT, octets.as_bytes(), &["A@Fabrikam.example"]).await;
    assert_eq!((mail.mailbox.as_str(), &*mail.data), (SUPPORT, octets.as_bytes()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn large_messages_go_by_draft_with_every_file_as_it_was() {
    let house = House::new().await;
    let mib = 1024 * 1024;
    // Small ones stay in the draft; of the others some go by one request, some by an upload of several pieces.
    let tables: [&[usize]; 4] = [
        &[4 * mib],
        &[2 * mib, 2 * mib, 100],
        &[3 * mib, 3 * mib - 1000, 12 * 320 * 1024, 12 * 320 * 1024 + 1, 700_000, 0],
        &[29 * mib],
    ];
    for sizes in tables {
        let (octets, files) = with_files("", sizes);
        let recipients = ["a@fabrikam.example", "hidden@fabrikam.example"];
        let mail = house.delivered(JANE, &octets, &recipients).await;
        assert_eq!(mail.recipients, recipients, "{sizes:?}");
        let mut cut = 0;
        for (name, octets) in &files {
            let encoded = octets.chunks(57).next().map(|line| BASE64_STANDARD.encode(line));
            match mail.attachments.iter().find(|attachment| attachment.name == *name) {
                Some(attachment) => {
                    assert!(*attachment.data == **octets, "{name} of {sizes:?}");
                    assert_eq!(attachment.content_type, "application/pdf");
                    assert!(!attachment.inline);
                    cut += 1;
                }
                None => {
                    let rest = String::from_utf8_lossy(&mail.data);
                    assert!(encoded.is_none_or(|line| rest.contains(&line)), "{name} is lost");
                }
            }
        }
        assert!(cut > 0 && cut == mail.attachments.len(), "{sizes:?}");
        assert!(mail.data.windows(7).any(|part| part == b"Gr\xfc\xdfe\r\n"));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_draft_is_left_over_wherever_it_fails() {
    let house = House::new().await;
    let (octets, _) = with_files("", &[4_000_000, 2_900_000]);
    let faults = [
        GraphFault::Unavailable { retry_after: Some(9) },
        GraphFault::Throttled { retry_after: Some(9) },
        GraphFault::AccessDenied,
        GraphFault::Closed,
        GraphFault::Unanswered,
    ];
    let steps = [
        GraphStep::Create,
        GraphStep::Attach,
        GraphStep::OpenUpload,
        GraphStep::Upload,
        GraphStep::Send,
    ];
    let control = house.emulator.control();
    for (step, fault) in steps.iter().flat_map(|step| faults.iter().map(move |fault| (step, fault)))
    {
        control.fail_graph(*step, *fault, Some(1));
        let (sent, drafts) = (control.sent().len(), house.drafts());
        let outcome = house.send(JANE, &octets, &["a@fabrikam.example"]).await;
        let case = format!("{step:?} {fault:?}: {outcome:?}");
        control.clear_graph_faults();
        // A draft whose making was not answered is one that nobody can name.
        let nameless = (*step, *fault) == (GraphStep::Create, GraphFault::Unanswered);
        assert_eq!(house.drafts() - drafts, usize::from(nameless), "{case}");
        let done = (*step, *fault) == (GraphStep::Send, GraphFault::Unanswered);
        assert_eq!(control.sent().len() - sent, usize::from(done), "{case}");
        match fault {
            // The address of an upload says nothing of the mailbox.
            GraphFault::AccessDenied if *step == GraphStep::Upload => drop(later(outcome)),
            GraphFault::AccessDenied if *step == GraphStep::Send => drop(closed(outcome)),
            // Small messages need no draft.
            GraphFault::AccessDenied => {
                let Outcome::Unsuited { said } = outcome else { panic!("{case}") };
                assert!(said.contains("Mail.ReadWrite"), "{said}");
            }
            GraphFault::Closed | GraphFault::Unanswered => drop(later(outcome)),
            _ => assert!(
                matches!(outcome, Outcome::Held { wait: Some(wait), .. } if wait.as_secs() == 9),
                "{case}"
            ),
        }
    }
    let (sent, drafts) = (control.sent().len(), house.drafts());
    assert!(is_delivered(&house.send(JANE, &octets, &["a@fabrikam.example"]).await, 1));
    assert_eq!((control.sent().len(), house.drafts()), (sent + 1, drafts));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_delivery_that_is_broken_off_leaves_no_draft() {
    let house = House::new().await;
    let (octets, _) = with_files("", &[4_000_000]);
    let control = house.emulator.control();
    control.fail_graph(GraphStep::Upload, GraphFault::Delay(Duration::from_secs(30)), None);
    let mut courier = house.courier(JANE);
    let mut message = message(JANE, &octets, &["a@fabrikam.example"]);
    let begun = async {
        while house.drafts() == 0 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::select! {
        outcome = courier.send(&mut message) => panic!("it has ended: {outcome:?}"),
        () = begun => {}
    }
    let gone = async {
        while house.drafts() > 0 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(LIMIT, gone).await.expect("the draft is deleted");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_envelopes_recipients_get_it_and_nobody_else() {
    let house = House::new().await;
    let text = format!(
        "From: {JANE}\r\nTo: \"A, B\" <a@fabrikam.example>\r\nCc: b@fabrikam.example\r\n\r\nhi\r\n"
    );
    let all = ["a@fabrikam.example", "b@fabrikam.example", "c@fabrikam.example", "d@x.example"];
    let mail = house.delivered(JANE, text.as_bytes(), &all).await;
    assert_eq!((&mail.recipients[..], &*mail.data), (&all.map(String::from)[..], text.as_bytes()));
    // Nobody is named at all, as scanners do.
    let bare = format!("From: {JANE}\r\nSubject: s\r\n\r\nhi\r\n");
    let mail = house.delivered(JANE, bare.as_bytes(), &all[2..]).await;
    assert_eq!(mail.recipients, all[2..]);
    let before = house.requests();
    let outcome = house.send(JANE, text.as_bytes(), &["a@fabrikam.example"]).await;
    let Outcome::Unsuited { said } = outcome else { panic!("{outcome:?}") };
    assert!(said.contains("b@fabrikam.example") && !said.contains("a@fabrikam.example"), "{said}");
    assert_eq!(house.requests(), before, "nothing was asked of Graph");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn signed_and_encrypted_messages_keep_their_octets_or_do_not_go() {
    let house = House::new().await;
    let kinds = [
        "multipart/signed; protocol=\"application/pkcs7-signature\"; micalg=sha-256; boundary=\"=_s\"",
        "multipart/encrypted; protocol=\"application/pgp-encrypted\"; boundary=\"=_s\"",
        "application/pkcs7-mime; smime-type=enveloped-data",
    ];
    for kind in kinds {
        let sealed = |size: usize| {
            let (inner, _) = with_files("", &[size]);
            let inner = String::from_utf8_lossy(&inner).into_owned();
            let body = match kind.starts_with("multipart/") {
                true => format!(
                    "--=_s\r\n{inner}\r\n--=_s\r\nContent-Type: application/pkcs7-signature\r\n\r\nMIIF\r\n--=_s--\r\n"
                ),
                false => BASE64_STANDARD.encode(inner),
            };
            format!(
                "From: {JANE}\r\nTo: a@fabrikam.example\r\nMIME-Version: 1.0\r\nContent-Type: {kind}\r\n\r\n{body}"
            )
        };
        let small = sealed(100_000);
        let mail =
            house.delivered(JANE, small.as_bytes(), &["a@fabrikam.example", "b@x.example"]).await;
        assert!(*mail.data == *small.as_bytes(), "{kind}");
        let before = house.requests();
        let outcome = house.send(JANE, sealed(4_000_000).as_bytes(), &["a@fabrikam.example"]).await;
        let Outcome::Unsuited { said } = outcome else { panic!("{kind}: {outcome:?}") };
        assert!(said.contains("signed") || said.contains("encrypted"), "{said}");
        assert_eq!((house.requests(), house.drafts()), (before, 0));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_graph_says_is_told_of_the_message_the_mailbox_or_the_way() {
    let house = House::new().await;
    let (control, octets) = (house.emulator.control(), scan(500));
    let send = async || house.send(JANE, &octets, &["a@fabrikam.example"]).await;
    for fault in [
        GraphFault::Throttled { retry_after: Some(17) },
        GraphFault::Unavailable { retry_after: Some(17) },
    ] {
        control.fail_graph(GraphStep::SendMail, fault, Some(1));
        let outcome = send().await;
        let Outcome::Held { reason, wait, remedy: None } = outcome else { panic!("{outcome:?}") };
        assert_eq!(wait, Some(Duration::from_secs(17)));
        assert!(
            reason.contains("request-id") && reason.contains("Microsoft Graph: HTTP"),
            "{reason}"
        );
    }
    control.fail_graph(GraphStep::SendMail, GraphFault::AccessDenied, Some(1));
    let said = closed(send().await);
    assert!(
        said.contains("ErrorAccessDenied: ") && said.contains("gatepost entra script"),
        "{said}"
    );
    control.fail_graph(GraphStep::SendMail, GraphFault::MailboxNotEnabled, Some(1));
    assert!(closed(send().await).contains("MailboxNotEnabledForRESTAPI"));
    control.fail_graph(GraphStep::SendMail, GraphFault::Unanswered, Some(1));
    later(send().await);
    assert_eq!(control.sent().len(), 1, "it was sent, which nobody can know");
    assert!(is_delivered(&send().await, 1));

    let foreign = String::from_utf8(octets.clone()).unwrap().replace(JANE, "boss@contoso.example");
    let said = refused(house.send(JANE, foreign.as_bytes(), &["a@fabrikam.example"]).await);
    assert!(said.contains("ErrorSendAsDenied") && said.contains("sender = "), "{said}");
    let said = refused(house.send(JANE, b"no field\r\n\r\nx", &["a@fabrikam.example"]).await);
    assert!(said.contains("HTTP status 400"), "{said}");
    // Nobody is there.
    control.set_graph_outage(Some(GraphFault::Closed));
    later(send().await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_that_graph_does_not_take_is_replaced_once() {
    for mailbox in [JANE, SUPPORT] {
        let house = House::new().await;
        let octets = String::from_utf8(scan(500)).unwrap().replace(JANE, mailbox);
        let control = house.emulator.control();
        let account = house.config.account(mailbox).unwrap();
        let first = house.tokens.get_for(&account, Resource::Graph).await.unwrap();
        control.revoke_access_tokens();
        house.delivered(mailbox, octets.as_bytes(), &["a@fabrikam.example"]).await;
        let second = house.tokens.get_for(&account, Resource::Graph).await.unwrap();
        assert_ne!(second.token, first.token);
        // In the middle of a large one.
        let (large, _) = with_files("", &[4_000_000]);
        let large = String::from_utf8_lossy(&large).replace(JANE, mailbox);
        control.fail_graph(
            GraphStep::Upload,
            GraphFault::Delay(Duration::from_millis(500)),
            Some(1),
        );
        let revoke = async {
            while house.drafts() == 0 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
            control.revoke_access_tokens();
        };
        control.fail_graph(GraphStep::Send, GraphFault::Unavailable { retry_after: None }, Some(1));
        let sent = house.send(mailbox, large.as_bytes(), &["a@fabrikam.example"]);
        let (outcome, ()) = tokio::join!(sent, revoke);
        assert!(matches!(outcome, Outcome::Held { .. }), "{outcome:?}");
        assert_eq!(house.drafts(), 0, "it is deleted with the new token");
        house.delivered(mailbox, large.as_bytes(), &["a@fabrikam.example"]).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_consent_to_graph_alone_closes_graph_alone() {
    let registration = Registration { graph_consented: Vec::new(), ..Registration::default() };
    for (via, next) in [("[\"graph\", \"smtp\"]", true), ("[\"smtp\", \"graph\"]", false)] {
        let options = Options { registration: registration.clone(), ..Options::default() };
        let house = House::with(options, &format!("via = {via}")).await;
        let jane = house.config.account(JANE).unwrap();
        match house.send(JANE, &scan(500), &["a@fabrikam.example"]).await {
            Outcome::Closed { said } if next => assert!(said.contains("AADSTS65001"), "{said}"),
            Outcome::Held { reason, remedy: Some(remedy), .. } if !next => {
                assert!(reason.contains("AADSTS65001") && remedy.contains("gatepost login"));
            }
            other => panic!("{via}: {other:?}"),
        }
        assert!(house.tokens.get(&jane).await.is_ok(), "IMAP and SMTP logins go on");
        assert!(matches!(
            house.tokens.get_for(&jane, Resource::Graph).await,
            Err(NoToken::SignInNeeded(_))
        ));
        let status = Command::new(env!("CARGO_BIN_EXE_gatepost"))
            .arg("--config")
            .arg(&house.file)
            .args(["status", "--json"])
            .output()
            .unwrap();
        let status: Value = serde_json::from_slice(&status.stdout).unwrap();
        let account = &status["accounts"][0];
        assert_eq!(
            (&account["state"], &account["graph"]["state"]),
            (&"ready".into(), &"refused".into())
        );
        let text = |name: &str| account["graph"][name].as_str().unwrap().to_owned();
        assert!(text("last_error").contains("AADSTS65001"));
        assert!(text("remedy").contains("gatepost entra consent-url"));
        house.store.close().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_refresh_token_for_both_resources_although_each_use_ends_it() {
    let options = Options {
        revoke_used_refresh_tokens: true,
        token_life: Some(Duration::from_secs(2)),
        ..Options::default()
    };
    let house = House::with(options, "via = [\"smtp\", \"graph\"]").await;
    let jane = house.config.account(JANE).unwrap();
    let end = tokio::time::Instant::now() + Duration::from_secs(6);
    let mut messages = 0;
    while tokio::time::Instant::now() < end {
        let octets = scan(500 + messages);
        let (mail, outcome) = tokio::join!(
            house.tokens.get(&jane),
            house.send(JANE, &octets, &["a@fabrikam.example"])
        );
        assert!(mail.is_ok() && is_delivered(&outcome, 1), "{mail:?} {outcome:?}");
        messages += 1;
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let key = Principal::of(&jane).key();
    for resource in Resource::ALL {
        assert_eq!(house.store.fault(&key, resource).await.unwrap(), None);
    }
    let requests = house.emulator.control().token_requests();
    assert!(requests >= 10, "only {requests} token requests");
    assert_eq!(house.emulator.control().sent().len(), messages);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shared_mailbox_sends_with_the_token_of_the_one_who_opens_it() {
    let options = Options {
        mailboxes: vec![JANE.into(), SUPPORT.into(), "sales@contoso.example".into()],
        shared: vec![Shared { mailbox: "sales@contoso.example".into(), users: vec![JANE.into()] }],
        ..Options::default()
    };
    let house = House::with(options, "via = [\"graph\"]").await;
    let (large, files) = with_files("", &[4_000_000]);
    for octets in [scan(500), large] {
        let octets = String::from_utf8_lossy(&octets).replace(JANE, "sales@contoso.example");
        let mail = house
            .delivered("sales@contoso.example", octets.as_bytes(), &["a@fabrikam.example"])
            .await;
        assert_eq!(
            (&*mail.mailbox, &*mail.sender),
            ("sales@contoso.example", "sales@contoso.example")
        );
        assert!(mail.attachments.iter().all(|attachment| *attachment.data == *files[0].1));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crowd_is_never_too_many_for_graph() {
    let house = House::new().await;
    let (control, octets) = (house.emulator.control(), scan(2000));
    control.fail_graph(GraphStep::SendMail, GraphFault::Delay(Duration::from_millis(20)), None);
    let (large, _) = with_files("", &[4_000_000]);
    let mut crowd = JoinSet::new();
    for index in 0..44 {
        let mut courier = house.courier(JANE);
        let octets = if index % 11 == 0 { &large } else { &octets };
        let mut message = message(JANE, octets, &["a@fabrikam.example"]);
        crowd.spawn(async move { courier.send(&mut message).await });
    }
    let outcomes = timeout(LIMIT, crowd.join_all()).await.unwrap();
    assert!(outcomes.iter().all(|outcome| is_delivered(outcome, 1)), "{outcomes:?}");
    assert_eq!((control.sent().len(), control.graph_limits_hit()), (44, 0));
}
