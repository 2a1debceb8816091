//! Sign-ins of those who send by Microsoft Graph: one consent for both resources, and what is said without it.

use gatepost::emulator::Registration;
use gatepost::vocabulary::Resource;

use crate::JANE;
use crate::site::{Settings, Site};

async fn site(registration: Registration, app: &str) -> Site {
    let mut settings = Settings::new(app, &[JANE]);
    settings.body += "via = [\"smtp\", \"graph\"]\n";
    settings.options.registration = registration;
    Site::new(settings).await
}

async fn has_graph(site: &Site) -> bool {
    let (token, _) = site.store().await.token(&site.key(JANE)).await.unwrap();
    let token = token.unwrap();
    assert!(token.access_to(Resource::Mail).is_some() && token.refresh_token.is_some());
    token.access_to(Resource::Graph).is_some()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_consent_in_the_browser_for_both() {
    let site = site(Registration::default(), "").await;
    let mut login = site.begin(&["login", JANE, "--no-browser"]);
    let address = login.line().await;
    assert!(address.contains("graph.microsoft.com%2FMail.Send"), "{address}");
    let back = site.browser.sign_in(&address, JANE).await;
    assert_eq!(site.browser.get(back).await.status, 200);
    let done = login.end().await;
    assert!(done.code == Some(0) && done.err.contains("may use Microsoft Graph"), "{}", done.err);
    assert!(has_graph(&site).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_code_on_another_device_for_both() {
    let site = site(Registration::default(), "grant = \"device_code\"").await;
    let mut login = site.begin(&["login", JANE]);
    let code = login.line().await;
    assert!(site.control().approve_device(&code, JANE));
    let done = login.end().await;
    assert!(done.code == Some(0) && done.err.contains("may use Microsoft Graph"), "{}", done.err);
    assert!(has_graph(&site).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_consent_to_graph_mail_is_signed_in_all_the_same() {
    let registration = Registration { graph_consented: Vec::new(), ..Registration::default() };
    let site = site(registration, "grant = \"device_code\"").await;
    let mut login = site.begin(&["login", JANE]);
    let code = login.line().await;
    assert!(site.control().approve_device(&code, JANE));
    let done = login.end().await;
    assert_eq!(done.code, Some(0), "{}", done.err);
    let told = done.err.contains("AADSTS65001") && done.err.contains("gatepost entra consent-url");
    assert!(told && !has_graph(&site).await, "{}", done.err);
}
