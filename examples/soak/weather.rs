//! The weather of a soak: faults of the network at a low rate, outages, restarts, reloads.

use std::sync::Arc;
use std::time::Duration;

use gatepost::emulator::TokenFault;
use gatepost::emulator::network::{Deed, Direction, Fault, Network, Place};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::support_ground::{Ground, Lane};
use crate::tally::Tally;

/// Between two faults, in milliseconds.
const FAULT: std::ops::Range<u64> = 1000..5000;

/// Between two restarts of the mail servers, and how long they are away.
const RESTART: (Duration, Duration) = (Duration::from_secs(110), Duration::from_secs(5));

/// The same of the token endpoint: a token lives on for most of it.
const OUTAGE: (Duration, Duration) = (Duration::from_secs(170), Duration::from_secs(20));

/// Between two reloads.
const RELOAD: Duration = Duration::from_secs(60);

/// How long a connection may be silent that swallows: longer than deadlines.
const HOLD: Duration = Duration::from_secs(40);

/// The octets of a connection among which faults fall: up to a login and a bit of the session.
const OCTETS: u64 = 12_000;

pub fn start(
    ground: &Arc<Ground>,
    tally: &Arc<Tally>,
    seed: u64,
    tasks: &TaskTracker,
    stop: &CancellationToken,
) {
    let chance = fastrand::Rng::with_seed(!seed);
    let until = |task: std::pin::Pin<Box<dyn Future<Output = ()> + Send>>| {
        let stop = stop.clone();
        tasks.spawn(async move { stop.run_until_cancelled(task).await });
    };
    until(Box::pin(faults(Arc::clone(ground), Arc::clone(tally), chance)));
    until(Box::pin(restarts(Arc::clone(ground), Arc::clone(tally))));
    until(Box::pin(outages(Arc::clone(ground), Arc::clone(tally))));
    if ground.process.reloads() {
        until(Box::pin(reloads(Arc::clone(ground), Arc::clone(tally))));
    } else {
        println!("this gatepost has no reload on SIGHUP: there are none");
    }
}

/// Fair again.
pub fn clear(ground: &Ground) {
    for network in ground.lanes.iter().flat_map(|lane| networks(lane)) {
        network.disarm();
        network.cut_all();
    }
}

fn networks(lane: &Lane) -> Vec<&Network> {
    lane.inside.iter().chain(&lane.outside).chain([&lane.token, &lane.graph]).collect()
}

async fn faults(ground: Arc<Ground>, tally: Arc<Tally>, mut chance: fastrand::Rng) {
    loop {
        sleep(Duration::from_millis(chance.u64(FAULT))).await;
        let lane = &ground.lanes[chance.usize(..ground.lanes.len())];
        let all = networks(lane);
        let network = all[chance.usize(..all.len())];
        let direction = if chance.bool() { Direction::Up } else { Direction::Down };
        let place = match chance.u8(..6) {
            0 => Place::Connect,
            _ => Place::Octet(direction, chance.u64(..OCTETS)),
        };
        let deed = match chance.u8(..8) {
            0 => Deed::Delay(Duration::from_millis(chance.u64(100..3000))),
            1 => Deed::Throttle(chance.u32(200..20_000)),
            2 => Deed::Cut,
            3 => Deed::Reset,
            4 => Deed::HalfClose,
            5 => Deed::Garbage((0..chance.usize(1..64)).map(|_| chance.u8(..)).collect()),
            6 => Deed::Repeat,
            _ => Deed::Swallow(HOLD),
        };
        network.arm(Fault { place, deed });
        tally.fault();
    }
}

async fn restarts(ground: Arc<Ground>, tally: Arc<Tally>) {
    let control = ground.emulator.control();
    loop {
        sleep(RESTART.0).await;
        control.set_mail_outage(true);
        control.disconnect_all();
        sleep(RESTART.1).await;
        control.set_mail_outage(false);
        tally.count("restarts of the mail servers");
    }
}

async fn outages(ground: Arc<Ground>, tally: Arc<Tally>) {
    let control = ground.emulator.control();
    loop {
        sleep(OUTAGE.0).await;
        control.set_token_outage(Some(TokenFault::Status { status: 503, retry_after: None }));
        sleep(OUTAGE.1).await;
        control.set_token_outage(None);
        tally.count("outages of the token endpoint");
    }
}

async fn reloads(ground: Arc<Ground>, tally: Arc<Tally>) {
    loop {
        sleep(RELOAD).await;
        ground.process.signal("HUP");
        tally.count("reloads");
    }
}
