//! The time of a refused login does not tell an unknown mailbox from a wrong password.
//!
//! `cargo test --release --test login_timing -- --ignored --nocapture --test-threads 1`, on a machine that does nothing
//! else. Both kinds take turns, in a random order within each pair, so that whatever else the machine does falls on
//! both; what is compared are the whole distributions (Mann-Whitney) besides medians and quantiles.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]
#![allow(clippy::print_stdout, reason = "the measure is what it is run for")]
#![allow(clippy::cast_precision_loss, reason = "counts of samples are far below 2^52")]

mod support;

use std::net::IpAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use gatepost::access::{Access, Hasher, generate};
use gatepost::clock::Clock;
use gatepost::config::{Config, GuardSettings};
use gatepost::protocol::{Login, Refusal};
use gatepost::secret::Secret;
use gatepost::store::{Hash, PasswordRecord, Store};
use gatepost::vocabulary::{Protocol, TlsMode};
use support::{House, MAILBOX, Settings, Wire, is_wrong_password, login_command};

/// Of each kind.
const SAMPLES: usize = 10_000;

/// Of each kind, where each costs a slow hash.
const SLOW_SAMPLES: usize = 1_000;

/// As long as [`MAILBOX`].
const UNKNOWN: &str = "jack@contoso.example";

/// How often an unknown mailbox may be the slower one of two, away from half of the time.
const TOLERANCE: f64 = 0.02;

#[derive(Default)]
struct Samples {
    known: Vec<f64>,
    unknown: Vec<f64>,
}

impl Samples {
    fn add(&mut self, is_known: bool, took: Duration) {
        let kind = if is_known { &mut self.known } else { &mut self.unknown };
        kind.push(took.as_secs_f64() * 1e6);
    }

    /// Prints both, and fails if one can be told from the other.
    fn judge(mut self, what: &str, tolerance: f64) {
        self.known.sort_by(f64::total_cmp);
        self.unknown.sort_by(f64::total_cmp);
        for (name, sorted) in [("wrong password", &self.known), ("unknown mailbox", &self.unknown)]
        {
            let at = |part: usize| sorted[sorted.len() * part / 100];
            println!(
                "{what}: {name}: {} samples, 10 % {:.1} µs, median {:.1} µs, 90 % {:.1} µs, 99 % {:.1} µs",
                sorted.len(),
                at(10),
                at(50),
                at(90),
                at(99)
            );
        }
        let (slower, z) = mann_whitney(&self.unknown, &self.known);
        println!(
            "{what}: the unknown mailbox is slower in {:.2} % of pairs, z = {z:.2}",
            slower * 100.0
        );
        assert!((slower - 0.5).abs() < tolerance, "{what}: {slower:.4} of 0.5");
    }
}

/// How often one of `a` is above one of `b`, and how far that is from chance in standard deviations. Both are sorted.
fn mann_whitney(a: &[f64], b: &[f64]) -> (f64, f64) {
    let above = |x: &f64| b.partition_point(|y| y < x) + b.partition_point(|y| y <= x);
    let u = a.iter().map(above).sum::<usize>() as f64 / 2.0;
    let (n, m) = (a.len() as f64, b.len() as f64);
    let deviation = (n * m * (n + m + 1.0) / 12.0).sqrt();
    (u / (n * m), (u - n * m / 2.0) / deviation)
}

/// Known and unknown in turns, in a random order within each pair.
fn order(pairs: usize) -> impl Iterator<Item = bool> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    (0..pairs).flat_map(move |_| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        let first = state >> 63 == 1;
        [first, !first]
    })
}

/// One mailbox with ten passwords, behind fifty without.
async fn check(what: &str, chosen: bool, samples: usize) {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path(), None).await.unwrap();
    let mut text = String::from("[app.a]\nclient_id = \"x\"\n");
    for n in 0..50 {
        text += &format!("[[account]]\nmailbox = \"user{n}@contoso.example\"\napp = \"a\"\n");
    }
    text += &format!("[[account]]\nmailbox = \"{MAILBOX}\"\napp = \"a\"\n");
    let config = Config::parse(Path::new("gatepost.toml"), &text).unwrap();
    for n in 0..10 {
        let hasher = Hasher::new(&store);
        let hash = match chosen && n == 0 {
            true => hasher.hash_chosen(MAILBOX, &Secret::new(b"chosen".to_vec())).await.unwrap(),
            false => {
                Hash::Generated(hasher.generated(MAILBOX, generate().unwrap().expose()).to_vec())
            }
        };
        let (mailbox, name) = (MAILBOX.into(), format!("{n}"));
        let networks = vec!["10.0.0.0/8".parse().unwrap()];
        let created_at = Clock::system().now();
        let record =
            PasswordRecord { mailbox, name, hash, protocols: Vec::new(), networks, created_at };
        assert!(store.add_password(&record).await.unwrap());
    }
    let access = Access::open(store).await.unwrap();
    // Slowed down and locked, nobody could be measured ten thousand times.
    access.set_guard(&GuardSettings {
        attempts: None,
        delay: Duration::ZERO,
        ..GuardSettings::default()
    });
    let peer: IpAddr = [127, 0, 0, 1].into();
    let mut found = Samples::default();
    for (n, is_known) in order(samples + 100).enumerate() {
        let user = if is_known { MAILBOX } else { UNKNOWN };
        let password = Secret::new(format!("wrong {n:06}").into_bytes());
        let login = Login { user: user.into(), password };
        let start = Instant::now();
        let account = config.account(&login.user);
        let verdict = access.check(account.as_deref(), &login, Protocol::Imap, peer).await;
        let took = start.elapsed();
        assert_eq!(verdict, Err(Refusal::BadCredentials));
        if n >= 200 {
            found.add(is_known, took);
        }
    }
    found.judge(what, tolerance(samples));
}

/// Few samples are spread wider by chance: five standard deviations.
fn tolerance(samples: usize) -> f64 {
    TOLERANCE.max(5.0 / (6.0 * samples as f64).sqrt())
}

async fn over_tcp(what: &str, chosen: bool, samples: usize) {
    let account = "[guard]\nattempts = 0\ndelay = \"0s\"";
    let house = House::start(Settings { account, ..Settings::default() }).await;
    if chosen {
        house.add_chosen("chosen", "correct horse").await;
    }
    let mut found = Samples::default();
    for (n, is_known) in order(samples + 20).enumerate() {
        let user = if is_known { MAILBOX } else { UNKNOWN };
        let mut client = house.open(Protocol::Imap, TlsMode::None).await;
        let start = Instant::now();
        client.send(login_command(Protocol::Imap, user, &format!("wrong {n:06}"))).await;
        let answer = client.answer(Protocol::Imap).await;
        let took = start.elapsed();
        assert!(is_wrong_password(Protocol::Imap, &answer), "{answer}");
        end(client).await;
        if n >= 40 {
            found.add(is_known, took);
        }
    }
    found.judge(what, tolerance(samples));
}

/// So that no two connections are measured at once.
async fn end(mut client: Wire) {
    client.send("9 LOGOUT\r\n").await;
    client.rest().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "measures, on a machine that does nothing else"]
async fn by_the_check_with_generated_passwords() {
    check("check, generated", false, SAMPLES).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "measures, on a machine that does nothing else; a slow hash each"]
async fn by_the_check_with_chosen_passwords() {
    check("check, chosen", true, SLOW_SAMPLES).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "measures, on a machine that does nothing else"]
async fn over_tcp_with_generated_passwords() {
    over_tcp("TCP, generated", false, SAMPLES).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "measures, on a machine that does nothing else; a slow hash each"]
async fn over_tcp_with_chosen_passwords() {
    over_tcp("TCP, chosen", true, SLOW_SAMPLES).await;
}

#[test]
fn the_statistic_tells_what_differs() {
    let even: Vec<f64> = (0..1000).map(f64::from).collect();
    let later: Vec<f64> = even.iter().map(|x| x + 50.0).collect();
    let (slower, z) = mann_whitney(&even, &even);
    assert!((slower - 0.5).abs() < 1e-9 && z.abs() < 1e-9);
    let (slower, z) = mann_whitney(&later, &even);
    assert!(slower > 0.54 && z > 3.0, "{slower} {z}");
}
