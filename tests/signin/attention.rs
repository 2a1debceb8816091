//! The command that calls a person when a sign-in ends.

use std::collections::HashMap;
use std::path::Path;
use std::time::Duration;

use tokio::process::Command;
use tokio::time::sleep;

use crate::JANE;
use crate::site::{Running, Settings, Site, eventually};

/// Life of the access tokens: a sign-in that has ended is found out within it.
const LIFE: Duration = Duration::from_secs(2);

/// A variable that holds the client secret, and one that holds another app's.
const SECRET: &str = "GATEPOST_TEST_SECRET";
const OTHER_SECRET: &str = "GATEPOST_TEST_OTHER_SECRET";

/// Writes down what the command was called with: its arguments, then its environment. A call is there whole or
/// not at all.
const COMMAND: &str = r#"on_attention = ["/bin/sh", "-c", '''
{ printf '%s\n' "$#" "$2" "$3" "$4"; env; } > "$1/$$.part" && mv "$1/$$.part" "$1/$$.call"
''', "hook", "CALLS"]"#;

/// One call of the command.
#[derive(Debug)]
pub(crate) struct Call {
    /// Account, reason, remedy.
    pub(crate) arguments: Vec<String>,
    pub(crate) environment: HashMap<String, String>,
}

/// The key of the configuration, for calls that are written to this folder.
pub(crate) fn on_attention(folder: &Path) -> String {
    std::fs::create_dir_all(folder).unwrap();
    COMMAND.replace("CALLS", folder.to_str().unwrap())
}

/// The calls so far, in no order.
pub(crate) fn calls(folder: &Path) -> Vec<Call> {
    let files = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let whole = files.filter(|path| path.extension().is_some_and(|end| end == "call"));
    let read = |path| {
        let text: String = std::fs::read_to_string(path).unwrap();
        let mut lines = text.lines();
        assert_eq!(lines.next(), Some("4"), "the folder and three arguments: {text}");
        let arguments = lines.by_ref().take(3).map(String::from).collect();
        let variables = lines.filter_map(|line| line.split_once('='));
        let own = |(name, value): (&str, &str)| (name.to_owned(), value.to_owned());
        Call { arguments, environment: variables.map(own).collect() }
    };
    whole.map(read).collect()
}

/// Jane is signed in, at an app that authenticates with a secret of the environment.
async fn site() -> Site {
    let app = format!("client_secret = {{ env = \"{SECRET}\" }}");
    let mut settings = Settings::new(&app, &[JANE]);
    settings.options.token_life = Some(LIFE);
    settings.body += &format!(
        "[app.unused]\nprovider = \"lab\"\nclient_id = \"x\"\n\
         client_secret = {{ env = \"{OTHER_SECRET}\" }}\n"
    );
    let body = settings.body.clone();
    let site = Site::new(settings).await;
    site.configure(&on_attention(&site.path("calls")), &body, "");
    sign_in(&site).await;
    site
}

/// With the secrets in its environment.
fn command(site: &Site, arguments: &[&str]) -> Command {
    let mut command = site.command(arguments);
    command.env(SECRET, "emulated-secret").env(OTHER_SECRET, "another-secret");
    command.env("GATEPOST_TEST_OTHER", "stays");
    command
}

/// By another process, as `gatepost login` does.
async fn sign_in(site: &Site) {
    let mut login = Running::start(command(site, &["login", JANE, "--no-browser"]));
    let back = site.browser.sign_in(&login.line().await, JANE).await;
    site.browser.get(back).await;
    let done = login.end().await;
    assert_eq!(done.code, Some(0), "{}", done.err);
}

async fn called(site: &Site, count: usize) -> Vec<Call> {
    let look = async || Some(calls(&site.path("calls"))).filter(|calls| calls.len() >= count);
    let calls = eventually("a call", look).await;
    assert_eq!(calls.len(), count, "{calls:?}");
    calls
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn once_for_each_end_of_a_sign_in() {
    let site = site().await;
    let password = site.password(JANE).await;
    let proxy = site.start_with(command(&site, &["run"])).await;
    proxy.admits(JANE, &password).await;
    site.control().revoke_refresh_tokens(JANE);
    let Call { arguments, environment } = called(&site, 1).await.remove(0);
    assert_eq!(arguments[0], JANE);
    assert!(arguments[1].starts_with("invalid_grant: AADSTS50173:"), "{arguments:?}");
    assert!(arguments[2].contains("gatepost login"), "{arguments:?}");
    let variable = |name: &str| environment.get(name).map_or("", String::as_str);
    assert_eq!(variable("GATEPOST_EVENT"), "sign_in_needed");
    assert_eq!(variable("GATEPOST_ACCOUNT"), arguments[0]);
    assert_eq!(variable("GATEPOST_REASON"), arguments[1]);
    assert_eq!(variable("GATEPOST_REMEDY"), arguments[2]);
    assert_eq!(variable("GATEPOST_TEST_OTHER"), "stays");
    for name in [SECRET, OTHER_SECRET] {
        assert!(!environment.contains_key(name), "{name} is shown to the command");
    }
    assert!(!format!("{environment:?}").contains("emulated-secret"), "{environment:?}");

    // Nobody asks any more, whoever logs in, and whoever restarts it.
    let requests = site.tap.token_requests().len();
    sleep(LIFE).await;
    let refused = proxy.log_in(JANE, &password).await;
    assert!(refused.starts_with("a NO [UNAVAILABLE]") && refused.contains("gatepost login"));
    proxy.stop().await;
    let proxy = site.start_with(command(&site, &["run"])).await;
    // Its log says so, and why.
    proxy.running.said("AADSTS50173").await;
    proxy.running.said("sign-in needed: run gatepost login").await;
    sleep(LIFE / 2).await;
    let refused = proxy.log_in(JANE, &password).await;
    assert!(refused.starts_with("a NO [UNAVAILABLE]") && refused.contains("gatepost login"));
    assert_eq!(site.tap.token_requests().len(), requests);
    called(&site, 1).await;

    // A new sign-in is one that may end too.
    sign_in(&site).await;
    proxy.admits(JANE, &password).await;
    site.control().revoke_refresh_tokens(JANE);
    called(&site, 2).await;
    proxy.stop().await;
    called(&site, 2).await;
}

/// An app registration that is faulty may have been mended while gatepost was stopped: it is tried again then, but
/// the same fault is no news.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_faulty_registration_is_tried_again_but_told_once() {
    let app = "grant = \"client_credentials\"\nclient_secret = { file = \"secret\" }";
    let settings = Settings::new(app, &[JANE]);
    let body = settings.body.clone();
    let site = Site::new(settings).await;
    site.write("secret", "of-another-app");
    site.configure(&on_attention(&site.path("calls")), &body, "");
    for requests in 1..3 {
        let proxy = site.start().await;
        proxy.running.said("the provider refuses the app").await;
        let calls = called(&site, 1).await;
        assert!(calls[0].arguments[1].contains("AADSTS7000215"), "{calls:?}");
        sleep(Duration::from_millis(500)).await;
        proxy.stop().await;
        called(&site, 1).await;
        assert_eq!(site.tap.token_requests().len(), requests);
    }
    // Mended, and faulty once more: that is news.
    site.write("secret", "emulated-secret");
    let proxy = site.start().await;
    eventually("a token", async || site.token(JANE).await).await;
    proxy.stop().await;
    site.write("secret", "of-another-app");
    site.control().revoke_access_tokens();
    let password = site.password(JANE).await;
    let proxy = site.start().await;
    // A login finds that the token is no good, and asks for another one.
    let refused = proxy.log_in(JANE, &password).await;
    assert!(!refused.starts_with("a OK"), "{refused}");
    called(&site, 2).await;
    proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn once_for_two_processes() {
    let site = site().await;
    let first = site.start_with(command(&site, &["run"])).await;
    let second = site.start_with(command(&site, &["run"])).await;
    site.control().revoke_refresh_tokens(JANE);
    called(&site, 1).await;
    // Both have come to their renewal then.
    sleep(LIFE).await;
    let requests = site.tap.token_requests().len();
    sleep(LIFE / 2).await;
    called(&site, 1).await;
    assert_eq!(site.tap.token_requests().len(), requests);
    let refused = site.tap.token_requests().iter().filter(|seen| seen.status == 400).count();
    assert_eq!(refused, 1, "the second process takes the first one's word for it");
    for proxy in [first, second] {
        proxy.stop().await;
    }
}

/// A command that fails or is not there stops nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_command_that_fails_stops_nothing() {
    for (command, words) in [
        (r#"["/bin/sh", "-c", "exit 3"]"#, "on_attention failed"),
        (r#"["/nowhere/at-all"]"#, "on_attention can't be run"),
    ] {
        let site = Site::by_browser(&[JANE]).await;
        let body = Settings::new("", &[JANE]).body;
        site.configure(&format!("on_attention = {command}"), &body, "");
        let password = site.password(JANE).await;
        // Nobody has signed in: a person is called for that too.
        let proxy = site.start().await;
        proxy.running.said(words).await;
        site.sign_in(JANE, JANE).await;
        proxy.admits(JANE, &password).await;
        proxy.stop().await;
    }
}
