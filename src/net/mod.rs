//! Sockets: listening, dialling, TLS both ways, the relay, the HTTP client.
//!
//! Invariant: no protocol in here, only bytes; and each wait has a deadline, save the relay's.

mod certificate;
mod dial;
mod handshake;
mod http;
mod listen;
mod pinned;
mod relay;
mod self_signed;
mod server_tls;
mod stream;
mod tls;
mod watch;

pub use certificate::Certificate;
pub use dial::{DialError, dial, start_tls};
pub use handshake::why_no_tls;
pub use http::{HttpClient, HttpLimits, http_client, http_client_within};
pub use listen::bind;
pub use relay::{Relayed, relay};
pub use self_signed::OwnNames;
pub use server_tls::{CertificateSource, ServerTls};
pub use stream::Stream;
pub use tls::{ClientTls, TlsError};
pub use watch::{CertificateFault, Presented, Seen};
