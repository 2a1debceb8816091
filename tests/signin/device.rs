//! Sign-ins on another device.

use std::time::Duration;

use gatepost::emulator::TokenFault;
use tokio::time::sleep;

use crate::site::{Running, Settings, Site, eventually};
use crate::tap::Seen;
use crate::{JANE, JOHN};

/// What the emulated Entra asks for between two questions.
const INTERVAL: Duration = Duration::from_secs(1);

/// What `slow_down` adds (RFC 8628 section 3.5).
const SLOWER: Duration = Duration::from_secs(5);

async fn site(life: Duration) -> Site {
    let mut settings = Settings::new("grant = \"device_code\"", &[JANE]);
    settings.options.registration.device_interval = INTERVAL;
    settings.options.registration.device_code_life = life;
    Site::new(settings).await
}

const LONG: Duration = Duration::from_secs(900);

/// Begins a sign-in; the code that it shows.
async fn begin(site: &Site) -> (Running, String) {
    let mut login = site.begin(&["login", JANE]);
    let code = login.line().await;
    (login, code)
}

/// The questions that the waiting process has asked, with the pauses before each but the first.
fn polls(site: &Site) -> (Vec<Seen>, Vec<Duration>) {
    let polls = site.tap.token_requests();
    let pauses = polls.windows(2).map(|pair| pair[1].at - pair[0].at).collect();
    (polls, pauses)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_code_is_typed() {
    let site = Site::by_browser(&[JANE]).await;
    let password = site.password(JANE).await;
    let proxy = site.start().await;
    // Whatever the app's grant: a machine without a browser has this way too.
    let mut login = site.begin(&["login", JANE, "--device-code"]);
    let code = login.line().await;
    assert_eq!(site.control().device_codes(), [code.as_str()]);
    let said = login.said("Ctrl-C loses nothing").await;
    let page = format!("http://{}/contoso.example/deviceauth", site.tap.address);
    assert!(said.contains(&page) && said.contains("14 min"), "{said}");
    let large: Vec<&str> = said.lines().filter(|line| line.contains('\u{2588}')).collect();
    assert_eq!(large.len(), 5, "{said}");
    // Nine letters of five columns, with gaps.
    assert!(large.iter().any(|line| line.trim().chars().count() > 50), "{said}");
    assert!(site.control().approve_device(&code, JANE));
    let done = login.end().await;
    assert_eq!((done.code, done.out.as_str()), (Some(0), ""), "{}", done.err);
    assert!(done.err.contains("is signed in"), "{}", done.err);
    let asked = site.tap.token_requests();
    assert!(!done.err.contains(asked[0].field("device_code")), "{}", done.err);
    proxy.admits(JANE, &password).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refusal_changes_nothing_and_the_next_code_is_another() {
    let site = site(LONG).await;
    let (login, former) = begin(&site).await;
    assert!(site.control().approve_device(&former, JANE));
    assert_eq!(login.end().await.code, Some(0));
    let signed_in = site.refresh_token(JANE).await;
    let (login, declined) = begin(&site).await;
    assert!(site.control().decline_device(&declined));
    let done = login.end().await;
    assert_eq!(done.code, Some(1));
    assert!(done.err.contains("authorization_declined"), "{}", done.err);
    assert!(done.err.contains("nothing was changed"), "{}", done.err);
    assert_eq!(site.refresh_token(JANE).await, signed_in);
    let (login, third) = begin(&site).await;
    assert!(former != declined && declined != third && former != third);
    // The provider says that it has come to its end.
    site.control().fail_token_requests(1, TokenFault::Aadsts(70_020));
    let done = login.end().await;
    assert_eq!(done.code, Some(1));
    assert!(done.err.contains("expired_token"), "{}", done.err);
    assert!(!done.err.contains("again, since"), "{}", done.err);
    assert_eq!(site.refresh_token(JANE).await, signed_in);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_types_it_in_time() {
    let site = site(Duration::from_secs(3)).await;
    let (login, _) = begin(&site).await;
    let done = login.end().await;
    assert_eq!(done.code, Some(1));
    assert!(done.err.contains("the code was not typed in time"), "{}", done.err);
    let (polls, pauses) = polls(&site);
    assert!(!polls.is_empty() && pauses.iter().all(|pause| *pause >= INTERVAL), "{pauses:?}");
    assert!(site.token(JANE).await.is_none());
}

/// Somebody else asks shortly before, so that the first question comes too early.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_is_told_to_slow_down() {
    let interval = 2 * INTERVAL;
    let mut settings = Settings::new("grant = \"device_code\"", &[JANE]);
    settings.options.registration.device_interval = interval;
    let site = Site::new(settings).await;
    let (login, code) = begin(&site).await;
    sleep(interval / 2).await;
    let started = site.tap.answers("devicecode").remove(0);
    let device_code = started["device_code"].as_str().unwrap();
    let client = "5e1f0a3c-6d1b-4f0e-9a57-0c1d5b7e2f44";
    let grant = "urn:ietf:params:oauth:grant-type:device_code";
    let form = [("grant_type", grant), ("client_id", client), ("device_code", device_code)];
    let other = site.browser.post(site.emulator.token_url(), &form).await;
    assert!(other.body.contains("authorization_pending"), "{}", other.body);
    eventually("a question", async || (!polls(&site).0.is_empty()).then_some(())).await;
    assert!(site.control().approve_device(&code, JANE));
    let done = login.end().await;
    assert_eq!(done.code, Some(0), "{}", done.err);
    let (polls, pauses) = polls(&site);
    assert_eq!(polls[0].answer["error"], "slow_down");
    assert_eq!(polls.len(), 2, "once is enough");
    assert!(pauses[0] >= interval + SLOWER, "{pauses:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wait_that_is_killed_loses_nothing() {
    let site = site(LONG).await;
    let (login, code) = begin(&site).await;
    eventually("a question", async || (!polls(&site).0.is_empty()).then_some(())).await;
    let said = login.kill().await;
    assert!(!said.contains("again, since"), "{said}");
    // What is on disk is sealed.
    let asked = polls(&site).0.remove(0);
    for name in ["gatepost.db", "gatepost.db-wal"] {
        let file = std::fs::read(site.path("state").join(name)).unwrap_or_default();
        let secret = asked.field("device_code").as_bytes();
        assert!(!file.windows(secret.len()).any(|part| part == secret), "{name}");
    }
    // Typed while nobody waits.
    assert!(site.control().approve_device(&code, JANE));
    let (login, again) = begin(&site).await;
    assert_eq!(again, code);
    let done = login.end().await;
    assert_eq!(done.code, Some(0), "{}", done.err);
    assert!(done.err.contains("again, since the last wait was broken off"), "{}", done.err);
    assert!(site.token(JANE).await.is_some());
    let (login, next) = begin(&site).await;
    assert_ne!(next, code);
    login.kill().await;
}

/// RFC 8628 section 3.5: with longer pauses than before.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_provider_is_out_of_order_meanwhile() {
    let site = site(LONG).await;
    let fault = TokenFault::Status { status: 503, retry_after: None };
    site.control().fail_token_requests(1, fault);
    site.control().fail_token_requests(1, TokenFault::Closed);
    let (login, code) = begin(&site).await;
    assert!(site.control().approve_device(&code, JANE));
    let done = login.end().await;
    assert_eq!(done.code, Some(0), "{}", done.err);
    let (polls, pauses) = polls(&site);
    assert_eq!(polls.iter().map(|poll| poll.status).collect::<Vec<_>>(), [503, 0, 200]);
    assert!(pauses[0] >= 2 * INTERVAL && pauses[1] >= 4 * INTERVAL, "{pauses:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn somebody_else_types_it_and_without_a_refresh_token() {
    let site = site(LONG).await;
    let (login, code) = begin(&site).await;
    assert!(site.control().approve_device(&code, JOHN));
    let done = login.end().await;
    assert_eq!(done.code, Some(0), "{}", done.err);
    assert!(done.err.contains("warning:") && done.err.contains(JOHN), "{}", done.err);
    let former = site.refresh_token(JANE).await;
    let app = "grant = \"device_code\"\nscopes = [\"https://outlook.office.com/SMTP.Send\"]";
    site.configure("", &Settings::new(app, &[JANE]).body, "");
    let (login, code) = begin(&site).await;
    assert!(site.control().approve_device(&code, JANE));
    let done = login.end().await;
    assert_eq!(done.code, Some(1));
    assert!(done.err.contains("hint:") && done.err.contains("offline_access"), "{}", done.err);
    assert_eq!(site.refresh_token(JANE).await, former);
}
