//! Managed identity, revocation, the clock, and Entra's errors by number.

use std::time::SystemTime;

use gatepost::emulator::{Registration, TokenFault};

use super::{Answer, JANE, Web, claims, with};

const RESOURCE: &str = "https://outlook.office365.com";

async fn identity(web: &Web, parameters: &[(&str, &str)]) -> Answer {
    let url = with(&web.emulator.identity_url(), parameters);
    Answer::of(web.client.get(url).header("Metadata", "true")).await
}

#[tokio::test]
async fn a_managed_identity() {
    let roles = vec!["IMAP.AccessAsApp".to_owned()];
    let web = Web::new(Registration { roles, ..Registration::default() }).await;
    let version = ("api-version", "2018-02-01");
    let good = [version, ("resource", RESOURCE)];
    let issued = identity(&web, &good).await;
    assert_eq!(issued.status, 200, "{}", issued.body);
    let issued = issued.json();
    let number = |name: &str| issued[name].as_str().unwrap().parse::<u64>().unwrap();
    assert_eq!(number("expires_on"), number("not_before") + number("expires_in"));
    assert_eq!((&issued["token_type"], &issued["resource"]), (&"Bearer".into(), &RESOURCE.into()));
    let access = claims(&issued["access_token"]);
    assert_eq!(
        (&access["idtyp"], &access["roles"][0]),
        (&"app".into(), &"IMAP.AccessAsApp".into())
    );
    assert!(access["roles"][1].is_null());
    let own = ("client_id", web.client_id.as_str());
    assert_eq!(identity(&web, &[good[0], good[1], own]).await.status, 200);

    let bare = web.get(&with(&web.emulator.identity_url(), &good)).await;
    assert_eq!((bare.status, &bare.json()["error"]), (400, &"invalid_request".into()));
    let proxied = web.client.get(with(&web.emulator.identity_url(), &good));
    let proxied = proxied.header("Metadata", "true").header("X-Forwarded-For", "10.0.0.1");
    assert_eq!(Answer::of(proxied).await.status, 400);
    for (parameters, error) in [
        (vec![good[1]], "invalid_request"),
        (vec![good[0]], "invalid_request"),
        (vec![("api-version", "2017-12-01"), good[1]], "invalid_request"),
        (vec![good[0], good[1], ("client_id", "other")], "invalid_request"),
        (vec![good[0], ("resource", "https://vault.example")], "invalid_resource"),
    ] {
        let refused = identity(&web, &parameters).await;
        assert_eq!((refused.status, &refused.json()["error"]), (400, &error.into()));
    }
    let fault = TokenFault::Status { status: 429, retry_after: Some(3) };
    web.control().fail_token_requests(1, fault);
    assert_eq!(identity(&web, &good).await.status, 429);
}

#[tokio::test]
async fn a_token_is_taken_back() {
    let web = Web::new(Registration::default()).await;
    let refresh = web.control().issue_refresh_token(JANE);
    let other = web.control().issue_refresh_token(JANE);
    let url = web.emulator.revoke_url();
    let hint = ("token_type_hint", "refresh_token");
    assert_eq!(web.post(&url, &[("token", &refresh), hint]).await.status, 200);
    assert_eq!(web.post(&url, &[("token", "unknown")]).await.status, 200);
    assert_eq!(web.post(&url, &[hint]).await.status, 400);
    assert_eq!(web.post(&url, &[("token", &other), ("client_id", "nobody")]).await.status, 400);
    let form = |token| [("grant_type", "refresh_token"), ("refresh_token", token)];
    let revoked = web.token(&form(&refresh)).await.1;
    assert_eq!(
        (&revoked["error_codes"][0], &revoked["suberror"]),
        (&50_173.into(), &"bad_token".into())
    );
    assert_eq!(web.token(&form(&other)).await.0, 200);
}

#[tokio::test]
async fn the_clock_may_be_off() {
    let web = Web::new(Registration::default()).await;
    let ahead = async || {
        let answer = web.post(&web.emulator.token_url(), &[]).await;
        let date = httpdate::parse_http_date(&answer.date).unwrap();
        let now = SystemTime::now();
        date.duration_since(now)
            .map_or_else(|early| -early.duration().as_secs_f64(), |late| late.as_secs_f64())
    };
    assert!(ahead().await.abs() < 30.0);
    web.control().set_clock_offset(600);
    assert!((ahead().await - 600.0).abs() < 30.0);
    let form = [("seconds", "-86400")];
    let url = format!("{}/clock-offset", web.emulator.control_url());
    assert_eq!(web.post(&url, &form).await.status, 204);
    assert!((ahead().await + 86_400.0).abs() < 30.0);
    web.control().clear_faults();
    assert!(ahead().await.abs() < 30.0);
}

/// What the v2.0 endpoint answers for a number, whatever caused it.
#[tokio::test]
async fn every_number_has_its_error() {
    let web = Web::new(Registration::default()).await;
    for (number, status, error, suberror) in [
        (50_034, 400, "invalid_grant", None),
        (50_055, 400, "invalid_grant", Some("user_password_expired")),
        (50_057, 400, "invalid_grant", None),
        (50_076, 400, "invalid_grant", Some("basic_action")),
        (50_079, 400, "invalid_grant", Some("basic_action")),
        (50_173, 400, "invalid_grant", Some("bad_token")),
        (53_003, 400, "invalid_grant", Some("message_only")),
        (65_001, 400, "invalid_grant", Some("consent_required")),
        (70_043, 400, "invalid_grant", Some("token_expired")),
        (90_002, 400, "invalid_request", None),
        (90_033, 503, "temporarily_unavailable", None),
        (500_011, 400, "invalid_resource", None),
        (700_016, 400, "unauthorized_client", None),
        (700_027, 401, "invalid_client", None),
        (700_082, 400, "invalid_grant", Some("bad_token")),
        (7_000_112, 400, "unauthorized_client", None),
        (7_000_215, 401, "invalid_client", None),
        (7_000_218, 401, "invalid_client", None),
        (7_000_222, 401, "invalid_client", None),
    ] {
        web.control().fail_token_requests(1, TokenFault::Aadsts(number));
        let (answered, body) = web.token(&[]).await;
        assert_eq!((answered, body["error"].as_str()), (status, Some(error)), "{number}");
        assert_eq!(body["suberror"].as_str(), suberror, "{number}");
        assert_eq!(body["error_codes"][0], number);
    }
}
