//! `gatepost explain` as a person calls it: without a configuration, with a code, a pasted line or a log.

use std::io::Write;
use std::process::{Command, Output, Stdio};

use gatepost::explain::{best, explain};
use gatepost::protocol::Refusal;
use serde_json::Value;

/// Runs it in an empty folder, with this on standard input.
fn run(arguments: &[&str], input: &str) -> Output {
    let folder = tempfile::tempdir().unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_gatepost"));
    command.arg("explain").args(arguments).current_dir(&folder).env("HOME", folder.path());
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    // One that does not read its input may be gone already.
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    child.wait_with_output().unwrap()
}

/// Standard output of a run that found something.
fn explained(arguments: &[&str], input: &str) -> String {
    let output = run(arguments, input);
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// What `--json` found, by code.
fn codes(arguments: &[&str], input: &str) -> Vec<String> {
    let text = explained(&[&["--json"], arguments].concat(), input);
    let findings: Vec<Value> = serde_json::from_str(&text).unwrap();
    findings.iter().map(|finding| finding["code"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn a_code() {
    for code in ["AADSTS50173", "aadsts50173", "50173"] {
        let text = explained(&[code], "");
        assert!(text.starts_with("AADSTS50173: "), "{text}");
        assert!(text.contains("gatepost login MAILBOX"), "{text}");
        assert!(!text.contains('`') && !text.contains('{'), "{text}");
    }
}

#[test]
fn a_line_of_the_log() {
    let line = r#"2026-01-01T00:00:00Z ERROR gatepost::oauth: sign-in needed: run gatepost login jane@contoso.example principal=jane@contoso.example at contoso reason="invalid_grant: AADSTS50076: Due to a configuration change""#;
    assert_eq!(codes(&[line], ""), ["AADSTS50076", "invalid_grant", "sign_in_needed"]);
    let words: Vec<_> = line.split(' ').collect();
    assert_eq!(codes(&words, "").len(), 3, "words are joined");
}

/// Also the doctor's and the log's way: each refusal is known by its name and by what the client is told.
#[test]
fn every_refusal() {
    let said = || String::from("x");
    let all = [
        Refusal::BadCredentials,
        Refusal::NotAllowedFromHere,
        Refusal::SignInNeeded { mailbox: "jane@contoso.example".into() },
        Refusal::AppRefused { remedy: said() },
        Refusal::Throttled { wait: std::time::Duration::from_secs(60) },
        Refusal::NoTurn { reason: said() },
        Refusal::UpstreamBusy { said: said() },
        Refusal::UpstreamDown { reason: said() },
        Refusal::NotPermitted { said: said() },
        Refusal::ShuttingDown,
    ];
    for refusal in all {
        let logged = format!("connection closed refused={:?} up=0", refusal.name());
        for text in [refusal.name().to_owned(), logged, refusal.text()] {
            assert_eq!(
                best(&text).map(|entry| entry.code.as_str()),
                Some(refusal.name()),
                "{text}"
            );
        }
        let reply = format!("454 4.7.0 {}", refusal.text());
        assert!(explain(&reply).iter().any(|entry| entry.code == refusal.name()), "{reply}");
    }
}

#[test]
fn a_json_body() {
    let body = r#"{"error":"invalid_client","error_description":"AADSTS7000222: The provided client secret keys for app are expired.\r\nTrace ID: 00000000-0000-0000-0000-000000000000\r\nTimestamp: 2026-01-01 00:00:00Z","error_codes":[7000222],"timestamp":"2026-01-01 00:00:00Z","error_uri":"https://login.microsoftonline.com/error?code=7000222"}"#;
    assert_eq!(codes(&[body], ""), ["AADSTS7000222", "invalid_client"]);
    let text = explained(&["--json", body], "");
    let findings: Vec<Value> = serde_json::from_str(&text).unwrap();
    assert_eq!(findings[0]["who"], "admin");
    assert_eq!(findings[0]["transient"], false);
    for key in ["title", "meaning", "remedy"] {
        assert!(!findings[0][key].as_str().unwrap().is_empty(), "{key}");
    }
}

#[test]
fn a_reply_of_exchange() {
    let reply = "535 5.7.139 Authentication unsuccessful, SmtpClientAuthentication is disabled for the Mailbox. Visit https://aka.ms/smtp_auth_disabled for more information. [AM0PR02CA0001.eurprd02.prod.outlook.com]";
    let text = explained(&[reply], "");
    assert!(text.starts_with("5.7.139 Mailbox: "), "{text}");
    let command = "Set-CASMailbox MAILBOX -SmtpClientAuthenticationDisabled $false";
    assert!(text.contains(command), "{text}");
    assert!(!text.contains("Set-TransportConfig"), "{text}");
    assert_eq!(codes(&["5.7.139"], ""), ["5.7.139"]);
    let bad = "A3 BAD User is authenticated but not connected.";
    assert_eq!(codes(&[bad], ""), ["User is authenticated but not connected"]);
    // A reply may begin with a hyphen.
    let err = "-ERR Authentication failure: unknown user name or bad password.";
    assert_eq!(codes(&[err], ""), ["Authentication failure"]);
}

#[test]
fn an_unknown_code() {
    let output = run(&["AADSTS99999"], "");
    let words = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(output.stdout.is_empty());
    assert!(words.contains("https://login.microsoftonline.com/error?code=99999"), "{words}");

    let output = run(&["--json", "it is broken"], "");
    let words = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(output.stdout, b"[]\n");
    assert!(words.contains("hint: "), "{words}");
}

/// Beside a known one it is no failure, but it is told.
#[test]
fn an_unknown_code_beside_a_known_one() {
    let output = run(&["invalid_grant: AADSTS99999: x"], "");
    assert!(output.status.success(), "{output:?}");
    assert!(output.stdout.starts_with(b"invalid_grant: "), "{output:?}");
    assert!(String::from_utf8(output.stderr).unwrap().contains("code=99999"));
}

#[test]
fn a_log_by_standard_input() {
    let log = "INFO connection closed outcome=session\n\
               INFO connection closed refused=\"throttled\"\n\
               WARN no new token reason=\"AADSTS90033: x\"\n\
               WARN no new token reason=\"AADSTS90033: x\"\n";
    for arguments in [&[][..], &["-"][..]] {
        assert_eq!(codes(arguments, log), ["AADSTS90033", "throttled"]);
    }
    assert_eq!(run(&[], "").status.code(), Some(1));
}

#[test]
fn a_broken_configuration_does_not_matter() {
    let text = explained(&["invalid_grant", "--config", "/nowhere/gatepost.toml"], "");
    assert!(text.starts_with("invalid_grant: "), "{text}");
}

#[test]
fn each_code_of_the_doctor_is_explained() {
    for code in gatepost::doctor::Code::ALL {
        let text = explained(&[code.text()], "");
        assert!(text.contains("**Seen") && !text.contains("\n## "), "{code}: {text}");
    }
}
