//! What no provider and no disk should do, and does: none of it keeps a message back for good, or the others.

use gatepost::outbox::Outcome;

use crate::world::{World, minutes, taken};

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
