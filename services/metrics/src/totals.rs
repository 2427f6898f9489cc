//! Everything reported since the start, summed: what Prometheus scrapes.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use crate::histogram::Histogram;
use crate::source::{Source, Sources};
use crate::text::{MAX_TEXT, clipped};

/// What is known of a family of series, under its Prometheus name.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Family {
    pub(crate) name: String,
    pub(crate) help: String,
    pub(crate) kind: Kind,
}

/// How a family's values add up.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Kind {
    Counter,
    Gauge,
    /// With the upper bounds of its ranges.
    Histogram(&'static [f64]),
}

/// A series' labels, sorted by name.
pub(crate) type Labels = Vec<(String, String)>;

/// A value as it is reported.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Amount<'a> {
    /// To be added to what is held.
    Add(f64),
    /// In place of what is held.
    Set(f64),
    /// A distribution to be added.
    Merge(&'a Histogram),
    /// A distribution in place of what is held.
    Replace(&'a Histogram),
}

/// A value as it is held.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Held {
    Number(f64),
    Ranges { counts: Vec<u64>, sum: f64 },
}

/// Why a report was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refused {
    /// There is no room for another series.
    Full,
    /// The name is taken by a metric of another kind, or the value does not fit the kind.
    Conflict,
}

/// The bounds for durations in seconds: those of OpenTelemetry's semantic conventions, and finer ones below them, because a
/// call to a small model takes less than their first.
pub(crate) const SECONDS: &[f64] =
    &[0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0];
/// The bounds for everything else, batch sizes above all.
pub(crate) const POWERS: &[f64] = &[1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0];

/// The labels that tell who reported; an attribute of the same name gives way to them.
const RESERVED: [&str; 3] = ["service", "instance", "le"];
/// Attributes beyond these are dropped.
const MAX_LABELS: usize = 24;

#[derive(Debug)]
pub(crate) struct Totals {
    max_series: usize,
    count: usize,
    families: BTreeMap<String, (Family, HashMap<Labels, Series>)>,
}

#[derive(Debug)]
struct Series {
    source: Arc<Source>,
    held: Held,
}

impl Totals {
    pub(crate) fn new(max_series: usize) -> Self {
        Self { max_series, count: 0, families: BTreeMap::new() }
    }

    /// Takes in one value of a source.
    pub(crate) fn record(
        &mut self,
        family: &Family,
        labels: Labels,
        source: &Arc<Source>,
        amount: Amount<'_>,
    ) -> Result<(), Refused> {
        let fits = match (family.kind, amount) {
            (Kind::Counter, Amount::Add(value) | Amount::Set(value)) => value.is_finite() && value >= 0.0,
            (Kind::Gauge, Amount::Add(_) | Amount::Set(_)) => true,
            (Kind::Histogram(_), Amount::Merge(_) | Amount::Replace(_)) => true,
            _ => false,
        };
        let held_kind = self.families.get(&family.name).map(|(held, _)| held.kind);
        if !fits || held_kind.is_some_and(|kind| kind != family.kind) {
            return Err(Refused::Conflict);
        }
        let known = self.families.get(&family.name).is_some_and(|(_, series)| series.contains_key(&labels));
        if !known && self.count >= self.max_series {
            return Err(Refused::Full);
        }
        self.count += usize::from(!known);
        let (_, series) = self.families.entry(family.name.clone()).or_insert_with(|| (family.clone(), HashMap::new()));
        let series = series
            .entry(labels)
            .or_insert_with(|| Series { source: Arc::clone(source), held: Held::nothing(family.kind) });
        series.held.take(family.kind, amount);
        Ok(())
    }

    /// Forgets the series of sources that are no longer known, so that an instance which is gone is not scraped for ever.
    pub(crate) fn keep_only(&mut self, sources: &Sources) {
        for (_, series) in self.families.values_mut() {
            series.retain(|_, series| sources.knows(&series.source));
        }
        self.families.retain(|_, (_, series)| !series.is_empty());
        self.count = self.families.values().map(|(_, series)| series.len()).sum();
    }

    /// Every family with its series, both in order.
    pub(crate) fn families(&self) -> impl Iterator<Item = (&Family, BTreeMap<&Labels, &Held>)> {
        self.families
            .values()
            .map(|(family, series)| (family, series.iter().map(|(labels, series)| (labels, &series.held)).collect()))
    }

    /// The numbers of one family, with who reported each.
    pub(crate) fn numbers(&self, family: &str) -> impl Iterator<Item = (&Labels, &Source, f64)> {
        let series = self.families.get(family).into_iter().flat_map(|(_, series)| series);
        series.filter_map(|(labels, series)| match series.held {
            Held::Number(number) => Some((labels, &*series.source, number)),
            Held::Ranges { .. } => None,
        })
    }

    pub(crate) const fn len(&self) -> usize {
        self.count
    }
}

impl Held {
    fn nothing(kind: Kind) -> Self {
        match kind {
            Kind::Counter | Kind::Gauge => Self::Number(0.0),
            Kind::Histogram(bounds) => Self::Ranges { counts: vec![0; bounds.len() + 1], sum: 0.0 },
        }
    }

    fn take(&mut self, kind: Kind, amount: Amount<'_>) {
        match (&mut *self, kind, amount) {
            (Self::Number(held), _, Amount::Add(value)) => *held += value,
            (Self::Number(held), _, Amount::Set(value)) => *held = value,
            (Self::Ranges { counts, sum }, Kind::Histogram(bounds), Amount::Merge(more)) => {
                counts.iter_mut().zip(more.classic(bounds)).for_each(|(held, more)| *held = held.saturating_add(more));
                *sum += more.sum();
            }
            (Self::Ranges { counts, sum }, Kind::Histogram(bounds), Amount::Replace(all)) => {
                (*counts, *sum) = (all.classic(bounds), all.sum());
            }
            // `record` has refused every other pair.
            _ => {}
        }
    }
}

impl Family {
    /// The family of an OpenTelemetry metric: dots become underscores, the unit and `_total` are appended (OpenTelemetry's
    /// "Prometheus and OpenMetrics Compatibility"). `None` when nothing of the name is left.
    pub(crate) fn of(name: &str, unit: &str, help: &str, kind: Kind) -> Option<Self> {
        let mut name = sanitised(&clipped(name, MAX_TEXT));
        if !name.bytes().any(|byte| byte.is_ascii_alphanumeric()) {
            return None;
        }
        let unit = match unit {
            "s" => "_seconds",
            "ms" => "_milliseconds",
            "us" => "_microseconds",
            "ns" => "_nanoseconds",
            "By" => "_bytes",
            "1" if kind == Kind::Gauge => "_ratio",
            _ => "",
        };
        let total = if kind == Kind::Counter { "_total" } else { "" };
        for suffix in [total, unit] {
            name.truncate(name.strip_suffix(suffix).map_or(name.len(), str::len));
        }
        Some(Self { name: name + unit + total, help: clipped(help, 2 * MAX_TEXT), kind })
    }

    /// The kind of a distribution, by its unit.
    pub(crate) fn distribution(unit: &str) -> Kind {
        Kind::Histogram(if unit == "s" { SECONDS } else { POWERS })
    }
}

/// The labels of a series: its attributes and who reported it. Attributes whose names become the same label are joined by `;`.
pub(crate) fn labels(attributes: impl Iterator<Item = (String, String)>, source: &Source) -> Labels {
    let mut labels: BTreeMap<String, String> = BTreeMap::new();
    for (key, value) in attributes.take(MAX_LABELS) {
        let key = match sanitised(&clipped(&key, MAX_TEXT)).replace(':', "_") {
            key if RESERVED.contains(&key.as_str()) => format!("exported_{key}"),
            key => key,
        };
        let value = clipped(&value, MAX_TEXT);
        match labels.get_mut(&key) {
            Some(held) => *held = clipped(&format!("{held};{value}"), 2 * MAX_TEXT),
            None => drop(labels.insert(key, value)),
        }
    }
    labels.insert("service".into(), source.service.to_string());
    labels.insert("instance".into(), source.instance.to_string());
    labels.into_iter().collect()
}

/// `[a-zA-Z_:][a-zA-Z0-9_:]*`, with runs of other characters as one underscore.
fn sanitised(name: &str) -> String {
    let mut clean = String::with_capacity(name.len() + 1);
    for letter in name.chars() {
        match letter {
            '0'..='9' if clean.is_empty() => clean.extend(['_', letter]),
            'a'..='z' | 'A'..='Z' | '0'..='9' | ':' => clean.push(letter),
            _ if clean.ends_with('_') => {}
            _ => clean.push('_'),
        }
    }
    if clean.is_empty() { "_".into() } else { clean }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(instance: &str) -> Arc<Source> {
        Arc::new(Source { service: "worker".into(), instance: instance.into() })
    }

    #[test]
    fn names_follow_prometheus() {
        for (name, unit, kind, expected) in [
            ("weft.wasted_compute", "s", Kind::Counter, "weft_wasted_compute_seconds_total"),
            ("weft.cancel_to_stop", "s", Kind::Histogram(SECONDS), "weft_cancel_to_stop_seconds"),
            ("rpc.server.call.duration", "s", Kind::Histogram(SECONDS), "rpc_server_call_duration_seconds"),
            ("weft.model.batch.size", "{request}", Kind::Histogram(POWERS), "weft_model_batch_size"),
            ("weft.router.retries", "{attempt}", Kind::Counter, "weft_router_retries_total"),
            ("already_seconds_total", "s", Kind::Counter, "already_seconds_total"),
            ("share", "1", Kind::Gauge, "share_ratio"),
            ("2nd..try me", "", Kind::Gauge, "_2nd_try_me"),
        ] {
            assert_eq!(Family::of(name, unit, "", kind).map(|family| family.name).as_deref(), Some(expected));
        }
        assert_eq!(Family::of("...", "s", "", Kind::Gauge), None);
        assert_eq!(Family::of("", "", "", Kind::Gauge), None);
    }

    #[test]
    fn an_attribute_cannot_pose_as_another_instance() {
        let attributes = [("instance", "w-2"), ("a.b", "1"), ("a_b", "2"), ("le", "9")];
        let attributes = attributes.map(|(key, value)| (key.to_owned(), value.to_owned()));
        let labels = labels(attributes.into_iter(), &source("w-1"));
        let expected = [
            ("a_b", "1;2"),
            ("exported_instance", "w-2"),
            ("exported_le", "9"),
            ("instance", "w-1"),
            ("service", "worker"),
        ];
        assert_eq!(labels, expected.map(|(key, value)| (key.to_owned(), value.to_owned())));
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let mut totals = Totals::new(2);
        let one = source("w-1");
        let counter = Family::of("calls", "", "", Kind::Counter).expect("a name");
        let gauge = Family { kind: Kind::Gauge, ..counter.clone() };
        let of = |name: &str| vec![("model".to_owned(), name.to_owned())];
        assert_eq!(totals.record(&counter, of("a"), &one, Amount::Add(1.0)), Ok(()));
        assert_eq!(totals.record(&counter, of("a"), &one, Amount::Add(-1.0)), Err(Refused::Conflict));
        assert_eq!(totals.record(&counter, of("a"), &one, Amount::Add(f64::NAN)), Err(Refused::Conflict));
        assert_eq!(totals.record(&gauge, of("a"), &one, Amount::Set(1.0)), Err(Refused::Conflict));
        assert_eq!(totals.record(&counter, of("b"), &one, Amount::Set(5.0)), Ok(()));
        assert_eq!(totals.record(&counter, of("c"), &one, Amount::Add(1.0)), Err(Refused::Full));
        assert_eq!(totals.record(&counter, of("a"), &one, Amount::Add(2.0)), Ok(()));
        let held: Vec<_> =
            totals.families().flat_map(|(_, series)| series.into_values().cloned().collect::<Vec<_>>()).collect();
        assert_eq!(held, [Held::Number(3.0), Held::Number(5.0)]);
    }
}
