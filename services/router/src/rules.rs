//! A route as calls meet it: read once for each change of its record, and not with every call.

use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, HeaderName};
use tonic::metadata::MetadataMap;
use weft_client::Record;
use weft_policy::Affinity;
use weft_policy::choose::identity;
use weft_policy::hedge::{self, Delay, MAX_ATTEMPTS};
use weft_policy::split::{Draw, MAX_TARGETS, Rule, Share, assign};
use weft_proto::frame::{Given, given};
use weft_proto::from_duration;
use weft_proto::weft::control::v1::hedging;
use weft_proto::weft::control::v1::metadata_match::Value;
use weft_proto::weft::control::v1::sticky::Source;
use weft_proto::weft::control::v1::{self as control, MetadataMatch, RouteTarget};
use weft_telemetry::{CacheMetrics, Scope, ShadowMetrics};
use weft_types::{ModelName, Result, Version};

use crate::leading::Leading;
use crate::table::Table;

/// What of a call its route looks at. By default nothing: then a route's first targets take it.
#[derive(Clone, Copy, Default)]
pub(crate) struct Marks<'a> {
    pub(crate) metadata: Option<&'a MetadataMap>,
    /// The undecoded request.
    pub(crate) message: &'a [u8],
    /// What its sequence's calls to this route have in common.
    pub(crate) sequence: Option<Affinity>,
    /// In `[0, 1)`, the same for all calls of a sequence and otherwise drawn: decides where nothing else does.
    pub(crate) unit: f64,
}

/// A route's rules. What its record says and cannot be meant is left out: the scheduler refuses it, but need not have written it.
pub(crate) struct Rules {
    pub(crate) name: ModelName,
    record: Arc<Record<control::Route>>,
    pub(crate) targets: Vec<Leads>,
    sticky: Option<Key>,
    pub(crate) shadow: Option<Shadow>,
    pub(crate) leading: Option<Leading>,
    pub(crate) hedging: Option<hedge::Settings>,
    pub(crate) cache: Option<Cache>,
}

/// Where a target leads, and what leads there.
pub(crate) struct Leads {
    pub(crate) model: String,
    /// None for the latest that is ready, or what the call names.
    pub(crate) version: Option<Version>,
    weight: u32,
    /// Tells it from the other targets, the same in every router.
    identity: u64,
    matches: Vec<Match>,
}

/// Metadata that marks a call for a target: with this value, or with any.
pub(crate) struct Match {
    key: HeaderName,
    exact: Option<String>,
}

/// Where a call has its key.
pub(crate) enum Key {
    Metadata(HeaderName),
    Parameter(String),
}

/// Who gets copies of the route's calls.
pub(crate) struct Shadow {
    pub(crate) model: String,
    pub(crate) version: Option<Version>,
    pub(crate) percent: u32,
    pub(crate) metrics: ShadowMetrics,
}

/// How long the route's answers are kept.
pub(crate) struct Cache {
    pub(crate) ttl: Duration,
    /// For refusals.
    pub(crate) negative_ttl: Duration,
    pub(crate) metrics: CacheMetrics,
}

/// How long a refusal is kept where the route does not say: long enough for a caller that repeats it at once, too short to notice.
const NEGATIVE_TTL: Duration = Duration::from_secs(1);
/// The part of calls that is not hedged where the route does not say when.
const QUANTILE: f32 = 0.95;

impl Rules {
    /// The rules of a record.
    pub(crate) fn of(name: &ModelName, record: &Arc<Record<control::Route>>, scope: &Scope) -> Self {
        let route = &record.value;
        let shadow = route.shadow.as_ref().map(|shadow| {
            let version = Version::new(shadow.version);
            let metrics = scope.metrics().shadow(name, &shadow.model, version);
            Shadow { model: shadow.model.clone(), version, percent: shadow.percent.min(100), metrics }
        });
        Self {
            name: name.clone(),
            record: Arc::clone(record),
            targets: route.targets.iter().take(MAX_TARGETS).map(Leads::of).collect(),
            sticky: route.sticky.as_ref().and_then(|sticky| Key::of(sticky.source.as_ref()?)),
            shadow,
            leading: route.affinity.as_ref().and_then(Leading::of),
            hedging: route.hedging.as_ref().map(settings),
            cache: route.cache.as_ref().and_then(|cache| Cache::of(name, cache, scope)),
        }
    }

    /// Whether they are the rules of this very record.
    pub(crate) fn are_of(&self, record: &Arc<Record<control::Route>>) -> bool {
        Arc::ptr_eq(&self.record, record)
    }

    /// What each target brings to the draw; places behind the last target bring nothing.
    pub(crate) fn shares(&self, table: &Table, version: Option<Version>, marks: &Marks<'_>) -> [Share; MAX_TARGETS] {
        let metadata = marks.metadata.map(AsRef::as_ref);
        let share = |target: &Leads| Share {
            weight: target.weight,
            ready: table.model(&target.model).is_some_and(|model| model.ready(target.version.or(version)).is_some()),
            matches: metadata.is_some_and(|metadata| target.matches.iter().any(|wanted| wanted.fits(metadata))),
            identity: target.identity,
        };
        std::array::from_fn(|index| self.targets.get(index).map(share).unwrap_or_default())
    }

    /// The place of the target that takes the call; `None` while none of those that could is ready.
    pub(crate) fn assign(&self, shares: &[Share], marks: &Marks<'_>) -> Result<Option<(usize, Rule)>> {
        Ok(assign(shares.iter().copied(), self.draw(marks)?))
    }

    /// A sequence's calls stay together whatever key each of them brings.
    fn draw(&self, marks: &Marks<'_>) -> Result<Draw> {
        let key = match &self.sticky {
            Some(sticky) if marks.sequence.is_none() => sticky.affinity(self.name.as_str(), marks)?,
            _ => None,
        };
        Ok(key.map_or(Draw::Unit(marks.unit), Draw::Key))
    }
}

fn settings(hedging: &control::Hedging) -> hedge::Settings {
    let delay = match &hedging.delay {
        Some(hedging::Delay::Fixed(delay)) => from_duration(delay).map(Delay::Fixed),
        Some(hedging::Delay::Percentile(percentile)) => Some(Delay::Quantile(*percentile as f32 / 100.0)),
        None => None,
    };
    let max_attempts = hedging.max_attempts.clamp(1, MAX_ATTEMPTS);
    hedge::Settings { max_attempts, delay: delay.unwrap_or(Delay::Quantile(QUANTILE)) }
}

impl Cache {
    fn of(route: &ModelName, cache: &control::Cache, scope: &Scope) -> Option<Self> {
        let ttl = cache.ttl.as_ref().and_then(from_duration)?;
        let negative_ttl = cache.negative_ttl.as_ref().map_or(Some(NEGATIVE_TTL), from_duration)?.min(ttl);
        Some(Self { ttl, negative_ttl, metrics: scope.metrics().cache(route) })
    }
}

impl Leads {
    fn of(target: &RouteTarget) -> Self {
        Self {
            model: target.model.clone(),
            version: Version::new(target.version),
            weight: target.weight,
            identity: identity(&format!("{}@{}", target.model, target.version)),
            matches: target.matches.iter().filter_map(Match::of).collect(),
        }
    }
}

impl Match {
    pub(crate) fn of(wanted: &MetadataMatch) -> Option<Self> {
        let exact = match wanted.value.as_ref()? {
            Value::Exact(value) => Some(value.clone()),
            Value::Present(true) => None,
            Value::Present(false) => return None,
        };
        Some(Self { key: wanted.key.parse().ok()?, exact })
    }

    pub(crate) fn fits(&self, metadata: &HeaderMap) -> bool {
        match &self.exact {
            Some(exact) => metadata.get_all(&self.key).iter().any(|value| value == exact),
            None => metadata.contains_key(&self.key),
        }
    }
}

impl Key {
    fn of(source: &Source) -> Option<Self> {
        match source {
            Source::Metadata(key) => key.parse().ok().map(Self::Metadata),
            Source::Parameter(key) => Some(Self::Parameter(key.clone())),
        }
    }

    /// What the calls with the same key to this route or model have in common; `None` for a call without one.
    pub(crate) fn affinity(&self, name: &str, marks: &Marks<'_>) -> Result<Option<Affinity>> {
        match self {
            Self::Metadata(key) => {
                let value = marks.metadata.and_then(|metadata| metadata.as_ref().get(key));
                let value = value.map(|value| value.as_bytes()).filter(|value| !value.is_empty());
                Ok(value.map(|value| Affinity::of(name, value)))
            }
            Self::Parameter(key) => Ok(given(marks.message, key)?.map(|given| match given {
                Given::Number(number) => Affinity::of(name, number),
                Given::Text(text) => Affinity::of(name, text),
            })),
        }
    }
}
