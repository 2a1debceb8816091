//! The relay between two connections in memory: a megabyte down, one up, short commands to and fro.

#![allow(clippy::unwrap_used, reason = "a benchmark ends by panicking")]

use std::time::{Duration, Instant};

use criterion::{Criterion, Throughput};
use gatepost::net::relay;
use gatepost::protocol::{Closing, Talk};
use gatepost::vocabulary::Protocol;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio::runtime::{Builder, Runtime};
use tokio_util::sync::CancellationToken;

/// Octets of a large message.
const LARGE: usize = 1024 * 1024;

/// What a connection in memory holds: as much as a socket's buffer at first.
const BUFFER: usize = 128 * 1024;

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    let runtime = Builder::new_current_thread().enable_all().build().unwrap();
    let mut group = criterion.benchmark_group("relay");
    let message = message();
    group.throughput(Throughput::Bytes(LARGE as u64));
    let fetched =
        format!("* 1 FETCH (BODY[] {{{LARGE}}}\r\n{message})\r\na OK FETCH completed.\r\n");
    group.bench_function("IMAP, down", |bencher| {
        let parts = [(Way::Up, "a FETCH 1 BODY[]\r\n"), (Way::Down, &fetched)];
        bencher.iter_custom(|times| timed(&runtime, Protocol::Imap, times, &parts));
    });
    let appended = format!("{message}\r\n");
    group.bench_function("IMAP, up", |bencher| {
        let command = format!("a APPEND INBOX {{{LARGE}}}\r\n");
        let parts = [
            (Way::Up, command.as_str()),
            (Way::Down, "+ Ready for additional command text.\r\n"),
            (Way::Up, &appended),
            (Way::Down, "a OK APPEND completed.\r\n"),
        ];
        bencher.iter_custom(|times| timed(&runtime, Protocol::Imap, times, &parts));
    });
    let retrieved = format!("+OK {LARGE} octets\r\n{message}.\r\n");
    group.bench_function("POP3, down", |bencher| {
        let parts = [(Way::Up, "RETR 1\r\n"), (Way::Down, &retrieved)];
        bencher.iter_custom(|times| timed(&runtime, Protocol::Pop3, times, &parts));
    });
    group.throughput(Throughput::Elements(1));
    group.bench_function("IMAP, command", |bencher| {
        let parts = [(Way::Up, "a NOOP\r\n"), (Way::Down, "a OK NOOP completed.\r\n")];
        bencher.iter_custom(|times| timed(&runtime, Protocol::Imap, times, &parts));
    });
    group.finish();
    criterion.final_summary();
}

/// Which way something goes.
#[derive(Clone, Copy)]
enum Way {
    /// From the client to the upstream.
    Up,
    /// From the upstream to the client.
    Down,
}

/// How long it takes that these parts pass so often in one session.
fn timed(runtime: &Runtime, protocol: Protocol, times: u64, parts: &[(Way, &str)]) -> Duration {
    runtime.block_on(async {
        let ((mut client, near), (far, mut upstream)) = (duplex(BUFFER), duplex(BUFFER));
        let session = tokio::spawn(async move {
            let (talk, stays) = (Talk::new(protocol), CancellationToken::new());
            relay(near, far, talk, &stays, || Closing::ShuttingDown).await
        });
        let mut arrived = vec![0; 2 * LARGE];
        let begun = Instant::now();
        for _ in 0..times {
            for (way, part) in parts {
                let arrived = arrived.get_mut(..part.len()).unwrap();
                match way {
                    Way::Up => pass(&mut client, &mut upstream, part, arrived).await,
                    Way::Down => pass(&mut upstream, &mut client, part, arrived).await,
                }
            }
        }
        let taken = begun.elapsed();
        session.abort();
        taken
    })
}

/// A part from one side to the other. Both ends are here, so that it is the relay that is waited for.
async fn pass(from: &mut DuplexStream, to: &mut DuplexStream, part: &str, arrived: &mut [u8]) {
    let (sent, received) = tokio::join!(from.write_all(part.as_bytes()), to.read_exact(arrived));
    sent.unwrap();
    received.unwrap();
}

/// Lines of an attachment.
fn message() -> String {
    let line = "A".repeat(76) + "\r\n";
    line.chars().cycle().take(LARGE - 2).chain("\r\n".chars()).collect()
}
