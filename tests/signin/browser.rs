//! Sign-ins by a browser that comes back to this machine.

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use gatepost::oauth::Claims;
use ring::digest::{SHA256, digest};
use url::Url;

use crate::site::{APP, Settings, Site};
use crate::web::{at, parameter, with};
use crate::{JANE, JOHN, SHARED};

/// Who the access token in the store is of.
async fn person(site: &Site, mailbox: &str) -> Option<String> {
    let access = site.token(mailbox).await?.access?;
    Claims::of(&access.token)?.person().map(str::to_owned)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn from_an_address_to_a_login() {
    for address in ["127.0.0.1", "[::1]"] {
        if address == "[::1]" && tokio::net::TcpListener::bind("[::1]:0").await.is_err() {
            continue;
        }
        let site = Site::by_browser(&[JANE]).await;
        let password = site.password(JANE).await;
        let proxy = site.start().await;
        let mut login = site.begin(&["login", JANE, "--no-browser"]);
        let printed = login.line().await;
        let url = Url::parse(&printed).unwrap();
        let of_url = |name| parameter(&url, name).unwrap_or_default();
        assert!(printed.starts_with(&site.endpoint("authorize")), "{printed}");
        assert_eq!((of_url("response_type"), of_url("login_hint")), ("code".into(), JANE.into()));
        // RFC 7636 section 4.2; 32 octets have 43 characters
        assert_eq!(of_url("code_challenge_method"), "S256");
        assert_eq!((of_url("code_challenge").len(), of_url("state").len()), (43, 43));
        assert!(of_url("redirect_uri").starts_with("http://localhost:"), "{printed}");
        assert!(of_url("scope").contains("offline_access"), "{printed}");

        let back = site.browser.sign_in(&printed, JANE).await;
        assert_eq!(parameter(&back, "state"), Some(of_url("state")));
        let page = site.browser.get(at(&back, address)).await;
        assert_eq!(page.status, 200, "{}", page.body);
        let next = format!("gatepost password add {JANE}");
        for words in ["Signed in", JANE, &next, "gatepost run", "close this window"] {
            assert!(page.body.contains(words), "no {words:?}: {}", page.body);
        }
        let policy = page.headers["content-security-policy"].to_str().unwrap();
        assert!(policy.contains("default-src 'none'"), "{policy}");
        assert_eq!(page.headers["cache-control"], "no-store");

        let done = login.end().await;
        assert_eq!((done.code, done.out.as_str()), (Some(0), ""), "{}", done.err);
        assert!(
            done.err.contains(&format!("{JANE} (app lab) is signed in: {JANE}")),
            "{}",
            done.err
        );
        let asked = &site.tap.token_requests()[0];
        let challenge = digest(&SHA256, asked.field("code_verifier").as_bytes());
        assert_eq!(BASE64_URL_SAFE_NO_PAD.encode(challenge), of_url("code_challenge"));
        assert_eq!(asked.field("redirect_uri"), of_url("redirect_uri"));
        proxy.admits(JANE, &password).await;
        proxy.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_people_in_one_command_and_in_any_order() {
    let site = Site::by_browser(&[JANE, JOHN]).await;
    let mut login = site.begin(&["login", JANE, JOHN, "--no-browser"]);
    let (first, second) = (login.line().await, login.line().await);
    let of = |url: &str, name| parameter(&Url::parse(url).unwrap(), name).unwrap();
    assert_eq!(of(&first, "redirect_uri"), of(&second, "redirect_uri"), "one listener");
    for own in ["state", "code_challenge"] {
        assert_ne!(of(&first, own), of(&second, own));
    }
    let jane = site.browser.sign_in(&first, JANE).await;
    let john = site.browser.sign_in(&second, JOHN).await;
    for (back, own, other) in [(john, JOHN, JANE), (jane, JANE, JOHN)] {
        let page = site.browser.get(back).await;
        assert_eq!(page.status, 200);
        assert!(page.body.contains(own) && !page.body.contains(other), "{}", page.body);
    }
    let done = login.end().await;
    assert_eq!((done.code, done.out.as_str()), (Some(0), ""), "{}", done.err);
    assert_eq!(person(&site, JANE).await.as_deref(), Some(JANE));
    assert_eq!(person(&site, JOHN).await.as_deref(), Some(JOHN));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_of_two_turns_back() {
    let site = Site::by_browser(&[JANE, JOHN]).await;
    let mut login = site.begin(&["login", JANE, JOHN, "--no-browser"]);
    let (first, second) = (login.line().await, login.line().await);
    let turned_back = site.browser.cancel(&first).await;
    assert_eq!(site.browser.get(turned_back).await.status, 400);
    let back = site.browser.sign_in(&second, JOHN).await;
    assert_eq!(site.browser.get(back).await.status, 200);
    let done = login.end().await;
    assert_eq!(done.code, Some(1));
    assert!(done.err.contains(&format!("{JOHN} (app lab) is signed in")), "{}", done.err);
    let words = format!("{JANE} (app lab) is not signed in, nothing was changed: access_denied");
    assert!(done.err.contains(&words), "{}", done.err);
    assert!(site.token(JANE).await.is_none() && site.token(JOHN).await.is_some());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_person_signs_in_once_for_a_shared_mailbox() {
    let mut settings = Settings::new("", &[JANE, SHARED]);
    settings.body += &format!("signed_in_as = \"{JANE}\"\n");
    let site = Site::new(settings).await;
    let password = site.password(SHARED).await;
    let mut login = site.begin(&["login", SHARED, JANE, "--no-browser"]);
    let back = site.browser.sign_in(&login.line().await, JANE).await;
    let page = site.browser.get(back).await;
    assert!(page.body.contains(JANE) && page.body.contains(SHARED), "{}", page.body);
    let done = login.end().await;
    assert_eq!((done.code, done.out.as_str()), (Some(0), ""), "{}", done.err);
    assert_eq!(site.tap.token_requests().len(), 1);
    site.start().await.admits(SHARED, &password).await;
}

/// What belongs to no sign-in does no harm, neither to the one that is under way nor to the former one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_belongs_to_no_sign_in_is_refused() {
    let site = Site::by_browser(&[JANE, JOHN]).await;
    site.sign_in(JANE, JANE).await;
    let former = site.refresh_token(JANE).await;
    let mut login = site.begin(&["login", JANE, JOHN, "--no-browser"]);
    let (first, second) = (login.line().await, login.line().await);
    let back = site.browser.sign_in(&first, JANE).await;
    let asked = site.tap.token_requests().len();
    let state = parameter(&back, "state").unwrap();
    let mut twice = back.clone();
    twice.query_pairs_mut().append_pair("state", &state);
    for wrong in [with(&back, "state", Some("A")), with(&back, "state", None), twice] {
        let page = site.browser.get(wrong).await;
        assert_eq!(page.status, 400);
        assert!(page.body.contains("Not signed in"), "{}", page.body);
        assert!(page.body.contains("belongs to no sign-in"), "{}", page.body);
    }
    let mut elsewhere = back.clone();
    elsewhere.set_path("/favicon.ico");
    for page in [
        site.browser.head(back.clone()).await,
        site.browser.post(back.clone(), &[]).await,
        site.browser.get(elsewhere).await,
        site.browser.get(with(&back, "code", None)).await,
    ] {
        assert_eq!(page.status, 404, "{}", page.body);
    }
    assert_eq!(site.refresh_token(JANE).await, former);
    assert_eq!(site.tap.token_requests().len(), asked, "no code was shown to the provider");

    // The state counts once, though all of that has come before it.
    assert_eq!(site.browser.get(back.clone()).await.status, 200);
    let renewed = site.refresh_token(JANE).await;
    assert!(renewed.is_some() && renewed != former);
    for again in [back.clone(), with(&back, "code", Some("another"))] {
        assert_eq!(site.browser.get(again).await.status, 400);
    }
    assert_eq!(site.refresh_token(JANE).await, renewed);
    assert_eq!(site.tap.token_requests().len(), asked + 1);
    site.browser.get(site.browser.sign_in(&second, JOHN).await).await;
    assert_eq!(login.end().await.code, Some(0));
}

/// What comes of a sign-in of Jane's, who had signed in before, whose browser comes back to where `change`
/// leads it. Nothing may change.
async fn refused(site: &Site, change: impl FnOnce(Url) -> Url, words: &[&str]) -> String {
    let former = site.refresh_token(JANE).await;
    assert!(former.is_some());
    let mut login = site.begin(&["login", JANE, "--no-browser"]);
    let back = site.browser.sign_in(&login.line().await, JANE).await;
    let page = site.browser.get(change(back)).await;
    assert_eq!(page.status, 400, "{}", page.body);
    let done = login.end().await;
    assert_eq!(done.code, Some(1), "{}", done.err);
    for words in words {
        assert!(page.body.contains(&maud::html! { (words) }.into_string()), "{}", page.body);
        assert!(done.err.contains(words), "no {words:?}: {}", done.err);
    }
    assert!(page.body.contains("Nothing was changed"), "{}", page.body);
    assert!(done.err.contains("nothing was changed"), "{}", done.err);
    assert_eq!(site.refresh_token(JANE).await, former);
    page.body
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_provider_refuses_changes_nothing() {
    let site = Site::by_browser(&[JANE]).await;
    site.sign_in(JANE, JANE).await;
    let denied = |back: Url| {
        let back = with(&with(&back, "code", None), "error", Some("access_denied"));
        with(&back, "error_description", Some("<script>alert(1)</script> & <b>more</b>"))
    };
    let page = refused(&site, denied, &["access_denied: <script>alert(1)</script>"]).await;
    assert!(!page.contains("<script") && !page.contains("<b>"), "{page}");
    assert!(page.contains("&lt;script&gt;alert(1)"), "{page}");
    let other = |back: Url| with(&back, "code", Some("1.another-code"));
    refused(&site, other, &["invalid_grant: AADSTS70000"]).await;
    let both = |back: Url| with(&back, "error", Some("server_error"));
    refused(&site, both, &["server_error"]).await;
    let nothing = |back: Url| with(&back, "code", Some(""));
    refused(&site, nothing, &["AADSTS"]).await;
}

/// RFC 9207 section 2.4.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_of_another_server_is_refused() {
    let mut settings = Settings::new("", &[JANE]);
    settings.options.registration.issuer_parameter = true;
    let site = Site::new(settings).await;
    let body = format!("{APP}[[account]]\nmailbox = \"{JANE}\"\napp = \"lab\"\n");
    let mut issuer = Url::parse(&site.emulator.issuer()).unwrap();
    issuer.set_port(Some(site.tap.address.port())).unwrap();
    let own = format!("issuer = \"{issuer}\"\n");
    for provider in [own.as_str(), ""] {
        site.configure("", &body, provider);
        let done = site.sign_in(JANE, JANE).await;
        assert_eq!(done.code, Some(0), "the right one: {}", done.err);
        let requests = site.tap.token_requests().len();
        let mut foreign = vec!["https://evil.example/<b>", "not a url", ""];
        if !provider.is_empty() {
            foreign.push(issuer.as_str().trim_end_matches("/v2.0"));
        }
        for iss in foreign {
            let page = refused(&site, |back| with(&back, "iss", Some(iss)), &["another server"]);
            assert!(!page.await.contains("<b>"));
        }
        assert_eq!(site.tap.token_requests().len(), requests, "the code went to nobody");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_refresh_token_it_is_no_sign_in() {
    let site = Site::by_browser(&[JANE]).await;
    site.sign_in(JANE, JANE).await;
    let body = format!(
        "{APP}scopes = [\"https://outlook.office.com/IMAP.AccessAsUser.All\"]\n\
         [[account]]\nmailbox = \"{JANE}\"\napp = \"lab\"\n"
    );
    site.configure("", &body, "");
    let page = refused(&site, |back| back, &["no refresh token", "need offline_access"]).await;
    assert!(!page.contains("hint:"), "{page}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn somebody_else_signs_in() {
    let site = Site::by_browser(&[JANE]).await;
    let mut login = site.begin(&["login", JANE, "--no-browser"]);
    let back = site.browser.sign_in(&login.line().await, JOHN).await;
    let page = site.browser.get(back).await;
    assert_eq!(page.status, 200);
    assert!(page.body.contains("The browser signed in as") && page.body.contains(JOHN));
    let done = login.end().await;
    assert_eq!(done.code, Some(0), "{}", done.err);
    assert!(done.err.contains("warning:") && done.err.contains(JOHN), "{}", done.err);
    assert_eq!(person(&site, JANE).await.as_deref(), Some(JOHN));
    // As the directory writes it: it is the same person.
    let mut login = site.begin(&["login", JANE, "--no-browser"]);
    let back = site.browser.sign_in(&login.line().await, "Jane@Contoso.Example").await;
    site.browser.get(back).await;
    assert!(!login.end().await.err.contains("warning:"));
}
