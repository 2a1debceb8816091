//! Configurations that can't be read or can't be had: nothing changes, and it is said why.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::symlink;
use std::process::Command;
use std::time::Duration;

use gatepost::vocabulary::Protocol::{Imap, Pop3};
use tokio::net::TcpStream;
use tokio::time::sleep;

use super::proxy::{JANE, JOHN, NOT_RELOADED, Proxy, RELOADED, account, listener};
use crate::support::free_address;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bad_configuration_changes_nothing() {
    let (at, other) = (free_address(), free_address());
    let good = listener(Imap, at, "") + &account(JANE);
    let proxy = Proxy::start(&good).await;
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = taken.local_addr().map(|at| (taken, at)).unwrap();
    let lan = other.to_string().replace("127.0.0.1", "0.0.0.0").parse().unwrap();
    let cases = [
        (proxy.text(&good).replace("[[account]]", "[[acount]]"), "line 7"),
        (proxy.text(&good) + "listen = ", "line"),
        (String::new(), "nothing to listen on"),
        (proxy.text(&account(JANE)), "nothing to listen on"),
        (
            proxy.text(&good).replace("\"state\"", "\"elsewhere\""),
            "gatepost.toml, line 1, state_dir: it can't be changed",
        ),
        (
            proxy.text(&good) + "[store]\nkey = { file = \"key\" }\n",
            ", store.key: it can't be changed",
        ),
        // RFC 5737: an address that is of no machine.
        (
            proxy.text(
                &(good.clone()
                    + &listener(
                        Pop3,
                        "192.0.2.1:1110".parse().unwrap(),
                        "allow_plaintext_lan = true",
                    )),
            ),
            "this machine does not have that address",
        ),
        // The first of the two could be had.
        (
            proxy.text(&(good.clone() + &listener(Pop3, other, "") + &listener(Pop3, taken.1, ""))),
            "can't listen on",
        ),
        (proxy.text(&good).replace("\"ca.pem\"", "\"none.pem\""), "none.pem"),
        (
            proxy.text(
                &(listener(
                    Imap,
                    at,
                    "tls = \"implicit\"\ncertificate = \"a\"\nprivate_key = \"b\"",
                ) + &account(JANE)),
            ),
            "line 2",
        ),
        (proxy.text(&(good.clone() + &listener(Pop3, lan, "allow_plaintext_lan = true"))), ""),
    ];
    let count = cases.len();
    for (number, (text, why)) in cases.into_iter().enumerate() {
        let said = proxy.reload_text(&text).await;
        // There is an app password: it may listen on a network.
        let expected = if why.is_empty() { RELOADED } else { NOT_RELOADED };
        assert!(said.contains(expected) && said.contains(why), "case {number}: {said}");
        assert!(why.is_empty() || said.contains("hint"), "case {number}: {said}");
        drop(proxy.log_in(Imap, at, JANE).await);
        assert!(why.is_empty() || TcpStream::connect(other).await.is_err(), "case {number}");
    }
    assert_eq!(count, 11);
    // Without one, somebody else could be the first to make it.
    proxy.reload(&good).await;
    proxy.revoke().await;
    sleep(Duration::from_secs(1)).await;
    let open = good + &listener(Pop3, lan, "allow_plaintext_lan = true");
    let said = proxy.reload(&open).await;
    assert!(said.contains(NOT_RELOADED) && said.contains("not on loopback"), "{said}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_changed_file_is_found_and_each_version_told_once() {
    let at = free_address();
    let jane = listener(Imap, at, "") + &account(JANE);
    let both = jane.clone() + &account(JOHN);
    let mut proxy = Proxy::start(&jane).await;
    proxy.write(&proxy.text(&both));
    proxy.until(&format!("account {JOHN} added"), 1).await;
    drop(proxy.log_in(Imap, at, JOHN).await);

    let file = proxy.path("gatepost.toml");
    fs::remove_file(&file).unwrap();
    proxy.until(NOT_RELOADED, 1).await;
    // Written anew by hand, and wrong; then a folder in its place; then in two steps.
    fs::write(&file, "[[listener]\n").unwrap();
    proxy.until(NOT_RELOADED, 2).await;
    fs::remove_file(&file).unwrap();
    fs::create_dir(&file).unwrap();
    proxy.until(NOT_RELOADED, 3).await;
    sleep(Duration::from_secs(3)).await;
    assert_eq!(proxy.said().matches(NOT_RELOADED).count(), 3, "{}", proxy.said());
    drop(proxy.log_in(Imap, at, JOHN).await);
    fs::remove_dir(&file).unwrap();
    fs::write(&file, proxy.text(&listener(Imap, at, ""))).unwrap();
    sleep(Duration::from_millis(300)).await;
    fs::write(&file, proxy.text(&jane)).unwrap();
    proxy.until(&format!("account {JOHN} removed"), 1).await;
    assert!(!proxy.said().contains(JANE), "the first step was not taken: {}", proxy.said());

    // As Kubernetes exchanges it.
    for (folder, text) in [("..1", &jane), ("..2", &both)] {
        fs::create_dir(proxy.path(folder)).unwrap();
        fs::write(proxy.path(folder).join("gatepost.toml"), proxy.text(text)).unwrap();
    }
    symlink("..1", proxy.path("..data")).unwrap();
    symlink("..data/gatepost.toml", proxy.path("link")).unwrap();
    fs::rename(proxy.path("link"), &file).unwrap();
    proxy.until("nothing has changed in it", 1).await;
    symlink("..2", proxy.path("..tmp")).unwrap();
    fs::rename(proxy.path("..tmp"), proxy.path("..data")).unwrap();
    proxy.until(&format!("account {JOHN} added"), 2).await;
}

/// What is no regular file is not opened, and what has no end is not read: signals are heard all the while.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_planted_for_a_file_holds_nothing_up() {
    let at = free_address();
    let good = listener(Imap, at, "") + &account(JANE);
    let mut proxy = Proxy::start(&good).await;
    let mut refused = 0;
    for name in ["gatepost.toml", "ca.pem", "secret"] {
        let (path, kept) = (proxy.path(name), proxy.path("kept"));
        fs::rename(&path, &kept).unwrap();
        for (planted, words) in
            [("a pipe", "a pipe"), ("/dev/zero", "a device"), ("long", "longer")]
        {
            match planted {
                "a pipe" => {
                    assert!(Command::new("mkfifo").arg(&path).status().unwrap().success());
                }
                "/dev/zero" => symlink(planted, &path).unwrap(),
                _ => fs::File::create(&path).unwrap().set_len(300_000_000).unwrap(),
            }
            // The configuration is looked at without a signal too.
            if name != "gatepost.toml" {
                proxy.signal("-HUP");
            }
            refused += 1;
            proxy.until(NOT_RELOADED, refused).await;
            let said = proxy.said();
            let line = said.lines().rfind(|line| line.contains(NOT_RELOADED)).unwrap();
            assert!(line.contains(words) && line.contains(name), "{name}, {planted}: {line}");
            drop(proxy.log_in(Imap, at, JANE).await);
            fs::remove_file(&path).unwrap();
        }
        fs::rename(&kept, &path).unwrap();
        let before = proxy.said().matches(RELOADED).count();
        proxy.signal("-HUP");
        proxy.until(RELOADED, before + 1).await;
        // The look of each second may have seen the gap between two of them.
        refused = proxy.said().matches(NOT_RELOADED).count();
    }
    fs::remove_file(proxy.path("gatepost.toml")).unwrap();
    let pipe = proxy.path("gatepost.toml");
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    proxy.until(NOT_RELOADED, refused + 1).await;
    proxy.signal("-HUP");
    proxy.signal("-TERM");
    let (status, took) = proxy.ended().await;
    assert!(status.success() && took < Duration::from_secs(10), "{status}, {took:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_signal_at_any_time() {
    let at = free_address();
    let good = listener(Imap, at, "") + &account(JANE);
    let mut proxy = Proxy::start(&good).await;
    // Many at once are one or two.
    for _ in 0..20 {
        proxy.signal("-HUP");
    }
    proxy.until("nothing has changed in it", 1).await;
    drop(proxy.log_in(Imap, at, JANE).await);
    // During a stop it means nothing.
    let mut client = proxy.log_in(Imap, at, JANE).await;
    client.send("2 APPEND INBOX {5}\r\n").await;
    client.expect("+ ").await;
    proxy.signal("-TERM");
    proxy.until("gatepost is stopping", 1).await;
    proxy.signal("-HUP");
    sleep(Duration::from_millis(500)).await;
    client.send("hello\r\n").await;
    client.until("2 OK").await;
    client.expect("* BYE").await;
    drop(client);
    let (status, _) = proxy.ended().await;
    assert!(status.success(), "{status}");

    // During the start, as soon as its handler is there: what it says first is behind that.
    let mut proxy = Proxy::begin(&good).await;
    let held = std::path::PathBuf::from(format!("/proc/{}/status", proxy.pid()));
    while !catches_hang_up(&fs::read_to_string(&held).unwrap_or_default()) {
        sleep(Duration::from_millis(1)).await;
    }
    proxy.signal("-HUP");
    proxy.until("gatepost is ready", 1).await;
    proxy.until(RELOADED, 1).await;
}

/// SigCgt of proc(5): bit 0 is SIGHUP.
fn catches_hang_up(status: &str) -> bool {
    let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:"));
    let caught = caught.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    caught.is_none_or(|mask| mask & 1 == 1)
}
