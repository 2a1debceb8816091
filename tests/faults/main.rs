//! Two hundred faults, one by one, and readers that are slow: gatepost as a process, on a network that fails.
//!
//! Places and deeds are drawn by a seed, which is printed; `GATEPOST_SEED` gives it again. Some minutes:
//! `cargo test --test faults -- --ignored --nocapture --test-threads 1`.
#![cfg(target_os = "linux")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    unreachable_pub,
    reason = "tests, which tell what they measured"
)]

mod judge;
mod lane;
mod pressure;
#[path = "../support_ground/mod.rs"]
mod support_ground;

use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use gatepost::emulator::Options;
use lane::{Report, Runner};
use support_ground::Ground;
use tokio::sync::Barrier;
use tokio::task::JoinSet;
use tokio::time::sleep;

/// Lanes, and faults in each.
const LANES: usize = 20;
const EACH: usize = 10;

fn program() -> Command {
    Command::new(env!("CARGO_BIN_EXE_gatepost"))
}

fn seed() -> u64 {
    let given = std::env::var("GATEPOST_SEED").ok();
    let seed = given.map_or_else(|| fastrand::u64(..), |seed| seed.parse().expect("a number"));
    println!("GATEPOST_SEED={seed}");
    seed
}

/// Each of them ends within its deadline in a refusal that is temporary, or with the session; leaves no connection
/// behind; and a login directly after it works. What was taken for delivery arrives, whole.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes some minutes"]
async fn two_hundred_faults() {
    let (seed, start) = (seed(), Instant::now());
    let options =
        Options { smtp_messages_per_minute: 0, smtp_connections: 1000, ..Options::default() };
    let ground =
        Arc::new(Ground::start(program(), LANES, options, "[spool]\nretry = [\"1s\"]\n").await);
    let barrier = Arc::new(Barrier::new(LANES));
    let mut running = JoinSet::new();
    for number in 0..LANES {
        let runner = Runner::new(&ground, number, seed);
        running.spawn(runner.run(EACH, Arc::clone(&barrier)));
    }
    let mut report = Report::default();
    while let Some(done) = running.join_next().await {
        report.add(done.unwrap());
    }
    println!("{report}within {:?}", start.elapsed());
    let failures = &report.failures;
    let log = ground.process.log(&["WARN", "ERROR", "panicked"], 40);
    assert!(failures.is_empty(), "seed {seed}: {}\n{log}", failures.join("\n"));
    assert_eq!(report.faults(), LANES * EACH);
    assert!(ground.process.log(&["panicked"], 1).is_empty(), "seed {seed}: {log}");
    settles(&ground, report.before).await;
}

/// Threads more than before that are none of the faults': tokio keeps those that work on files for ten seconds behind
/// their last use, and the spool and the store are looked at all the time.
const FILE_THREADS: u64 = 8;

/// Descriptors and threads are as they were before the first fault.
async fn settles(ground: &Ground, (descriptors, threads): (usize, u64)) {
    for lane in &ground.lanes {
        let networks = lane.inside.iter().chain(&lane.outside);
        networks.chain([&lane.token, &lane.graph]).for_each(|network| network.cut_all());
    }
    let start = Instant::now();
    loop {
        let now = (ground.process.descriptors(), ground.process.threads());
        if now.0 <= descriptors && now.1 <= threads + FILE_THREADS {
            println!("descriptors {descriptors} and {}, threads {threads} and {}", now.0, now.1);
            return;
        }
        let late = start.elapsed() > Duration::from_secs(60);
        assert!(!late, "descriptors and threads {now:?}, at first {descriptors} and {threads}");
        sleep(Duration::from_millis(200)).await;
    }
}
