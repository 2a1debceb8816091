//! What no provider and no disk should do, and does: none of it keeps a message back for good, or the others.

use std::time::Duration;

use gatepost::outbox::Outcome;
use tokio::time::sleep;

use crate::world::{World, held, later, minutes, taken};

const DAY: Duration = Duration::from_secs(86_400);

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
    let world = World::paused();
    world.provider.says(|_| held(None));
    world.put("a", "1").await;
    world.tried(1, minutes(1)).await;
    world.end().await;
    sleep(6 * DAY).await;
    let before = world.provider.attempts().len();
    let world = world.restarted().await;
    world.tried(before + 2, minutes(5)).await;
    world.provider.says(taken);
    sleep(minutes(10)).await;
    assert_eq!((world.failed().await.len(), world.provider.subjects().len()), (0, 1));
}

/// The same where the provider answers, but not now.
#[tokio::test(start_paused = true)]
async fn a_long_time_off_is_no_attempt() {
    let world = World::paused();
    world.provider.says(later);
    world.put("a", "1").await;
    world.tried(1, minutes(1)).await;
    world.end().await;
    sleep(6 * DAY).await;
    let before = world.provider.attempts().len();
    let world = world.restarted().await;
    world.tried(before + 1, minutes(5)).await;
    world.provider.says(taken);
    sleep(minutes(10)).await;
    assert_eq!((world.failed().await.len(), world.provider.subjects().len()), (0, 1));
}
