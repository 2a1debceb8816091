//! The names of a token request, by which the provider's support finds it.

use std::collections::HashSet;
use std::time::Duration;

use gatepost::emulator::TokenFault;
use serde_json::Value;

use crate::JANE;
use crate::site::{Settings, Site, eventually};
use crate::tap::Seen;

async fn site() -> Site {
    let app = "grant = \"client_credentials\"\nclient_secret = { file = \"secret\" }";
    let mut settings = Settings::new(app, &[JANE]);
    settings.options.token_life = Some(Duration::from_secs(2));
    let site = Site::new(settings).await;
    site.write("secret", "emulated-secret");
    site
}

/// What support asks for, of an answer and of the request before it.
fn names(seen: &Seen) -> Vec<String> {
    let of_answer = |name| seen.answer[name].as_str().unwrap_or_default();
    vec![
        format!("client-request-id {}", seen.header("client-request-id")),
        format!("trace id {}", of_answer("trace_id")),
        format!("correlation id {}", of_answer("correlation_id")),
    ]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_request_has_an_id_of_its_own() {
    let site = site().await;
    let fault = TokenFault::Status { status: 503, retry_after: None };
    site.control().fail_token_requests(2, fault);
    site.control().fail_token_requests(1, TokenFault::Closed);
    let proxy = site.start().await;
    eventually("some requests", async || (site.tap.token_requests().len() >= 5).then_some(()))
        .await;
    let log = proxy.stop().await;
    let asked = site.tap.token_requests();
    let ids: HashSet<_> = asked.iter().map(|seen| seen.header("client-request-id")).collect();
    assert_eq!(ids.len(), asked.len(), "{ids:?}");
    for id in &ids {
        assert_eq!(uuid::Uuid::parse_str(id).unwrap().get_version_num(), 4, "{id}");
    }
    for seen in &asked {
        assert_eq!(seen.header("return-client-request-id"), "true");
    }
    // A failure that has no answer has at least ours; the same one again is not logged again.
    for seen in [&asked[0], &asked[2]] {
        let id = format!("client-request-id {}", seen.header("client-request-id"));
        assert!(log.lines().any(|line| line.contains("no new token") && line.contains(&id)));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failure_is_told_with_all_names() {
    let site = site().await;
    site.control().set_token_outage(Some(TokenFault::Aadsts(7_000_222)));
    let proxy = site.start().await;
    let log = proxy.running.said("the provider refuses the app").await;
    let failed = site.tap.token_requests().pop().unwrap();
    let line = log.lines().find(|line| line.contains("the provider refuses the app")).unwrap();
    let fault = eventually("the fault", async || site.fault(JANE).await).await;
    let status = site.status(JANE).await;
    let told = [line, &fault.trace, status["last_error_trace"].as_str().unwrap_or_default()];
    for name in names(&failed) {
        for told in told {
            assert!(told.contains(&name), "no {name:?} in {told:?}");
        }
    }
    assert!(site.good(&["status"]).await.contains(&names(&failed)[1]));
    proxy.stop().await;
    // By hand.
    let done = site.run(&["login", JANE]).await;
    assert_eq!(done.code, Some(1), "{}", done.err);
    let failed = site.tap.token_requests().pop().unwrap();
    for name in names(&failed) {
        assert!(done.err.contains(&name), "no {name:?} in {}", done.err);
    }
    // When all is well again there is nothing to tell.
    site.control().set_token_outage(None);
    site.good(&["login", JANE]).await;
    assert_eq!(site.status(JANE).await["last_error_trace"], Value::Null);
}

/// Also where a person is in the middle of it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sign_in_that_fails_is_told_with_all_names() {
    let site = Site::by_browser(&[JANE]).await;
    site.control().fail_token_requests(1, TokenFault::Aadsts(65_001));
    let done = site.sign_in(JANE, JANE).await;
    assert_eq!(done.code, Some(1));
    let failed = site.tap.token_requests().pop().unwrap();
    for name in names(&failed) {
        assert!(done.err.contains(&name), "no {name:?} in {}", done.err);
    }
}
