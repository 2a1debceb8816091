//! OAuth 2.0: from a sign-in to a token that is fresh when a login needs it.
//!
//! | file | what it holds |
//! | --- | --- |
//! | `authorize`, `device` | the two ways in which a person signs in |
//! | `request`, `assertion`, `client_key` | what a token request says, and how the app proves that it is itself |
//! | `endpoint`, `error` | asking over HTTP, and what a failure means |
//! | `principal`, `claims` | whose token it is, and what it says of itself |
//! | `proof` | whether the app's secret or key was replaced since it was refused, and the remedy |
//! | `life`, `slot`, `renewal`, `keeping`, `tokens` | when a token is renewed, how, where it is kept, what a login sees |
//! | `desk`, `office`, `agenda`, `lane` | who renews it: a task for each principal, as long as there is something to do |
//! | `once`, `expiry` | one renewal by hand, and warnings before a secret or certificate ends |
//!
//! Mail and Microsoft Graph have access tokens of their own, from the same sign-in.
//!
//! Invariant: at most one token request is under way per principal, whoever asks; a new refresh token is on disk before
//! its access token is used, unless the store fails and the former one ends; no failure ever throws a refresh token
//! away.

mod agenda;
mod assertion;
mod authorize;
mod claims;
mod client_key;
mod desk;
mod device;
mod endpoint;
mod error;
mod expiry;
mod keeping;
mod lane;
mod life;
mod office;
mod once;
mod principal;
mod proof;
mod renewal;
mod request;
mod slot;
mod tokens;

pub use assertion::CredentialError;
pub use authorize::{Authorization, Redirected};
pub use claims::Claims;
pub use client_key::{ClientKey, KeyError};
pub use device::DeviceCode;
pub use endpoint::{Answer, HttpEndpoint, Poll, TokenEndpoint, read_answer};
pub use error::{TokenError, Trace, retry_after};
pub use expiry::watch_expiry;
pub use life::{AccessToken, token_of};
pub use once::{Renewed, renew_once};
pub use principal::Principal;
pub use proof::remedy;
pub use request::{Request, credential_end, try_credential};
pub use slot::NoToken;
pub use tokens::Tokens;
