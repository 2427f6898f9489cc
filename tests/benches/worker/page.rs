//! What a page of metrics says, for one model.

/// The samples of a name that are of this model, by their labels.
fn samples<'a>(page: &'a str, name: &'a str, model: &'a str) -> impl Iterator<Item = (&'a str, f64)> {
    let label = format!("model=\"{model}\"");
    let of_name =
        page.lines().filter(move |line| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(['{', ' '])));
    let samples = of_name.filter_map(|line| line.rsplit_once(' ')).filter(move |(labels, _)| labels.contains(&label));
    samples.filter_map(|(labels, value)| Some((labels, value.parse().ok()?)))
}

/// The sum of a model's samples.
pub(crate) fn sum(page: &str, name: &str, model: &str) -> f64 {
    samples(page, name, model).map(|(_, value)| value).sum()
}

/// The value that this share of a histogram's new samples did not exceed; within a bucket they are taken as spread evenly, as
/// Prometheus' `histogram_quantile` does.
pub(crate) fn percentile(before: &str, after: &str, name: &str, model: &str, share: f64) -> Option<f64> {
    let bucket = format!("{name}_bucket");
    let bound = |labels: &str| labels.split("le=\"").nth(1)?.split('"').next()?.parse::<f64>().ok();
    let at = |page: &str, wanted: f64| -> f64 {
        let of_bound = samples(page, &bucket, model).filter(|(labels, _)| bound(labels) == Some(wanted));
        of_bound.map(|(_, count)| count).sum()
    };
    let mut bounds: Vec<f64> = samples(after, &bucket, model).filter_map(|(labels, _)| bound(labels)).collect();
    bounds.sort_unstable_by(f64::total_cmp);
    bounds.dedup();
    let counts: Vec<(f64, f64)> =
        bounds.into_iter().map(|bound| (bound, at(after, bound) - at(before, bound))).collect();
    let wanted = counts.last()?.1 * share;
    let place = counts.iter().position(|(_, below)| *below >= wanted)?;
    let (upper, below) = counts[place];
    let (lower, lesser) = place.checked_sub(1).map_or((0.0, 0.0), |before| counts[before]);
    if upper.is_infinite() { Some(lower) } else { Some(lower + (upper - lower) * (wanted - lesser) / (below - lesser)) }
}
