//! One traced call, hop by hop.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use weft_engine::digits;
use weft_proto::from_duration;
use weft_proto::weft::metrics::v1::{GetTraceRequest, Span};
use weft_telemetry::TraceContext;

use super::caller::Caller;
use super::digits::images;
use crate::output::print;

const LIMIT: Duration = Duration::from_millis(500);
/// The attributes that a reader of the demonstration wants, with their units.
const SHOWN: [(&str, &str, &str); 4] = [
    ("weft.deadline_remaining_ms", "deadline remaining", "ms"),
    ("weft.queue_ms", "queue", "ms"),
    ("weft.compute_ms", "compute", "ms"),
    ("weft.batch_rows", "rows in the batch", ""),
];

pub(crate) async fn show(caller: &Caller) -> Result<()> {
    let trace = TraceContext::new(rand::random(), rand::random(), true).context("an all-zero trace id")?;
    let image: Vec<_> = digits::heldout().take(1).collect();
    caller.infer(images(&image), LIMIT, Some(&trace)).await.context("the traced call failed")?;
    let request = GetTraceRequest { trace_id: trace.trace_id() };
    let spans = caller
        .until(async |caller| {
            let told = caller.metrics().get_trace(request.clone()).await?.into_inner().spans;
            // The client's own span is not exported: the router's server span, its attempt and the worker's are.
            let whole = ["weft-router", "weft-worker"].iter().all(|of| told.iter().any(|span| span.service == *of));
            Ok((whole && told.len() >= 4).then_some(told))
        })
        .await
        .context("the trace did not arrive")?;
    print(&format!(
        "trace {} (deadline {} ms):\n{}",
        trace.trace_id(),
        LIMIT.as_millis(),
        tree(&spans, &trace.span_id())
    ))?;
    falls(&spans)
}

/// The spans as an indented tree below the caller's.
fn tree(spans: &[Span], root: &str) -> String {
    let mut children: BTreeMap<&str, Vec<&Span>> = BTreeMap::new();
    for span in spans {
        children.entry(&span.parent_span_id).or_default().push(span);
    }
    let mut text = String::new();
    write_below(&mut text, &children, root, 1);
    text.trim_end().to_owned()
}

fn write_below(text: &mut String, children: &BTreeMap<&str, Vec<&Span>>, parent: &str, depth: usize) {
    for span in children.get(parent).into_iter().flatten() {
        let took = span.duration.as_ref().and_then(from_duration).unwrap_or_default().as_secs_f64() * 1e3;
        let details = SHOWN.iter().filter_map(|(key, name, unit)| {
            let number: f64 = span.attributes.get(*key)?.parse().ok()?;
            Some(if unit.is_empty() { format!(", {name} {number}") } else { format!(", {name} {number:.3} {unit}") })
        });
        let details: String = details.collect();
        // Writing to a string cannot fail.
        let _ =
            writeln!(text, "{:indent$}{} {}: {took:.3} ms{details}", "", span.service, span.name, indent = depth * 2);
        write_below(text, children, &span.span_id, depth + 1);
    }
}

/// The deadline that each server saw must be less than the one before it.
fn falls(spans: &[Span]) -> Result<()> {
    let at = |service: &str| {
        let seen = spans.iter().filter(|span| span.service == service);
        seen.filter_map(|span| span.attributes.get("weft.deadline_remaining_ms")?.parse::<f64>().ok()).reduce(f64::max)
    };
    let router = at("weft-router").context("the router's span does not tell its deadline")?;
    let worker = at("weft-worker").context("the worker's span does not tell its deadline")?;
    ensure!(worker < router, "the worker had {worker} ms left and the router {router} ms: the deadline did not shrink");
    Ok(())
}
