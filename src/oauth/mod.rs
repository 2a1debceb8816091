//! OAuth 2.0: from a sign-in to a token that is fresh when a login needs it.
//!
//! `endpoint.rs` asks the token endpoint, `error.rs` tells what a failure means, `life.rs` when a token is
//! renewed, `tokens.rs` is what a login sees: the cache, with one background task per principal.
//!
//! Invariant: at most one token request is under way per principal, whoever asks; a new refresh token is
//! on disk before its access token is used; no failure ever throws a refresh token away.

mod endpoint;
mod error;
mod life;
mod principal;
mod renewal;
mod tokens;

pub use endpoint::{Answer, HttpEndpoint, Request, TokenEndpoint};
pub use error::TokenError;
pub use life::{AccessToken, token_of};
pub use principal::Principal;
pub use tokens::Tokens;
