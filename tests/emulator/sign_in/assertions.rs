//! Client assertions, federated tokens and service accounts.

use std::time::{SystemTime, UNIX_EPOCH};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use gatepost::emulator::{Federated, Registration, ServiceAccount};
use rcgen::{CertificateParams, KeyPair, date_time_ymd};
use ring::{
    digest::{SHA1_FOR_LEGACY_USE_ONLY, SHA256, digest},
    rand::SystemRandom,
    signature::{RSA_PKCS1_SHA256, RSA_PSS_SHA256, RsaKeyPair},
};
use serde_json::{Value, json};

use super::{JANE, Web, claims};

/// Made with `openssl genpkey -algorithm RSA`, since ring makes none; nothing but these tests knows it.
const KEY: &str = include_str!("app.key");
const TYPE: &str = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";
const SCOPE: &str = "https://outlook.office365.com/.default";

/// A self-signed certificate of the test's key that lasts until this year: PEM and DER.
fn certificate(until: i32) -> (String, Vec<u8>) {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.not_before = date_time_ymd(2020, 1, 1);
    params.not_after = date_time_ymd(until, 1, 1);
    let made = params.self_signed(&KeyPair::from_pem(KEY).unwrap()).unwrap();
    (made.pem(), made.der().to_vec())
}

fn sign(header: &Value, claims: &Value) -> String {
    let key = KeyPair::from_pem(KEY).unwrap();
    let key = RsaKeyPair::from_pkcs8(key.serialized_der()).unwrap();
    let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let signed = format!("{}.{}", part(header), part(claims));
    let mut signature = vec![0; key.public().modulus_len()];
    let pss = header["alg"] == "PS256";
    let padding: &dyn ring::signature::RsaEncoding =
        if pss { &RSA_PSS_SHA256 } else { &RSA_PKCS1_SHA256 };
    key.sign(padding, &SystemRandom::new(), signed.as_bytes(), &mut signature).unwrap();
    format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

fn header(certificate: &[u8]) -> Value {
    let thumbprint = URL_SAFE_NO_PAD.encode(digest(&SHA256, certificate));
    json!({ "typ": "JWT", "alg": "PS256", "x5t#S256": thumbprint })
}

/// The claims of an assertion of the app's, new each time.
fn own(web: &Web) -> Value {
    let id = uuid::Uuid::new_v4().to_string();
    let (from, until) = (now(), now() + 600);
    json!({ "aud": web.emulator.token_url(), "iss": web.client_id, "sub": web.client_id,
        "nbf": from, "exp": until, "jti": id })
}

fn form(assertion: &str) -> [(&'static str, &str); 4] {
    let grant = [("grant_type", "client_credentials"), ("scope", SCOPE)];
    [grant[0], grant[1], ("client_assertion_type", TYPE), ("client_assertion", assertion)]
}

#[tokio::test]
async fn a_certificate_instead_of_a_secret() {
    let (pem, der) = certificate(2099);
    let certificates = vec![pem];
    let web = Web::new(Registration { certificates, ..Registration::default() }).await;
    let (status, issued) = web.token(&form(&sign(&header(&der), &own(&web)))).await;
    assert_eq!(status, 200, "{issued}");
    let access = claims(&issued["access_token"]);
    assert_eq!(access["aud"], "https://outlook.office365.com");
    assert_eq!(access["roles"], json!(["IMAP.AccessAsApp", "POP.AccessAsApp", "SMTP.SendAsApp"]));
    assert!(access["scp"].is_null() && access["upn"].is_null());

    let sha1 = URL_SAFE_NO_PAD.encode(digest(&SHA1_FOR_LEGACY_USE_ONLY, &der));
    let old = json!({ "alg": "RS256", "x5t": sha1 });
    let assertion = sign(&old, &own(&web));
    assert_eq!(web.token(&form(&assertion)).await.0, 200);
    assert_eq!(web.refused(&form(&assertion)).await.2, 50_027); // its jti was used before
    // a person's grants take one too
    let refresh = web.control().issue_refresh_token(JANE);
    let assertion = sign(&header(&der), &own(&web));
    let mut refreshed = form(&assertion).to_vec();
    refreshed[0] = ("grant_type", "refresh_token");
    refreshed[1] = ("refresh_token", &refresh);
    assert_eq!(web.token(&refreshed).await.0, 200);
}

#[tokio::test]
async fn assertions_that_are_no_good() {
    let ((pem, der), (expired_pem, expired)) = (certificate(2099), certificate(2021));
    let certificates = vec![pem, expired_pem];
    let web = Web::new(Registration { certificates, ..Registration::default() }).await;
    let changed = |name: &str, value: Value| {
        let mut claims = own(&web);
        claims[name] = value;
        sign(&header(&der), &claims)
    };
    let good = sign(&header(&der), &own(&web));
    let forged = format!("{}AAAA", &good[..good.len() - 4]);
    let (mut none, mut other) = (header(&der), header(&der));
    none["alg"] = json!("none");
    other["x5t#S256"] = json!(URL_SAFE_NO_PAD.encode([7; 32]));
    let url = web.emulator.token_url();
    for (what, assertion, number) in [
        ("no JWT", "x.y".into(), 50_027),
        ("no algorithm", sign(&none, &own(&web)), 50_027),
        ("no thumbprint", sign(&json!({ "alg": "PS256" }), &own(&web)), 50_027),
        ("no jti", changed("jti", Value::Null), 50_027),
        ("not registered", sign(&other, &own(&web)), 700_027),
        ("forged", forged, 700_027),
        ("expired certificate", sign(&header(&expired), &own(&web)), 700_027),
        ("expired", changed("exp", json!(now() - 3_600)), 700_024),
        ("without end", changed("exp", Value::Null), 700_024),
        ("too early", changed("nbf", json!(now() + 3_600)), 700_024),
        ("audience", changed("aud", json!(url.replace("/token", "/authorize"))), 700_023),
        ("subject", changed("sub", json!("someone")), 50_048),
    ] {
        let refused = web.refused(&form(&assertion)).await;
        assert_eq!(refused, (401, "invalid_client".into(), number), "{what}");
    }
    let mut someone = own(&web);
    (someone["iss"], someone["sub"]) = (json!("someone"), json!("someone"));
    assert_eq!(web.refused(&form(&sign(&header(&der), &someone))).await.2, 700_021);
    let mut both = form(&good).to_vec();
    both.push(("client_secret", "emulated-secret"));
    assert_eq!(web.refused(&both).await.1, "invalid_request");
    // a clock that is off by more than Entra allows
    web.control().set_clock_offset(-3_600);
    assert_eq!(web.refused(&form(&good)).await.2, 700_024);
    web.control().set_clock_offset(0);
    assert_eq!(web.token(&form(&good)).await.0, 200);
}

#[tokio::test]
async fn a_token_of_another_issuer() {
    let federated = vec![Federated {
        issuer: "https://k8s.example".into(),
        subject: "system:serviceaccount:mail:gatepost".into(),
        audience: "api://AzureADTokenExchange".into(),
    }];
    let web = Web::new(Registration { federated, ..Registration::default() }).await;
    let token = |issuer: &str, subject: &str, audience: &str, exp: u64| {
        let claims = json!({ "iss": issuer, "sub": subject, "aud": [audience], "exp": exp });
        sign(&json!({ "alg": "RS256", "kid": "1" }), &claims)
    };
    let (issuer, subject) = ("https://k8s.example", "system:serviceaccount:mail:gatepost");
    let (audience, later) = ("api://AzureADTokenExchange", now() + 600);
    let good = token(issuer, subject, audience, later);
    // the file is read anew for each request, but changes only now and then
    assert_eq!(web.token(&form(&good)).await.0, 200);
    assert_eq!(web.token(&form(&good)).await.0, 200);
    for (assertion, number) in [
        (token("https://k8s.example/", subject, audience, later), 700_211),
        (token(issuer, "system:serviceaccount:Mail:gatepost", audience, later), 700_213),
        (token(issuer, subject, "api://other", later), 700_212),
        (token(issuer, subject, audience, now() - 600), 700_024),
    ] {
        let refused = web.refused(&form(&assertion)).await;
        assert_eq!(refused, (401, "invalid_client".into(), number));
    }
}

#[tokio::test]
async fn a_service_account_speaks_for_a_user() {
    let email = "mail@project.iam.gserviceaccount.example";
    let public_key_pem = KeyPair::from_pem(KEY).unwrap().public_key_pem();
    let service_accounts = vec![ServiceAccount { email: email.into(), public_key_pem }];
    let web = Web::new(Registration { service_accounts, ..Registration::default() }).await;
    let good = json!({ "iss": email, "sub": JANE, "aud": web.emulator.token_url(),
        "scope": "https://mail.google.com/", "iat": now(), "exp": now() + 3_600 });
    let ask = async |alg: &str, claims: &Value| {
        let assertion = sign(&json!({ "alg": alg }), claims);
        let grant = ("grant_type", "urn:ietf:params:oauth:grant-type:jwt-bearer");
        web.post(&web.emulator.token_url(), &[grant, ("assertion", &assertion)]).await
    };
    let issued = ask("RS256", &good).await;
    assert_eq!(issued.status, 200, "{}", issued.body);
    assert!(issued.json().get("refresh_token").is_none());
    let access = claims(&issued.json()["access_token"]);
    assert_eq!(
        (&access["upn"], &access["aud"]),
        (&JANE.into(), &"https://mail.google.com/".into())
    );
    assert_eq!(ask("PS256", &good).await.status, 400);
    for (name, value, error) in [
        ("iss", json!("other@project.example"), "invalid_grant"),
        ("sub", json!("eve@evil.example"), "invalid_grant"),
        ("sub", Value::Null, "unauthorized_client"),
        ("aud", json!("https://oauth2.example/token"), "invalid_grant"),
        ("scope", Value::Null, "invalid_scope"),
        ("exp", json!(now() + 7_200), "invalid_grant"),
        ("iat", Value::Null, "invalid_grant"),
    ] {
        let mut claims = good.clone();
        claims[name] = value;
        let refused = ask("RS256", &claims).await.json();
        assert_eq!(refused["error"], error, "{name}: {refused}");
    }
    web.control().set_clock_offset(86_400);
    assert_eq!(ask("RS256", &good).await.json()["error"], "invalid_grant");
}
