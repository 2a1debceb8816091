//! The confinement, by what the running proxy can't do any more.

use std::fs::{self, File};
use std::io::ErrorKind;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::process::{Proxy, gatepost};
use crate::support_tokens::{APP_ONLY, Site};
use gatepost::confine::{Guard, OUTSIDE, Reach, confine, explain, forbids};

/// Short, so that the client secret is read again soon.
const LIFE: Duration = Duration::from_secs(3);

fn folder_of(site: &Site) -> &Path {
    site.file.parent().unwrap()
}

/// The value of a line of `/proc/PID/status`.
fn status_line(task: &Path, name: &str) -> String {
    let text = fs::read_to_string(task.join("status")).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default();
    line.trim_start_matches(':').trim().to_owned()
}

fn tasks(id: u32) -> Vec<PathBuf> {
    let tasks = fs::read_dir(format!("/proc/{id}/task")).unwrap();
    tasks.map(|task| task.unwrap().path()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_thread_is_confined_and_dumps_no_core() {
    let site = Site::new(LIFE).await;
    let proxy = Proxy::start(gatepost(&site.file, &["run"]));
    site.log_in(proxy.address(), APP_ONLY).await.unwrap();
    let said = proxy.said("confined");
    assert!(said.contains("Landlock") && said.contains("seccomp"), "{said}");
    let tasks = tasks(proxy.id());
    assert!(tasks.len() > 2, "{tasks:?}");
    for task in tasks {
        let (privileges, calls) = (status_line(&task, "NoNewPrivs"), status_line(&task, "Seccomp"));
        assert_eq!((privileges.as_str(), calls.as_str()), ("1", "2"), "{}", task.display());
    }
    let limits = fs::read_to_string(format!("/proc/{}/limits", proxy.id())).unwrap();
    let core = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap();
    assert_eq!(core.split_whitespace().skip(4).take(2).collect::<Vec<_>>(), ["0", "0"], "{core}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_switch_turns_it_off() {
    let site = Site::new(LIFE).await;
    let text = fs::read_to_string(&site.file).unwrap();
    fs::write(&site.file, format!("confine = false\n{text}")).unwrap();
    let proxy = Proxy::start(gatepost(&site.file, &["run"]));
    proxy.said("confine = false");
    let task = PathBuf::from(format!("/proc/{}", proxy.id()));
    assert_eq!(status_line(&task, "Seccomp"), "0");
}

/// Somebody who can write to the configuration's folder has gatepost read another's file, and send it to the token
/// endpoint: what was outside at the start stays outside.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_link_that_is_turned_to_the_outside_is_not_followed() {
    let site = Site::new(LIFE).await;
    let (link, inside) = (folder_of(&site).join("secret"), folder_of(&site).join("real"));
    let outside = tempfile::tempdir().unwrap();
    let outside = outside.path().join("secret");
    fs::rename(&link, &inside).unwrap();
    fs::copy(&inside, &outside).unwrap();
    symlink(&inside, &link).unwrap();
    let proxy = Proxy::start(gatepost(&site.file, &["run"]));
    site.log_in(proxy.address(), APP_ONLY).await.unwrap();

    fs::remove_file(&link).unwrap();
    symlink(&outside, &link).unwrap();
    proxy.said(OUTSIDE);

    fs::remove_file(&link).unwrap();
    symlink(&inside, &link).unwrap();
    let mut tries = 0;
    while let Err(error) = site.log_in(proxy.address(), APP_ONLY).await {
        tries += 1;
        assert!(tries < 100, "{error}");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

/// The processes of this one, but for those that have ended and were waited for.
fn children(id: u32) -> Vec<(u32, String)> {
    let all = fs::read_dir("/proc").unwrap().filter_map(Result::ok);
    let ids = all.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let process = |child: u32| {
        let status = fs::read_to_string(format!("/proc/{child}/status")).ok()?;
        let line = |name| status.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
        (line("PPid:") == Some(&id.to_string())).then(|| line("State:").map(str::to_owned))?
    };
    ids.filter_map(|child| Some((child, process(child)?))).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_end_of_the_helper_is_noticed_and_no_call_is_lost_without_a_word() {
    let site = Site::new(LIFE).await;
    let text = fs::read_to_string(&site.file).unwrap();
    fs::write(&site.file, format!("on_attention = [\"/bin/true\"]\n{text}")).unwrap();
    let proxy = Proxy::start(gatepost(&site.file, &["run"]));
    site.log_in(proxy.address(), APP_ONLY).await.unwrap();
    let helper = children(proxy.id());
    assert_eq!(helper.len(), 1, "{helper:?}");

    let kill = |signal: &str| {
        let id = helper[0].0.to_string();
        assert!(
            std::process::Command::new("kill")
                .args([signal, id.as_str()])
                .status()
                .unwrap()
                .success()
        );
    };
    // As systemd does to all of a service when it stops: the helper waits for gatepost's end.
    kill("-TERM");
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(children(proxy.id()).len(), 1, "it has ended before gatepost");
    kill("-9");
    let said = proxy.said("the helper that runs on_attention has ended");
    for words in ["ERROR", "signal: 9", "systemctl restart gatepost"] {
        assert!(said.contains(words), "{said}");
    }
    assert_eq!(children(proxy.id()), [], "no zombie");

    // The app's secret is wrong from now on: a person is to be called, and the log is all that does.
    fs::write(folder_of(&site).join("secret"), "of-another-app").unwrap();
    site.emulator.control().revoke_access_tokens();
    let lost = proxy.said("on_attention was not run: its helper is gone");
    for words in ["ERROR", "sign_in_needed", "AADSTS7000215", "restart gatepost"] {
        assert!(lost.contains(words), "{lost}");
    }
}

/// A confinement is a thread's: this one is lost to the others.
#[test]
fn what_a_confined_thread_can_do() {
    let folder = tempfile::tempdir().unwrap();
    let state = folder.path().join("state");
    for name in ["queue", "failed"] {
        fs::create_dir_all(state.join(name)).unwrap();
    }
    let file = folder.path().join("gatepost.toml");
    fs::write(&file, "").unwrap();
    let outside = Path::new("/proc/version");
    // The other tests of this process work in the temporary folder.
    let others = std::env::temp_dir().join("any");
    let tried = std::thread::spawn(move || {
        let reach = Reach { files: vec![file.clone(), others], state: vec![state.clone()] };
        let confinement = confine(&reach);
        assert!(matches!(confinement.files, Guard::InForce(_)), "{}", confinement.files);
        assert!(matches!(confinement.calls, Guard::InForce(_)), "{}", confinement.calls);

        let denied = File::open(outside).unwrap_err();
        assert_eq!(denied.kind(), ErrorKind::PermissionDenied);
        assert!(forbids(outside) && !forbids(&file));
        assert_eq!(explain(outside, denied).to_string(), OUTSIDE);
        assert_eq!(fs::read(&file).unwrap(), b"");
        fs::read("/etc/hosts").unwrap();
        assert_eq!(fs::write(&file, "x").unwrap_err().kind(), ErrorKind::PermissionDenied);

        // What SQLite and the spool do.
        fs::write(state.join("queue/one"), "mail").unwrap();
        fs::rename(state.join("queue/one"), state.join("failed/one")).unwrap();
        fs::hard_link(state.join("failed/one"), state.join("failed/two")).unwrap();
        fs::create_dir(state.join("turns")).unwrap();
        fs::remove_file(state.join("failed/one")).unwrap();
        File::open(&state).unwrap().sync_all().unwrap();
        assert!(symlink(outside, state.join("link")).is_err());

        let error = std::process::Command::new("/bin/true").spawn().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::PermissionDenied);
    });
    tried.join().unwrap();
    // This thread began before, and is not.
    File::open(outside).unwrap();
}
