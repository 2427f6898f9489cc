//! Log lines on standard error, each with the trace that it belongs to.

use std::fmt;
use std::future::Future;
use std::str::FromStr;

use tracing::{Event, Subscriber};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::{self, FormatEvent, FormatFields, JsonFields, Writer};
use tracing_subscriber::fmt::{FmtContext, MakeWriter};
use tracing_subscriber::layer::{Layer, SubscriberExt as _};
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::{SubscriberInitExt as _, TryInitError};

use crate::TraceContext;
use crate::context::hex;

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
    let registry = tracing_subscriber::registry().with(lines(format, std::io::stderr)).with(filter);
    registry.try_init().map_err(LogError::Repeated)
}

/// The lines of a process in this format.
fn lines<S>(
    format: LogFormat,
    writer: impl for<'a> MakeWriter<'a> + Send + Sync + 'static,
) -> Box<dyn Layer<S> + Send + Sync>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    let lines = tracing_subscriber::fmt::layer().with_writer(writer).with_ansi(false);
    match format {
        LogFormat::Text => lines.event_format(OfCall { whole: format::format(), format }).boxed(),
        LogFormat::Json => {
            let whole = format::format().json().flatten_event(true).with_current_span(false).with_span_list(false);
            lines.fmt_fields(JsonFields::new()).event_format(OfCall { whole, format }).boxed()
        }
    }
}

tokio::task_local! {
    /// The call that a task works for.
    static CALL: Called;
}

#[derive(Clone, Copy)]
struct Called {
    method: &'static str,
    trace_id: [u8; 16],
}

/// Runs a call, so that each of its lines tells the method and the trace's id. It costs next to nothing while there is no line, which a
/// span of the log would not: most calls have none.
pub fn logged<F: Future>(
    method: &'static str,
    trace: &TraceContext,
    call: F,
) -> impl Future<Output = F::Output> + use<F> {
    let (trace_id, _) = trace.ids();
    CALL.scope(Called { method, trace_id }, call)
}

/// A format that adds the call to each line.
struct OfCall<W> {
    whole: W,
    format: LogFormat,
}

impl<S, N, W> FormatEvent<S, N> for OfCall<W>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
    W: FormatEvent<S, N>,
{
    fn format_event(&self, context: &FmtContext<'_, S, N>, mut writer: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let Ok(Called { method, trace_id }) = CALL.try_with(|call| *call) else {
            return self.whole.format_event(context, writer, event);
        };
        let mut line = String::new();
        self.whole.format_event(context, Writer::new(&mut line), event)?;
        let (line, id) = (line.trim_end(), hex(&trace_id));
        match (self.format, line.strip_suffix('}')) {
            // Neither has a character that JSON escapes.
            (LogFormat::Json, Some(open)) => {
                writeln!(writer, r#"{open},"rpc.method":"{method}","trace_id":"{id}"}}"#)
            }
            _ => writeln!(writer, "{line} rpc.method={method} trace_id={id}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Written(Arc<Mutex<Vec<u8>>>);

    impl std::io::Write for Written {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().expect("no test panics while it holds this").extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    /// The line that a call with this trace writes, and one from outside of any call.
    fn written(format: LogFormat, trace: &TraceContext) -> [String; 2] {
        let written = Written::default();
        let lines = lines(format, {
            let written = written.clone();
            move || written.clone()
        });
        tracing::subscriber::with_default(tracing_subscriber::registry().with(lines), || {
            let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
            let call = async { tracing::warn!(rows = 3, "too \"many\"}}") };
            runtime.block_on(logged("p.S/M", trace, call));
            tracing::warn!("outside");
        });
        let bytes = written.0.lock().expect("no test panics while it holds this").clone();
        let text = String::from_utf8(bytes).expect("text");
        let lines: Vec<String> = text.lines().map(str::to_owned).collect();
        lines.try_into().expect("two lines")
    }

    #[test]
    fn a_calls_lines_tell_its_method_and_its_trace() {
        let trace = TraceContext::new([0xab; 16], [1; 8], true).expect("valid");
        let [inside, outside] = written(LogFormat::Text, &trace);
        let told = format!("rpc.method=p.S/M trace_id={}", "ab".repeat(16));
        assert!(inside.ends_with(&format!(" rows=3 {told}")) && inside.contains(r#"too "many"}"#), "{inside}");
        assert!(outside.ends_with("outside"), "{outside}");
        let [inside, outside] = written(LogFormat::Json, &trace);
        let told = format!(r#","rpc.method":"p.S/M","trace_id":"{}"}}"#, "ab".repeat(16));
        assert!(inside.starts_with('{') && inside.ends_with(&told) && inside.contains(r#""rows":3"#), "{inside}");
        assert!(outside.ends_with('}') && !outside.contains("trace_id"), "{outside}");
    }

    #[test]
    fn mistakes_are_told_and_a_second_set_up_is_refused() {
        assert!(matches!("xml".parse::<LogFormat>(), Err(LogError::Format)));
        assert!(matches!(init_logs(LogFormat::Json, "weft=loudest"), Err(LogError::Filter(_))));
        init_logs(LogFormat::Json, "info,weft_router=debug").expect("the first");
        assert!(matches!(init_logs(LogFormat::Text, "info"), Err(LogError::Repeated(_))));
    }
}
