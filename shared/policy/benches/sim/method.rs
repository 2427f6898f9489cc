//! The ways to run a mesh that are compared. One of them is what ships; the others share its simulation, and nothing else.

use super::scenario::Scenario;

/// Which replica takes a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Balance {
    /// [`weft_policy::choose`].
    TwoChoices,
    RoundRobin,
    /// The fewest calls of the same router.
    LeastLoaded,
    /// Always the first: what a broken choice would do.
    First,
}

/// Which worker holds what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Placing {
    /// [`weft_policy::place`] each second, for as many replicas as the calls of late are worth.
    Demand,
    /// The same for as many replicas as [`weft_policy::scale`] says, by what workers measured in the last ten seconds.
    Scaled,
    /// Each worker has one model, for ever, in proportion to the mean demand.
    Static,
    /// As Kubernetes does it: each pod requests half a worker, pods go to the first node with room, and the number of pods follows their
    /// utilization in steps of three seconds.
    Requests,
}

/// A way to run a mesh.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Method {
    pub(crate) name: &'static str,
    pub(crate) balance: Balance,
    pub(crate) placing: Placing,
    /// Whether [`weft_policy::admit`], [`weft_policy::batch`] and [`weft_policy::learn`] decide; otherwise calls are served as they come.
    pub(crate) orders: bool,
    /// Whether [`weft_policy::preempt`] does.
    pub(crate) preempts: bool,
}

impl Method {
    pub(crate) const WEFT: Self =
        Self { name: "weft", balance: Balance::TwoChoices, placing: Placing::Demand, orders: true, preempts: true };
    pub(crate) const STATIC: Self = Self { name: "static", placing: Placing::Static, ..Self::ROUND_ROBIN };
    pub(crate) const ROUND_ROBIN: Self = Self {
        name: "round robin",
        balance: Balance::RoundRobin,
        placing: Placing::Demand,
        orders: false,
        preempts: false,
    };
    pub(crate) const LEAST_LOADED: Self =
        Self { name: "least loaded", balance: Balance::LeastLoaded, ..Self::ROUND_ROBIN };
    pub(crate) const BIN_PACKER: Self = Self { name: "bin packer", placing: Placing::Requests, ..Self::ROUND_ROBIN };
    pub(crate) const AUTOSCALED: Self = Self { name: "autoscaled", placing: Placing::Scaled, ..Self::WEFT };
    pub(crate) const ALL: [Self; 5] =
        [Self::WEFT, Self::STATIC, Self::ROUND_ROBIN, Self::LEAST_LOADED, Self::BIN_PACKER];

    /// Those that are compared in a scenario: the autoscaler only where days are long beside its window of ten seconds.
    pub(crate) fn of(scenario: &Scenario) -> Vec<Self> {
        let autoscaled = Some(Self::AUTOSCALED).filter(|_| scenario.name == Scenario::DAYS);
        Self::ALL.into_iter().chain(autoscaled).collect()
    }
}
