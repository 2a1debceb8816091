//! A client secret that is replaced while the proxy runs, after the provider has refused the former one.

use std::time::Duration;

use gatepost::emulator::TokenFault;

use crate::JANE;
use crate::site::{Proxy, Settings, Site, eventually};

/// Between two looks at the file, and a little.
const NOTICED: Duration = Duration::from_secs(5);

/// The client secret of the emulated app.
const RIGHT: &str = "emulated-secret";

async fn site(keys: &str) -> Site {
    let site = Site::new(Settings::new(keys, &[JANE])).await;
    site.write("secret", RIGHT);
    site
}

/// What everybody is told to do, wherever they look.
fn remedy(site: &Site) -> String {
    let secret = site.path("secret");
    format!("copy Value (not Secret ID) into {}; gatepost notices by itself.", secret.display())
}

/// The client, `status` and the log tell the same.
async fn is_refused(site: &Site, proxy: &Proxy, password: &str) {
    let remedy = remedy(site);
    let told = eventually("a refusal", async || {
        let told = proxy.log_in(JANE, password).await;
        told.contains("refuses the app").then_some(told)
    });
    let told = told.await;
    assert!(told.starts_with("a NO [UNAVAILABLE] the password is right, but"), "{told}");
    assert!(told.contains(&remedy), "{told}");
    let status = site.status(JANE).await;
    assert_eq!(status["state"], "app_refused", "{status}");
    assert!(status["remedy"].as_str().unwrap().contains(&remedy), "{status}");
    let log = proxy.running.said("the provider refuses the app").await;
    let line = log.lines().find(|line| line.contains("refuses the app: ")).unwrap();
    assert!(line.contains("ERROR") && line.contains(&remedy) && line.contains("7000215"), "{line}");
    let found = site.run(&["doctor", JANE]).await.out;
    let flat = found.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(flat.contains(&remedy), "{found}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_apps_own() {
    let site = site("grant = \"client_credentials\"\nclient_secret = { file = \"secret\" }").await;
    let password = site.password(JANE).await;
    site.write("secret", "of-another-app");
    let proxy = site.start().await;
    is_refused(&site, &proxy, &password).await;
    let before = site.tap.token_requests().len();
    site.write("secret", RIGHT);
    tokio::time::sleep(NOTICED).await;
    let told = proxy.log_in(JANE, &password).await;
    assert!(told.starts_with("a OK"), "{told}");
    assert_eq!(site.tap.token_requests().len(), before + 1);
    proxy.running.said("what the app proves itself with was replaced").await;
    assert_eq!(site.status(JANE).await["state"], "ready");
    proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn that_of_an_app_which_people_sign_in_to() {
    let site = site("client_secret = { file = \"secret\" }").await;
    let password = site.password(JANE).await;
    assert_eq!(site.sign_in(JANE, JANE).await.code, Some(0));
    site.write("secret", "of-another-app");
    let refresh_token = site.refresh_token(JANE).await;
    let proxy = site.start().await;
    site.control().revoke_access_tokens();
    // It needs another token, and the secret for that.
    is_refused(&site, &proxy, &password).await;
    assert_eq!(site.refresh_token(JANE).await, refresh_token, "the sign-in is kept");
    site.write("secret", RIGHT);
    tokio::time::sleep(NOTICED).await;
    proxy.admits(JANE, &password).await;
    proxy.stop().await;
}

/// What was mended at the provider, and a reload.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reload_tries_it_again() {
    let site = site("grant = \"client_credentials\"\nclient_secret = { file = \"secret\" }").await;
    let password = site.password(JANE).await;
    site.control().set_token_outage(Some(TokenFault::Aadsts(7_000_215)));
    let proxy = site.start().await;
    is_refused(&site, &proxy, &password).await;
    site.control().set_token_outage(None);
    assert!(!proxy.log_in(JANE, &password).await.starts_with("a OK"), "nobody has told it");
    let id = proxy.running.id().to_string();
    assert!(std::process::Command::new("kill").args(["-HUP", &id]).status().unwrap().success());
    proxy.running.said("configuration reloaded").await;
    proxy.admits(JANE, &password).await;
    proxy.stop().await;
}
