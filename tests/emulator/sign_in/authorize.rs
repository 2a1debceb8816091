//! The authorization code grant.

use std::time::Duration;

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use gatepost::emulator::Registration;
use ring::digest::{SHA256, digest};

use super::{Answer, IMAP, JANE, Web, claims, with};

const BACK: &str = "http://localhost:8400";
const VERIFIER: &str = "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk";

/// The request with these parameters instead of, or (empty) without its own.
fn url(web: &Web, changes: &[(&str, &str)]) -> String {
    let challenge = URL_SAFE_NO_PAD.encode(digest(&SHA256, VERIFIER.as_bytes()));
    let scope = format!("{IMAP} offline_access openid");
    let mut all = vec![
        ("client_id", web.client_id.as_str()),
        ("response_type", "code"),
        ("redirect_uri", BACK),
        ("scope", &scope),
        ("state", "a b&c"),
        ("code_challenge", &challenge),
        ("code_challenge_method", "S256"),
    ];
    all.retain(|(name, _)| changes.iter().all(|(other, _)| other != name));
    all.extend(changes.iter().filter(|(_, value)| !value.is_empty()));
    with(&web.emulator.authorize_url(), &all)
}

async fn sign_in(web: &Web, url: &str, user: &str) -> Answer {
    let form = [("user", user), ("password", "x"), ("answer", "sign-in")];
    web.post(url, &form).await
}

/// A code of Jane's.
async fn code(web: &Web, changes: &[(&str, &str)]) -> String {
    sign_in(web, &url(web, changes), JANE).await.parameter("code").unwrap()
}

fn redeem<'a>(code: &'a str, redirect_uri: &'a str, verifier: &'a str) -> Vec<(&'a str, &'a str)> {
    let mut form = vec![("grant_type", "authorization_code"), ("code", code)];
    form.extend([("redirect_uri", redirect_uri), ("code_verifier", verifier)]);
    form.retain(|(_, value)| !value.is_empty());
    form
}

#[tokio::test]
async fn a_sign_in_ends_with_tokens() {
    let web = Web::new(Registration::default()).await;
    let url = url(&web, &[("login_hint", "\"><script>"), ("nonce", "n-1")]);
    let page = web.get(&url).await;
    assert_eq!(page.status, 200);
    assert!(page.body.contains(r#"value="&quot;&gt;&lt;script&gt;""#), "{}", page.body);
    for part in [r#"id="sign-in""#, r#"id="cancel""#, r#"type="password""#] {
        assert!(page.body.contains(part), "{part}");
    }
    let back = sign_in(&web, &url, "Jane@Contoso.Example").await;
    assert_eq!(back.status, 302);
    assert!(back.location.as_ref().unwrap().as_str().starts_with("http://localhost:8400/?code="));
    assert_eq!(back.parameter("state").unwrap(), "a b&c");
    assert_eq!(back.parameter("session_state").unwrap().len(), 36);
    assert_eq!(back.parameter("iss"), None);
    let code = back.parameter("code").unwrap();

    let (status, issued) = web.token(&redeem(&code, BACK, VERIFIER)).await;
    assert_eq!((status, &issued["scope"]), (200, &IMAP.into()));
    let access = claims(&issued["access_token"]);
    assert_eq!((&access["upn"], &access["scp"]), (&JANE.into(), &"IMAP.AccessAsUser.All".into()));
    assert_eq!(access["aud"], "https://outlook.office.com");
    assert_eq!(access["appid"], web.client_id.as_str());
    assert_eq!(access["ver"], "1.0");
    assert!(access["roles"].is_null());
    let tenant = access["tid"].as_str().unwrap();
    assert_eq!(access["iss"], format!("https://sts.windows.net/{tenant}/"));
    let life = issued["expires_in"].as_u64().unwrap();
    assert_eq!(access["exp"].as_u64().unwrap() - access["iat"].as_u64().unwrap(), life);
    let identity = claims(&issued["id_token"]);
    assert_eq!(
        (&identity["preferred_username"], &identity["nonce"]),
        (&JANE.into(), &"n-1".into())
    );
    assert_eq!(identity["iss"], web.emulator.issuer());
    assert_eq!(identity["oid"], access["oid"]);

    let refresh = issued["refresh_token"].as_str().unwrap();
    let again = [("grant_type", "refresh_token"), ("refresh_token", refresh)];
    assert_eq!(web.token(&again).await.0, 200);
    let used = web.refused(&redeem(&code, BACK, VERIFIER)).await;
    assert_eq!(used, (400, "invalid_grant".into(), 54_005));
}

#[tokio::test]
async fn no_refresh_token_without_offline_access() {
    let web = Web::new(Registration::default()).await;
    let code = code(&web, &[("scope", IMAP)]).await;
    let (status, issued) = web.token(&redeem(&code, BACK, VERIFIER)).await;
    assert_eq!(status, 200);
    assert!(issued.get("refresh_token").is_none() && issued.get("id_token").is_none());
}

#[tokio::test]
async fn a_code_is_bound_to_its_request() {
    let web = Web::new(Registration::default()).await;
    let code = code(&web, &[]).await;
    let other = format!("{VERIFIER}x");
    for (form, status, error, number) in [
        (redeem("1.no", BACK, VERIFIER), 400, "invalid_grant", 70_000),
        (redeem(&code, "http://localhost:8401", VERIFIER), 401, "invalid_client", 500_112),
        (redeem(&code, BACK, &other), 400, "invalid_grant", 501_481),
        (redeem(&code, BACK, ""), 400, "invalid_grant", 501_481),
        (redeem(&code, "", VERIFIER), 400, "invalid_request", 900_144),
    ] {
        assert_eq!(web.refused(&form).await, (status, error.into(), number), "{form:?}");
    }
    let mut twice = redeem(&code, BACK, VERIFIER);
    twice.push(("code", &code));
    assert_eq!(web.refused(&twice).await.2, 9_000_411);
    assert_eq!(web.token(&redeem(&code, BACK, VERIFIER)).await.0, 200);

    let code_life = Duration::ZERO;
    let web = Web::new(Registration { code_life, ..Registration::default() }).await;
    let code = self::code(&web, &[]).await;
    assert_eq!(web.refused(&redeem(&code, BACK, VERIFIER)).await.2, 70_008);
}

#[tokio::test]
async fn what_the_app_did_wrong_goes_back_to_it() {
    let web = Web::new(Registration::default()).await;
    let short = [("code_challenge", "abc")];
    for (changes, error, number) in [
        (&[("response_type", "token")], "unsupported_response_type", "AADSTS70005:"),
        (&[("response_type", "")], "invalid_request", "AADSTS900144:"),
        (&[("response_mode", "fragment")], "invalid_request", "AADSTS70007:"),
        (&[("code_challenge", "")], "invalid_request", "AADSTS900144:"),
        (&[("code_challenge_method", "plain")], "invalid_request", "AADSTS50149:"),
        (&[("code_challenge_method", "")], "invalid_request", "AADSTS50149:"),
        (&short, "invalid_request", "AADSTS501491:"),
        (&[("scope", "https://outlook.office.com/Nothing")], "invalid_scope", "AADSTS70011:"),
        (&[("prompt", "none")], "login_required", "AADSTS50058:"),
    ] {
        let back = web.get(&url(&web, changes)).await;
        assert_eq!(back.status, 302, "{changes:?}");
        assert_eq!(back.parameter("error").unwrap(), error, "{changes:?}");
        let description = back.parameter("error_description").unwrap();
        assert!(description.starts_with(number), "{description}");
        assert_eq!(back.parameter("state").unwrap(), "a b&c");
    }
}

#[tokio::test]
async fn nobody_is_sent_where_nobody_registered() {
    let web = Web::new(Registration::default()).await;
    for (changes, number) in [
        (&[("redirect_uri", "https://evil.example/<b>")], "AADSTS50011:"),
        (&[("redirect_uri", "http://localhost:8400/back")], "AADSTS50011:"),
        (&[("redirect_uri", "http://127.0.0.1:8400")], "AADSTS50011:"),
        (&[("redirect_uri", "")], "AADSTS900971:"),
        (&[("client_id", "<i>nobody")], "AADSTS700016:"),
    ] {
        let url = url(&web, changes);
        for answer in [web.get(&url).await, sign_in(&web, &url, JANE).await] {
            assert_eq!((answer.status, answer.location.is_none()), (400, true), "{changes:?}");
            assert!(answer.body.contains(number), "{}", answer.body);
            assert!(!answer.body.contains("<b>") && !answer.body.contains("<i>"));
        }
    }
    let elsewhere = url(&web, &[]).replace("/contoso.example/", "/fabrikam.example/");
    assert!(web.get(&elsewhere).await.body.contains("AADSTS90002:"));
    let twice = format!("{}&client_id=x", url(&web, &[]));
    assert!(web.get(&twice).await.body.contains("AADSTS9000411:"));
}

#[tokio::test]
async fn the_person_decides() {
    let web = Web::new(Registration::default()).await;
    let url = url(&web, &[]);
    let stranger = sign_in(&web, &url, "eve<b>@evil.example").await;
    assert_eq!(stranger.status, 200);
    assert!(stranger.body.contains("AADSTS50034:") && !stranger.body.contains("<b>"));
    let blank = web.post(&url, &[("user", JANE), ("password", ""), ("answer", "sign-in")]).await;
    assert!(blank.body.contains("AADSTS50126:"));
    let back = web.post(&url, &[("answer", "cancel"), ("user", "")]).await;
    assert_eq!(back.parameter("error").unwrap(), "access_denied");
    assert_eq!(back.parameter("error_subcode").unwrap(), "cancel");
    assert!(back.parameter("error_description").unwrap().starts_with("AADSTS65004:"));
    assert_eq!(back.parameter("state").unwrap(), "a b&c");
}

#[tokio::test]
async fn a_registration_may_differ() {
    let registration = Registration {
        redirect_uris: vec!["http://127.0.0.1/callback".into()],
        require_pkce: false,
        issuer_parameter: true,
        consented: vec!["SMTP.Send".into()],
        ..Registration::default()
    };
    let web = Web::new(registration).await;
    let smtp = ("scope", "https://outlook.office.com/.default");
    let back = "http://127.0.0.1:9000/callback";
    let plain = [("redirect_uri", back), ("code_challenge", ""), ("code_challenge_method", "")];
    let answer = sign_in(&web, &url(&web, &[plain[0], plain[1], plain[2], smtp]), JANE).await;
    assert_eq!(answer.parameter("iss").unwrap(), web.emulator.issuer());
    let code = answer.parameter("code").unwrap();
    assert_eq!(web.refused(&redeem(&code, back, VERIFIER)).await.2, 501_481);
    let (_, issued) = web.token(&redeem(&code, back, "")).await;
    assert_eq!(issued["scope"], "https://outlook.office.com/SMTP.Send");
    let unconsented = sign_in(&web, &url(&web, &plain), JANE).await;
    assert!(unconsented.body.contains("AADSTS90094:"), "{}", unconsented.body);
    let refresh = web.control().issue_refresh_token(JANE);
    let form = [("grant_type", "refresh_token"), ("refresh_token", &refresh), ("scope", IMAP)];
    assert_eq!(web.refused(&form).await, (400, "invalid_grant".into(), 65_001));
}
