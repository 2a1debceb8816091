//! From a name to its addresses, by the system's resolver.
//!
//! Invariant: name servers that do not answer block a bounded number of the runtime's threads, which passwords are
//! checked on too. No answer is believed for longer than any TTL, which the system's resolver does not tell.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::net::lookup_host;
use tokio::sync::Semaphore;
use tokio::time::Instant;

/// Look-ups at once. The system's resolver blocks a thread for each, up to half a minute (resolv.conf(5): two tries of
/// 5 s at each of three servers), whether or not anybody still waits; the runtime has 512 of them.
static PLACES: Semaphore = Semaphore::const_new(32);

/// How long an answer is believed. A burst of logins asks once; Exchange's own names have a TTL of some minutes, those
/// behind them of seconds.
const BELIEVED: Duration = Duration::from_secs(5);

/// What was found a moment ago. Names come from the configuration, so that there are few.
static FOUND: LazyLock<Mutex<HashMap<(String, u16), Found>>> = LazyLock::new(Mutex::default);

struct Found {
    addresses: Vec<SocketAddr>,
    at: Instant,
}

/// The addresses of `host`, in the order in which the system prefers them, but for one that was [`preferred`]; the
/// error says whose fault it is.
pub(super) async fn look_up(host: &str, port: u16) -> Result<Vec<SocketAddr>, String> {
    if let Ok(address) = host.parse::<IpAddr>() {
        return Ok(vec![(address, port).into()]);
    }
    let key = (host.to_owned(), port);
    if let Some(found) = found().get(&key).filter(|found| found.at.elapsed() < BELIEVED) {
        return Ok(found.addresses.clone());
    }
    let addresses = ask(host, port).await?;
    let answer = Found { addresses: addresses.clone(), at: Instant::now() };
    found().insert(key, answer);
    Ok(addresses)
}

/// This address has answered: it is tried first, as long as the answer is believed (RFC 8305 section 4).
pub(super) fn preferred(host: &str, port: u16, address: SocketAddr) {
    if let Some(Found { addresses, .. }) = found().get_mut(&(host.to_owned(), port))
        && let Some(at) = addresses.iter().position(|known| *known == address)
    {
        addresses.get_mut(..=at).unwrap_or_default().rotate_right(1);
    }
}

/// None of them has answered: the next one asks anew.
pub(super) fn forget(host: &str, port: u16) {
    found().remove(&(host.to_owned(), port));
}

fn found() -> MutexGuard<'static, HashMap<(String, u16), Found>> {
    FOUND.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn ask(host: &str, port: u16) -> Result<Vec<SocketAddr>, String> {
    let name = host.to_owned();
    // In a task of its own, so that a place is taken as long as the thread is.
    let found = tokio::spawn(async move {
        let _place = PLACES.acquire().await;
        lookup_host((name, port)).await.map(Iterator::collect::<Vec<_>>)
    });
    match found.await {
        Ok(Ok(addresses)) if addresses.is_empty() => Err(format!("the name {host} has no address")),
        Ok(Ok(addresses)) => Ok(addresses),
        Ok(Err(error)) => Err(words(host, &error)),
        Err(stopped) => Err(stopped.to_string()),
    }
}

/// The standard library has `getaddrinfo`'s words, not its codes: those of glibc, musl, the BSDs and macOS, and the
/// numbers of Windows, for EAI_AGAIN (RFC 3493 section 6.1).
fn words(host: &str, error: &io::Error) -> String {
    /// WSATRY_AGAIN.
    const TRY_AGAIN: i32 = 11_002;
    let text = error.to_string();
    let again = ["Temporary failure", "Try again", "temporarily"];
    if again.iter().any(|words| text.contains(words)) || error.raw_os_error() == Some(TRY_AGAIN) {
        return format!("no name server answers for {host} just now: {text}");
    }
    format!("the name {host} is not known: {text}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_is_not_there_and_a_server_that_is_not() {
        let told = |text: &str| words("host", &io::Error::other(text.to_owned()));
        let prefix = "failed to lookup address information: ";
        for gone in ["Name or service not known", "Name does not resolve", "nodename nor servname"]
        {
            assert!(told(&format!("{prefix}{gone}")).starts_with("the name host is not known"));
        }
        for down in ["Temporary failure in name resolution", "Try again"] {
            assert!(
                told(&format!("{prefix}{down}")).starts_with("no name server answers for host")
            );
        }
    }

    #[tokio::test]
    async fn who_has_answered_is_tried_first_until_none_answers() {
        let listed = |list: [&str; 3]| list.map(|address| address.parse::<SocketAddr>().unwrap());
        let addresses = listed(["[::1]:7", "192.0.2.1:7", "192.0.2.2:7"]);
        let answer = Found { addresses: addresses.to_vec(), at: Instant::now() };
        found().insert(("host.invalid".into(), 7), answer);
        preferred("host.invalid", 7, addresses[1]);
        preferred("host.invalid", 7, "192.0.2.9:7".parse().unwrap());
        let sorted = listed(["192.0.2.1:7", "[::1]:7", "192.0.2.2:7"]);
        assert_eq!(look_up("host.invalid", 7).await.unwrap(), sorted);
        forget("host.invalid", 7);
        look_up("host.invalid", 7).await.unwrap_err();
    }

    #[tokio::test]
    async fn an_address_is_its_own() {
        assert_eq!(look_up("::1", 5).await.unwrap(), ["[::1]:5".parse().unwrap()]);
    }

    #[tokio::test]
    async fn localhost_is_found() {
        let found = look_up("localhost", 5).await.unwrap();
        assert!(
            !found.is_empty() && found.iter().all(|it| it.ip().is_loopback() && it.port() == 5)
        );
    }
}
