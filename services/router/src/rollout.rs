//! A rollout as calls meet it: which version takes a call that names none. Read once for each change of its record; routers need nobody to
//! follow it, so the last stage stands while the scheduler is gone.

use std::sync::Arc;

use weft_client::Record;
use weft_policy::split::{Draw, Share, assign};
use weft_proto::weft::control::v1::{Rollout, RolloutPhase};
use weft_telemetry::Scope;
use weft_types::{ModelName, Version};

use crate::rules::{Marks, Match, Shadow};
use crate::table::Model;

/// Sends a call to the canary (`always`) or to the stable version (`never`), while marked calls may go to the canary at all.
const MARK: &str = "weft-canary";
/// Takes the first 20 bits off a number in `[0, 1)`: what is left is as good as drawn anew, so that calls which a route drew for one of its
/// targets are still split evenly between the target's versions.
const REDRAW: f64 = (1u32 << 20) as f64;

/// A rollout's rules. What its record says and cannot be meant makes it none.
pub(crate) struct Staged {
    record: Arc<Record<Rollout>>,
    answers: Version,
    /// While the rollout is under way.
    canary: Option<Canary>,
    pub(crate) shadow: Option<Shadow>,
}

struct Canary {
    version: Version,
    percent: u32,
    /// Whether marked calls go there.
    marked: bool,
    matches: Vec<Match>,
}

impl Staged {
    /// The rules of a record.
    pub(crate) fn of(name: &ModelName, record: &Arc<Record<Rollout>>, scope: &Scope) -> Option<Self> {
        let rollout = &record.value;
        let (stable, canary) = (Version::new(rollout.stable)?, Version::new(rollout.canary)?);
        let status = rollout.status.clone().unwrap_or_default();
        let is_over = matches!(status.phase(), RolloutPhase::Promoted | RolloutPhase::RolledBack);
        let matches = rollout.strategy.iter().flat_map(|strategy| &strategy.matches);
        let shadow = (status.shadow_percent > 0 && !is_over).then(|| Shadow {
            model: name.to_string(),
            version: Some(canary),
            percent: status.shadow_percent.min(100),
            metrics: scope.metrics().shadow(name, name.as_str(), Some(canary)),
        });
        Some(Self {
            record: Arc::clone(record),
            answers: if status.phase() == RolloutPhase::Promoted { canary } else { stable },
            canary: (!is_over).then(|| Canary {
                version: canary,
                percent: status.canary_percent.min(100),
                marked: status.header,
                matches: matches.filter_map(Match::of).collect(),
            }),
            shadow,
        })
    }

    /// Whether they are the rules of this very record.
    pub(crate) fn is_of(&self, record: &Arc<Record<Rollout>>) -> bool {
        Arc::ptr_eq(&self.record, record)
    }

    /// The version that answers calls which are not drawn for another.
    pub(crate) const fn answers(&self) -> Version {
        self.answers
    }

    /// Whether there is a canary.
    pub(crate) const fn is_under_way(&self) -> bool {
        self.canary.is_some()
    }

    /// The stable version and the canary, if there is one.
    pub(crate) fn versions(&self) -> Vec<Version> {
        [Some(self.answers), self.canary.as_ref().map(|canary| canary.version)].into_iter().flatten().collect()
    }

    /// What each version brings to the draw, the stable one first. A canary that is not ready takes nothing, also of what is marked for
    /// it; the stable one keeps its share even so: an unproven version never takes all calls because the proven one is lost.
    pub(crate) fn shares(&self, model: &Model, marks: &Marks<'_>) -> [Share; 2] {
        let Some(canary) = &self.canary else {
            return [Share { weight: 1, ready: true, ..Share::default() }, Share::default()];
        };
        let metadata = marks.metadata.map(AsRef::as_ref).filter(|_| canary.marked);
        let mark = metadata.and_then(|metadata| metadata.get(MARK)).map(|value| value.as_bytes());
        let fits = || metadata.is_some_and(|metadata| canary.matches.iter().any(|wanted| wanted.fits(metadata)));
        let (never, ready) = (mark == Some(b"never"), model.ready.contains_key(&canary.version));
        let matches = ready && !never && (mark == Some(b"always") || fits());
        [
            Share { weight: 100 - canary.percent, ready: true, matches: never, identity: 0 },
            Share { weight: canary.percent, ready, matches, identity: 1 },
        ]
    }

    /// The version that takes the call. All calls of a sequence take the same while the share stands.
    pub(crate) fn draw(&self, model: &Model, marks: &Marks<'_>) -> Version {
        let unit = (marks.unit.clamp(0.0, 1.0) * REDRAW).fract();
        let taken = assign(self.shares(model, marks).into_iter(), Draw::Unit(unit));
        match (&self.canary, taken) {
            (Some(canary), Some((1, _))) => canary.version,
            _ => self.answers,
        }
    }
}
