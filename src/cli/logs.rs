//! The log of the proxy, on standard error.

use std::io;

use clap::ValueEnum;
use tracing::warn;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{fmt, registry};

/// The variable with the filter, levels for all and for single targets: `debug`, `warn,gatepost=trace`.
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

/// Logs from now on. A filter that is not understood is told of, and the default one holds.
pub(super) fn start(format: LogFormat) {
    let wanted = std::env::var(FILTER).unwrap_or_else(|_| DEFAULT.into());
    let (filter, wrong) = match wanted.parse::<Targets>() {
        Ok(filter) => (filter, None),
        Err(wrong) => (DEFAULT.parse().unwrap_or_default(), Some(wrong)),
    };
    let lines = fmt::layer().with_writer(io::stderr);
    let log = registry().with(filter);
    match format {
        LogFormat::Text => {
            log.with(lines.with_ansi(io::IsTerminal::is_terminal(&io::stderr()))).init();
        }
        LogFormat::Json => log.with(lines.json().flatten_event(true)).init(),
    }
    if let Some(wrong) = wrong {
        warn!(filter = wanted, %wrong, "{FILTER} is no list of TARGET=LEVEL; it has no effect");
    }
}
