//! From a name to its addresses, by the system's resolver.
//!
//! Invariant: name servers that do not answer block a bounded number of the runtime's threads, which passwords are
//! checked on too.

use std::io;
use std::net::SocketAddr;

use tokio::net::lookup_host;
use tokio::sync::Semaphore;

/// Look-ups at once. The system's resolver blocks a thread for each, up to half a minute (resolv.conf(5): two tries of
/// 5 s at each of three servers), whether or not anybody still waits; the runtime has 512 of them.
static PLACES: Semaphore = Semaphore::const_new(32);

/// The addresses of `host`, in the order in which the system prefers them; the error says whose fault it is.
pub(super) async fn look_up(host: &str, port: u16) -> Result<Vec<SocketAddr>, String> {
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
    async fn localhost_is_found() {
        let found = look_up("localhost", 5).await.unwrap();
        assert!(
            !found.is_empty() && found.iter().all(|it| it.ip().is_loopback() && it.port() == 5)
        );
    }
}
