//! What an operator may ask of autoscaling.

use std::time::Duration;

use weft_proto::from_duration;
use weft_proto::weft::control::v1::Model;
use weft_types::Result;

use super::{MAX_REPLICAS, invalid};

/// Less leaves no replica any use, and more leaves none any room.
const UTILIZATION: std::ops::RangeInclusive<f64> = 0.1..=0.95;
/// Figures of calls are up to two seconds old; beyond a month, a model may as well stay.
const IDLE_AFTER: std::ops::RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(31 * 24 * 3600);

/// The bounds within which demand decides.
pub(super) fn scaling(model: &Model) -> Result<()> {
    let Some(scaling) = &model.autoscaling else { return Ok(()) };
    if model.replicas != 0 {
        return Err(invalid("model.replicas", "must be 0 where demand decides"));
    }
    if !(1..=MAX_REPLICAS).contains(&scaling.max_replicas) {
        return Err(invalid("model.autoscaling.max_replicas", format_args!("must be from 1 to {MAX_REPLICAS}")));
    }
    if scaling.min_replicas > scaling.max_replicas {
        return Err(invalid("model.autoscaling.min_replicas", "must be at most max_replicas"));
    }
    // What is no number is not in the range either.
    let utilization = scaling.target_utilization;
    if utilization != 0.0 && !UTILIZATION.contains(&utilization) {
        return Err(invalid("model.autoscaling.target_utilization", "must be from 0.1 to 0.95"));
    }
    if let Some(idle_after) = &scaling.idle_after
        && !from_duration(idle_after).is_some_and(|told| IDLE_AFTER.contains(&told))
    {
        return Err(invalid("model.autoscaling.idle_after", "must be from 1 s to 31 days"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use prost_types::Duration as Told;
    use weft_proto::weft::control::v1::Autoscaling;
    use weft_types::Reason;

    fn good() -> Autoscaling {
        Autoscaling { min_replicas: 0, max_replicas: 3, target_utilization: 0.5, idle_after: None }
    }

    fn of(autoscaling: Autoscaling) -> Model {
        Model { name: "m".to_owned(), autoscaling: Some(autoscaling), ..Model::default() }
    }

    #[test]
    fn bad_bounds_name_their_field() {
        let idle = |seconds, nanos| Autoscaling { idle_after: Some(Told { seconds, nanos }), ..good() };
        let share = |target_utilization| Autoscaling { target_utilization, ..good() };
        let table = [
            (Model { replicas: 1, ..of(good()) }, "model.replicas"),
            (of(Autoscaling { max_replicas: 0, ..good() }), "model.autoscaling.max_replicas"),
            (of(Autoscaling { max_replicas: 1001, ..good() }), "model.autoscaling.max_replicas"),
            (of(Autoscaling { min_replicas: 4, ..good() }), "model.autoscaling.min_replicas"),
            (of(Autoscaling { min_replicas: u32::MAX, ..good() }), "model.autoscaling.min_replicas"),
            (of(share(f64::NAN)), "model.autoscaling.target_utilization"),
            (of(share(f64::INFINITY)), "model.autoscaling.target_utilization"),
            (of(share(-0.5)), "model.autoscaling.target_utilization"),
            (of(share(0.05)), "model.autoscaling.target_utilization"),
            (of(share(1.0)), "model.autoscaling.target_utilization"),
            (of(idle(0, 999_999_999)), "model.autoscaling.idle_after"),
            (of(idle(-5, 0)), "model.autoscaling.idle_after"),
            (of(idle(i64::MAX, 0)), "model.autoscaling.idle_after"),
            (of(idle(10, -1)), "model.autoscaling.idle_after"),
        ];
        for (bad, field) in table {
            let error = scaling(&bad).expect_err(field);
            assert_eq!((error.reason(), error.field()), (Reason::InvalidRequest, Some(field)), "{bad:?}");
        }
        for fine in [good(), share(0.0), share(0.1), share(0.95), idle(1, 0), Autoscaling { min_replicas: 3, ..good() }]
        {
            assert_eq!(scaling(&of(fine)), Ok(()), "{fine:?}");
        }
        assert_eq!(scaling(&Model { replicas: 3, ..Model::default() }), Ok(()));
    }
}
