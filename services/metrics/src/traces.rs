//! The latest traces, span by span, in a ring.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use crate::options::Options;
use crate::source::Source;

/// A trace's id.
pub(crate) type TraceId = [u8; 16];
/// A span's id.
pub(crate) type SpanId = [u8; 8];

/// One hop's work, its texts already bounded.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Span {
    pub(crate) id: SpanId,
    /// `None` begins the trace.
    pub(crate) parent: Option<SpanId>,
    pub(crate) name: String,
    pub(crate) source: Arc<Source>,
    pub(crate) start_unix_nanos: u64,
    pub(crate) duration_nanos: u64,
    pub(crate) attributes: Vec<(String, String)>,
    /// Empty when the span ended well.
    pub(crate) error: String,
}

#[derive(Debug)]
pub(crate) struct Traces {
    max_traces: usize,
    max_spans: usize,
    spans: HashMap<TraceId, Vec<Span>>,
    /// In the order of their first spans: the front gives way.
    order: VecDeque<TraceId>,
}

impl Traces {
    pub(crate) fn new(options: &Options) -> Self {
        Self {
            max_traces: options.max_traces.max(1),
            max_spans: options.max_spans,
            spans: HashMap::new(),
            order: VecDeque::new(),
        }
    }

    /// Keeps a span, unless its trace is full; says whether it was kept. A span that is sent twice is kept once.
    pub(crate) fn add(&mut self, trace: TraceId, span: Span) -> bool {
        if !self.spans.contains_key(&trace) {
            if self.order.len() >= self.max_traces {
                self.order.pop_front().and_then(|oldest| self.spans.remove(&oldest));
            }
            self.order.push_back(trace);
        }
        let spans = self.spans.entry(trace).or_default();
        if let Some(same) = spans.iter_mut().find(|held| held.id == span.id) {
            *same = span;
            return true;
        }
        let room = spans.len() < self.max_spans;
        if room {
            spans.push(span);
        }
        room
    }

    /// The spans of a trace, each after its parent and siblings by start; those whose parent is not here count as roots.
    pub(crate) fn get(&self, trace: &TraceId) -> Option<Vec<&Span>> {
        let spans = self.spans.get(trace)?;
        let mut by_start: Vec<&Span> = spans.iter().collect();
        by_start.sort_by_key(|span| (span.start_unix_nanos, span.id));
        let ids: HashMap<SpanId, usize> = by_start.iter().enumerate().map(|(at, span)| (span.id, at)).collect();
        let mut children: HashMap<usize, Vec<usize>> = HashMap::new();
        let mut pending = Vec::new();
        for (at, span) in by_start.iter().enumerate().rev() {
            match span.parent.and_then(|parent| ids.get(&parent)) {
                Some(parent) => children.entry(*parent).or_default().push(at),
                None => pending.push(at),
            }
        }
        let mut ordered = Vec::with_capacity(by_start.len());
        let mut placed = vec![false; by_start.len()];
        while let Some(at) = pending.pop() {
            placed[at] = true;
            ordered.push(by_start[at]);
            pending.extend(children.remove(&at).unwrap_or_default());
        }
        // What claims to be its own ancestor comes last: it was sent, so it is shown.
        ordered.extend(by_start.iter().zip(placed).filter(|(_, placed)| !placed).map(|(span, _)| *span));
        Some(ordered)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn span(id: u8, parent: u8, start: u64) -> Span {
        Span {
            id: [id; 8],
            parent: (parent > 0).then_some([parent; 8]),
            name: format!("span {id}"),
            source: Arc::new(Source { service: "worker".into(), instance: "w-1".into() }),
            start_unix_nanos: start,
            duration_nanos: 1,
            attributes: Vec::new(),
            error: String::new(),
        }
    }

    fn ids(traces: &Traces, trace: u8) -> Option<Vec<u8>> {
        Some(traces.get(&[trace; 16])?.iter().map(|span| span.id[0]).collect())
    }

    #[test]
    fn parents_come_first_whatever_the_clocks_say() {
        let mut traces = Traces::new(&Options::default());
        // The worker's clock is behind: its span starts before its parent's.
        for span in [span(4, 2, 30), span(3, 2, 5), span(2, 1, 20), span(1, 9, 10), span(5, 0, 40)] {
            assert!(traces.add([1; 16], span));
        }
        assert_eq!(ids(&traces, 1), Some(vec![1, 2, 3, 4, 5]));
        assert_eq!(ids(&traces, 2), None);
    }

    #[test]
    fn the_ring_and_each_trace_are_bounded() {
        let mut traces = Traces::new(&Options { max_traces: 2, max_spans: 2, ..Options::default() });
        assert!(traces.add([1; 16], span(1, 0, 1)));
        assert!(traces.add([1; 16], span(2, 1, 2)));
        assert!(traces.add([1; 16], span(2, 1, 2)), "sent twice");
        assert!(!traces.add([1; 16], span(3, 1, 3)), "no room");
        traces.add([2; 16], span(1, 0, 1));
        traces.add([3; 16], span(1, 0, 1));
        assert_eq!((ids(&traces, 1), ids(&traces, 3)), (None, Some(vec![1])));
        assert_eq!(traces.spans.len(), 2);
    }

    proptest! {
        /// Any parents, circles included: every span is shown once, and after its parent where that is possible.
        #[test]
        fn every_span_is_shown_once(links in proptest::collection::vec((1u8..20, 0u8..20, 0u64..50), 1..40)) {
            let mut traces = Traces::new(&Options::default());
            for (id, parent, start) in &links {
                traces.add([7; 16], span(*id, *parent, *start));
            }
            let mut shown = ids(&traces, 7).expect("kept");
            shown.sort_unstable();
            let mut sent: Vec<u8> = links.iter().map(|(id, ..)| *id).collect();
            sent.sort_unstable();
            sent.dedup();
            prop_assert_eq!(shown, sent);
        }
    }
}
