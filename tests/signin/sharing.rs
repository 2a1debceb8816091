//! Two proxies on one store, at a provider that revokes each refresh token that was used.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use tokio::time::sleep;

use crate::JANE;
use crate::site::{Settings, Site, log_in};

const LIFE: Duration = Duration::from_secs(2);

/// So many lives of a token.
const LIVES: u32 = 5;

/// Logs in until `end`; how often, and what went wrong.
async fn client(port: u16, password: String, end: Instant) -> (usize, Vec<String>) {
    let (mut logins, mut failed) = (0, Vec::new());
    while Instant::now() < end {
        match log_in(port, JANE, &password).await {
            answer if answer.starts_with("a OK") => logins += 1,
            answer => failed.push(answer),
        }
        sleep(Duration::from_millis(40)).await;
    }
    (logins, failed)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_refresh_token_is_used_twice() {
    let mut settings = Settings::new("", &[JANE]);
    settings.options.revoke_used_refresh_tokens = true;
    settings.options.token_life = Some(LIFE);
    let site = Site::new(settings).await;
    let password = site.password(JANE).await;
    assert_eq!(site.sign_in(JANE, JANE).await.code, Some(0));
    let proxies = [site.start().await, site.start().await];
    // The provider takes its time, so that both would ask at once if nothing held them.
    site.control().set_token_delay(Duration::from_millis(150));
    for proxy in &proxies {
        proxy.admits(JANE, &password).await;
    }
    let (begun, before) = (Instant::now(), site.tap.token_requests().len());
    let end = begun + LIFE * LIVES;
    let both = proxies.each_ref().map(|proxy| client(proxy.port, password.clone(), end));
    let [first, second] = both.map(tokio::spawn);
    for client in [first, second] {
        let (logins, failed) = client.await.unwrap();
        assert!(failed.is_empty(), "{} of {logins}: {failed:?}", failed.len());
        assert!(logins > 10, "only {logins} logins");
    }
    let asked = site.tap.token_requests();
    let renewals: Vec<_> =
        asked.iter().filter(|seen| seen.field("grant_type") == "refresh_token").collect();
    for seen in &renewals {
        assert_eq!(seen.status, 200, "{}", seen.answer);
    }
    let used: HashSet<_> = renewals.iter().map(|seen| seen.field("refresh_token")).collect();
    assert_eq!(used.len(), renewals.len(), "a refresh token was used twice");
    // One of the two asks for both: at 0.475 lives at the earliest.
    let count = asked.len() - before;
    let (least, most) = (LIVES as usize, LIVES as usize * 9 / 4 + 2);
    assert!((least..=most).contains(&count), "{count} requests");
    for proxy in proxies {
        let log = proxy.stop().await;
        assert!(!log.contains("sign-in needed"), "{log}");
    }
    let last = site.refresh_token(JANE).await.unwrap();
    assert!(!used.contains(last.as_str()), "what is stored is the unused one");
}
