//! A soak: gatepost as a process of its own between an emulated Exchange and a mixed load, on a network that fails, for
//! as long as is wanted.
//!
//! `cargo run --release --example soak -- --minutes 60 [--seed N]`; Linux, as root, since nobody else may look into the
//! process. It prints each minute and at the end what it held; Ctrl-C ends it early, with the same words. Exit status 1
//! if a message was lost, a right password was called wrong, a login had no answer, or something has leaked.
#![cfg_attr(
    target_os = "linux",
    allow(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        clippy::print_stdout,
        unreachable_pub,
        reason = "a judge, which tells what it has measured and ends when it can't"
    )
)]

#[cfg(target_os = "linux")]
mod load;
#[cfg(target_os = "linux")]
#[path = "../../tests/support_ground/mod.rs"]
mod support_ground;
#[cfg(target_os = "linux")]
mod tally;
#[cfg(target_os = "linux")]
mod weather;

use std::process::ExitCode;

/// In the environment of the child, which is this program as gatepost.
#[cfg(target_os = "linux")]
const CHILD: &str = "GATEPOST_SOAK_CHILD";

#[cfg(target_os = "linux")]
fn main() -> ExitCode {
    if std::env::var_os(CHILD).is_some() {
        return gatepost::cli::main();
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(soak::run())
}

#[cfg(not(target_os = "linux"))]
fn main() -> ExitCode {
    ExitCode::FAILURE
}

#[cfg(target_os = "linux")]
mod soak {
    use std::os::unix::process::CommandExt;
    use std::process::{Command, ExitCode};
    use std::sync::Arc;
    use std::time::Duration;

    use clap::Parser;
    use gatepost::emulator::Options;
    use tokio::time::{Instant, sleep};
    use tokio_util::sync::CancellationToken;
    use tokio_util::task::TaskTracker;

    use super::support_ground::Ground;
    use super::tally::{Held, Tally};
    use super::{CHILD, load, weather};

    /// Mailboxes by SMTP, and as many by Graph.
    const LANES: usize = 4;

    /// Of access tokens: some renewals in each soak.
    const TOKEN_LIFE: Duration = Duration::from_secs(180);

    /// The load before what counts as the start: buffers, caches and threads that a process has once.
    const WARM: Duration = Duration::from_secs(30);

    /// What may be more at the end than at the start, in KiB: the allocator's. A leak of one kibibyte a session is
    /// more than that within the hour.
    const GROWTH: u64 = 32 * 1024;

    /// The same of descriptors: connections that are kept for the next request, to the token endpoint and Graph.
    const DESCRIPTORS: usize = 16;

    /// For sessions to end and messages to arrive behind the load. Longer than half-open connections may last.
    const SETTLE: Duration = Duration::from_secs(150);

    #[derive(Parser)]
    struct Args {
        /// How long
        #[arg(long, default_value_t = 10)]
        minutes: u64,
        /// What is drawn
        #[arg(long)]
        seed: Option<u64>,
    }

    pub(super) async fn run() -> ExitCode {
        let args = Args::parse();
        let seed = args.seed.unwrap_or_else(|| fastrand::u64(..));
        println!("soak of {} minutes, seed {seed}", args.minutes);
        let ground = Arc::new(start().await);
        let tally = Arc::new(Tally::default());
        let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
        load::start(&ground, &tally, seed, &tasks, &stop);
        let first = async {
            sleep(WARM).await;
            Held::now(&ground)
        };
        let interrupt = tokio::signal::ctrl_c();
        tokio::pin!(interrupt);
        let start = tokio::select! {
            start = first => start,
            _ = &mut interrupt => Held::now(&ground),
        };
        weather::start(&ground, &tally, seed, &tasks, &stop);
        let end = Instant::now() + Duration::from_secs(60 * args.minutes);
        let mut minute = 0;
        loop {
            minute += 1;
            let next = (Instant::now() + Duration::from_secs(60)).min(end);
            let interrupted = tokio::select! {
                () = watch(&ground, &tally, next) => false,
                _ = &mut interrupt => true,
            };
            println!("minute {minute}: {}", tally.line(&ground, &start));
            if interrupted || Instant::now() >= end {
                break;
            }
        }
        stop.cancel();
        tasks.close();
        tasks.wait().await;
        judge(&ground, &tally, &start).await
    }

    async fn start() -> Ground {
        let mut program = Command::new(std::env::current_exe().unwrap());
        // Ctrl-C is for the soak alone.
        program.env(CHILD, "1").process_group(0);
        let options = Options {
            token_life: Some(TOKEN_LIFE),
            smtp_messages_per_minute: 0,
            smtp_connections: 1000,
            smtp_recipients_per_day: usize::MAX,
            ..Options::default()
        };
        Ground::start(program, LANES, options, "[spool]\nretry = [\"1s\", \"5s\"]\n").await
    }

    /// Takes in what has arrived, until then.
    async fn watch(ground: &Ground, tally: &Tally, until: Instant) {
        while Instant::now() < until {
            sleep(Duration::from_secs(1).min(until - Instant::now())).await;
            tally.take_in(ground);
        }
    }

    /// Without load and faults, all that was taken arrives, and all that was opened is closed.
    async fn judge(ground: &Ground, tally: &Tally, start: &Held) -> ExitCode {
        ground.emulator.control().clear_faults();
        weather::clear(ground);
        let end = Instant::now() + SETTLE;
        let settled = loop {
            tally.take_in(ground);
            let now = Held::now(ground);
            let closed = now.descriptors <= start.idle + DESCRIPTORS;
            if closed && tally.missing().is_empty() || Instant::now() > end {
                break now;
            }
            sleep(Duration::from_secs(1)).await;
        };
        println!("at the end: {}", tally.line(ground, start));
        print!("{tally}");
        if settled.descriptors > start.idle + DESCRIPTORS {
            let (now, before) = (settled.descriptors, start.idle);
            tally.violation(format!("{now} descriptors are left of {before} without load"));
        }
        if settled.memory > start.memory + GROWTH {
            let (now, before) = (settled.memory, start.memory);
            tally.violation(format!("memory has grown from {before} KiB to {now} KiB"));
        }
        for marker in tally.missing() {
            tally.violation(format!("{marker} was taken and has not arrived"));
        }
        if !ground.process.log(&["panicked"], 1).is_empty() {
            tally.violation(ground.process.log(&["panicked"], 5));
        }
        let violations = tally.violations();
        if violations.is_empty() {
            println!("nothing lost, nothing leaked");
            return ExitCode::SUCCESS;
        }
        println!("{}\n{}", violations.join("\n"), ground.process.log(&["WARN", "ERROR"], 20));
        ExitCode::FAILURE
    }
}
