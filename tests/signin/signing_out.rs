//! Signing out: forgotten here at once, and taken back where the provider can.

use crate::JANE;
use crate::site::{Settings, Site, eventually};

/// Whether the provider still takes this refresh token: the answer's error.
async fn error_of(site: &Site, refresh_token: &str) -> Option<String> {
    let form = [
        ("grant_type", "refresh_token"),
        ("refresh_token", refresh_token),
        ("client_id", "5e1f0a3c-6d1b-4f0e-9a57-0c1d5b7e2f44"),
    ];
    let answer = site.browser.post(site.emulator.token_url(), &form).await;
    let answer: serde_json::Value = serde_json::from_str(&answer.body).unwrap();
    answer["error_description"].as_str().map(str::to_owned)
}

/// Jane is signed in at a provider that can revoke tokens.
async fn signed_in() -> (Site, String) {
    let site = Site::by_browser(&[JANE]).await;
    let revoke = format!("revoke_url = \"{}\"\n", site.endpoint("revoke"));
    site.configure("", &Settings::new("", &[JANE]).body, &revoke);
    assert_eq!(site.sign_in(JANE, JANE).await.code, Some(0));
    let token = site.refresh_token(JANE).await.unwrap();
    (site, token)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sign_in_is_taken_back() {
    let (site, token) = signed_in().await;
    let password = site.password(JANE).await;
    let proxy = site.start().await;
    proxy.admits(JANE, &password).await;
    let done = site.run(&["logout", JANE]).await;
    assert_eq!((done.code, done.out.as_str()), (Some(0), ""), "{}", done.err);
    assert!(done.err.contains("has taken the sign-in back"), "{}", done.err);
    let error = error_of(&site, &token).await.unwrap();
    assert!(error.starts_with("AADSTS50173:"), "{error}");
    let answer = eventually("a refusal", async || {
        Some(proxy.log_in(JANE, &password).await).filter(|answer| !answer.starts_with("a OK"))
    });
    let answer = answer.await;
    assert!(answer.starts_with("a NO [UNAVAILABLE]") && answer.contains("gatepost login"));
    assert_eq!(site.status(JANE).await["state"], "sign_in_needed");
    let requests = site.tap.token_requests().len();
    let again = site.run(&["logout", JANE]).await;
    assert_eq!(again.code, Some(1));
    assert!(again.err.contains("was not signed in"), "{}", again.err);
    assert_eq!(site.tap.token_requests().len(), requests);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_provider_that_can_not_says_so() {
    let site = Site::by_browser(&[JANE]).await;
    site.sign_in(JANE, JANE).await;
    let token = site.refresh_token(JANE).await.unwrap();
    let done = site.run(&["logout", JANE]).await;
    assert_eq!(done.code, Some(0), "{}", done.err);
    assert!(done.err.contains("no way to take one sign-in back"), "{}", done.err);
    assert!(done.err.contains("Revoke sessions"), "{}", done.err);
    assert!(site.token(JANE).await.is_none());
    assert_eq!(error_of(&site, &token).await, None, "it lives on");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_provider_that_does_not_answer_keeps_nobody_signed_in_here() {
    let (site, token) = signed_in().await;
    site.tap.set_down(true);
    let done = site.run(&["logout", JANE]).await;
    assert_eq!(done.code, Some(1), "{}", done.err);
    assert!(done.err.contains("forgotten here, but"), "{}", done.err);
    assert!(done.err.contains("hint:"), "{}", done.err);
    assert!(!done.err.contains(&token), "{}", done.err);
    assert!(site.token(JANE).await.is_none());
    assert_eq!(error_of(&site, &token).await, None, "the provider has not heard of it");
}
