//! Grants without a person: federated tokens, managed identities, service accounts.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use gatepost::emulator::{Federated, ServiceAccount};
use serde_json::{Value, json};

use crate::site::{Settings, Site, eventually};
use crate::{JANE, JOHN};

const KEY: &str = include_str!("keys/app.key");

/// A Kubernetes service account's token. The emulated Entra checks its claims.
fn federated_token(subject: &str, number: u32) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let claims = json!({ "iss": "https://k8s.example", "sub": subject, "exp": now + 600,
        "aud": ["api://AzureADTokenExchange"], "jti": number });
    let part = |value: &Value| BASE64_URL_SAFE_NO_PAD.encode(value.to_string());
    format!("{}.{}.c2lnbmF0dXJl", part(&json!({ "alg": "RS256", "kid": "1" })), part(&claims))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_federated_token_is_read_anew_for_each_request() {
    let app = "grant = \"client_credentials\"\nfederated_token = { file = \"token\" }";
    let mut settings = Settings::new(app, &[JANE]);
    settings.options.token_life = Some(Duration::from_secs(2));
    settings.options.registration.public_client = false;
    settings.options.registration.federated = vec![Federated {
        issuer: "https://k8s.example".into(),
        subject: "system:serviceaccount:mail:gatepost".into(),
        audience: "api://AzureADTokenExchange".into(),
    }];
    let site = Site::new(settings).await;
    let done = site.run(&["login", JANE]).await;
    assert_eq!(done.code, Some(2), "{}", done.err);
    assert!(done.err.contains("federated_token") && done.err.contains("hint:"), "{}", done.err);
    let (first, second) = ("system:serviceaccount:mail:gatepost", 2);
    let tokens = [1, second].map(|number| federated_token(first, number));
    site.write("token", format!("{}\n", tokens[0]));
    let password = site.password(JANE).await;
    let proxy = site.start().await;
    proxy.admits(JANE, &password).await;
    for token in &tokens {
        site.write("token", token);
        let last = || site.tap.token_requests().pop().unwrap();
        let sent = eventually("the file's token", async || {
            Some(last()).filter(|seen| seen.field("client_assertion") == token)
        });
        let sent = sent.await;
        assert_eq!(sent.status, 200, "{}", sent.answer);
        assert!(sent.field("client_assertion_type").ends_with(":jwt-bearer"));
        assert!(!sent.fields.contains_key("client_secret"));
    }
    proxy.admits(JANE, &password).await;
    let log = proxy.stop().await;
    assert!(!log.contains(&tokens[0]) && !log.contains(&tokens[1]), "a token is in the log");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_identity_of_the_machine() {
    let accounts = format!("[[account]]\nmailbox = \"{JANE}\"\napp = \"lab\"\n");
    let own = "[app.lab]\nprovider = \"lab\"\ngrant = \"managed_identity\"\n";
    let site = Site::new(Settings { body: format!("{own}{accounts}"), ..Settings::new("", &[]) });
    let site = site.await;
    let done = site.run(&["check"]).await;
    assert_eq!(done.code, Some(2), "{}", done.err);
    assert!(done.err.contains("identity_url"), "{}", done.err);
    let url = format!("http://{}/metadata/identity/oauth2/token", site.tap.address);
    let provider = format!("identity_url = \"{url}\"\n");
    // The system's own identity, then one of several.
    let named = format!("{own}client_id = \"5e1f0a3c-6d1b-4f0e-9a57-0c1d5b7e2f44\"\n");
    for (app, id) in [(own, ""), (named.as_str(), "5e1f0a3c-6d1b-4f0e-9a57-0c1d5b7e2f44")] {
        site.configure("", &format!("{app}{accounts}"), &provider);
        let done = site.run(&["login", JANE]).await;
        assert_eq!(done.code, Some(0), "{}", done.err);
        let asked = site.tap.token_requests().pop().unwrap();
        assert!(asked.path.starts_with("/metadata/"), "{}", asked.path);
        assert_eq!((asked.status, asked.header("metadata")), (200, "true"), "{}", asked.answer);
        assert_eq!(asked.field("resource"), "https://outlook.office365.com");
        assert_eq!(asked.field("client_id"), id);
    }
    let password = site.password(JANE).await;
    let proxy = site.start().await;
    proxy.admits(JANE, &password).await;
    // An identity that the machine does not have.
    site.configure("", &format!("{own}client_id = \"another\"\n{accounts}"), &provider);
    let done = site.run(&["login", JANE]).await;
    assert_eq!(done.code, Some(1), "{}", done.err);
    assert!(done.err.contains("Identity not found"), "{}", done.err);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_account_speaks_for_each_mailbox() {
    let email = "mail@project.iam.gserviceaccount.example";
    let app = "grant = \"jwt_bearer\"\nservice_account = { file = \"account.json\" }\n\
         scopes = [\"https://mail.google.com/\"]";
    let mut settings = Settings::new(app, &[JANE, JOHN]);
    let public_key_pem = rcgen::KeyPair::from_pem(KEY).unwrap().public_key_pem();
    settings.options.registration.service_accounts =
        vec![ServiceAccount { email: email.into(), public_key_pem }];
    let site = Site::new(settings).await;
    let file = |key: &str| {
        json!({ "type": "service_account", "client_email": email, "private_key": key,
            "private_key_id": "k1", "token_uri": "https://elsewhere.example/token" })
    };
    site.write("account.json", file(KEY).to_string());
    let done = site.run(&["login", JANE, JOHN]).await;
    assert_eq!(done.code, Some(0), "{}", done.err);
    let asked = site.tap.token_requests();
    let claims: Vec<Value> = asked
        .iter()
        .map(|seen| {
            let claims = seen.field("assertion").split('.').nth(1).unwrap();
            serde_json::from_slice(&BASE64_URL_SAFE_NO_PAD.decode(claims).unwrap()).unwrap()
        })
        .collect();
    assert_eq!((claims[0]["sub"].as_str(), claims[1]["sub"].as_str()), (Some(JANE), Some(JOHN)));
    assert!(claims.iter().all(|claims| claims["iss"] == email), "{claims:?}");
    let passwords = [site.password(JANE).await, site.password(JOHN).await];
    let proxy = site.start().await;
    proxy.admits(JANE, &passwords[0]).await;
    proxy.admits(JOHN, &passwords[1]).await;
    proxy.stop().await;
    for wrong in ["{}".into(), "garbage".into(), file("no key").to_string()] {
        site.write("account.json", &wrong);
        let done = site.run(&["login", JANE]).await;
        assert_eq!(done.code, Some(1), "{}", done.err);
        assert!(done.err.contains("account.json"), "{wrong}: {}", done.err);
    }
}
