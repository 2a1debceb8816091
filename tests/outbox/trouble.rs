//! What no provider and no disk should do, and does: none of it keeps a message back for good, or the others.

use std::fs;
use std::time::Duration;

use gatepost::config::SpoolSettings;
use gatepost::outbox::{Entry, Outcome, Spool, Verdict};
use tokio::time::sleep;

use crate::world::{Attempt, JANE, TO, World, held, later, minutes, put, taken};

const DAY: Duration = Duration::from_secs(86_400);

/// Another process with this spool.
fn other(world: &World) -> Spool {
    Spool::open(world.folder.path(), &SpoolSettings::default(), world.clock.clone()).unwrap()
}

/// A file of the spool that can't be read, until it is put back.
struct Unreadable {
    path: std::path::PathBuf,
    aside: std::path::PathBuf,
}

impl Unreadable {
    fn new(world: &World, entry: &Entry, kind: &str) -> Self {
        let path = world.folder.path().join("spool/queue").join(format!("{}{kind}", entry.id));
        let aside = world.folder.path().join("aside");
        fs::rename(&path, &aside).unwrap();
        fs::create_dir(&path).unwrap();
        Self { path, aside }
    }

    fn back(self) {
        fs::remove_dir(&self.path).unwrap();
        fs::rename(self.aside, self.path).unwrap();
    }
}

/// A courier that panics: a fault of gatepost's, or of what it is made of.
#[tokio::test(start_paused = true)]
async fn a_fault_within_a_delivery_is_that_messages_own() {
    let world = World::paused();
    // Too few verdicts: the emulated courier panics.
    world.provider.says(|it| match it.subject.as_str() {
        "1" if it.number < 2 => Outcome::Answered(Vec::new()),
        _ => taken(it),
    });
    world.put("a", "1").await;
    world.put("a", "2").await;
    world.put("b", "3").await;
    world.drained(minutes(10)).await;
    assert_eq!(world.provider.counts().len(), 3);
}

/// gatepost was off for longer than messages are tried, and the network comes up after it.
#[tokio::test(start_paused = true)]
async fn a_long_time_off_is_no_reason_to_give_up() {
    long_off(|_| held(None), 2).await;
}

/// The same where the provider answers, but not now.
#[tokio::test(start_paused = true)]
async fn a_long_time_off_is_no_attempt() {
    long_off(later, 1).await;
}

/// Six days off behind a first attempt; so many more that come to nothing, and then it is taken.
async fn long_off(says: impl Fn(&Attempt) -> Outcome + Send + Sync + 'static, more: usize) {
    let world = World::paused();
    world.provider.says(says);
    world.put("a", "1").await;
    world.tried(1, minutes(1)).await;
    world.end().await;
    sleep(6 * DAY).await;
    let before = world.provider.attempts().len();
    let world = world.restarted().await;
    world.tried(before + more, minutes(5)).await;
    world.provider.says(taken);
    sleep(minutes(10)).await;
    assert_eq!((world.failed().await.len(), world.provider.subjects().len()), (0, 1));
}

#[tokio::test(start_paused = true)]
async fn a_message_that_can_not_be_read_for_a_while_is_not_forgotten() {
    let world = World::paused();
    world.provider.says(|_| held(None));
    let entry = world.put("a", "1").await;
    world.tried(2, minutes(5)).await;
    let unreadable = Unreadable::new(&world, &entry, "");
    put(&other(&world), JANE, "b", "2", &[TO]).await;
    sleep(Duration::from_secs(2)).await;
    unreadable.back();
    world.provider.says(taken);
    world.drained(minutes(30)).await;
    assert_eq!(world.provider.counts().len(), 2);
}

#[tokio::test(start_paused = true)]
async fn whom_it_was_delivered_to_is_never_guessed() {
    let world = World::paused();
    let two = "two@fabrikam.example";
    world.provider.says(move |it| {
        let verdict = |to: &String| match to == two {
            true => Verdict::Later("451 later".into()),
            false => Verdict::Delivered("250 OK".into()),
        };
        Outcome::Answered(it.recipients.iter().map(verdict).collect())
    });
    let entry = world.put_for(JANE, "a", "1", &[TO, two]).await;
    world.put("a", "2").await;
    world.tried(3, minutes(5)).await;
    let unreadable = Unreadable::new(&world, &entry, ".progress");
    world.end().await;
    world.provider.says(taken);
    let world = world.restarted().await;
    sleep(minutes(10)).await;
    assert_eq!(world.provider.counts().len(), 2, "{:?}", world.provider.taken());
    unreadable.back();
    world.drained(minutes(30)).await;
    assert!(world.provider.counts().values().all(|count| *count == 1));
    assert_eq!(world.provider.counts().len(), 3);
}

/// One whose sender or recipient has the provider drop the connection, each time.
#[tokio::test(start_paused = true)]
async fn a_message_that_breaks_each_session_does_not_keep_its_device_for_days() {
    let world = World::paused();
    let broken = || Outcome::Broken { reason: "the mail server has closed the connection".into() };
    world.provider.says(move |it| if it.subject == "poison" { broken() } else { taken(it) });
    for subject in ["poison", "1", "2", "3", "4"] {
        world.put("a", subject).await;
    }
    sleep(minutes(25)).await;
    assert_eq!(world.provider.subjects(), ["1", "2", "3", "4"]);
    world.put("a", "5").await;
    sleep(minutes(1)).await;
    assert_eq!(world.provider.subjects().len(), 5, "it holds the mailbox no more");
    sleep(6 * DAY).await;
    let failed = world.failed().await;
    assert_eq!(failed.len(), 1);
    let said = &failed[0].progress.refused[0].1;
    assert!(said.contains("closed the connection"), "{said}");
}

/// What waited for its mailbox for too long, and can't be put into the failed folder just then.
#[tokio::test(start_paused = true)]
async fn what_is_given_up_stays_in_mind_until_it_is_put_away() {
    let world = World::paused();
    world.provider.says(|_| held(None));
    let failed = world.folder.path().join("spool/failed");
    fs::remove_dir(&failed).unwrap();
    fs::write(&failed, b"").unwrap();
    world.put("a", "1").await;
    world.put("a", "2").await;
    sleep(6 * DAY).await;
    fs::remove_file(&failed).unwrap();
    fs::create_dir(&failed).unwrap();
    sleep(minutes(5)).await;
    assert_eq!(world.failed().await.len(), 2);
    assert!(world.waiting().await.iter().all(|entry| entry.bounce));
}
