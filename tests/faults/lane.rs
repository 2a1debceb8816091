//! The faults of one lane.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use gatepost::emulator::SentMail;
use gatepost::emulator::network::{Deed, Direction, Fault, Network, Place, Trace};
use gatepost::vocabulary::Protocol;
use tokio::sync::Barrier;
use tokio::time::sleep;

use super::judge::{self, Part};
use super::support_ground::{END_OF_DATA, Ground, LOGIN, Lane, SIZE, Visit, message};

/// What a client waits for an answer in a session.
const IN_SESSION: Duration = Duration::from_secs(6);

/// What a client waits outside, where nobody promises an answer.
const OUTSIDE: Duration = Duration::from_secs(8);

/// How long nothing passes: longer than all deadlines up to a login.
const HOLD: Duration = Duration::from_secs(45);

/// The same for a delivery, which waits for minutes behind its login (RFC 5321 section 4.5.3.2).
const HOLD_DELIVERY: Duration = Duration::from_secs(8);

/// The most octets of a header.
const HEADER: usize = 1000;

/// Octets a second of what is throttled: at the slowest a login takes longer than its deadlines, while a delivery, which
/// has no deadline as long as something moves, is done within [`DELIVERED_WITHIN`].
const SLOW: std::ops::Range<u32> = 100..4000;
const SLOW_DELIVERY: std::ops::Range<u32> = 4000..20_000;

/// For connections to be closed when their session is over.
const CLOSED_WITHIN: Duration = Duration::from_secs(10);

/// For a message to arrive whose delivery has met a fault.
const DELIVERED_WITHIN: Duration = Duration::from_secs(60);

/// The pause after a failed token request, for logins (`FIRST_DEMAND_PAUSE`), and a bit.
const TOKEN_AGAIN: Duration = Duration::from_secs(4);

/// What is faulty, by turns: the token endpoint is the first, since all lanes have to be there.
const SIDES: [Side; 9] = [
    Side::Inside(Protocol::Imap),
    Side::Inside(Protocol::Pop3),
    Side::Inside(Protocol::Smtp),
    Side::Spool,
    Side::Inside(Protocol::Imap),
    Side::Inside(Protocol::Pop3),
    Side::Inside(Protocol::Smtp),
    Side::Graph,
    Side::Outside,
];

#[derive(Clone, Copy)]
enum Side {
    /// Between gatepost and the mail server.
    Inside(Protocol),
    /// Between the client and gatepost.
    Outside,
    /// Between gatepost and the mail server, when it delivers.
    Spool,
    /// The same by Microsoft Graph.
    Graph,
}

/// What happened.
#[derive(Default)]
pub struct Report {
    counts: BTreeMap<String, usize>,
    slowest: Duration,
    pub failures: Vec<String>,
    /// Descriptors and threads before the first fault.
    pub before: (usize, u64),
}

impl Report {
    pub fn faults(&self) -> usize {
        self.counts.values().sum()
    }

    pub fn add(&mut self, other: Self) {
        for (what, count) in other.counts {
            *self.counts.entry(what).or_default() += count;
        }
        self.slowest = self.slowest.max(other.slowest);
        self.failures.extend(other.failures);
        self.before = self.before.max(other.before);
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (what, count) in &self.counts {
            writeln!(f, "{count:4} {what}")?;
        }
        writeln!(f, "{:4} faults, the slowest refusal after {:?}", self.faults(), self.slowest)
    }
}

/// Runs them.
pub struct Runner {
    ground: Arc<Ground>,
    lane: Arc<Lane>,
    chance: fastrand::Rng,
    report: Report,
    visits: usize,
}

impl Runner {
    pub fn new(ground: &Arc<Ground>, number: usize, seed: u64) -> Self {
        let lane = Arc::clone(&ground.lanes[number]);
        let chance = fastrand::Rng::with_seed(seed.wrapping_add(number as u64));
        Self { ground: Arc::clone(ground), lane, chance, report: Report::default(), visits: 0 }
    }

    /// So many faults that have happened: one that has met nothing is drawn again.
    pub async fn run(mut self, faults: usize, all: Arc<Barrier>) -> Report {
        // What is learned at the first login is known at the second.
        for _ in 0..2 {
            for protocol in Protocol::ALL {
                self.clean(protocol).await;
            }
        }
        all.wait().await;
        self.report.before = (self.ground.process.descriptors(), self.ground.process.threads());
        self.token(&all).await;
        let mut tries = 0;
        while self.report.faults() + self.report.failures.len() < faults && tries < 3 * faults {
            match SIDES[tries % SIDES.len()] {
                Side::Inside(protocol) => self.inside(protocol).await,
                Side::Outside => self.outside().await,
                Side::Spool => self.delivery(false).await,
                Side::Graph => self.delivery(true).await,
            }
            tries += 1;
        }
        self.report
    }

    fn marker(&mut self) -> String {
        self.visits += 1;
        format!("lane-{}-{}", self.lane.number, self.visits)
    }

    fn note(&mut self, side: &str, what: &str, fault: &Fault, end: Result<&str, String>) {
        let deed = match &fault.deed {
            Deed::Garbage(octets) => format!("{} octets of garbage", octets.len()),
            deed => format!("{deed:?}"),
        };
        let told = format!("lane {}, {side}, {what}, {:?}, {deed}", self.lane.number, fault.place);
        match end {
            Ok(end) => *self.report.counts.entry(format!("{side}: {end}")).or_default() += 1,
            Err(why) => self.report.failures.push(format!("{told}: {why}")),
        }
    }

    fn fail(&mut self, side: &str, why: &str) {
        self.report.failures.push(format!("lane {}, {side}: {why}", self.lane.number));
    }

    /// A visit without a fault, and its parts: the turns up to the login, then its phases, both ways.
    async fn clean(&mut self, protocol: Protocol) -> Vec<Part> {
        let marker = self.marker();
        let visit = self.lane.visit(protocol, &marker);
        let network = &self.lane.inside[protocol as usize];
        let (mut parts, mut seen) = (Vec::new(), (0, 0));
        let done = visit
            .pay(|phase| {
                let trace = network.last().unwrap_or_default();
                let now = (trace.passed(Direction::Up), trace.passed(Direction::Down));
                if phase == LOGIN {
                    parts = judge::parts_of(&trace.turns);
                } else {
                    let both = [(Direction::Up, seen.0, now.0), (Direction::Down, seen.1, now.1)];
                    let moved = both.into_iter().filter(|(_, from, to)| from < to);
                    parts.extend(moved.map(|(direction, from, to)| Part {
                        name: phase.to_owned(),
                        direction,
                        from,
                        to,
                    }));
                }
                seen = now;
            })
            .await;
        if let Err(stop) = done {
            self.fail("a login without a fault", &format!("{protocol}: {stop:?}"));
        }
        parts
    }

    async fn inside(&mut self, protocol: Protocol) {
        let parts = self.clean(protocol).await;
        if parts.is_empty() {
            return;
        }
        let (what, fault) = judge::draw(&mut self.chance, &parts, HOLD, SLOW);
        let lane = Arc::clone(&self.lane);
        let network = &lane.inside[protocol as usize];
        network.arm(fault.clone());
        let visit = Visit { in_session: IN_SESSION, ..lane.visit(protocol, &self.marker()) };
        let (start, mut reached) = (Instant::now(), "");
        let done = visit.pay(|phase| reached = phase).await;
        let took = start.elapsed();
        if network.disarm() > 0 || !network.last().is_some_and(|trace| trace.fired) {
            return;
        }
        let mut end = judge::inside(&fault, &done, took);
        if end == Ok("refused") {
            self.report.slowest = self.report.slowest.max(took);
        }
        if protocol == Protocol::Smtp {
            let taken = [END_OF_DATA, "QUIT"].contains(&reached);
            end = end.and_then(|end| self.arrived(&visit, taken, true).map(|()| end));
        }
        let side = format!("upstream {protocol}");
        self.note(&side, &what, &fault, end);
        if done.is_ok() && matches!(fault.deed, Deed::Swallow(_)) {
            // The goodbye was heard, and the end of the connection was swallowed: a session of which one side is
            // closed may have an answer under way, and waits for it for ten minutes (docs/protocols.md).
            network.cut_all();
        }
        self.closes(&format!("{side}, {what}, {fault:?}, {done:?}"), protocol).await;
        self.clean(protocol).await;
    }

    async fn outside(&mut self) {
        let protocol = Protocol::ALL[self.chance.usize(..3)];
        let lane = Arc::clone(&self.lane);
        let network = &lane.outside[protocol as usize];
        let visit = |marker: &str| lane.visit_from_outside(protocol, marker);
        if let Err(stop) = visit(&self.marker()).pay(|_| {}).await {
            return self.fail("a login without a fault", &format!("{protocol} by TLS: {stop:?}"));
        }
        let parts = judge::parts_of(&network.last().unwrap_or_default().turns);
        let (what, fault) = judge::draw(&mut self.chance, &parts, HOLD, SLOW);
        network.arm(fault.clone());
        let visit = Visit { until_login: OUTSIDE, in_session: IN_SESSION, ..visit(&self.marker()) };
        let done = visit.pay(|_| {}).await;
        if network.disarm() > 0 || !network.last().is_some_and(|trace| trace.fired) {
            return;
        }
        self.note("client", &what, &fault, judge::outside(&done));
        // The client has gone, and so has the way to it.
        network.cut_all();
        self.closes(&format!("client, {what}, {fault:?}, {done:?}"), protocol).await;
        self.clean(protocol).await;
    }

    /// Nothing of a session that is over stays open.
    async fn closes(&mut self, side: &str, protocol: Protocol) {
        let (start, ports) = (Instant::now(), self.lane.ports(protocol));
        loop {
            let open = self.ground.process.connections(&ports);
            if open == 0 {
                return;
            }
            if start.elapsed() > CLOSED_WITHIN {
                self.lane.inside[protocol as usize].cut_all();
                return self.fail(side, &format!("{open} connections of {protocol} stay"));
            }
            sleep(Duration::from_millis(50)).await;
        }
    }

    /// What is told of a message: none is altered, none that was taken is lost, and none comes twice, except that an
    /// answer that was not heard may have been a yes (RFC 1047).
    fn arrived(&self, visit: &Visit, taken: bool, once: bool) -> Result<(), String> {
        let copies = self.copies(&visit.marker);
        let expected = message(&visit.mailbox, &visit.marker, SIZE);
        let body = |data: &[u8]| {
            let text = String::from_utf8_lossy(data).into_owned();
            text.split_once("\r\n\r\n").map(|(_, body)| body.to_owned())
        };
        if copies.iter().any(|copy| body(&copy.data) != body(expected.as_bytes())) {
            return Err("half a message was delivered".into());
        }
        match copies.len() {
            0 if taken => Err("a message that was taken is lost".into()),
            0 | 1 => Ok(()),
            2 if !once => Ok(()),
            count => Err(format!("a message was delivered {count} times")),
        }
    }

    fn copies(&self, marker: &str) -> Vec<SentMail> {
        let mut sent = self.ground.emulator.control().sent();
        let subject = format!("Subject: {marker}\r\n");
        // The header alone: there are hundreds, and it is asked often.
        sent.retain(|mail| {
            let head = mail.data.get(..HEADER).unwrap_or(&mail.data);
            String::from_utf8_lossy(head).contains(&subject)
        });
        sent
    }

    /// A message for the spool is taken, whatever is behind; and delivered, whatever happens meanwhile.
    async fn delivery(&mut self, by_graph: bool) {
        let lane = Arc::clone(&self.lane);
        let network = if by_graph { &lane.graph } else { &lane.inside[Protocol::Smtp as usize] };
        let side = if by_graph { "delivery by Graph" } else { "delivery by SMTP" };
        let Some(trace) = self.deliver(side, by_graph, network, None).await else { return };
        let (what, fault) = judge::draw(
            &mut self.chance,
            &judge::parts_of(&trace.turns),
            HOLD_DELIVERY,
            SLOW_DELIVERY,
        );
        let Some(trace) = self.deliver(side, by_graph, network, Some(&fault)).await else { return };
        if network.disarm() > 0 {
            return;
        }
        let end = if trace.turns.is_empty() { "delivered at last" } else { "delivered" };
        self.note(side, &what, &fault, Ok(end));
        network.cut_all();
        self.closes(&format!("{side}, {what}, {fault:?}"), Protocol::Smtp).await;
        self.clean(Protocol::Smtp).await;
    }

    /// Sends one, and waits until it has arrived; the trace of the first connection that it took.
    async fn deliver(
        &mut self,
        side: &str,
        by_graph: bool,
        network: &Network,
        fault: Option<&Fault>,
    ) -> Option<Trace> {
        // A connection that is kept for the next message would be one without the fault.
        network.cut_all();
        sleep(Duration::from_millis(200)).await;
        fault.cloned().into_iter().for_each(|fault| network.arm(fault));
        let marker = self.marker();
        let visit = self.lane.visit_spool(by_graph, &marker);
        if let Err(stop) = visit.pay(|_| {}).await {
            self.fail(side, &format!("the spool takes no message: {stop:?}"));
            return None;
        }
        let start = Instant::now();
        while self.copies(&visit.marker).is_empty() {
            if start.elapsed() > DELIVERED_WITHIN {
                self.fail(side, &format!("{fault:?}: not delivered within {DELIVERED_WITHIN:?}"));
                return None;
            }
            sleep(Duration::from_millis(50)).await;
        }
        if fault.is_some() {
            // For a second copy to come.
            sleep(HOLD_DELIVERY + Duration::from_secs(3)).await;
        } else {
            sleep(Duration::from_millis(200)).await;
        }
        if let Err(why) = self.arrived(&visit, true, fault.is_none()) {
            self.fail(side, &format!("{fault:?}: {why}"));
            return None;
        }
        network.last()
    }

    /// The token has become useless, and the token endpoint is not to be reached.
    async fn token(&mut self, all: &Barrier) {
        let lane = Arc::clone(&self.lane);
        let mut fault = None;
        for _ in 0..2 {
            lane.token.cut_all();
            if let Some((_, fault)) = &fault {
                lane.token.arm(Fault::clone(fault));
            }
            if all.wait().await.is_leader() {
                self.ground.emulator.control().revoke_access_tokens();
            }
            all.wait().await;
            let visit = lane.visit(Protocol::Imap, &self.marker());
            let start = Instant::now();
            let done = visit.pay(|_| {}).await;
            let fired = lane.token.disarm() == 0;
            match fault.take() {
                None => {
                    if let Err(stop) = done {
                        self.fail("a login with a stale token", &format!("{stop:?}"));
                    }
                    let trace = lane.token.last().unwrap_or_default();
                    let drawn = match trace.turns.is_empty() {
                        true => {
                            ("connect".into(), Fault { place: Place::Connect, deed: Deed::Cut })
                        }
                        false => judge::draw(
                            &mut self.chance,
                            &judge::parts_of(&trace.turns),
                            HOLD,
                            SLOW,
                        ),
                    };
                    fault = Some(drawn);
                }
                Some((what, fault)) => {
                    let took = start.elapsed();
                    let end = judge::inside(&fault, &done, took);
                    if fired {
                        self.note("token endpoint", &what, &fault, end);
                    }
                }
            }
        }
        lane.token.cut_all();
        let start = Instant::now();
        while let Err(stop) = lane.visit(Protocol::Imap, &self.marker()).pay(|_| {}).await {
            if start.elapsed() > TOKEN_AGAIN {
                return self.fail("after a fault of the token endpoint", &format!("{stop:?}"));
            }
            sleep(Duration::from_millis(250)).await;
        }
    }
}
