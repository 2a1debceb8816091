//! The log of the proxy, on standard error.

use std::io;

use clap::ValueEnum;
use tracing_subscriber::EnvFilter;

/// The variable with the filter, as tracing's `EnvFilter` reads it: `debug`, `gatepost=trace`.
const FILTER: &str = "GATEPOST_LOG";

/// How log lines look.
#[derive(Clone, Copy, Debug, Default, ValueEnum)]
pub(super) enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// For machines, an object a line.
    Json,
}

/// gatepost's own lines from INFO up and warnings of libraries. The verifier of certificates calls a bad one an
/// error; gatepost has it in the refusal, where it belongs.
const DEFAULT: &str = "warn,gatepost=info,rustls_platform_verifier=off";

/// Logs from now on.
pub(super) fn start(format: LogFormat) {
    let filter = EnvFilter::try_from_env(FILTER).unwrap_or_else(|_| EnvFilter::new(DEFAULT));
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr);
    match format {
        LogFormat::Text => log.with_ansi(io::IsTerminal::is_terminal(&io::stderr())).init(),
        LogFormat::Json => log.json().flatten_event(true).init(),
    }
}
