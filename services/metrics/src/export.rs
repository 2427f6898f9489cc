//! What is held, in Prometheus' text format (version 0.0.4).

use std::borrow::Cow;
use std::fmt::Write as _;

use crate::state::State;
use crate::totals::{Held, Kind, Labels};
use crate::triton::ALIASES;

/// The content type of [`text`].
pub(crate) const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Every series that is held.
pub(crate) fn text(state: &State) -> String {
    let mut page = Page(String::new());
    for (family, series) in state.totals.families() {
        page.family(&family.name, &family.help, family.kind);
        for (labels, held) in series {
            match (held, family.kind) {
                (Held::Ranges { counts, sum }, Kind::Histogram(bounds)) => {
                    page.ranges(&family.name, labels, bounds, (counts, *sum));
                }
                (Held::Number(value), _) => page.sample(&family.name, &pairs(labels), *value),
                (Held::Ranges { .. }, _) => {}
            }
        }
    }
    for alias in &ALIASES {
        let mut values = state.triton.values(alias).peekable();
        if values.peek().is_some() {
            page.family(alias.name, alias.help, Kind::Counter);
        }
        for (model, value) in values {
            page.sample(alias.name, &[("model", &model.name), ("version", &model.version.to_string())], value);
        }
    }
    for (name, help, kind, value) in [
        ("weft_metrics_series", "Series held for this page", Kind::Gauge, state.totals.len() as f64),
        ("weft_metrics_sources", "Instances that report", Kind::Gauge, state.sources.len() as f64),
        (
            "weft_metrics_points_refused_total",
            "Reported values not taken in",
            Kind::Counter,
            state.refused_points as f64,
        ),
        ("weft_metrics_spans_refused_total", "Reported spans not taken in", Kind::Counter, state.refused_spans as f64),
    ] {
        page.family(name, help, kind);
        page.sample(name, &[], value);
    }
    page.0
}

struct Page(String);

impl Page {
    fn family(&mut self, name: &str, help: &str, kind: Kind) {
        let kind = match kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram(_) => "histogram",
        };
        let help = help.replace('\\', r"\\").replace('\n', r"\n");
        // Writing to a string cannot fail.
        let _ = write!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}\n");
    }

    fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: f64) {
        self.0.push_str(name);
        let mut open = '{';
        for (key, value) in labels {
            let _ = write!(self.0, "{open}{key}=\"{}\"", escaped(value));
            open = ',';
        }
        if !labels.is_empty() {
            self.0.push('}');
        }
        let _ = writeln!(self.0, " {}", number(value));
    }

    fn ranges(&mut self, name: &str, labels: &Labels, bounds: &[f64], (counts, sum): (&[u64], f64)) {
        let labels = pairs(labels);
        let bucket = format!("{name}_bucket");
        let mut below = 0u64;
        for (at, count) in counts.iter().enumerate() {
            below = below.saturating_add(*count);
            let bound = number(bounds.get(at).copied().unwrap_or(f64::INFINITY));
            let mut labels = labels.clone();
            labels.push(("le", &bound));
            self.sample(&bucket, &labels, below as f64);
        }
        self.sample(&format!("{name}_sum"), &labels, sum);
        self.sample(&format!("{name}_count"), &labels, below as f64);
    }
}

fn pairs(labels: &Labels) -> Vec<(&str, &str)> {
    labels.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect()
}

fn escaped(value: &str) -> Cow<'_, str> {
    if value.contains(['\\', '"', '\n']) {
        value.replace('\\', r"\\").replace('"', r#"\""#).replace('\n', r"\n").into()
    } else {
        value.into()
    }
}

fn number(value: f64) -> String {
    match value {
        f64::INFINITY => "+Inf".into(),
        f64::NEG_INFINITY => "-Inf".into(),
        value => value.to_string(),
    }
}
