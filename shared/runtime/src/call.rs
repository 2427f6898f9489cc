//! What every handler knows of its call.

use std::time::Instant;

use weft_telemetry::TraceContext;
use weft_types::Deadline;

/// The context of a call, put into the request's extensions by the server.
#[derive(Clone, Debug)]
pub struct Call {
    /// When the caller must have its answer.
    pub deadline: Deadline,
    /// When the headers arrived.
    pub received: Instant,
    /// The context of this hop's server span: the parent of whatever the handler starts.
    pub trace: TraceContext,
}

/// Reads the [`Call`] of a request.
pub trait CallExt {
    /// The context. The server sets it for every call; a request that was made by hand gets a fresh one without a trace and
    /// with the deadline already behind it, so that the mistake shows.
    fn call(&self) -> Call;
}

impl<T> CallExt for tonic::Request<T> {
    fn call(&self) -> Call {
        self.extensions().get().cloned().unwrap_or_else(Call::missing)
    }
}

impl<T> CallExt for http::Request<T> {
    fn call(&self) -> Call {
        self.extensions().get().cloned().unwrap_or_else(Call::missing)
    }
}

impl Call {
    fn missing() -> Self {
        let now = weft_types::SystemClock::now();
        let trace = weft_telemetry::Scope::disabled().start_internal("unguarded", None).context().clone();
        Self { deadline: Deadline::after(now, std::time::Duration::ZERO), received: now, trace }
    }
}
