//! Stops, crashes, and two processes with one spool.

use std::sync::Arc;
use std::time::Duration;

use gatepost::attention::Attention;
use gatepost::clock::Clock;
use gatepost::outbox::{Outcome, Spool, Verdict};
use tokio::time::{Instant, sleep};

use crate::world::{JANE, Provider, TO, World, config, held, later, minutes, put, taken};

#[tokio::test(start_paused = true)]
async fn an_outage_may_be_over_after_a_restart() {
    let world = World::paused();
    world.provider.says(|_| held(None));
    world.put("a", "1").await;
    world.tried(5, minutes(120)).await;
    world.provider.says(taken);
    let world = world.restarted().await;
    world.drained(Duration::from_secs(5)).await;
    assert_eq!(world.provider.subjects(), ["1"]);
}

#[tokio::test(start_paused = true)]
async fn a_message_that_waits_does_so_across_a_restart() {
    let world = World::paused();
    world.provider.says(|it| if it.number < 3 { later(it) } else { taken(it) });
    let start = world.clock.now();
    world.put("a", "1").await;
    world.tried(3, minutes(10)).await;
    let world = world.restarted().await;
    world.drained(minutes(20)).await;
    let at = world.provider.attempts()[3].at.saturating_since(start).as_secs() / 60;
    assert_eq!(at, 21, "1, 5 and 15 minutes");
}

/// What is under way at a stop has a few seconds, then it stays in the queue.
#[tokio::test(start_paused = true)]
async fn a_stop_lets_end_what_is_under_way() {
    let world = World::paused();
    *world.provider.delay.lock().unwrap() = Duration::from_secs(4);
    world.put("a", "1").await;
    world.put("a", "2").await;
    world.tried(1, minutes(1)).await;
    let start = Instant::now();
    world.end().await;
    assert!(start.elapsed() < Duration::from_secs(5));
    assert_eq!(world.provider.subjects(), ["1"]);
    assert_eq!(world.waiting().await.len(), 1);

    let world = world.restarted().await;
    *world.provider.delay.lock().unwrap() = minutes(60);
    world.tried(2, minutes(1)).await;
    world.stop.cancel();
    sleep(Duration::from_secs(5)).await;
    world.cut.cancel();
    let start = Instant::now();
    world.end().await;
    assert!(start.elapsed() < Duration::from_secs(1));
    assert_eq!(world.waiting().await.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn one_process_delivers_and_sees_what_the_others_do() {
    let world = World::paused();
    world.provider.says(|_| held(None));
    let dropped = world.put("a", "1").await.id;
    world.put("a", "2").await;
    world.tried(4, minutes(60)).await;
    let tries = world.provider.attempts().len();
    // a second proxy with the same state folder: it takes mail, and does not deliver
    let (folder, clock, config) =
        (Arc::clone(&world.folder), world.clock.clone(), Arc::clone(&world.config));
    let provider = Provider::new(clock.clone());
    let second = World::start(folder, clock, config, provider, Attention::default());
    sleep(Duration::from_secs(3)).await;
    assert!(second.spool.drop_message(&dropped).await.unwrap());
    world.provider.says(taken);
    second.put("a", "3").await;
    sleep(Duration::from_secs(2)).await;
    assert_eq!(world.provider.subjects(), ["2", "3"], "a person's doing ends the wait");
    assert!(second.provider.attempts().is_empty());
    assert_eq!(world.provider.attempts().len(), tries + 2);
    // it takes over
    world.end().await;
    second.put("a", "4").await;
    second.drained(Duration::from_secs(5)).await;
    assert_eq!(second.provider.subjects(), ["4"]);
}

/// The process ends anywhere between two steps: in real time, by a runtime that is dropped.
#[test]
fn a_crash_doubles_no_more_than_was_under_way() {
    const MESSAGES: usize = 60;
    const CRASHES: usize = 25;
    const LANES: usize = 3;
    let folder = Arc::new(tempfile::tempdir().unwrap());
    let provider = Provider::new(Clock::system());
    *provider.delay.lock().unwrap() = Duration::from_millis(4);
    // the second recipient of each third message is served at the second attempt
    provider.says(|it| {
        let number: usize = it.subject.parse().unwrap_or(0);
        let verdict = |to: &String| match to.starts_with("two")
            && it.recipients.len() == 2
            && number.is_multiple_of(3)
        {
            true => Verdict::Later("451 later".into()),
            false => Verdict::Delivered("250 OK".into()),
        };
        Outcome::Answered(it.recipients.iter().map(verdict).collect())
    });
    let mut config = config();
    config.spool.retry = vec![Duration::from_millis(1)];
    let config = Arc::new(config);
    let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime().block_on(async {
        let spool = Spool::open(folder.path(), &config.spool, Clock::system()).unwrap();
        for number in 0..MESSAGES {
            let device = format!("d{}", number % LANES);
            put(&spool, JANE, &device, &number.to_string(), &[TO, "two@fabrikam.example"]).await;
        }
    });
    let start = || {
        let (folder, config) = (Arc::clone(&folder), Arc::clone(&config));
        World::start(folder, Clock::system(), config, Arc::clone(&provider), Attention::default())
    };
    let mut random = 7_u64;
    for _ in 0..CRASHES {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        let life = Duration::from_micros(5_000 + (random >> 33) % 25_000);
        let runtime = runtime();
        runtime.block_on(async {
            let _world = start();
            sleep(life).await;
        });
        // everything that waits for something is dropped where it is
        runtime.shutdown_timeout(Duration::from_secs(5));
    }
    runtime().block_on(async { start().drained(Duration::from_secs(60)).await });
    let counts = provider.counts();
    assert_eq!(counts.len(), 2 * MESSAGES, "none is lost");
    let twice: usize = counts.values().map(|count| count - 1).sum();
    assert!(twice <= CRASHES * LANES * 2, "{twice} arrived again");
    let attempts = provider.attempts().len();
    eprintln!("{CRASHES} crashes, {attempts} attempts, {twice} recipients served again");
}
