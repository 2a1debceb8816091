//! The load of a soak: what clients do, and those that are none.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use gatepost::vocabulary::Protocol;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::support_ground::{
    Client, END_OF_DATA, Ground, Lane, PATIENCE, Stop, Visit, is_wrong_password, log_in,
};
use crate::tally::Tally;

/// Between two visits of a client.
const PAUSE: std::ops::Range<u64> = 300..1500;

/// How long a client waits in its session.
const IN_SESSION: Duration = Duration::from_secs(20);

/// Half-open connections of one who waits, at once.
const HALF_OPEN: usize = 20;

/// Where those come from who don't belong: good clients come from 127.0.0.1.
const STRANGER: &str = "127.0.0.9:0";

/// What a client does.
#[derive(Clone, Copy, Debug)]
enum Kind {
    Direct(Protocol),
    Outside,
    Spool,
    Graph,
    Idle,
    Guess,
    HalfOpen,
}

const KINDS: [Kind; 9] = [
    Kind::Direct(Protocol::Imap),
    Kind::Direct(Protocol::Pop3),
    Kind::Direct(Protocol::Smtp),
    Kind::Outside,
    Kind::Spool,
    Kind::Graph,
    Kind::Idle,
    Kind::Guess,
    Kind::HalfOpen,
];

struct Worker {
    lane: Arc<Lane>,
    tally: Arc<Tally>,
    kind: Kind,
    chance: fastrand::Rng,
    held: VecDeque<Client>,
    number: u64,
}

/// One client of each kind in each lane, until the stop.
pub fn start(
    ground: &Arc<Ground>,
    tally: &Arc<Tally>,
    seed: u64,
    tasks: &TaskTracker,
    stop: &CancellationToken,
) {
    for lane in &ground.lanes {
        for (number, kind) in KINDS.into_iter().enumerate() {
            let own = (lane.number * KINDS.len() + number) as u64;
            let worker = Worker {
                lane: Arc::clone(lane),
                tally: Arc::clone(tally),
                kind,
                chance: fastrand::Rng::with_seed(seed.wrapping_add(own)),
                held: VecDeque::new(),
                number: 0,
            };
            tasks.spawn(worker.work(stop.clone()));
        }
    }
}

impl Worker {
    async fn work(mut self, stop: CancellationToken) {
        while !stop.is_cancelled() {
            match self.kind {
                // It is the one that is long.
                Kind::Idle => {
                    stop.run_until_cancelled(self.idle()).await;
                }
                Kind::Guess => self.guess().await,
                Kind::HalfOpen => self.open_half().await,
                _ => self.visit().await,
            }
            let pause = Duration::from_millis(self.chance.u64(PAUSE));
            stop.run_until_cancelled(sleep(pause)).await;
        }
    }

    async fn visit(&mut self) {
        self.number += 1;
        let marker = format!("{:?}-{}-{}", self.kind, self.lane.number, self.number);
        let lane = &self.lane;
        let (visit, promised) = match self.kind {
            Kind::Direct(protocol) => (lane.visit(protocol, &marker), true),
            Kind::Outside => {
                let protocol = Protocol::ALL[self.chance.usize(..3)];
                (lane.visit_from_outside(protocol, &marker), false)
            }
            kind => (lane.visit_spool(matches!(kind, Kind::Graph), &marker), true),
        };
        let visit = Visit { in_session: IN_SESSION, ..visit };
        let tally = &self.tally;
        let taken = |phase| {
            if phase == END_OF_DATA {
                tally.taken(&marker);
            }
        };
        let done = visit.pay(taken).await;
        tally.session(&format!("{:?}", self.kind), &done, promised);
    }

    /// Waits in IDLE for a minute or so, or until its token has come to its end.
    async fn idle(&mut self) {
        let time = Duration::from_secs(self.chance.u64(10..90));
        let (mailbox, password) = (&self.lane.mailboxes[0], &self.lane.passwords[0]);
        let idling = async {
            let to = (None, self.lane.doors[0]);
            let mut client = Client::connect(to, None, Protocol::Imap, PATIENCE).await?;
            log_in(&mut client, mailbox, password).await?;
            client.phase = "IDLE";
            client.send("2 SELECT INBOX\r\n").await?;
            client.expect("2 OK").await?;
            client.send("3 IDLE\r\n").await?;
            client.expect("+ ").await?;
            client.wait_at_most(time);
            match client.answer().await {
                Err(Stop::Hung(_)) => {}
                Ok(line) => return Err(Stop::Odd("IDLE", line)),
                Err(stop) => return Err(stop),
            }
            client.wait_at_most(IN_SESSION);
            client.send("DONE\r\n").await?;
            client.expect("3 OK").await?;
            client.send("4 LOGOUT\r\n").await?;
            client.expect("* BYE").await.map(drop)
        };
        let done = idling.await;
        self.tally.session("Idle", &done, true);
    }

    async fn guess(&mut self) {
        let protocol = Protocol::ALL[self.chance.usize(..3)];
        let door = self.lane.doors[protocol as usize];
        let password = format!("guess-{}", self.chance.u32(..));
        let guessing = async {
            let mut client = Client::connect(from_afar(door), None, protocol, PATIENCE).await?;
            log_in(&mut client, &self.lane.mailboxes[0], &password).await
        };
        match guessing.await {
            Ok(()) => self.tally.violation(format!("{password} has opened a mailbox")),
            Err(Stop::Refused(answer)) if is_wrong_password(&answer) => {
                self.tally.count("Guess: called wrong");
            }
            Err(Stop::Refused(_)) => self.tally.count("Guess: locked"),
            Err(_) => self.tally.count("Guess: no answer"),
        }
    }

    async fn open_half(&mut self) {
        let protocol = Protocol::ALL[self.chance.usize(..3)];
        let door = self.lane.doors[protocol as usize];
        if let Ok(mut client) = Client::connect(from_afar(door), None, protocol, PATIENCE).await {
            let half = ["", "1 LOG", "USER jane\r\nPASS", "EHLO x\r\nAUTH PLAIN"];
            let _ = client.send(half[self.chance.usize(..half.len())]).await;
            self.held.push_back(client);
            self.tally.count("HalfOpen");
        }
        if self.held.len() > HALF_OPEN {
            self.held.pop_front();
        }
    }
}

fn from_afar(to: SocketAddr) -> (Option<SocketAddr>, SocketAddr) {
    (STRANGER.parse().ok(), to)
}
