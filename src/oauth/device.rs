//! A sign-in on another device (RFC 8628): this one shows a code, a person types it where a browser is.

use std::time::Duration;
use std::{fmt, mem};

use serde::{Deserialize, Serialize};
use zeroize::Zeroize;

use crate::secret::Secret;

/// RFC 8628 section 3.2: the pause between two questions if the answer names none.
const DEFAULT_INTERVAL: u64 = 5;

/// Longest life of a code, and longest pause, that are believed: Entra's codes live 15 minutes, Google's 30, and both
/// want to be asked each 5 seconds. A person waits at the other end.
const LONGEST_LIFE: Duration = Duration::from_secs(86_400);
const LONGEST_INTERVAL: Duration = Duration::from_secs(60);

/// Longest text of the provider that is shown.
const LONGEST: usize = 200;

/// A code that waits to be typed (RFC 8628 section 3.2).
#[derive(Serialize, Deserialize)]
#[serde(try_from = "Written")]
pub struct DeviceCode {
    /// What the device asks with.
    #[serde(serialize_with = "exposed")]
    pub(super) device_code: Secret<String>,
    /// What the person types.
    pub user_code: String,
    /// Where.
    pub verification_uri: String,
    /// Where, with the code already in it.
    pub verification_uri_complete: Option<String>,
    expires_in: u64,
    interval: u64,
}

/// As the provider writes it. Google and older servers write `verification_url`.
#[derive(Deserialize)]
struct Written {
    device_code: String,
    user_code: String,
    #[serde(alias = "verification_url")]
    verification_uri: String,
    verification_uri_complete: Option<String>,
    expires_in: u64,
    interval: Option<u64>,
}

impl TryFrom<Written> for DeviceCode {
    type Error = &'static str;

    fn try_from(mut written: Written) -> Result<Self, Self::Error> {
        let plain = |text: &str| {
            !text.is_empty() && text.len() <= LONGEST && !text.chars().any(char::is_control)
        };
        if !plain(&written.user_code) || !plain(&written.verification_uri) {
            return Err("a code or address that can't be shown");
        }
        Ok(Self {
            device_code: Secret::new(mem::take(&mut written.device_code)),
            user_code: mem::take(&mut written.user_code),
            verification_uri: mem::take(&mut written.verification_uri),
            verification_uri_complete: written
                .verification_uri_complete
                .take()
                .filter(|u| plain(u)),
            expires_in: written.expires_in,
            interval: written.interval.unwrap_or(DEFAULT_INTERVAL),
        })
    }
}

impl DeviceCode {
    /// How long the code can be typed, from when it was asked for: a day at most.
    pub fn life(&self) -> Duration {
        Duration::from_secs(self.expires_in).min(LONGEST_LIFE)
    }

    /// The pause between two questions: a minute at most.
    pub fn interval(&self) -> Duration {
        Duration::from_secs(self.interval).min(LONGEST_INTERVAL)
    }
}

impl fmt::Debug for DeviceCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DeviceCode").field("uri", &self.verification_uri).finish_non_exhaustive()
    }
}

/// Only ever into the sealed store.
fn exposed<S: serde::Serializer>(secret: &Secret<String>, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_str(secret.expose())
}

impl Drop for Written {
    fn drop(&mut self) {
        self.device_code.zeroize();
    }
}
