//! Delivery by Microsoft Graph, for tenants where SMTP AUTH is off.
//!
//! | file | what it holds |
//! | --- | --- |
//! | `courier` | the way of one message: recipients, small or large, what came of it |
//! | `recipients` | Graph sends to whom the header names; the envelope says to whom it should |
//! | `large` | a draft, its attachments one by one, and off |
//! | `session`, `client`, `body` | requests with a token, over HTTP, and what they carry |
//! | `fault` | what Graph's errors mean for the message and for the mailbox |
//! | `probe` | the doctor's request, which sends nothing |
//!
//! Invariant: a message goes to its envelope's recipients and nobody else, or it does not go; and a draft that was
//! not sent is deleted.

mod body;
mod client;
mod courier;
mod fault;
mod large;
mod probe;
mod recipients;
mod session;

pub use client::{Graph, graph_refusal};
pub use courier::GraphCourier;
pub use probe::Probed;
pub use recipients::add_hidden_recipients;
