//! Sockets: listening, dialling, proxies, TLS both ways, the relay, the HTTP client.
//!
//! Invariant: no protocol in here, only bytes; and each wait has a deadline.

mod certificate;
mod deadline;
mod dial;
mod eyeballs;
mod handshake;
mod http;
mod listen;
mod lookup;
mod pem_file;
mod pinned;
mod relay;
mod roots;
mod route;
mod self_signed;
mod server_tls;
mod standstill;
mod stream;
mod tickets;
mod tls;
mod tls_stream;
mod tunnel;
mod watch;

pub use certificate::Certificate;
pub use deadline::{Deadline, Late};
pub use dial::{DialError, HANDSHAKE, dial, start_tls};
pub use handshake::why_no_tls;
pub use http::{HttpClient, HttpLimits, http_client, http_client_within};
pub use listen::{bind, inherit, unclaimed};
pub use pinned::look_at_certificate;
pub use relay::{Relayed, relay};
pub use route::Route;
pub use self_signed::OwnNames;
pub use server_tls::{CertificateSource, ServerTls};
pub use standstill::Standstill;
pub use stream::Stream;
pub use tls::{ClientTls, TlsError};
pub use tls_stream::TlsStream;
pub use watch::{CertificateFault, Presented, Seen};
