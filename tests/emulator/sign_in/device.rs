//! The device authorization grant.

use std::time::Duration;

use gatepost::emulator::Registration;
use serde_json::Value;

use super::{IMAP, JANE, Web};

const GRANT: &str = "urn:ietf:params:oauth:grant-type:device_code";

/// A device may poll as often as it likes.
async fn eager() -> Web {
    let device_interval = Duration::ZERO;
    Web::new(Registration { device_interval, ..Registration::default() }).await
}

async fn start(web: &Web, scope: &str) -> Value {
    let form = [("client_id", web.client_id.as_str()), ("scope", scope)];
    let answer = web.post(&web.emulator.device_url(), &form).await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    answer.json()
}

fn poll(started: &Value) -> [(&'static str, &str); 2] {
    [("grant_type", GRANT), ("device_code", started["device_code"].as_str().unwrap())]
}

#[tokio::test]
async fn a_person_enters_the_code() {
    let web = eager().await;
    let started = start(&web, &format!("{IMAP} offline_access")).await;
    let (code, page) = (started["user_code"].as_str().unwrap(), &started["verification_uri"]);
    assert_eq!((code.len(), started["expires_in"].as_u64()), (9, Some(900)));
    assert!(started["message"].as_str().unwrap().contains(code));
    let pending = web.refused(&poll(&started)).await;
    assert_eq!(pending, (400, "authorization_pending".into(), 70_016));

    let page = page.as_str().unwrap();
    let form = web.get(&format!("{page}?user_code=%3Cb%3E")).await.body;
    assert!(form.contains(r#"value="&lt;b&gt;""#) && form.contains(r#"id="sign-in""#), "{form}");
    let enter = |code: &str, user: &str| {
        let fields = [("code", code), ("user", user), ("password", "x"), ("answer", "sign-in")];
        fields.map(|(name, value)| (name.to_owned(), value.to_owned()))
    };
    let sign_in = async |code: &str, user: &str| {
        let fields = enter(code, user);
        let fields = fields.each_ref().map(|(name, value)| (name.as_str(), value.as_str()));
        web.post(page, &fields).await.body
    };
    assert!(sign_in("WRONG", JANE).await.contains("not known"));
    assert!(sign_in(code, "eve@evil.example").await.contains("AADSTS50034:"));
    assert_eq!(web.control().device_codes(), [code]);
    let typed = format!(" {}-{} ", &code[..4].to_lowercase(), &code[4..]);
    assert!(sign_in(&typed, JANE).await.contains("id=\"done\""));
    assert!(web.control().device_codes().is_empty());

    let (status, issued) = web.token(&poll(&started)).await;
    assert_eq!(status, 200);
    assert!(issued["refresh_token"].is_string());
    assert_eq!(web.refused(&poll(&started)).await.2, 54_005);
}

#[tokio::test]
async fn tests_decide_without_a_page() {
    let web = eager().await;
    let (first, second) = (start(&web, IMAP).await, start(&web, IMAP).await);
    let code = |started: &Value| started["user_code"].as_str().unwrap().to_owned();
    assert!(!web.control().approve_device(&code(&first), "eve@evil.example"));
    assert!(web.control().approve_device(&code(&first), JANE));
    assert!(!web.control().approve_device(&code(&first), JANE));
    let (status, issued) = web.token(&poll(&first)).await;
    assert_eq!((status, issued.get("refresh_token")), (200, None));

    let control = web.emulator.control_url();
    let codes = web.get(&format!("{control}/device-codes")).await;
    assert_eq!(codes.body, code(&second));
    let form = [("user_code", codes.body.as_str()), ("user", JANE)];
    let decline = format!("{control}/decline-device");
    assert_eq!(web.post(&decline, &form).await.status, 204);
    assert_eq!(web.post(&decline, &form).await.status, 400);
    let declined = web.refused(&poll(&second)).await;
    assert_eq!((declined.0, declined.1.as_str()), (400, "authorization_declined"));
    let third = start(&web, IMAP).await;
    let form = [("user_code", code(&third)), ("user", JANE.to_owned())];
    let form = form.each_ref().map(|(name, value)| (*name, value.as_str()));
    assert_eq!(web.post(&format!("{control}/approve-device"), &form).await.status, 204);
    assert_eq!(web.token(&poll(&third)).await.0, 200);
}

#[tokio::test]
async fn a_device_that_polls_too_fast_is_slowed_down() {
    let device_interval = Duration::from_secs(1);
    let web = Web::new(Registration { device_interval, ..Registration::default() }).await;
    let started = start(&web, IMAP).await;
    assert_eq!(started["interval"], 1);
    assert_eq!(web.refused(&poll(&started)).await.1, "authorization_pending");
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(web.refused(&poll(&started)).await.1, "authorization_pending");
    assert_eq!(web.refused(&poll(&started)).await.1, "slow_down");
    // now it has to wait for six seconds, also when a person has signed in
    assert!(web.control().approve_device(started["user_code"].as_str().unwrap(), JANE));
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(web.refused(&poll(&started)).await.1, "slow_down");
}

#[tokio::test]
async fn codes_that_are_no_good() {
    let device_code_life = Duration::ZERO;
    let web = Web::new(Registration { device_code_life, ..Registration::default() }).await;
    let started = start(&web, IMAP).await;
    assert_eq!(web.refused(&poll(&started)).await, (400, "expired_token".into(), 70_020));
    let unknown = [("grant_type", GRANT), ("device_code", "x")];
    assert_eq!(web.refused(&unknown).await.1, "bad_verification_code");
    let nobody = [("client_id", "nobody"), ("scope", IMAP)];
    let answer = web.post(&web.emulator.device_url(), &nobody).await;
    assert_eq!((answer.status, answer.json()["error_codes"][0].as_u64()), (400, Some(700_016)));
    // "Allow public client flows" is off: the commonest fault of a device code's registration
    let web = Web::new(Registration { public_client: false, ..Registration::default() }).await;
    let started = start(&web, IMAP).await;
    assert_eq!(web.refused(&poll(&started)).await, (401, "invalid_client".into(), 7_000_218));
}
