//! The outbox: what devices hand over is put right, kept, and delivered by SMTP or Microsoft Graph.
//!
//! Invariant: what can be decided without a file or a socket is decided without one: [`mend`], [`bounce`] and
//! `mime.rs` take octets and a time, and give octets. What the [`Spool`] has taken stays in it until it was delivered,
//! has failed (and then stays where people find it), or was dropped by a person.

mod address;
mod bounce;
mod content;
mod draft;
mod entry;
mod error;
mod files;
mod folder;
mod hand;
mod header;
mod incoming;
mod journal;
mod listing;
mod mend;
mod mime;
mod part;
mod room;
mod spool;
mod straighten;

pub use bounce::{Bounce, Failure, bounce};
pub use content::Content;
pub use entry::{Damaged, Entry, Place, Progress, Source};
pub use error::SpoolError;
pub use files::Stamp;
pub use header::{Field, Header};
pub use incoming::Incoming;
pub use journal::{Event, Journal, What};
pub use mend::{MendRules, Mended, mend};
pub use mime::{Attachment, CannotCut, Cut, cut, header_recipients, sealed};
pub use spool::{Spool, SpoolLock};
