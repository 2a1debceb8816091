//! The outbox: what devices hand over is put right, kept, and delivered by SMTP or Microsoft Graph.
//!
//! Invariant: what the [`Spool`] has taken stays in it until it was delivered, has failed (and then stays where
//! people find it), or was dropped by a person.

mod content;
mod courier;
mod entry;
mod error;
mod files;
mod folder;
mod hand;
mod incoming;
mod journal;
mod mend;
mod room;
mod spool;

pub use content::Content;
pub use courier::{Courier, Message, Outcome, Verdict};
pub use entry::{Damaged, Entry, Place, Progress, Source};
pub use error::SpoolError;
pub use files::Stamp;
pub use incoming::Incoming;
pub use journal::{Event, Journal, What};
pub use mend::{MendRules, Mended, mend};
pub use spool::{Spool, SpoolLock};
