//! Sockets: listening, dialling, TLS both ways, the relay, the HTTP client.
//!
//! Invariant: no protocol in here, only bytes; and each wait has a deadline, save the relay's.

mod dial;
mod http;
mod listen;
mod pinned;
mod relay;
mod stream;
mod tls;
mod watch;

pub use dial::{DialError, dial, start_tls};
pub use http::{HttpClient, HttpLimits, http_client, http_client_within};
pub use listen::{bind, inherit, unclaimed};
pub use relay::{Relayed, relay};
pub use stream::Stream;
pub use tls::{ClientTls, ServerTls, TlsError};
pub use watch::{CertificateFault, Presented, Seen};
