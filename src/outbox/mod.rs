//! The outbox: what devices hand over is put right, kept, and delivered by SMTP or Microsoft Graph.
//!
//! | files | what they do |
//! | --- | --- |
//! | `intake` | a session that brings messages |
//! | `incoming`, `incoming_file` | a message on its way into the spool |
//! | `spool`, `files`, `folder`, `listing`, `room`, `leftovers` | the spool on the disk |
//! | `entry`, `content`, `journal`, `summary`, `hand` | what it holds, for the delivery and for people |
//! | `mend`, `straighten`, `header`, `address` | senders and headers, put right |
//! | `dispatch`, `current`, `queue`, `worker`, `settle` | what goes when, by which configuration, and what comes of it |
//! | `courier`, `begun` | what a way to the provider does, tells, and would have to take back |
//! | `smtp` | the way by SMTP |
//! | `graph` | the way by Microsoft Graph |
//! | `report`, `bounce`, `lines` | who is told of what can't be delivered |
//! | `mime`, `part`, `window`, `decode` | what Microsoft Graph needs to know of a message |
//!
//! Invariant: what the [`Spool`] has taken stays in it until it was delivered, has failed (and then stays where
//! people find it), or was dropped by a person. What can be decided without a file or a socket is decided without
//! one.

mod address;
mod begun;
mod bounce;
mod content;
mod courier;
mod current;
mod decode;
mod dispatch;
mod entry;
mod error;
mod files;
mod folder;
mod graph;
mod hand;
mod header;
mod incoming;
mod incoming_file;
mod intake;
mod journal;
mod leftovers;
mod lines;
mod listing;
mod mend;
mod mime;
mod part;
mod queue;
mod report;
mod room;
mod settle;
mod smtp;
mod spool;
mod straighten;
mod summary;
mod window;
mod worker;

pub use begun::Begun;
pub use content::Content;
pub use courier::{Courier, Message, Outcome, Verdict};
pub use dispatch::{Couriers, Outbox, OutboxParts};
pub use entry::{Damaged, Entry, Place, Progress, Source};
pub use error::SpoolError;
pub use files::Stamp;
pub use graph::{Graph, GraphCourier, Probed, add_hidden_recipients, graph_refusal};
pub use header::{Field, Header};
pub use incoming::Incoming;
pub use intake::{End, Intake, Taken, kept_as};
pub use journal::{Event, Journal, What};
pub use mend::{MendRules, Mended, mend};
use mime::header_of;
pub use mime::{Attachment, CannotCut, Cut, cut, header_recipients, sealed};
pub use smtp::{SmtpCourier, SmtpRoute};
pub use spool::{Spool, SpoolLock};
pub use summary::{Fill, Summary, messages};
