//! From the name that a caller used to the model version that answers.

use std::time::Instant;

use weft_policy::split::{Share, split};
use weft_types::{Error, ModelName, Reason, Result, Version};

use crate::table::{Model, Ready, Table};

/// Where a call goes.
pub(crate) struct Target<'a> {
    pub(crate) model: String,
    pub(crate) version: Version,
    pub(crate) ready: &'a Ready,
}

/// What came of a name.
pub(crate) enum Routed<'a> {
    /// These replicas can take the call.
    Ready(Target<'a>),
    /// Known, but no replica is ready: it is worth waiting.
    Coming,
}

/// Resolves a name: a route first, else a model. `unit` is uniform in `[0, 1)` and decides a split.
pub(crate) fn route<'a>(
    table: &'a Table,
    name: &str,
    version: Option<Version>,
    unit: f64,
    now: Instant,
) -> Result<Routed<'a>> {
    if !table.known {
        return Ok(Routed::Coming);
    }
    let Some(route) = table.route(name) else {
        return of_model(table, name, version, now);
    };
    let candidates = || {
        route.targets.iter().map(|target| {
            let version = Version::new(target.version).or(version);
            (target, version, table.model(&target.model).and_then(|model| model.ready(version)))
        })
    };
    let shares = candidates().map(|(target, _, ready)| Share { weight: target.weight, ready: ready.is_some() });
    let Some((target, _, Some((version, ready)))) = split(shares, unit).and_then(|index| candidates().nth(index))
    else {
        return Ok(Routed::Coming);
    };
    Ok(Routed::Ready(Target { model: target.model.clone(), version, ready }))
}

fn of_model<'a>(table: &'a Table, name: &str, version: Option<Version>, now: Instant) -> Result<Routed<'a>> {
    let Some(model) = table.model(name) else {
        return Err(unknown(name, None));
    };
    match model.ready(version) {
        Some((version, ready)) => Ok(Routed::Ready(Target { model: name.to_owned(), version, ready })),
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
        None => model.coming.values().next_back(),
    };
    match of_version {
        // Only where nothing is known at all: a version that others of the model's are offered beside does not exist.
        None if model.coming.is_empty() && !model.is_ready() && model.may_return(now) => Ok(Routed::Coming),
        None => Err(unknown(name, version)),
        Some(coming) if !coming.placed => match &coming.failure {
            Some(reason) => Err(Error::new(Reason::NoReadyReplica, format!("model '{name}' failed to load: {reason}"))),
            None => Ok(Routed::Coming),
        },
        Some(_) => Ok(Routed::Coming),
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
mod tests {
    use super::*;
    use weft_types::SystemClock;

    /// A router that has just started serves before it has looked at the mesh: it must not deny what it has not looked for.
    #[test]
    fn nothing_is_denied_before_the_mesh_is_known() {
        let mut table = Table::default();
        let routed = |table: &Table| route(table, "m", None, 0.0, SystemClock::now()).map(|_| ());
        assert!(routed(&table).is_ok());
        table.known = true;
        assert_eq!(routed(&table).map_err(|error| error.reason()), Err(Reason::NotFound));
    }
}
