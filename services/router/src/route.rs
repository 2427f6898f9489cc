//! From the name that a caller used to the model version that answers.

use std::time::Instant;

use weft_policy::split::Rule;
use weft_types::{Error, ModelName, Reason, Result, Version};

use crate::leading::Leading;
use crate::rules::Marks;
use crate::table::{Model, Ready, Table};

/// Where a call goes.
#[derive(Clone, Copy)]
pub(crate) struct Target<'a> {
    pub(crate) model: &'a str,
    pub(crate) version: Version,
    pub(crate) ready: &'a Ready,
    /// What leads the call to one of its replicas, if its route says so.
    pub(crate) leading: Option<&'a Leading>,
}

/// What came of a name.
pub(crate) enum Routed<'a> {
    /// These replicas can take the call.
    Ready(Target<'a>),
    /// Known, but no replica is ready: it is worth waiting.
    Coming,
}

/// Resolves a name: a route first, else a model.
pub(crate) fn route<'a>(
    table: &'a Table,
    name: &str,
    version: Option<Version>,
    marks: &Marks<'_>,
    now: Instant,
) -> Result<Routed<'a>> {
    if !table.known {
        return Ok(Routed::Coming);
    }
    let Some(rules) = table.rules(name) else {
        return of_model(table, (name, version), marks, now);
    };
    let taken = rules.assign(&rules.shares(table, version, marks), marks)?;
    let Some((target, rule)) = taken.and_then(|(index, rule)| Some((rules.targets.get(index)?, rule))) else {
        return Ok(Routed::Coming);
    };
    let version = target.version.or(version);
    let ready = |model: &'a Model| model.ready(version.or_else(|| model.drawn(marks)));
    match table.model(&target.model).and_then(ready) {
        Some((version, ready)) => {
            let leading = rules.leading.as_ref();
            Ok(Routed::Ready(Target { model: &target.model, version, ready, leading }))
        }
        // Only a match takes what is not ready: such a call is answered as if it named that model itself.
        None if rule == Rule::Match => of_model(table, (&target.model, version), marks, now),
        None => Ok(Routed::Coming),
    }
}

fn of_model<'a>(
    table: &'a Table,
    (name, version): (&str, Option<Version>),
    marks: &Marks<'_>,
    now: Instant,
) -> Result<Routed<'a>> {
    let Some((known, model)) = table.named(name) else {
        return Err(unknown(name, None));
    };
    let version = version.or_else(|| model.drawn(marks));
    match model.ready(version) {
        Some((version, ready)) => Ok(Routed::Ready(Target { model: known.as_str(), version, ready, leading: None })),
        None => why_not(name, model, version, now),
    }
}

/// Whether to wait for a model that has no ready replica, or why that would be in vain.
fn why_not<'a>(name: &str, model: &Model, version: Option<Version>, now: Instant) -> Result<Routed<'a>> {
    if model.unloaded {
        return Err(Error::new(
            Reason::NoReadyReplica,
            format!("model '{name}' is unloaded; load it with RepositoryModelLoad or ApplyModel"),
        ));
    }
    let of_version = match version {
        Some(version) => model.coming.get(&version),
        // A version of before that takes the place of one that cannot be loaded is as good.
        None => model.coming.values().rev().find(|coming| coming.placed).or(model.coming.values().next_back()),
    };
    match of_version {
        // Only where nothing is known at all: a version that others of the model's are offered beside does not exist.
        None if model.coming.is_empty() && !model.is_ready() && model.may_return(now) => Ok(Routed::Coming),
        None => Err(unknown(name, version)),
        Some(coming) => match coming.given_up(now) {
            Some(reason) => Err(Error::new(Reason::NoReadyReplica, format!("model '{name}' failed to load: {reason}"))),
            None => Ok(Routed::Coming),
        },
    }
}

fn unknown(name: &str, version: Option<Version>) -> Error {
    let shown = name.parse::<ModelName>().map_or_else(|_| String::new(), |name| format!("'{name}'"));
    match version {
        Some(version) => Error::new(Reason::NotFound, format!("model_version: model {shown} has no version {version}")),
        None => Error::new(Reason::NotFound, format!("model_name: no model or route {shown}")),
    }
}

#[cfg(test)]
mod tests;
