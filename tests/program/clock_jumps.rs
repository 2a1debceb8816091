//! The clock is set, or the machine has slept: tokens are judged right at once, and nothing is asked for in a loop.
//!
//! Under paused time, and once with the program itself under faketime (Debian's package `faketime`; ignored, since it
//! takes a minute).

use std::io::Write;
use std::time::Duration;

use crate::support_tokens::paused::{KINDS, Kind, Reply, World};
use crate::support_tokens::process::{Proxy, eventually};
use crate::support_tokens::{APP_ONLY, DELEGATED, Site};
use gatepost::protocol::Refusal;
use gatepost::vocabulary::Cause;
use tokio::time::sleep;

const HOUR: i64 = 3_600_000;
const YEAR: i64 = 365 * 24 * HOUR;

#[tokio::test(start_paused = true)]
async fn after_a_jump_forward_the_next_login_gets_a_new_token() {
    for kind in KINDS {
        for by in [2 * HOUR, YEAR] {
            let world = World::started(kind, Reply::life(3600)).await;
            world.seconds(60).await;
            world.clock.set_off(by);
            // No time passes: the task sleeps on, and the login wakes it.
            assert_eq!(world.patient_login().await.as_deref(), Ok("access-2"), "{kind:?} {by}");
            world.seconds(600).await;
            assert_eq!(world.script.count(), 2, "{kind:?} {by}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_token_from_the_future_is_neither_believed_nor_renewed_in_a_loop() {
    for kind in KINDS {
        let since_1970 = -World::new(kind).await.clock.now().as_millis();
        for by in [-2 * HOUR, -YEAR, since_1970] {
            let world = World::started(kind, Reply::life(3600)).await;
            world.seconds(60).await;
            world.clock.set_off(by);
            assert_eq!(world.patient_login().await.as_deref(), Ok("access-2"), "{kind:?} {by}");
            world.seconds(1500).await;
            assert_eq!(world.script.count(), 2, "{kind:?} {by}");
            world.seconds(600).await;
            assert_eq!(world.script.count(), 3, "renewal goes on: {kind:?} {by}");
            // Right again: what was issued in 1970 has ended, what a year ago was issued too.
            world.clock.set_off(-by);
            assert_eq!(world.patient_login().await.as_deref(), Ok("access-4"), "{kind:?} {by}");
            world.seconds(600).await;
            assert_eq!(world.script.count(), 4, "{kind:?} {by}");
        }
    }
}

/// A machine without a clock of its own starts in 1970: its store has tokens of a later time.
#[tokio::test(start_paused = true)]
async fn a_start_in_1970() {
    for kind in KINDS {
        let mut world = World::started(kind, Reply::life(3600)).await;
        let since_1970 = world.clock.now().as_millis();
        world.clock.set_off(-since_1970);
        world.restart().await;
        assert_eq!(world.patient_login().await.as_deref(), Ok("access-2"), "{kind:?}");
        world.seconds(60).await;
        assert_eq!(world.script.count(), 2, "{kind:?}");
        world.clock.set_off(since_1970);
        assert_eq!(world.patient_login().await.as_deref(), Ok("access-3"), "{kind:?}");
    }
}

/// Pauses that were begun before a sleep of the machine mean nothing after it.
#[tokio::test(start_paused = true)]
async fn an_outage_before_a_sleep_does_not_delay_what_comes_after_it() {
    let mut world = World::new(Kind::Robot).await;
    let wait = gatepost::oauth::TokenError::Transient {
        reason: "busy".into(),
        retry_after: Some(Duration::from_secs(1800)),
        trace: None,
    };
    world.script.usual(Reply::Fail(wait));
    world.start().await;
    world.script.usual(Reply::life(3600));
    assert!(world.patient_login().await.is_err(), "it was asked to wait");
    world.clock.set_off(8 * HOUR);
    assert_eq!(world.patient_login().await.as_deref(), Ok("access-2"));
}

/// An assertion that was signed with the wrong time is refused as if the registration were wrong.
#[tokio::test(start_paused = true)]
async fn a_refusal_of_a_wrong_time_ends_with_the_wrong_time() {
    let mut world = World::new(Kind::Robot).await;
    let refused = gatepost::oauth::TokenError::permanent("AADSTS700024", Cause::Registration);
    world.script.usual(Reply::Fail(refused));
    world.clock.set_off(-YEAR);
    world.start().await;
    world.seconds(30).await;
    let refusal = world.patient_login().await.unwrap_err();
    assert!(matches!(refusal, Some(Refusal::AppRefused { .. })), "{refusal:?}");
    assert_eq!(world.script.count(), 1, "it is not tried again at once");
    world.script.usual(Reply::life(3600));
    world.clock.set_off(YEAR);
    // Nobody need come: it is looked at within half a minute.
    world.seconds(35).await;
    assert_eq!(world.login().unwrap().token.expose(), "access-2");
}

/// A sign-in that has ended stays so, whatever the clock says.
#[tokio::test(start_paused = true)]
async fn a_sign_in_that_has_ended_is_not_tried_again_because_of_a_jump() {
    let world = World::started(Kind::Person, Reply::life(3600)).await;
    world.script.usual(Reply::permanent());
    world.seconds(1800).await;
    assert_eq!(world.script.count(), 2);
    for _ in 0..5 {
        world.clock.set_off(2 * HOUR);
        world.seconds(60).await;
    }
    assert_eq!(world.script.count(), 2);
}

/// The program itself, whose wall clock jumps while it runs.
#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs Debian's package faketime, and takes half a minute"]
async fn the_program_goes_on_through_all_jumps() {
    let library = std::fs::read_dir("/usr/lib")
        .unwrap()
        .filter_map(|folder| Some(folder.ok()?.path().join("faketime/libfaketimeMT.so.1")))
        .find(|path| path.exists())
        .expect("libfaketimeMT.so.1: apt-get install faketime");
    let site = Site::new(Duration::from_secs(3600)).await;
    // The library reads its file in the process, again and again.
    let text = std::fs::read_to_string(&site.file).unwrap();
    std::fs::write(&site.file, format!("confine = false\n{text}")).unwrap();
    site.sign_in_with_an_expired_token(DELEGATED).await;
    let time = tempfile::NamedTempFile::new().unwrap();
    let set = |offset: &str| {
        let mut file = std::fs::File::create(time.path()).unwrap();
        writeln!(file, "{offset}").unwrap();
    };
    set("+0");
    let mut command = Proxy::command(&site);
    command
        .env("LD_PRELOAD", &library)
        .env("FAKETIME_TIMESTAMP_FILE", time.path())
        .env("FAKETIME_NO_CACHE", "1")
        .env("FAKETIME_DONT_FAKE_MONOTONIC", "1");
    let proxy = Proxy::start_command(command).await;
    for mailbox in [DELEGATED, APP_ONLY] {
        site.log_in(proxy.address, mailbox).await.unwrap();
    }
    let control = site.emulator.control();
    let mut requests = control.token_requests();
    // 20,000 days back is 1972. Not far forward: the emulator's certificate ends.
    for offset in ["+2h", "-2h", "-365d", "+0", "-20000d", "+0", "+20d", "+0"] {
        set(offset);
        for mailbox in [DELEGATED, APP_ONLY] {
            site.log_in(proxy.address, mailbox).await.unwrap_or_else(|error| {
                panic!("{offset}: {mailbox}: {error}: {}", proxy.log());
            });
        }
        let now = control.token_requests();
        assert_eq!(now - requests, 2, "{offset}: each was asked for once, {}", proxy.log());
        sleep(Duration::from_secs(2)).await;
        requests = control.token_requests();
        assert_eq!(now, requests, "{offset}: and not again");
    }
    eventually("the jump in the log", || proxy.log().contains("the clock has jumped")).await;
    proxy.stop().await;
}
