//! The wait for a person to type a code elsewhere (RFC 8628 section 3.5).
//!
//! Invariant: the wait can be broken off at any moment, by Ctrl-C as by a power cut; the next one goes on with the
//! same code while it lives. A network that fails meanwhile only makes it longer.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::time::{Instant, sleep};
use tracing::{debug, warn};

use super::{SignInError, SignedIn, finish};
use crate::clock::{Clock, Timestamp};
use crate::oauth::{DeviceCode, HttpEndpoint, Poll, Principal, TokenError};
use crate::store::{Store, StoreError};
use crate::vocabulary::Cause;

/// What `slow_down` adds to the pause, for good (RFC 8628 section 3.5).
const SLOW_DOWN: Duration = Duration::from_secs(5);

/// Longest pause while the provider can't be reached.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// A code that ends sooner than this is not worth being typed.
const WORTHWHILE: Duration = Duration::from_secs(60);

/// A code, for people.
#[derive(Debug)]
pub struct Waiting<'a> {
    /// What to type, and where.
    pub code: &'a DeviceCode,
    /// For how long it can be typed.
    pub left: Duration,
    /// It is one that was shown before.
    pub again: bool,
}

/// A code as it is kept.
#[derive(Serialize, Deserialize)]
struct Kept {
    code: DeviceCode,
    until: Timestamp,
}

/// Signs `principal` in; `show` tells people the code.
pub async fn sign_in_by_device(
    store: &Store,
    endpoint: &HttpEndpoint,
    principal: &Principal,
    mailboxes: Vec<String>,
    show: impl FnOnce(Waiting<'_>),
) -> Result<SignedIn, SignInError> {
    let clock = Clock::system();
    let left = |kept: &Kept| kept.until.saturating_since(clock.now());
    let former = kept(store, principal).await?.filter(|kept| left(kept) > WORTHWHILE);
    let again = former.is_some();
    let kept = match former {
        Some(kept) => kept,
        None => begin(store, endpoint, principal, clock.now()).await?,
    };
    show(Waiting { code: &kept.code, left: left(&kept), again });
    let outcome = wait(endpoint, principal, &kept.code, left(&kept)).await;
    let done = match outcome {
        Ok((answer, asked_at)) => finish(store, principal, mailboxes, answer, asked_at).await,
        Err(failure) => Err(failure),
    };
    // Spent in either case, and after the sign-in: a store that can't be written now must not cost that too.
    if let Err(failure) = store.keep_device(&principal.key(), None).await {
        warn!(%failure, "a code that is spent is not forgotten");
    }
    done
}

async fn begin(
    store: &Store,
    endpoint: &HttpEndpoint,
    principal: &Principal,
    now: Timestamp,
) -> Result<Kept, SignInError> {
    let code = endpoint.device_code(principal).await?;
    let kept = Kept { until: now.plus(code.life()), code };
    let plain = serde_json::to_vec(&kept).map(zeroize::Zeroizing::new);
    let plain = plain.map_err(|error| SignInError::Store(error.to_string()))?;
    store.keep_device(&principal.key(), Some(&plain)).await?;
    Ok(kept)
}

async fn kept(store: &Store, principal: &Principal) -> Result<Option<Kept>, StoreError> {
    let plain = store.device(&principal.key()).await?;
    Ok(plain.and_then(|plain| serde_json::from_slice(&plain).ok()))
}

async fn wait(
    endpoint: &HttpEndpoint,
    principal: &Principal,
    code: &DeviceCode,
    left: Duration,
) -> Result<(crate::oauth::Answer, Timestamp), SignInError> {
    let deadline = Instant::now() + left;
    let mut interval = code.interval();
    let mut pause = interval;
    while Instant::now() + pause < deadline {
        sleep(pause).await;
        let asked_at = Clock::system().now();
        match endpoint.poll(&principal.app, code).await {
            Ok(Poll::Granted(answer)) => return Ok((*answer, asked_at)),
            Ok(Poll::Pending) => pause = interval,
            Ok(Poll::SlowDown) => {
                interval += SLOW_DOWN;
                pause = interval;
            }
            Err(TokenError::Transient { reason, retry_after, .. }) => {
                debug!(reason, "the provider can't be asked just now");
                pause = (pause * 2).min(LONGEST_PAUSE).max(retry_after.unwrap_or_default());
            }
            Err(error) => return Err(error.into()),
        }
    }
    let reason = "the code was not typed in time";
    Err(TokenError::permanent(reason, Cause::SignIn).into())
}
