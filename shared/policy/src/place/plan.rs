//! What follows from a look at the world.

use std::collections::BTreeMap;
use std::fmt;

use weft_types::{ModelName, Version};

use super::{DeviceId, Key};

/// Why a replica is placed or removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Why {
    /// Fewer are there than wanted.
    Missing,
    /// The worker is no longer registered.
    WorkerGone,
    /// Nobody wants the model any more.
    Unwanted,
    /// More are there than wanted.
    Excess,
    /// Its worker drains or no longer suits, and others serve.
    Replaced,
    /// Another version serves.
    Superseded,
    /// It could not be loaded, and is tried elsewhere.
    Failed,
    /// One of a higher priority, or the first of another model, needs its room.
    Preempted,
    /// It was preempted, and has begun to make way.
    Yielded,
    /// Nobody has called it of late, and one that is called needs its room.
    Evicted,
    /// A leader of the past wrote it after its time.
    Stale,
    /// It had failed for good, and is to be tried anew.
    Renewed,
}

/// One change of the placements.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Move {
    /// The worker shall hold it.
    Place(Key, Why),
    /// The worker shall let go of it.
    Remove(Key, Why),
}

/// What kept a replica from being placed.
///
/// Each worker is ruled out by its first obstacle, in this order; the last one that any worker reached is told, because
/// it is the nearest to success.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Obstacle {
    /// No worker offers it.
    NotOffered,
    /// No worker that offers it has the labels.
    Selector,
    /// No worker that offers it has a device of its kind.
    Device,
    /// An operator keeps new replicas away from the workers that could take it.
    Cordoned,
    /// The workers that could take it drain.
    Draining,
    /// Every worker that could take it has it: more replicas are wanted than there are workers.
    Held,
    /// Beside it on every worker that could take it would be a model that it must not be with.
    Shunned,
    /// It failed to load, and it is too early to try again.
    Failed,
    /// No worker that could take it has the processors left.
    Processors,
    /// No worker that could take it has the memory left on one device.
    Memory,
    /// Others leave, and it comes when they have gone.
    Waiting,
    /// It failed to load on several workers, or on all that could take it, and is not tried on others.
    FailedEverywhere,
}

impl Obstacle {
    /// Whether others that leave a worker could make room on it.
    pub(super) const fn yields(self) -> bool {
        matches!(self, Self::Shunned | Self::Processors | Self::Memory)
    }

    /// Whether, with this as the nearest one of all workers, some of them may have room when others leave.
    pub(super) fn may_yield(self) -> bool {
        (Self::Shunned..Self::FailedEverywhere).contains(&self)
    }
}

impl fmt::Display for Obstacle {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::NotOffered => "no worker offers it",
            Self::Selector => "no worker that offers it has the labels of the selector",
            Self::Device => "no worker that offers it has a device of its kind",
            Self::Cordoned => "the workers that could take it are cordoned",
            Self::Draining => "the workers that could take it are shutting down",
            Self::Held => "every worker that could take it already has it",
            Self::Shunned => "a model that must not be beside it is on every worker that could take it",
            Self::Failed => "it failed to load on the workers that could take it and is tried again later",
            Self::Processors => "no worker that could take it has enough free processors",
            Self::Memory => "no worker that could take it has enough free memory",
            Self::Waiting => "it waits until others have left the memory that it takes",
            Self::FailedEverywhere => {
                "it failed to load wherever it was tried and is quarantined until it is applied anew"
            }
        })
    }
}

/// Replicas that are wanted and have no place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unplaced {
    /// The model.
    pub model: ModelName,
    /// The version; `None` when no worker offers any.
    pub version: Option<Version>,
    /// How many are missing.
    pub missing: usize,
    /// Why.
    pub obstacle: Obstacle,
}

/// What to change, and what cannot be had.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// The changes, new places first, each key at most once.
    pub moves: Vec<Move>,
    /// Whose memory a new replica takes, where its worker tells its devices.
    pub devices: BTreeMap<Key, DeviceId>,
    /// What is missing, by model and version.
    pub unplaced: Vec<Unplaced>,
}
