//! Recipients, failures, and who is told.

use std::sync::Arc;
use std::time::Duration;

use gatepost::attention::Attention;
use gatepost::clock::Clock;
use gatepost::outbox::{Outcome, Place, Verdict, What};
use tokio::time::sleep;

use crate::world::{
    JANE, NOTIFY, Provider, SALES, TO, World, config, held, later, minutes, refused, taken,
};

const NOW: &str = "now@fabrikam.example";
const SOON: &str = "soon@fabrikam.example";
const NEVER: &str = "never@fabrikam.example";

/// One is served at once, one later, one never.
fn by_address(attempt: &crate::world::Attempt) -> Outcome {
    let verdict = |to: &String| match to.as_str() {
        SOON if attempt.number == 0 => Verdict::Later("451 4.2.1 busy".into()),
        NEVER => Verdict::Refused("550 5.1.1 nobody".into()),
        _ => Verdict::Delivered("250 2.0.0 OK".into()),
    };
    Outcome::Answered(attempt.recipients.iter().map(verdict).collect())
}

/// A message has failed after so many hours.
fn patient(hours: u64) -> World {
    let mut config = config();
    config.spool.give_up = minutes(60 * hours);
    World::new(Clock::with_tokio(), config)
}

#[tokio::test(start_paused = true)]
async fn each_recipient_is_served_once() {
    let world = World::paused();
    world.provider.says(by_address);
    let id = world.put_for(JANE, "a", "1", &[NOW, SOON, NEVER]).await.id;
    world.tried(1, minutes(1)).await;
    // another process reads it from the disk
    let other = gatepost::outbox::Spool::open(
        world.folder.path(),
        &world.config.spool,
        world.clock.clone(),
    );
    let (entry, place) = other.unwrap().find(&id).await.unwrap().unwrap();
    assert_eq!((place, &entry.progress.done), (Place::Queue, &vec![NOW.to_owned()]));
    assert_eq!(entry.progress.refused, [(NEVER.to_owned(), "550 5.1.1 nobody".to_owned())]);
    let world = world.restarted().await;
    world.drained(minutes(5)).await;
    let attempts = world.provider.attempts();
    assert_eq!(attempts[1].recipients, [SOON]);
    let failed = world.failed().await.remove(0);
    assert_eq!((failed.id, failed.progress.attempts), (id, 2));
    assert_eq!(failed.progress.done, [NOW, SOON]);
    let counts = world.provider.counts();
    assert!(counts.values().all(|count| *count == 1), "{counts:?}");
    // the report goes to whom the account names, and nothing else
    let report = attempts.iter().find(|it| it.recipients == [NOTIFY]).expect("a report");
    assert!(report.subject.contains("Not delivered: 1"), "{report:?}");
    assert_eq!(attempts.len(), 3);
}

#[tokio::test(start_paused = true)]
async fn what_is_refused_fails_and_is_told() {
    let world = World::paused();
    world.provider.says(|it| if it.recipients == [NOTIFY] { taken(it) } else { refused(it) });
    let id = world.put("a", "1").await.id;
    world.drained(minutes(1)).await;
    assert_eq!(world.provider.taken(), [("Not delivered: 1".to_owned(), NOTIFY.to_owned())]);
    let event = world.spool.journal().recent(&id).unwrap();
    assert_eq!((event.event, event.said.as_str()), (What::Failed, "550 5.1.1 nobody"));
    // a person has it tried again, by a command
    world.provider.says(taken);
    let command = gatepost::outbox::Spool::open(
        world.folder.path(),
        &world.config.spool,
        world.clock.clone(),
    );
    assert!(command.unwrap().retry(&id).await.unwrap());
    world.drained(minutes(1)).await;
    assert_eq!(world.provider.subjects(), ["Not delivered: 1", "1"]);
    assert!(world.failed().await.is_empty());
}

#[tokio::test(start_paused = true)]
async fn nobody_is_told_of_a_report_that_fails() {
    let world = World::paused();
    world.provider.says(refused);
    world.put("a", "1").await;
    world.put_for(SALES, "a", "2", &[TO]).await;
    sleep(minutes(120)).await;
    let failed: Vec<bool> = world.failed().await.iter().map(|entry| entry.bounce).collect();
    assert_eq!(failed.len(), 3, "two messages, and the report to the one who wants it");
    assert_eq!(failed.iter().filter(|bounce| **bounce).count(), 1);
    assert_eq!(world.provider.attempts().len(), 3);
}

#[tokio::test(start_paused = true)]
async fn what_waits_for_too_long_is_given_up() {
    let world = patient(6);
    world.provider.says(|it| if it.recipients == [NOTIFY] { taken(it) } else { later(it) });
    let id = world.put("a", "1").await.id;
    sleep(minutes(6 * 60 - 30)).await;
    assert_eq!(world.waiting().await.len(), 1);
    world.drained(minutes(120)).await;
    let failed = world.failed().await.remove(0);
    assert_eq!(failed.id, id);
    let said = &failed.progress.refused[0].1;
    assert!(said.starts_with("4.4.7 not delivered within 6h; at last: 451 4.7.1"), "{said}");
    assert_eq!(world.provider.taken(), [("Not delivered: 1".to_owned(), NOTIFY.to_owned())]);
}

/// Also what was never tried itself.
#[tokio::test(start_paused = true)]
async fn a_mailbox_that_is_held_for_too_long_gives_up_in_order() {
    let world = patient(6);
    world.provider.says(|_| held(None));
    world.put("a", "1").await;
    world.put("a", "2").await;
    sleep(minutes(180)).await;
    world.put("a", "3").await;
    sleep(minutes(180 + 70)).await;
    let failed = world.failed().await;
    assert_eq!(failed.len(), 2, "{failed:?}");
    for entry in failed {
        let said = entry.progress.last_error.unwrap();
        assert!(said.starts_with("4.4.7 ") && said.ends_with("no connection"), "{said}");
    }
    let waiting = world.waiting().await;
    assert_eq!(waiting.iter().filter(|entry| entry.bounce).count(), 2, "the reports wait too");
    assert_eq!(waiting.len(), 3);
    world.provider.says(taken);
    world.drained(minutes(120)).await;
    assert!(world.provider.subjects().contains(&"3".to_owned()));
}

#[tokio::test(start_paused = true)]
async fn mail_of_an_account_that_is_gone_is_kept() {
    let world = World::paused();
    let entry = crate::world::put(&world.spool, "gone@contoso.example", "a", "1", &[TO]).await;
    world.outbox.arrived(entry);
    sleep(minutes(120)).await;
    let entry = world.waiting().await.remove(0);
    assert!(entry.progress.last_error.unwrap().contains("no longer in the configuration"));
    assert!(world.provider.attempts().is_empty());
}

/// In real time: the command is another process.
#[tokio::test]
async fn a_person_is_called_once() {
    let mut config = config();
    config.spool.retry = vec![Duration::from_secs(1)];
    let folder = Arc::new(tempfile::tempdir().unwrap());
    let calls = folder.path().join("calls");
    let script = format!(
        "echo \"$GATEPOST_EVENT|$GATEPOST_ACCOUNT|$GATEPOST_REASON|$GATEPOST_REMEDY\" >> {}",
        calls.display()
    );
    let command = ["/bin/sh", "-c", &script].map(str::to_owned).to_vec();
    let clock = Clock::with_tokio();
    let provider = Provider::new(clock.clone());
    provider.says(|it| match it.number {
        0..3 => Outcome::Held {
            reason: "must be signed in".into(),
            wait: None,
            remedy: Some("gatepost login".into()),
        },
        _ => refused(it),
    });
    let attention = Attention::new(command, Vec::new());
    let world = World::start(folder, clock, Arc::new(config), provider, attention);
    let read = || std::fs::read_to_string(&calls).unwrap_or_default();
    world.put_for(SALES, "a", "1", &[TO]).await;
    world.put_for(SALES, "a", "2", &[TO]).await;
    world.drained(Duration::from_secs(20)).await;
    let wait = |count: usize| async move {
        for _ in 0..200 {
            if read().lines().count() >= count {
                break;
            }
            sleep(Duration::from_millis(50)).await;
        }
        sleep(Duration::from_millis(200)).await;
        read()
    };
    let told = wait(2).await;
    let mut lines: Vec<&str> = told.lines().collect();
    lines.sort_unstable();
    assert_eq!(lines.len(), 2, "{told}");
    assert_eq!(lines[0], format!("delivery_held|{SALES}|must be signed in|gatepost login"));
    let failed = format!("message_failed|{SALES}|1 message not delivered: 550 5.1.1 nobody|");
    assert!(lines[1].starts_with(&failed), "{told}");
    // the second one is told with the next hour's
    world.clock.set_off(3_601_000);
    let told = wait(3).await;
    assert_eq!(told.lines().count(), 3, "{told}");
    assert!(told.lines().last().unwrap().contains("|1 message not delivered"), "{told}");
    world.end().await;
}
