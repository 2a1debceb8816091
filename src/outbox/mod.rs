//! The outbox: what devices hand over is put right, kept, and delivered by SMTP or Microsoft Graph.
//!
//! Invariant: what can be decided without a file or a socket is decided without one: [`mend`], [`bounce`] and
//! `mime.rs` take octets and a time, and give octets.

mod address;
mod bounce;
mod header;
mod mend;
mod mime;
mod part;
mod straighten;

pub use bounce::{Bounce, Failure, bounce};
pub use header::{Field, Header};
pub use mend::{MendRules, Mended, SenderRule, mend};
pub use mime::{Attachment, CannotCut, Cut, cut, header_recipients, sealed};
