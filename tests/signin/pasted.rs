//! Sign-ins whose browser can't come back to this machine: a person pastes where it ended.

use tokio::net::TcpListener;

use crate::JANE;
use crate::site::{APP, Settings, Site};

const ELSEWHERE: &str = "https://client.invalid/back";

async fn site(redirect_uri: &str) -> Site {
    let mut settings = Settings::new(&format!("redirect_uri = \"{redirect_uri}\""), &[JANE]);
    settings.options.registration.redirect_uris.push(ELSEWHERE.into());
    Site::new(settings).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn from_another_machine() {
    let site = site(ELSEWHERE).await;
    let mut login = site.begin(&["login", JANE, "--no-browser"]);
    let back = site.browser.sign_in(&login.line().await, JANE).await;
    assert!(back.as_str().starts_with(ELSEWHERE), "{back}");
    login.said("paste it here").await;
    for garbage in ["", "   ", "hello", "https://client.invalid/back?foo=bar", "?", "\u{1b}[31m"] {
        login.type_in(garbage).await;
    }
    login.said("that is not the address of the last page").await;
    login.type_in(&back.as_str().replace("state=", "state=x")).await;
    let said = login.said("belongs to no sign-in").await;
    assert_eq!(said.matches("that is not the address").count(), 4, "{said}");
    assert!(site.token(JANE).await.is_none() && site.tap.token_requests().is_empty());
    login.type_in(&format!("  {back}#fragment ")).await;
    let done = login.end().await;
    assert_eq!((done.code, done.out.as_str()), (Some(0), ""), "{}", done.err);
    assert!(done.err.contains("is signed in") && site.token(JANE).await.is_some());
}

/// The query alone will do, and so will a browser on this machine.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_the_browser_could_have_come_back() {
    let site = Site::by_browser(&[JANE]).await;
    let mut login = site.begin(&["login", JANE, "--no-browser"]);
    let back = site.browser.sign_in(&login.line().await, JANE).await;
    login.type_in(back.query().unwrap()).await;
    let done = login.end().await;
    assert_eq!(done.code, Some(0), "{}", done.err);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_another_program_has_the_port() {
    let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let redirect_uri = format!("http://localhost:{}", taken.local_addr().unwrap().port());
    let site = site(&redirect_uri).await;
    let mut login = site.begin(&["login", JANE, "--no-browser"]);
    let url = login.line().await;
    let said = login.said("nothing can listen at redirect_uri").await;
    assert!(said.contains("note:"), "{said}");
    let back = site.browser.sign_in(&url, JANE).await;
    assert!(back.as_str().starts_with(&redirect_uri), "{back}");
    login.type_in(back.as_str()).await;
    let done = login.end().await;
    assert_eq!(done.code, Some(0), "{}", done.err);
    let asked = site.tap.token_requests();
    assert_eq!(asked[0].field("redirect_uri"), redirect_uri);
}

/// What the provider says no to when it is pasted ends the sign-in, and changes nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refusal_is_pasted() {
    let site = site(ELSEWHERE).await;
    let mut login = site.begin(&["login", JANE, "--no-browser"]);
    let back = site.browser.cancel(&login.line().await).await;
    login.type_in(back.as_str()).await;
    let done = login.end().await;
    assert_eq!(done.code, Some(1), "{}", done.err);
    assert!(done.err.contains("access_denied: AADSTS65004"), "{}", done.err);
    assert!(site.token(JANE).await.is_none());
    // A port of its own is taken as it stands there, on both loopbacks.
    let free = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port();
    let account = format!("[[account]]\nmailbox = \"{JANE}\"\napp = \"lab\"\n");
    let body = format!("{APP}redirect_uri = \"http://localhost:{free}\"\n{account}");
    site.configure("", &body, "");
    let mut login = site.begin(&["login", JANE, "--no-browser"]);
    let back = site.browser.sign_in(&login.line().await, JANE).await;
    assert_eq!(back.port(), Some(free));
    assert_eq!(site.browser.get(back).await.status, 200);
    assert_eq!(login.end().await.code, Some(0));
}
