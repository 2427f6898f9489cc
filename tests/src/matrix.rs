//! Everything that can go wrong with a step of a job, at every call, model and reservation of five [`shape`]s of jobs: [`Point`]s, and [`round`]s of jobs
//! that meet them at the same time, on real schedulers, workers and a router over a real etcd, with a [`crate::ledger`] in a process of its own. What came of
//! each job is [`judge`]d. What the mesh does itself goes wrong as [`inner`] says.

mod held;
mod inner;
mod judge;
mod round;
mod shape;

use weft_participant::Direction;
use weft_proto::weft::jobs::v1::{Phase, Verb};

pub use self::round::{Blow, Round, Rounds};
pub use self::shape::{SHAPES, Shape, Spot, Work};
use crate::ledger::messages::{Fault, FaultKind};

/// So often that it never succeeds by itself.
pub const FOR_EVER: u32 = u32::MAX;
/// How often what has to succeed is refused: more often than anything else is tried again.
const REFUSALS: u32 = 3;

/// One thing that goes wrong in one job.
#[derive(Clone, Debug)]
pub struct Point {
    /// Of which the job is.
    pub shape: &'static Shape,
    /// Which of its steps.
    pub spot: Spot,
    /// The action, the undo or the probe.
    pub direction: Direction,
    /// How. Of a model: it refuses its input, fails (`Unknown`), hangs, or stands still on its worker. Of slots: there are none for the whole attempt
    /// (`Refuse`), or while somebody is killed (`HoldBefore`).
    pub kind: FaultKind,
    /// What the action meets first whose probe goes wrong: nobody knows what became of it.
    pub first: Option<FaultKind>,
    /// How many times.
    pub times: u32,
}

/// How an action goes wrong while everybody lives.
const WRONG: [FaultKind; 4] = [FaultKind::Refuse, FaultKind::Hang, FaultKind::Unknown, FaultKind::Unavailable];

/// How a probe goes wrong while everybody lives.
const UNTOLD: [FaultKind; 5] =
    [FaultKind::Refuse, FaultKind::Hang, FaultKind::Unknown, FaultKind::Unavailable, FaultKind::Silent];
/// How a model does.
const UNFIT: [FaultKind; 3] = [FaultKind::Refuse, FaultKind::Unknown, FaultKind::Hang];
/// After which nobody knows of an effect: there is none, or there is one.
const FIRST: [FaultKind; 2] = [FaultKind::Unavailable, FaultKind::Unknown];

/// Every action goes wrong in every way.
pub fn actions() -> Vec<Point> {
    let kinds = |spot: &Spot| -> Vec<(FaultKind, u32)> {
        let has_to_succeed = spot.has_to_succeed();
        match spot.work {
            Work::Slots => vec![(FaultKind::Refuse, 1)],
            Work::Model => UNFIT.map(|kind| (kind, if has_to_succeed { FOR_EVER } else { 1 })).into(),
            Work::Call => {
                WRONG.map(|kind| (kind, if has_to_succeed && kind == FaultKind::Refuse { REFUSALS } else { 1 })).into()
            }
        }
    };
    points(|spot| kinds(&spot).into_iter().map(|(kind, times)| Way::of(Direction::Action, kind, times)).collect())
}

/// Every undo goes wrong in every way, once, twice and for ever.
pub fn undos() -> Vec<Point> {
    points(|spot| {
        if !spot.is_undone {
            return Vec::new();
        }
        let ways = WRONG.into_iter().flat_map(|kind| [1, 2, FOR_EVER].map(|times| (kind, times)));
        ways.map(|(kind, times)| Way::of(Direction::Undo, kind, times)).collect()
    })
}

/// Every probe goes wrong in every way, once and for ever, with an effect to be told of and without one.
pub fn probes() -> Vec<Point> {
    points(|spot| {
        let ways = UNTOLD.into_iter().flat_map(|kind| [1, FOR_EVER].map(|times| (kind, times)));
        // Twenty of them in a row, as long as the pivot's job needs to be stuck, would take a minute.
        let ways = ways.filter(|way| spot.phase != Phase::Pivot || *way != (FaultKind::Hang, FOR_EVER));
        asked(&spot, &ways.collect::<Vec<_>>())
    })
}

/// Every call, undo and probe stands still before its effect and after it: somebody is about to be killed.
pub fn holds() -> Vec<Point> {
    points(|spot| {
        if spot.work != Work::Call {
            return Vec::new();
        }
        let undo = spot.is_undone.then_some(Direction::Undo);
        let directions = [Some(Direction::Action), undo].into_iter().flatten();
        let ways = directions.flat_map(|direction| HOLDS.map(|kind| Way::of(direction, kind, 1)));
        ways.chain(asked(&spot, &HOLDS.map(|kind| (kind, 1)))).collect()
    })
}

/// Every model stands still before it is executed, or after it: somebody is about to be killed.
pub fn models(kind: FaultKind) -> Vec<Point> {
    points(|spot| (spot.work == Work::Model).then(|| Way::of(Direction::Action, kind, 1)).into_iter().collect())
}

/// Every reservation waits for slots that others have: somebody is about to be killed.
pub fn slots() -> Vec<Point> {
    let way = || Way::of(Direction::Action, FaultKind::HoldBefore, 1);
    points(|spot| (spot.work == Work::Slots).then(way).into_iter().collect())
}

const HOLDS: [FaultKind; 2] = [FaultKind::HoldBefore, FaultKind::HoldAfter];

/// How a step goes wrong.
struct Way {
    direction: Direction,
    kind: FaultKind,
    first: Option<FaultKind>,
    times: u32,
}

impl Way {
    const fn of(direction: Direction, kind: FaultKind, times: u32) -> Self {
        Self { direction, kind, first: None, times }
    }
}

/// A probe goes wrong so.
fn asked(spot: &Spot, ways: &[(FaultKind, u32)]) -> Vec<Way> {
    let first = FIRST.into_iter().filter(|_| spot.is_asked);
    let of = |first, (kind, times)| Way { first: Some(first), ..Way::of(Direction::Probe, kind, times) };
    first.flat_map(|first| ways.iter().map(move |way| of(first, *way))).collect()
}

fn points(ways: impl Fn(Spot) -> Vec<Way>) -> Vec<Point> {
    let spots = SHAPES.iter().flat_map(|shape| shape.spots().into_iter().map(move |spot| (shape, spot)));
    let all = spots.flat_map(|(shape, spot)| ways(spot.clone()).into_iter().map(move |way| (shape, spot.clone(), way)));
    let point =
        |(shape, spot, Way { direction, kind, first, times })| Point { shape, spot, direction, kind, first, times };
    all.map(point).collect()
}

impl Spot {
    /// Whether there is no way back from where it stands.
    pub(crate) const fn has_to_succeed(&self) -> bool {
        matches!(self.phase, Phase::Post | Phase::Finally)
    }
}

impl Point {
    /// What the participant is told; the job's steps carry its number.
    fn faults(&self, number: usize) -> Vec<Fault> {
        if self.spot.work != Work::Call {
            return Vec::new();
        }
        let fault = |direction: Direction, kind: FaultKind, times| {
            let (direction, kind) = (direction.as_str().to_owned(), kind.into());
            Fault { step: self.place(number), direction, kind, times }
        };
        let first = self.first.map(|first| fault(Direction::Action, first, 1));
        first.into_iter().chain([fault(self.direction, self.kind, self.times)]).collect()
    }

    /// The call as it stands in its key, behind the job's id.
    fn place(&self, number: usize) -> String {
        let step = shape::numbered(&self.spot.step, number);
        self.spot.item.map_or(step.clone(), |item| format!("{step}/{item}"))
    }

    /// Whether the job does not end without an operator, and what that one does.
    fn verb(&self) -> Option<Verb> {
        let is_probe = self.direction == Direction::Probe;
        let verb = match (self.spot.work, self.kind) {
            // Undone without an answer.
            (Work::Call, _) if is_probe && self.spot.phase == Phase::Pre => return None,
            (Work::Call, FaultKind::Refuse) => Verb::Retry,
            (Work::Call, FaultKind::Silent) if self.first == Some(FaultKind::Unknown) => Verb::Abandon,
            (Work::Call, FaultKind::Hang) if !is_probe => Verb::Abandon,
            (Work::Model, FaultKind::Unknown) if self.spot.phase == Phase::Post => Verb::Abandon,
            _ => Verb::Skip,
        };
        (self.times == FOR_EVER).then_some(verb)
    }

    /// What somebody does by hand, because it never happened, before the step is skipped.
    fn by_hand(&self) -> Option<Direction> {
        match (self.verb()?, self.direction) {
            (Verb::Skip, Direction::Undo) if self.kind == FaultKind::Unavailable => Some(Direction::Undo),
            (Verb::Skip, Direction::Probe) if self.first == Some(FaultKind::Unavailable) => Some(Direction::Action),
            _ => None,
        }
    }

    /// Whether the job has to be undone: by what goes wrong here, or so that there is an undo that can go wrong.
    fn brings_down(&self) -> bool {
        let is_given_up = match (self.spot.work, self.direction) {
            (_, Direction::Undo) => return true,
            (Work::Call, Direction::Probe) => self.times == FOR_EVER && self.spot.phase == Phase::Pre,
            (Work::Call, _) => self.kind == FaultKind::Refuse,
            (Work::Model | Work::Slots, _) => !self.stands(),
        };
        is_given_up && !self.spot.has_to_succeed()
    }

    /// Whether it stands still so that somebody can be killed.
    fn stands(&self) -> bool {
        HOLDS.contains(&self.kind)
    }

    /// As what the attempt is shown that has gone wrong.
    fn shown(&self) -> (&'static str, &'static str) {
        match (self.spot.work, self.direction, self.kind) {
            (Work::Slots, ..) => ("FAILED_CLEAN", "RESOURCE_EXHAUSTED"),
            (Work::Model, _, FaultKind::Refuse) => ("FAILED_CLEAN", "INVALID_ARGUMENT"),
            (Work::Model, _, FaultKind::Unknown) => ("FAILED_CLEAN", "INTERNAL"),
            (Work::Model, ..) => ("FAILED_CLEAN", "DEADLINE_EXCEEDED"),
            (Work::Call, Direction::Probe, FaultKind::Refuse) => ("UNKNOWN", "FAILED_PRECONDITION"),
            (Work::Call, _, FaultKind::Refuse) => ("FAILED_CLEAN", "FAILED_PRECONDITION"),
            (Work::Call, _, FaultKind::Hang) => ("UNKNOWN", "DEADLINE_EXCEEDED"),
            (Work::Call, _, FaultKind::Silent) => ("UNKNOWN", "INTERNAL"),
            (Work::Call, ..) => ("UNKNOWN", "UNAVAILABLE"),
        }
    }

    /// How often the action has to have been tried, where that is certain.
    fn attempts(&self) -> Option<u32> {
        match (self.spot.work, self.direction, self.kind) {
            (Work::Model | Work::Slots, ..) if self.stands() || self.times == FOR_EVER => None,
            (Work::Model, _, FaultKind::Hang) => Some(2),
            (Work::Model | Work::Slots, ..) => Some(1),
            // What is refused before there is no way back is not tried again, and what has to succeed is.
            (Work::Call, Direction::Action, FaultKind::Refuse) if self.spot.has_to_succeed() => Some(self.times + 1),
            (Work::Call, Direction::Action, FaultKind::Refuse) => Some(1),
            // Its effect is there: it is asked for until somebody tells so, and not repeated.
            (Work::Call, Direction::Probe, kind) if kind != FaultKind::Hang => {
                (self.first == Some(FaultKind::Unknown)).then_some(1)
            }
            _ => None,
        }
    }
}
