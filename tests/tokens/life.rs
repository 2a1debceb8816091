//! Tokens under paused time: when they are asked for, how often, and what a login sees of it.

use std::collections::HashSet;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use crate::support_tokens::paused::{KINDS, Kind, Reply, World, accounts};
use gatepost::oauth::TokenError;
use gatepost::protocol::Refusal;
use gatepost::vocabulary::{Protocol, Resource};
use sqlx::Connection;
use tokio::task::JoinSet;
use tokio::time::{Instant, advance};

const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// Logins that wait, half of them to each mailbox.
fn crowd(world: &World, size: usize) -> JoinSet<Result<String, Refusal>> {
    let mut logins = JoinSet::new();
    for index in 0..size {
        let (tokens, account) = (world.tokens(), Arc::clone(&world.accounts[index % 2]));
        logins.spawn(async move { Ok(tokens.get(&account).await?.token.expose().clone()) });
    }
    logins
}

/// Logins whose token `generation` was rejected upstream.
fn rejected_crowd(world: &World, size: usize) -> JoinSet<Option<Result<String, Refusal>>> {
    let rejected = world.login().unwrap();
    let mut logins = JoinSet::new();
    for _ in 0..size {
        let (tokens, account) = (world.tokens(), Arc::clone(&world.accounts[0]));
        let rejected = rejected.clone();
        logins.spawn(async move {
            let other = tokens.get_other(&account, Protocol::Imap, &rejected).await?;
            Some(other.map(|token| token.token.expose().clone()))
        });
    }
    logins
}

#[tokio::test(start_paused = true)]
async fn one_request_however_many_logins_wait() {
    for kind in KINDS {
        let mut world = World::new(kind).await;
        world.script.open(false);
        world.begin();
        let logins = crowd(&world, 1000);
        world.seconds(10).await;
        assert_eq!((world.script.count(), logins.len()), (1, 1000));
        world.script.open(true);
        for login in logins.join_all().await {
            assert_eq!(login.unwrap(), "access-1");
        }
        for other in rejected_crowd(&world, 1000).join_all().await {
            assert_eq!(other.unwrap().unwrap(), "access-2");
        }
        assert_eq!((world.script.count(), world.script.most_under_way()), (2, 1), "{kind:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_failure_is_the_answer_to_all_that_wait() {
    let mut world = World::new(Kind::Robot).await;
    world.script.usual(Reply::transient());
    world.script.open(false);
    world.begin();
    let logins = crowd(&world, 1000);
    world.seconds(15).await;
    world.script.open(true);
    for login in logins.join_all().await {
        assert!(matches!(login, Err(Refusal::UpstreamDown { .. })), "{login:?}");
    }
    assert_eq!(world.script.count(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_rejected_token_stays_with_the_others_until_there_is_a_new_one() {
    let world = World::started(Kind::Robot, Reply::life(3600)).await;
    world.script.usual(Reply::transient());
    for other in rejected_crowd(&world, 20).join_all().await {
        assert!(matches!(other, Some(Err(Refusal::UpstreamDown { .. }))), "{other:?}");
    }
    assert_eq!(world.login_to(1).unwrap().token.expose(), "access-1");
    assert_eq!(world.script.count(), 2);
    let (tokens, account) = (world.tokens(), &world.accounts[0]);
    tokens.give_up(account, Protocol::Imap);
    let rejected = world.login().unwrap();
    assert!(tokens.get_other(account, Protocol::Imap, &rejected).await.is_none());
    world.script.usual(Reply::life(3600));
    world.seconds(6).await;
    let other = tokens.get_other(account, Protocol::Imap, &rejected).await.unwrap().unwrap();
    assert_eq!(other.token.expose(), "access-3");
}

#[tokio::test(start_paused = true)]
async fn renewed_before_half_of_a_life_or_when_the_endpoint_wants() {
    let table: [(u64, Option<u64>, Range<f64>); 6] = [
        (3600, None, 0.45..0.49),
        (5400, None, 0.45..0.49),
        (86_400, None, 0.45..0.49),
        (86_400, Some(43_200), 0.45..0.49),
        (86_400, Some(21_600), 0.25..0.251),
        (3600, Some(360), 0.1..0.102),
    ];
    for (life, refresh_in, wanted) in table {
        let reply = Reply::Token(seconds(life), refresh_in.map(seconds));
        let world = World::started(Kind::Person, reply).await;
        let step = seconds(life) / 1000;
        world.pass(seconds(life).mul_f64(wanted.start) - step, step * 10, || {}).await;
        assert_eq!(world.script.count(), 1, "{life} {refresh_in:?}");
        world.pass(seconds(life).mul_f64(wanted.end - wanted.start) + step, step, || {}).await;
        let asked = world.script.asked();
        assert!(asked.len() > 1, "{life} {refresh_in:?}");
        let part = (asked[1].at - asked[0].at).as_secs_f64() / life as f64;
        assert!(part >= wanted.start && part <= wanted.end + 0.001, "{part} of {life}");
        assert_eq!(asked[1].refresh_token.as_deref(), Some("refresh-1"));
    }
}

/// The latest moment at which an hour's outage may begin: the token of then was renewed at 0.475 lives at the
/// earliest, and itself begins to be renewed as much later.
fn latest_outage(life: f64) -> f64 {
    if 0.525 * life > 3600.0 { 0.94 * life } else { (1.475 * life - 3600.0).min(0.94 * life) }
}

#[tokio::test(start_paused = true)]
async fn an_outage_of_an_hour_after_half_of_a_life_goes_unnoticed() {
    for life in [3700_u64, 4500, 5400, 86_400] {
        for part in [0.0, 0.5, 1.0] {
            let world = World::started(Kind::Person, Reply::life(life)).await;
            let (first, last) = (life as f64 / 2.0, latest_outage(life as f64));
            let begin = Duration::from_secs_f64(first + part * (last - first));
            world.pass(begin, seconds(life / 100), || {}).await;
            world.script.usual(Reply::transient());
            let requests = world.script.count();
            for minute in 0..60 {
                world.pass(MINUTE, MINUTE / 3, || {}).await;
                let login = world.patient_login().await;
                assert!(login.is_ok(), "life {life}: minute {minute} after {begin:?}: {login:?}");
            }
            world.script.usual(Reply::life(life));
            world.pass(2 * MINUTE, seconds(10), || assert!(world.patient())).await;
            let tries = world.script.count() - requests;
            assert!(tries <= 3600 / 15 + 10, "{tries} tries in an hour");
        }
    }
}

/// What the endpoint may say that passes.
fn passing() -> Vec<TokenError> {
    let transient = |reason: &str, wait: Option<u64>| TokenError::Transient {
        reason: reason.into(),
        retry_after: wait.map(seconds),
        trace: None,
    };
    vec![transient("down", None), transient("throttled", Some(0)), transient("busy", Some(120))]
}

#[tokio::test(start_paused = true)]
async fn transient_errors_keep_the_refresh_token_and_heal() {
    for error in passing() {
        let mut world = World::new(Kind::Person).await;
        world.script.next(std::iter::repeat_n(Reply::Fail(error.clone()), 3));
        world.start().await;
        let mut refused = 0;
        world
            .pass(seconds(400), seconds(1), || match world.login() {
                Ok(_) => {}
                Err(None | Some(Refusal::UpstreamDown { .. })) => refused += 1,
                Err(Some(other)) => panic!("{other:?}"),
            })
            .await;
        let TokenError::Transient { retry_after, .. } = error else { panic!() };
        let asked = world.script.asked();
        assert!(refused > 0 && asked.len() == 4, "{refused}, {asked:?}");
        for pair in asked.windows(2) {
            assert_eq!(pair[1].refresh_token.as_deref(), Some("refresh-0"));
            let pause = pair[1].at - pair[0].at;
            let least = retry_after.unwrap_or_default().max(Duration::from_millis(500));
            assert!(pause >= least && pause <= least + seconds(4), "{pause:?}");
        }
        assert_eq!(world.login().unwrap().token.expose(), "access-4");
        assert_eq!(world.refresh_token().await.as_deref(), Some("refresh-4"));
        assert!(world.command.fault(&world.key(), Resource::Mail).await.unwrap().is_none());
    }
}

#[tokio::test(start_paused = true)]
async fn a_permanent_error_stops_all_requests_until_a_new_sign_in() {
    for told in [true, false] {
        let world = World::started(Kind::Person, Reply::life(3600)).await;
        world.script.usual(Reply::permanent());
        world.pass(HOUR - seconds(5), seconds(15), || assert!(world.patient())).await;
        let login = world.patient_login().await;
        assert_eq!(login.as_deref(), Ok("access-1"), "it goes on being used until its end");
        assert!(world.sign_in_is_needed().await);
        world.pass(HOUR, MINUTE, || drop(world.login())).await;
        let refused = world.patient_login().await.unwrap_err();
        assert!(matches!(refused, Some(Refusal::SignInNeeded { .. })), "{refused:?}");
        assert_eq!(world.script.count(), 2);
        world.script.usual(Reply::life(3600));
        world.sign_in(50, Duration::ZERO).await;
        match told {
            true => world.tokens().store_changed(),
            // A notice that is lost costs no more than this.
            false => advance(seconds(31)).await,
        }
        world.settle().await;
        world.seconds(1).await;
        assert_eq!(world.login().unwrap().token.expose(), "access-3");
        assert_eq!(world.script.asked()[2].refresh_token.as_deref(), Some("refresh-50"));
        assert!(!world.sign_in_is_needed().await);
    }
}

/// What somebody does while a renewal with the former sign-in is under way.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Meanwhile {
    SignIn,
    SignOut,
}

#[tokio::test(start_paused = true)]
async fn a_slow_renewal_does_not_undo_what_was_done_meanwhile() {
    let replies = [Reply::life(3600), Reply::transient(), Reply::permanent()];
    for (meanwhile, reply, told) in [Meanwhile::SignIn, Meanwhile::SignOut]
        .into_iter()
        .flat_map(|meanwhile| replies.clone().map(|reply| (meanwhile, reply)))
        .flat_map(|(meanwhile, reply)| [true, false].map(|told| (meanwhile, reply.clone(), told)))
    {
        let world = World::started(Kind::Person, Reply::life(3600)).await;
        world.script.next([reply.clone()]);
        world.script.open(false);
        world.seconds(1800).await;
        assert_eq!(world.script.count(), 2);
        match meanwhile {
            Meanwhile::SignIn => world.sign_in(50, HOUR).await,
            Meanwhile::SignOut => {
                assert!(world.command.delete_token(&world.key(), None).await.unwrap())
            }
        }
        if told {
            world.tokens().store_changed();
            world.settle().await;
            // It counts at once, the request may hang as long as it will.
            let login = world.login().map(|token| token.token.expose().clone());
            let wanted =
                if meanwhile == Meanwhile::SignIn { Ok("access-50".into()) } else { Err(None) };
            assert_eq!(login, wanted, "{meanwhile:?} {reply:?}");
        }
        world.script.open(true);
        world.seconds(60).await;
        let (login, stored) = (world.patient_login().await, world.refresh_token().await);
        let needed = world.sign_in_is_needed().await;
        let case = format!("{meanwhile:?}, {reply:?}, told {told}: {login:?} {stored:?}");
        match meanwhile {
            Meanwhile::SignIn => {
                assert!(login == Ok("access-50".into()) && !needed, "{case}");
                assert_eq!(stored.as_deref(), Some("refresh-50"), "{case}");
            }
            Meanwhile::SignOut => {
                assert!(matches!(login, Err(Some(Refusal::SignInNeeded { .. }))), "{case}");
                assert!(stored.is_none() && needed, "{case}");
            }
        }
        assert_eq!(world.script.count(), 2, "{case}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_refresh_token_is_on_disk_before_its_access_token_is_used() {
    let world = World::started(Kind::Person, Reply::life(60)).await;
    let mut last = String::new();
    let mut changes = 0;
    let end = Instant::now() + 10 * MINUTE;
    while Instant::now() < end {
        advance(Duration::from_millis(250)).await;
        // One round trip at a time: the store is read between any two steps of the renewal.
        world.store.version().await.unwrap();
        let Ok(token) = world.login() else { continue };
        let token = token.token.expose().replace("access", "refresh");
        changes += u32::from(token != last);
        let number = |token: &str| token.rsplit('-').next().unwrap().parse::<u32>().unwrap();
        let stored = world.refresh_token().await.unwrap();
        assert!(number(&stored) >= number(&token), "{token} is used, {stored} is stored");
        last = token;
    }
    assert!(changes > 15, "only {changes} tokens");
}

#[tokio::test(start_paused = true)]
async fn restarts() {
    for kind in KINDS {
        let mut world = World::started(kind, Reply::life(3600)).await;
        world.restart().await;
        world.seconds(600).await;
        assert_eq!(world.login().unwrap().token.expose(), "access-1");
        assert_eq!(world.script.count(), 1, "a valid token is used again");

        world.script.open(false);
        advance(HOUR).await;
        world.restart_soon().await;
        let logins = crowd(&world, 32);
        world.seconds(10).await;
        world.script.open(true);
        for login in logins.join_all().await {
            assert_eq!(login.unwrap(), "access-2");
        }
        assert_eq!(world.script.count(), 2, "an expired token makes one request");
    }
}

#[tokio::test(start_paused = true)]
async fn a_token_for_another_registration_is_dropped_but_not_its_refresh_token() {
    for kind in KINDS {
        for (client_id, scope) in [("two", "mail"), ("one", "mail.read")] {
            let mut world = World::started(kind, Reply::life(3600)).await;
            world.accounts = accounts(kind, client_id, scope);
            world.restart().await;
            assert_eq!(world.login().unwrap().token.expose(), "access-2");
            let refresh_token = world.script.asked()[1].refresh_token.clone();
            assert_eq!(refresh_token, (kind == Kind::Person).then(|| "refresh-1".into()));
        }
    }
}

#[tokio::test(start_paused = true)]
async fn the_clock_is_set() {
    let an_hour = 3_600_000;
    for (by, name) in [(2 * an_hour, "forward"), (-an_hour, "back")] {
        let world = World::started(Kind::Person, Reply::life(5400)).await;
        world.seconds(60).await;
        world.clock.set_off(by);
        assert_eq!(world.patient_login().await.as_deref(), Ok("access-2"), "set {name}");
        assert_eq!(world.script.count(), 2);
        // And right again.
        world.clock.set_off(-by);
        let login = world.patient_login().await;
        assert_eq!(login.as_deref(), Ok(if by > 0 { "access-3" } else { "access-2" }), "{name}");
    }
    // A little back is no reason for anything.
    let world = World::started(Kind::Person, Reply::life(5400)).await;
    world.clock.set_off(-60_000);
    assert_eq!(world.login().unwrap().token.expose(), "access-1");
    // Tries go on after it was set back during an outage.
    let mut world = World::new(Kind::Robot).await;
    world.script.usual(Reply::transient());
    world.start().await;
    world.clock.set_off(-an_hour);
    world.script.usual(Reply::life(3600));
    world.seconds(5).await;
    assert_eq!(world.login().unwrap().token.expose(), "access-2");
}

#[tokio::test(start_paused = true)]
async fn nothing_makes_requests_without_a_pause() {
    let token =
        |life, refresh_in: Option<u64>| Reply::Token(seconds(life), refresh_in.map(seconds));
    let retry = |wait| TokenError::Transient {
        reason: "0".into(),
        retry_after: Some(seconds(wait)),
        trace: None,
    };
    let replies = [token(0, None), token(1, None), token(3600, Some(0)), Reply::Fail(retry(0))];
    for kind in KINDS {
        for reply in &replies {
            let mut world = World::new(kind).await;
            world.script.usual(reply.clone());
            world.start().await;
            let step = Duration::from_millis(100);
            world.pass(MINUTE, step, || (0..5).for_each(|_| drop(world.login()))).await;
            let requests = world.script.count();
            // With a life of one second: the background's and, as it ends, one for a login.
            assert!((20..=125).contains(&requests), "{kind:?} {reply:?}: {requests} in a minute");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_login_does_not_wait_while_a_usable_token_exists() {
    let world = World::started(Kind::Person, Reply::life(3600)).await;
    world.script.open(false);
    // The endpoint hangs from the first renewal on.
    world.pass(seconds(3299), seconds(30), || assert!(world.patient())).await;
    world.seconds(100).await;
    assert_eq!(world.login().unwrap_err(), None, "for a better token it waits");
    let (tokens, account) = (world.tokens(), Arc::clone(&world.accounts[0]));
    let login = tokio::spawn(async move { tokens.get(&account).await });
    world.pass(seconds(3), seconds(1), || {}).await;
    assert!(login.is_finished(), "but not for long");
    assert_eq!(login.await.unwrap().unwrap().token.expose(), "access-1");
}

#[tokio::test(start_paused = true)]
async fn a_damaged_row_is_mended_by_a_new_sign_in() {
    for kind in KINDS {
        let mut world = World::started(kind, Reply::life(3600)).await;
        world.execute("UPDATE token SET sealed = x'00'").await;
        world.restart().await;
        if kind == Kind::Person {
            let refused = world.patient_login().await.unwrap_err();
            assert!(matches!(refused, Some(Refusal::SignInNeeded { .. })), "{refused:?}");
            assert!(world.sign_in_is_needed().await);
            world.sign_in(50, Duration::ZERO).await;
            world.seconds(60).await;
        }
        assert_eq!(world.login().unwrap().token.expose(), "access-2");
    }
}

/// A trigger does to SQLite what a full disk does: this one table can't be written.
const FULL: &str = "CREATE TRIGGER full BEFORE UPDATE ON token
                    BEGIN SELECT RAISE(FAIL, 'database or disk is full'); END";

#[tokio::test(start_paused = true)]
async fn nothing_is_lost_while_the_disk_is_full() {
    for kind in KINDS {
        let world = World::started(kind, Reply::life(3600)).await;
        world.execute(FULL).await;
        world.pass(seconds(3000), seconds(10), || assert!(world.patient())).await;
        assert_eq!(world.script.count(), 2, "the token is kept, not asked for again");
        let used = world.login().unwrap();
        if kind == Kind::Robot {
            assert_eq!(used.token.expose(), "access-2", "there is nothing that could be lost");
            continue;
        }
        assert_eq!(used.token.expose(), "access-1", "its refresh token is not on disk");
        assert_eq!(world.refresh_token().await.as_deref(), Some("refresh-1"));
        world.execute("DROP TRIGGER full").await;
        world.seconds(31).await;
        assert_eq!(world.login().unwrap().token.expose(), "access-2");
        assert_eq!(world.refresh_token().await.as_deref(), Some("refresh-2"));
        assert_eq!(world.script.count(), 2);
    }
}

/// For longer than several tokens live, and then it is on disk.
#[tokio::test(start_paused = true)]
async fn no_login_fails_however_long_the_disk_is_full() {
    let world = World::started(Kind::Person, Reply::life(3600)).await;
    world.execute(FULL).await;
    let mut changes = HashSet::new();
    let end = Instant::now() + 10 * HOUR;
    while Instant::now() < end {
        world.pass(MINUTE, seconds(20), || {}).await;
        changes.insert(world.patient_login().await.expect("a login"));
    }
    assert_eq!(world.refresh_token().await.as_deref(), Some("refresh-1"));
    let asked = world.script.asked();
    for (number, one) in asked.iter().enumerate() {
        assert_eq!(one.refresh_token, Some(format!("refresh-{number}")), "each is used once");
    }
    // Renewed at half of a life, served at the end of the former's.
    assert!((18..=24).contains(&asked.len()), "{} requests", asked.len());
    assert!((9..=24).contains(&changes.len()), "{} tokens", changes.len());
    world.execute("DROP TRIGGER full").await;
    world.seconds(31).await;
    let last = Some(format!("refresh-{}", world.script.count()));
    assert_eq!(world.refresh_token().await, last);
    world.seconds(7200).await;
    assert!(world.patient_login().await.is_ok());
}

/// A process that starts with an ended token on a full disk has nothing else to serve.
#[tokio::test(start_paused = true)]
async fn a_first_token_is_served_from_memory_while_the_disk_is_full() {
    let mut world = World::new(Kind::Person).await;
    world.execute(FULL).await;
    world.start().await;
    assert_eq!(world.patient_login().await.as_deref(), Ok("access-1"));
    assert_eq!(world.refresh_token().await.as_deref(), Some("refresh-0"));
    world.execute("DROP TRIGGER full").await;
    world.seconds(31).await;
    assert_eq!(world.refresh_token().await.as_deref(), Some("refresh-1"));
    assert_eq!(world.script.count(), 1);
}

/// The upstream rejects what is served; what is held back is another one.
#[tokio::test(start_paused = true)]
async fn a_rejected_token_is_replaced_by_what_is_in_memory() {
    let world = World::started(Kind::Person, Reply::life(3600)).await;
    world.execute(FULL).await;
    world.seconds(1900).await;
    assert_eq!(
        (world.login().unwrap().token.expose().as_str(), world.script.count()),
        ("access-1", 2)
    );
    for other in rejected_crowd(&world, 50).join_all().await {
        assert_eq!(other.unwrap().unwrap(), "access-2");
    }
    assert_eq!(world.script.count(), 2);
}

/// What could not be written is written when gatepost stops, if it can be then.
#[tokio::test(start_paused = true)]
async fn a_stop_writes_what_was_in_memory_alone() {
    let mut world = World::started(Kind::Person, Reply::life(3600)).await;
    world.execute(FULL).await;
    world.seconds(1900).await;
    assert_eq!(world.script.count(), 2);
    world.execute("DROP TRIGGER full").await;
    world.restart().await;
    assert_eq!(world.refresh_token().await.as_deref(), Some("refresh-2"));
    assert_eq!(world.login().unwrap().token.expose(), "access-2");
}

/// Somebody restores a backup of the store: the refresh token in it was used up since.
#[tokio::test(start_paused = true)]
async fn an_older_sign_in_of_a_backup_does_not_replace_what_is_in_memory() {
    let world = World::started(Kind::Person, Reply::life(3600)).await;
    world.execute("CREATE TABLE backup AS SELECT * FROM token").await;
    world.seconds(4000).await;
    let used = world.login().unwrap().token.expose().clone();
    assert_eq!(used, "access-3");
    world
        .execute("UPDATE token SET (revision, sealed) = (SELECT revision, sealed FROM backup)")
        .await;
    world.tokens().store_changed();
    world.seconds(5).await;
    assert_eq!(world.login().unwrap().token.expose(), "access-3");
    assert_eq!(world.refresh_token().await.as_deref(), Some("refresh-3"));
    world.seconds(1900).await;
    assert_eq!(world.script.asked()[3].refresh_token.as_deref(), Some("refresh-3"));
}

#[tokio::test(start_paused = true)]
async fn an_empty_store_does_not_replace_what_is_in_memory() {
    let world = World::started(Kind::Person, Reply::life(3600)).await;
    world.execute("DELETE FROM token").await;
    world.tokens().store_changed();
    world.seconds(5).await;
    assert_eq!(world.login().unwrap().token.expose(), "access-1");
    assert_eq!(world.refresh_token().await.as_deref(), Some("refresh-1"));
}

#[tokio::test(start_paused = true)]
async fn an_outage_of_any_length_costs_few_requests_and_heals_with_the_first_login() {
    for outage in [5 * MINUTE, 6 * HOUR, 72 * HOUR] {
        let world = World::started(Kind::Person, Reply::life(3600)).await;
        world.seconds(1600).await;
        world.script.usual(Reply::transient());
        let before = world.script.count();
        world.pass(outage, outage / 5000 + seconds(10), || {}).await;
        let tries = world.script.count() - before;
        let most = usize::try_from(outage.as_secs()).unwrap() / 150 + 15;
        assert!(tries <= most, "{tries} tries in {outage:?}");
        world.script.usual(Reply::life(3600));
        // The background may have tried a moment ago: a login is not in vain after the pause.
        world.seconds(3).await;
        world.script.open(false);
        let logins = crowd(&world, 500);
        world.seconds(1).await;
        world.script.open(true);
        for login in logins.join_all().await {
            login.unwrap_or_else(|refusal| panic!("after {outage:?}: {refusal:?}"));
        }
        assert!(world.script.count() - before - tries <= 1, "500 logins are one request");
    }
}

/// Clients that come all the time learn within seconds that the outage is over, and are no load before.
#[tokio::test(start_paused = true)]
async fn logins_in_an_outage_are_no_load_and_hear_of_its_end_at_once() {
    let mut world = World::new(Kind::Robot).await;
    world.script.usual(Reply::transient());
    world.start().await;
    world.pass(10 * MINUTE, seconds(1), || (0..5).for_each(|_| drop(world.login()))).await;
    let tries = world.script.count();
    assert!(tries <= 600 / 2 + 20, "{tries} tries in ten minutes");
    world.script.usual(Reply::life(3600));
    world.pass(seconds(4), seconds(1), || drop(world.login())).await;
    assert!(world.login().is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_sign_in_is_not_overwritten_by_what_waited_for_the_disk() {
    let world = World::started(Kind::Person, Reply::life(3600)).await;
    world.execute(FULL).await;
    world.seconds(1800).await;
    world.execute("DROP TRIGGER full").await;
    world.sign_in(50, HOUR).await;
    world.tokens().store_changed();
    world.seconds(60).await;
    assert_eq!(world.login().unwrap().token.expose(), "access-50");
    assert_eq!(world.refresh_token().await.as_deref(), Some("refresh-50"));
}

/// While another process writes (SQLite waits five real seconds for it) the new token is not used.
#[tokio::test(start_paused = true)]
async fn nothing_is_lost_while_the_store_is_locked() {
    let world = World::started(Kind::Person, Reply::life(3600)).await;
    let lock = world.lock().await;
    advance(seconds(1770)).await;
    while world.script.count() < 2 {
        tokio::task::yield_now().await;
    }
    // The write waits for the lock, gives up, and is tried again.
    world.settle().await;
    assert_eq!(world.login().unwrap().token.expose(), "access-1");
    assert_eq!(world.refresh_token().await.as_deref(), Some("refresh-1"));
    lock.close().await.unwrap();
    world.seconds(5).await;
    assert_eq!(world.login().unwrap().token.expose(), "access-2");
    assert_eq!(world.refresh_token().await.as_deref(), Some("refresh-2"));
    assert_eq!(world.script.count(), 2);
}
