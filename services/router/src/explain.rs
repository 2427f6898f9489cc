//! Where a call would go now, and why: by the same steps that a call takes, up to the point where it would be sent.

use std::time::{Duration, Instant};

use bytes::Bytes;
use prost::Message as _;
use tonic::metadata::MetadataMap;
use weft_policy::Terms;
use weft_policy::choose::{self, odds};
use weft_policy::split::{self, parts};
use weft_proto::duration;
use weft_proto::message::Payload;
use weft_proto::weft::router::v1::{
    CacheView, Candidate, ExplainRequest, ExplainResponse, HedgingView, Led, Outcome, RouteTaken, Rule, ShadowView,
    TargetView, ZoneView,
};
use weft_telemetry::status_name;
use weft_types::{Deadline, Error, Result, SystemClock, Version};

use crate::Inner;
use crate::choose::{candidate, terms};
use crate::dispatch::lock;
use crate::identify::{Wanted, identify};
use crate::route::{Routed, Target, route};
use crate::rules::{Marks, Rules, Shadow};
use crate::table::{Replica, Table};

/// Replicas that are told of. How likely each is takes time in the square of their number.
const MOST: usize = 512;

/// Explains a unary inference that would come with this metadata and deadline.
pub(crate) fn explain(
    router: &Inner,
    deadline: Deadline,
    metadata: &MetadataMap,
    request: ExplainRequest,
) -> Result<ExplainResponse> {
    let request = request.request.ok_or_else(|| Error::invalid("request", "is missing"))?;
    let message = Bytes::from(request.encode_to_vec());
    let mut answer = ExplainResponse {
        retries_left: u32::try_from(lock(router).left(SystemClock::now())).unwrap_or(u32::MAX),
        holds_left: u32::try_from(router.holds.available_permits()).unwrap_or(u32::MAX),
        ..ExplainResponse::default()
    };
    match identify(metadata, &message, deadline) {
        Ok(wanted) => {
            let wanted = Wanted { request: Payload::of(&message), ..wanted };
            of_wanted(router, &wanted, SystemClock::now(), &mut answer);
        }
        Err(error) => refuse(&mut answer, &error),
    }
    Ok(answer)
}

fn refuse(answer: &mut ExplainResponse, error: &Error) {
    answer.set_outcome(Outcome::Refused);
    let code = weft_proto::status_of(error).code();
    answer.reason = format!("{}: {}", status_name(code), error.message());
}

fn of_wanted(router: &Inner, wanted: &Wanted<'_>, now: Instant, answer: &mut ExplainResponse) {
    let table = router.table.load();
    let marks = wanted.marks();
    answer.route = table.rules(wanted.name).map(|rules| RouteTaken {
        shadow: rules.shadow.as_ref().map(|shadow| shadow_view(router, &table, shadow)),
        hedging: rules.hedging.map(|hedging| HedgingView { max_attempts: hedging.max_attempts, delay: None }),
        cache: rules.cache.as_ref().map(|cache| CacheView {
            ttl: Some(duration(cache.ttl)),
            negative_ttl: Some(duration(cache.negative_ttl)),
        }),
        ..taken(&table, rules, wanted.version, &marks)
    });
    answer.remaining = Some(duration(wanted.deadline.remaining(now)));
    let next = wanted.deadline.for_next_hop(now, Duration::ZERO);
    answer.passed_on = next.map(|next| duration(next.remaining(now)));
    match route(&table, wanted.name, wanted.version, &marks, now) {
        Err(error) => refuse(answer, &error),
        Ok(Routed::Coming) if answer.holds_left == 0 => {
            answer.set_outcome(Outcome::Refused);
            answer.reason = "no replica is ready, and too many calls wait for one".to_owned();
        }
        Ok(Routed::Coming) => {
            answer.set_outcome(Outcome::Held);
            answer.reason = "no replica is ready".to_owned();
        }
        Ok(Routed::Ready(target)) => {
            answer.rollout = staged(router, &table, &target, &marks);
            answer.set_outcome(if next.is_some() { Outcome::Sent } else { Outcome::Refused });
            if next.is_none() {
                answer.reason = "too little time is left for another hop".to_owned();
            }
            if let Some(view) = answer.route.as_mut().and_then(|route| route.hedging.as_mut()) {
                view.delay = delay(&table, wanted, &target, now).map(duration);
            }
            match terms(wanted, &target, &marks, now) {
                Ok(terms) => replicas(&router.options.zone, &target, (terms, now), answer),
                Err(error) => refuse(answer, &error),
            }
        }
    }
}

/// The route's targets, and which of them the call takes.
fn taken(table: &Table, rules: &Rules, version: Option<Version>, marks: &Marks<'_>) -> RouteTaken {
    let shares = rules.shares(table, version, marks);
    // A key that cannot be read is told with the outcome.
    let taken = rules.assign(&shares, marks).ok().flatten();
    let rule = match taken {
        None => Rule::Unspecified,
        Some((_, split::Rule::Match)) => Rule::Match,
        Some((_, split::Rule::Key)) => Rule::Sticky,
        Some((_, split::Rule::Weight)) if marks.sequence.is_some() => Rule::Sequence,
        Some((_, split::Rule::Weight)) => Rule::Weight,
    };
    let told = rules.targets.iter().zip(&shares).zip(parts(shares.iter().copied())).enumerate();
    let targets = told.map(|(index, ((target, share), part))| TargetView {
        model: target.model.clone(),
        version: target.version.map_or(0, Version::get),
        share: part,
        ready: share.ready,
        matches: share.matches,
        taken: taken.is_some_and(|(taken, _)| taken == index),
    });
    let (name, targets) = (rules.name.to_string(), targets.collect());
    RouteTaken { name, rule: rule.into(), targets, ..RouteTaken::default() }
}

/// How the rollout of the model that takes the call, if it has one under way, splits the calls that name no version.
fn staged(router: &Inner, table: &Table, target: &Target<'_>, marks: &Marks<'_>) -> Option<RouteTaken> {
    let (name, model) = table.named(target.model)?;
    let staged = model.staged.as_ref().filter(|staged| staged.is_under_way())?;
    let shares = staged.shares(model, marks);
    let rule = match shares.iter().any(|share| share.matches) {
        true => Rule::Match,
        false if marks.sequence.is_some() => Rule::Sequence,
        false => Rule::Weight,
    };
    let told = staged.versions().into_iter().zip(&shares).zip(parts(shares.iter().copied()));
    let targets = told.map(|((version, share), part)| TargetView {
        model: name.to_string(),
        version: version.get(),
        share: part,
        ready: model.ready.contains_key(&version),
        matches: share.matches,
        taken: version == target.version,
    });
    let (name, targets) = (name.to_string(), targets.collect());
    let shadow = staged.shadow.as_ref().map(|shadow| shadow_view(router, table, shadow));
    Some(RouteTaken { name, rule: rule.into(), targets, shadow, ..RouteTaken::default() })
}

/// When the call would be hedged, as far as that is known.
fn delay(table: &Table, wanted: &Wanted<'_>, target: &Target<'_>, now: Instant) -> Option<Duration> {
    let hedging = table.rules(wanted.name)?.hedging.filter(|_| wanted.sequence.is_none())?;
    hedging.delay.given(&mut target.ready.latencies.lock(), now)
}

fn shadow_view(router: &Inner, table: &Table, shadow: &Shadow) -> ShadowView {
    ShadowView {
        model: shadow.model.clone(),
        version: shadow.version.map_or(0, Version::get),
        percent: shadow.percent,
        ready: table.model(&shadow.model).is_some_and(|model| model.ready(shadow.version).is_some()),
        copies_left: u32::try_from(router.shadows.left()).unwrap_or(u32::MAX),
    }
}

/// The replicas that could take the call, the likeliest first.
fn replicas(zone: &str, target: &Target<'_>, (terms, now): (Terms, Instant), answer: &mut ExplainResponse) {
    answer.admission = Some(target.ready.gate.view());
    let replicas: Vec<&Replica> = target.ready.replicas.iter().take(MOST).collect();
    let seen: Vec<_> = replicas.iter().map(|replica| candidate(replica, &[], now)).collect();
    let told = replicas.iter().zip(&seen).zip(odds(&seen, terms)).map(|((replica, seen), share)| Candidate {
        worker: replica.endpoint.worker.to_string(),
        share,
        in_flight: seen.in_flight,
        // What it learned are seconds of calls that ended or were given up: always representable.
        latency: seen.latency.and_then(|seconds| Duration::try_from_secs_f32(seconds).ok()).map(duration),
        connection: replica.endpoint.channel.state().as_str().to_owned(),
        draining: seen.draining,
        ejected: seen.ejected,
        local: seen.local,
    });
    let mut candidates: Vec<Candidate> = told.collect();
    // They are in the order of their names, and a stable order keeps that among equals.
    candidates.sort_by(|one, other| other.share.total_cmp(&one.share));
    answer.affinity = terms.affinity.is_some();
    let led = terms.affinity.and_then(|affinity| choose::led(&seen, affinity, terms.bound));
    answer.led = led.and_then(|led| {
        let preferred = replicas.get(led.preferred)?.endpoint.worker.to_string();
        Some(Led { preferred, limit: led.limit.unwrap_or(0), spilled: led.taken != led.preferred })
    });
    let local = || candidates.iter().filter(|candidate| candidate.local);
    if (1..candidates.len()).contains(&local().count()) {
        answer.zone = Some(ZoneView { zone: zone.to_owned(), stays: local().map(|candidate| candidate.share).sum() });
    }
    (answer.model, answer.version) = (target.model.to_owned(), target.version.get());
    answer.candidates = candidates;
}
