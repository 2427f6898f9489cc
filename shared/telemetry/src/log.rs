//! Log lines on standard error, each with the trace that it belongs to.

use std::str::FromStr;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::{SubscriberInitExt as _, TryInitError};

use crate::TraceContext;

/// How a line is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line, for collectors.
    Json,
}

impl FromStr for LogFormat {
    type Err = LogError;

    fn from_str(text: &str) -> Result<Self, LogError> {
        match text {
            "text" => Ok(Self::Text),
            "json" => Ok(Self::Json),
            _ => Err(LogError::Format),
        }
    }
}

/// Why logging could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// Neither of the two formats.
    #[error("expected text or json")]
    Format,
    /// The filter is not a list of `target=level`.
    #[error("log filter is malformed")]
    Filter(#[source] tracing_subscriber::filter::ParseError),
    /// A process has one destination for its lines.
    #[error("logs are already set up")]
    Repeated(#[source] TryInitError),
}

/// Sends the process's log lines to standard error. `filter` is a level or a list such as `info,weft_router=debug`.
pub fn init_logs(format: LogFormat, filter: &str) -> Result<(), LogError> {
    let filter = EnvFilter::builder().parse(filter).map_err(LogError::Filter)?;
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    let registry = tracing_subscriber::registry().with(filter);
    match format {
        LogFormat::Text => registry.with(lines.with_ansi(false)).try_init(),
        LogFormat::Json => registry.with(lines.json().flatten_event(true)).try_init(),
    }
    .map_err(LogError::Repeated)
}

/// The span to run a call in, so that each of its lines carries the trace's id. It is kept whatever the filter's level, since a
/// call that goes wrong is the one whose trace is wanted.
pub fn call_span(method: &str, trace: &TraceContext) -> tracing::Span {
    tracing::error_span!("call", method, trace_id = trace.trace_id())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mistakes_are_told_and_a_second_set_up_is_refused() {
        assert!(matches!("xml".parse::<LogFormat>(), Err(LogError::Format)));
        assert!(matches!(init_logs(LogFormat::Json, "weft=loudest"), Err(LogError::Filter(_))));
        init_logs(LogFormat::Json, "info,weft_router=debug").expect("the first");
        assert!(matches!(init_logs(LogFormat::Text, "info"), Err(LogError::Repeated(_))));
    }
}
