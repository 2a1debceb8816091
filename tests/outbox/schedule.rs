//! Outages, waits and orders, under paused time.

use std::collections::BTreeMap;
use std::time::Duration;

use gatepost::outbox::Outcome;
use gatepost::vocabulary::Way;
use tokio::time::sleep;

use crate::world::{JANE, SALES, TO, World, held, later, minutes, taken};

/// Times of attempts in seconds since the first one.
fn seconds(world: &World) -> Vec<u64> {
    let attempts = world.provider.attempts();
    attempts.iter().map(|it| it.at.saturating_since(attempts[0].at).as_secs()).collect()
}

/// Three devices send every twenty minutes, whatever happens behind gatepost.
#[tokio::test(start_paused = true)]
async fn a_day_without_the_provider() {
    let world = World::paused();
    let (start, hour) = (world.clock.now(), minutes(60));
    let (from, until) = (start.plus(hour), start.plus(25 * hour));
    world.provider.says(
        move |it| {
            if it.at >= from && it.at < until { held(None) } else { taken(it) }
        },
    );
    let mut sent: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for number in 0..26 * 3 {
        for device in ["a", "b", "c"] {
            let subject = format!("{device}{number}");
            world.put(device, &subject).await;
            sent.entry(device).or_default().push(subject);
            sleep(Duration::from_secs(7)).await;
        }
        sleep(minutes(20) - Duration::from_secs(21)).await;
    }
    world.drained(2 * hour).await;
    let taken = world.provider.taken_at();
    assert_eq!(taken.len(), 26 * 3 * 3, "each once");
    for (device, subjects) in sent {
        let got: Vec<_> =
            taken.iter().map(|(subject, ..)| subject).filter(|it| it.starts_with(device)).collect();
        assert_eq!(got, subjects.iter().collect::<Vec<_>>());
    }
    let late =
        taken.iter().filter(|(.., at)| *at >= until).map(|(.., at)| at.saturating_since(until));
    let back = late.clone().min().unwrap();
    assert!(back <= hour + minutes(1), "the first after {back:?}");
    let arrived_before = taken.iter().filter(|(subject, ..)| {
        let number: u64 = subject[1..].parse().unwrap();
        number < 25 * 3
    });
    let last = arrived_before.map(|(.., at)| at.saturating_since(until)).max().unwrap();
    assert!(last <= 2 * hour, "the last of those that waited after {last:?}");
    let tries =
        world.provider.attempts().iter().filter(|it| it.at >= from && it.at < until).count();
    assert!((24..=40).contains(&tries), "{tries} attempts in a day without a provider");
}

#[tokio::test(start_paused = true)]
async fn a_held_mailbox_follows_the_schedule_and_the_others_go_on() {
    let world = World::paused();
    world
        .provider
        .says(|it| if it.mailbox == JANE && it.number < 8 { held(None) } else { taken(it) });
    world.put("a", "1").await;
    world.put("a", "2").await;
    sleep(minutes(2)).await;
    world.put("b", "3").await;
    let before = world.provider.attempts().len();
    world.put_for(SALES, "a", "4", &[TO]).await;
    sleep(Duration::from_secs(1)).await;
    assert_eq!(world.provider.subjects(), ["4"]);
    assert_eq!(world.provider.attempts().len(), before + 1, "nothing of Jane's overtakes");
    let entry = &world.waiting().await[0];
    assert_eq!(entry.progress.last_error.as_deref(), Some("no connection"));
    assert_eq!((entry.progress.next_try, entry.progress.attempts), (None, 0));
    world.drained(minutes(400)).await;
    let jane: Vec<u64> = world
        .provider
        .attempts()
        .iter()
        .filter(|it| it.mailbox == JANE)
        .map(|it| it.at.saturating_since(world.provider.attempts()[0].at).as_secs() / 60)
        .collect();
    // 1, 5, 15, then 60 minutes each, and all at once
    assert_eq!(jane[..8], [0, 1, 6, 21, 81, 141, 201, 261]);
    assert!(jane[8..].iter().all(|minute| *minute == 261), "{jane:?}");
}

#[tokio::test(start_paused = true)]
async fn the_providers_own_wait_is_kept() {
    let world = World::paused();
    let wait = Some(Duration::from_secs(600));
    world.provider.says(move |it| if it.number == 0 { held(wait) } else { taken(it) });
    world.put("a", "1").await;
    world.put("a", "2").await;
    world.outbox.wake();
    world.drained(minutes(15)).await;
    assert!(seconds(&world)[1..].iter().all(|at| (600..602).contains(at)), "{:?}", seconds(&world));
    assert_eq!(world.provider.subjects(), ["1", "2"]);
}

#[tokio::test(start_paused = true)]
async fn somebody_who_has_acted_need_not_wait() {
    let world = World::paused();
    world.provider.says(|it| if it.number < 5 { held(None) } else { taken(it) });
    world.put("a", "1").await;
    world.tried(5, minutes(200)).await;
    world.outbox.wake();
    world.drained(minutes(1)).await;
    assert_eq!(world.provider.subjects(), ["1"]);
}

/// A verdict about one message is that message's own.
#[tokio::test(start_paused = true)]
async fn one_message_that_waits_is_passed() {
    let world = World::paused();
    world
        .provider
        .says(|it| if it.subject == "1" && it.number < 4 { later(it) } else { taken(it) });
    for subject in ["1", "2", "3"] {
        world.put("a", subject).await;
    }
    world.tried(3, minutes(1)).await;
    assert_eq!(world.provider.subjects(), ["2", "3"]);
    let progress = world.waiting().await.remove(0).progress;
    assert_eq!((progress.attempts, progress.last_error.as_deref()), (1, Some("451 4.7.1 not now")));
    let wait = progress.next_try.unwrap().saturating_since(world.clock.now());
    assert!(wait > Duration::from_secs(55) && wait <= Duration::from_secs(60), "{wait:?}");
    world.drained(minutes(10)).await;
    assert_eq!(world.provider.subjects(), ["2", "3", "1"]);
    assert_eq!(seconds(&world), [0, 0, 0, 60, 360]);
}

/// Lanes go beside each other, up to the connections that the mailbox may have.
#[tokio::test(start_paused = true)]
async fn devices_do_not_wait_for_each_other() {
    let world = World::paused();
    *world.provider.delay.lock().unwrap() = Duration::from_secs(10);
    for device in ["a", "b", "c", "d"] {
        for number in 0..2 {
            world.put(device, &format!("{device}{number}")).await;
        }
    }
    world.drained(minutes(5)).await;
    let starts = seconds(&world);
    assert_eq!(starts.iter().filter(|at| **at == 0).count(), 3, "{starts:?}");
    let attempts = world.provider.attempts();
    for (number, attempt) in attempts.iter().enumerate() {
        let beside = attempts.iter().filter(|it| {
            let apart = |a: &crate::world::Attempt, b| a.at.saturating_since(b);
            apart(it, attempt.at) < Duration::from_secs(10)
                && apart(attempt, it.at) < Duration::from_secs(10)
                && it.subject[..1] == attempt.subject[..1]
        });
        assert_eq!(beside.count(), 1, "{number}: two of one device at once: {attempts:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn the_next_way_is_taken_when_one_is_closed() {
    let world = World::paused();
    let shut = |_: &_| Outcome::Closed {
        said: "535 5.7.139 SmtpClientAuthentication is disabled for the Tenant".into(),
    };
    world.provider.says(move |it| if it.way == Way::Smtp { shut(it) } else { taken(it) });
    let ways =
        |world: &World| world.provider.attempts().iter().map(|it| it.way).collect::<Vec<_>>();
    world.put("a", "1").await;
    world.drained(minutes(1)).await;
    world.put("a", "2").await;
    world.drained(minutes(1)).await;
    assert_eq!(ways(&world), [Way::Smtp, Way::Graph, Way::Graph], "it is remembered");
    sleep(minutes(61)).await;
    world.put("a", "3").await;
    world.drained(minutes(1)).await;
    assert_eq!(ways(&world)[3..], [Way::Smtp, Way::Graph], "a person may have opened it");
    // all closed: kept, until somebody has opened one
    world.provider.says(shut);
    world.put("a", "4").await;
    sleep(minutes(30)).await;
    let tries = ways(&world).len();
    world.provider.says(taken);
    world.outbox.wake();
    world.drained(minutes(1)).await;
    assert_eq!(world.provider.subjects(), ["1", "2", "3", "4"]);
    assert_eq!(ways(&world)[tries..], [Way::Smtp]);
}

/// It does not close the way to the others, and it is refused when no way is left.
#[tokio::test(start_paused = true)]
async fn a_message_that_does_not_suit_a_way() {
    let world = World::paused();
    let unsuited = || Outcome::Unsuited { said: "5.6.0 it is signed".into() };
    let shut = || Outcome::Closed { said: "535 5.7.139 off".into() };
    world.provider.says(move |it| match (it.subject.as_str(), it.way) {
        ("signed", Way::Smtp) => unsuited(),
        ("never", _) => unsuited(),
        _ => taken(it),
    });
    for subject in ["signed", "never", "plain"] {
        world.put("a", subject).await;
    }
    world.drained(minutes(1)).await;
    let mut attempts = world.provider.attempts();
    attempts.retain(|it| it.recipients == [TO]);
    let ways: Vec<_> = attempts.iter().map(|it| (it.subject.clone(), it.way)).collect();
    let expected = [
        ("signed", Way::Smtp),
        ("signed", Way::Graph),
        ("never", Way::Smtp),
        ("never", Way::Graph),
        ("plain", Way::Smtp),
    ];
    assert_eq!(ways, expected.map(|(subject, way)| (subject.to_owned(), way)));
    assert_eq!(world.failed().await[0].progress.refused[0].1, "5.6.0 it is signed");
    // the way that it needs is closed: it waits, and the others go by the other one
    world.provider.says(move |it| match (it.subject.as_str(), it.way) {
        (_, Way::Smtp) => shut(),
        ("signed", Way::Graph) => unsuited(),
        _ => taken(it),
    });
    world.put("a", "signed").await;
    world.put("a", "plain").await;
    sleep(minutes(3)).await;
    let waiting = world.waiting().await;
    assert_eq!(waiting.len(), 1);
    assert_eq!(
        waiting[0].progress.last_error.as_deref().unwrap(),
        "5.6.0 it is signed; the other way is closed"
    );
    world.provider.says(taken);
    world.drained(minutes(200)).await;
    assert_eq!(world.failed().await.len(), 1);
}
