//! One connection to whichever of a name's addresses answers first: Happy Eyeballs (RFC 8305).
//!
//! Invariant: an address that does not answer, or a family that does not route, costs a quarter of a second and not
//! the login.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::time::{Instant, sleep, sleep_until};

use super::deadline::Late;

/// How long an address is waited for before the next one is tried beside it: the "Connection Attempt Delay" of RFC
/// 8305 section 5.
const DELAY: Duration = Duration::from_millis(250);

/// Addresses that a failure names. Exchange has sixteen, and a reply on the wire has room for half of them.
const NAMED: usize = 6;

/// Every address that was tried, and how it failed.
#[derive(Debug)]
pub(super) struct Unreachable(Vec<(SocketAddr, String)>);

/// Connects to the first of `addresses` that answers, all within `limit`.
pub(super) async fn connect<T, F>(
    addresses: Vec<SocketAddr>,
    limit: Duration,
    connect: impl Fn(SocketAddr) -> F,
) -> Result<T, Unreachable>
where
    F: Future<Output = io::Result<T>>,
{
    let end = Instant::now() + limit;
    let mut waiting = in_turn(addresses).into_iter();
    let mut open = Vec::new();
    let mut failed = Vec::new();
    let mut tries = FuturesUnordered::new();
    loop {
        match waiting.next() {
            Some(address) => {
                open.push(address);
                let attempt = connect(address);
                tries.push(async move { (address, attempt.await) });
            }
            None if tries.is_empty() => return Err(Unreachable(failed)),
            None => {}
        }
        let more = waiting.len() > 0;
        tokio::select! {
            Some((address, outcome)) = tries.next() => match outcome {
                Ok(connected) => return Ok(connected),
                Err(error) => {
                    open.retain(|other| *other != address);
                    failed.push((address, words(&error)));
                }
            },
            () = sleep(DELAY), if more => {}
            () = sleep_until(end) => {
                let late = format!("no answer {}", Late::after(limit));
                failed.extend(open.into_iter().map(|address| (address, late.clone())));
                return Err(Unreachable(failed));
            }
        }
    }
}

/// The families by turns, beginning with the one that the system prefers (RFC 8305 section 4).
fn in_turn(addresses: Vec<SocketAddr>) -> Vec<SocketAddr> {
    let first_is_v6 = addresses.first().is_some_and(SocketAddr::is_ipv6);
    let (first, second): (Vec<_>, Vec<_>) =
        addresses.into_iter().partition(|address| address.is_ipv6() == first_is_v6);
    let (mut first, mut second) = (first.into_iter(), second.into_iter());
    let mut all = Vec::new();
    loop {
        match (first.next(), second.next()) {
            (None, None) => return all,
            (one, other) => all.extend(one.into_iter().chain(other)),
        }
    }
}

/// Short, since there may be many of them.
fn words(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => "connection refused".into(),
        io::ErrorKind::TimedOut => "timed out".into(),
        io::ErrorKind::NetworkUnreachable => "network is unreachable".into(),
        io::ErrorKind::HostUnreachable => "host is unreachable".into(),
        _ => error.to_string(),
    }
}

/// `connection refused (127.0.0.1:993, [::1]:993); no answer within 10 s (192.0.2.1:993)`.
impl fmt::Display for Unreachable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let named = self.0.get(..NAMED).unwrap_or(&self.0);
        let mut rest = named.to_vec();
        let mut groups = Vec::new();
        while let Some((_, why)) = rest.first().cloned() {
            let (alike, others): (Vec<_>, Vec<_>) = rest.into_iter().partition(|it| it.1 == why);
            let addresses: Vec<_> = alike.iter().map(|(address, _)| address.to_string()).collect();
            groups.push(format!("{why} ({})", addresses.join(", ")));
            rest = others;
        }
        f.write_str(&groups.join("; "))?;
        match self.0.len() - named.len() {
            0 => Ok(()),
            more => write!(f, "; and {more} more"),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use super::*;

    const LIMIT: Duration = Duration::from_secs(10);

    fn addresses(list: &[&str]) -> Vec<SocketAddr> {
        list.iter().map(|address| address.parse().unwrap()).collect()
    }

    /// The fates of addresses, by their port: 1 refuses at once, 2 never answers, 3 answers after 100 ms, 4 at once.
    async fn fate(address: SocketAddr) -> io::Result<SocketAddr> {
        match address.port() {
            1 => Err(io::ErrorKind::ConnectionRefused.into()),
            2 => pending().await,
            3 => {
                sleep(Duration::from_millis(100)).await;
                Ok(address)
            }
            _ => Ok(address),
        }
    }

    async fn reach(list: &[&str]) -> (Result<SocketAddr, String>, u128) {
        let start = Instant::now();
        let reached = connect(addresses(list), LIMIT, fate).await;
        (reached.map_err(|error| error.to_string()), start.elapsed().as_millis())
    }

    #[test]
    fn families_take_turns() {
        let sorted = in_turn(addresses(&["[::1]:1", "[::2]:1", "[::3]:1", "127.0.0.1:1"]));
        assert_eq!(sorted, addresses(&["[::1]:1", "127.0.0.1:1", "[::2]:1", "[::3]:1"]));
        let sorted = in_turn(addresses(&["127.0.0.1:1", "127.0.0.2:1", "[::1]:1"]));
        assert_eq!(sorted, addresses(&["127.0.0.1:1", "[::1]:1", "127.0.0.2:1"]));
    }

    #[tokio::test(start_paused = true)]
    async fn the_next_begins_after_the_delay_or_at_once_after_a_failure() {
        let (reached, millis) = reach(&["[::1]:2", "127.0.0.1:4"]).await;
        assert_eq!((reached.unwrap().port(), millis), (4, 250), "a family that does not route");
        let (reached, millis) = reach(&["[::1]:1", "127.0.0.1:1", "[::1]:4"]).await;
        assert_eq!((reached.unwrap().port(), millis), (4, 0), "refusals cost nothing");
        let (reached, millis) = reach(&["[::1]:2", "[::2]:2", "[::3]:2", "127.0.0.1:3"]).await;
        assert_eq!((reached.unwrap().port(), millis), (3, 350), "the other family is second");
        let (reached, millis) = reach(&["[::1]:3", "127.0.0.1:4"]).await;
        assert_eq!((reached.unwrap().port(), millis), (3, 100), "who answers soon is alone");
    }

    #[tokio::test(start_paused = true)]
    async fn a_failure_names_each_address_and_how_it_failed() {
        let (reached, millis) = reach(&["[::1]:1", "127.0.0.1:1"]).await;
        assert_eq!(reached.unwrap_err(), "connection refused ([::1]:1, 127.0.0.1:1)");
        assert_eq!(millis, 0);
        let (reached, millis) = reach(&["[::1]:2", "127.0.0.1:1"]).await;
        let told = "connection refused (127.0.0.1:1); no answer within 10 s ([::1]:2)";
        assert_eq!((reached.unwrap_err().as_str(), millis), (told, 10_000));
        let many: Vec<_> = (1..=9).map(|last| format!("127.0.0.{last}:1")).collect();
        let many: Vec<_> = many.iter().map(String::as_str).collect();
        let told = reach(&many).await.0.unwrap_err();
        assert!(told.contains("127.0.0.6:1") && told.ends_with("and 3 more"), "{told}");
        let (reached, _) = reach(&[]).await;
        assert!(reached.is_err());
    }
}
