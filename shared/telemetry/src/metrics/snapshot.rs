//! How much a service knows of the mesh, and how well.

use std::sync::Arc;
use std::time::Duration;

use super::{Metrics, names};

/// What the snapshot gauges show.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SnapshotState {
    /// The store's revision.
    pub revision: i64,
    /// How long ago it was last known to be current.
    pub age: Duration,
    /// Workers that are kept although their registrations vanished.
    pub retained: u64,
    /// Records that cannot be read.
    pub undecodable: u64,
}

impl Metrics {
    /// Shows the state of a snapshot, read at each export, so that the age grows even when nothing happens. Call it once: the
    /// instruments live as long as the service.
    pub fn observe_snapshot(&self, state: impl Fn() -> SnapshotState + Send + Sync + 'static) {
        let state: Arc<dyn Fn() -> SnapshotState + Send + Sync> = Arc::new(state);
        let seen = || Arc::clone(&state);
        let revision = seen();
        self.0
            .meter
            .i64_observable_gauge(names::SNAPSHOT_REVISION)
            .with_description("Revision of the store that the snapshot reflects")
            .with_callback(move |gauge| gauge.observe(revision().revision, &[]))
            .build();
        let age = seen();
        self.0
            .meter
            .f64_observable_gauge(names::SNAPSHOT_AGE)
            .with_unit("s")
            .with_description("Time since the snapshot was last known to be current")
            .with_callback(move |gauge| gauge.observe(age().age.as_secs_f64(), &[]))
            .build();
        let count = |name, unit, about, count: fn(SnapshotState) -> u64| {
            let state = seen();
            let gauge = self.0.meter.u64_observable_gauge(name).with_unit(unit).with_description(about);
            gauge.with_callback(move |gauge| gauge.observe(count(state()), &[])).build();
        };
        let about = "Workers kept although their registrations vanished, since they still answer";
        count(names::SNAPSHOT_RETAINED, "{worker}", about, |state| state.retained);
        let about = "Records in the store that cannot be read";
        count(names::SNAPSHOT_UNDECODABLE, "{record}", about, |state| state.undecodable);
    }
}
