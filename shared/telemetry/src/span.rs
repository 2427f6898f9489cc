//! A piece of work in a trace.

use std::borrow::Cow;
use std::str::FromStr as _;

use opentelemetry::trace::{
    Span as _, SpanBuilder, SpanContext, SpanId, SpanKind, Status, TraceContextExt as _, TraceFlags, TraceId,
    TraceState, Tracer as _,
};
use opentelemetry::{Context, KeyValue, Value};
use opentelemetry_sdk::trace::SdkTracer;

use crate::TraceContext;
use crate::scope::{new_span_id, new_trace_id};

/// A started span. It ends when it is dropped, so a cancelled future ends its span as well.
///
/// A span that is not recorded holds its context and nothing else.
#[derive(Debug)]
#[must_use = "a span ends when it is dropped"]
pub struct Span {
    context: TraceContext,
    /// Boxed because a span lives across awaits and most are not recorded: futures stay small.
    recording: Option<Box<opentelemetry_sdk::trace::Span>>,
}

impl Span {
    pub(crate) const fn unrecorded(context: TraceContext) -> Self {
        Self { context, recording: None }
    }

    pub(crate) fn recorded(tracer: &SdkTracer, kind: SpanKind, name: &str, parent: Option<&TraceContext>) -> Self {
        let builder = SpanBuilder::from_name(name.to_owned()).with_kind(kind);
        // A fresh context, never the thread's current one: async tasks move between threads.
        let surrounding = match parent {
            Some(parent) => Context::new().with_remote_span_context(remote(parent)),
            None => Context::new(),
        };
        let span = tracer.build_with_context(builder, &surrounding);
        let (trace_id, span_id) = (span.span_context().trace_id().to_bytes(), span.span_context().span_id().to_bytes());
        let context = match (parent, span.span_context().is_valid()) {
            (Some(parent), true) => parent.child(span_id, true),
            (None, true) => TraceContext::of(trace_id, span_id, true),
            // The exporter was shut down: calls that are still running keep a context to pass on.
            (Some(parent), false) => return Self::unrecorded(parent.clone()),
            (None, false) => return Self::unrecorded(TraceContext::of(new_trace_id(), new_span_id(), false)),
        };
        Self { context, recording: Some(Box::new(span)) }
    }

    pub(crate) fn map_context(self, change: impl FnOnce(TraceContext) -> TraceContext) -> Self {
        Self { context: change(self.context), ..self }
    }

    /// What the work under this span has as its parent: inject it into calls, hand it to child spans.
    pub const fn context(&self) -> &TraceContext {
        &self.context
    }

    /// Whether attributes are kept; false saves working out an expensive one.
    pub const fn is_recording(&self) -> bool {
        self.recording.is_some()
    }

    /// Attaches an attribute, unless nothing is recorded.
    pub fn set(&mut self, key: &'static str, value: impl Into<Value>) {
        if let Some(span) = &mut self.recording {
            span.set_attribute(KeyValue::new(key, value.into()));
        }
    }

    /// Marks the work as failed, with a text that holds nothing secret.
    pub fn fail(&mut self, text: impl Into<Cow<'static, str>>) {
        if let Some(span) = &mut self.recording {
            span.set_status(Status::error(text));
        }
    }
}

fn remote(context: &TraceContext) -> SpanContext {
    let (trace_id, span_id) = context.ids();
    // A state that other vendors malformed is still passed on to the next hop, but not exported.
    let state = context.state().and_then(|state| TraceState::from_str(state).ok()).unwrap_or_default();
    SpanContext::new(TraceId::from_bytes(trace_id), SpanId::from_bytes(span_id), TraceFlags::SAMPLED, true, state)
}
