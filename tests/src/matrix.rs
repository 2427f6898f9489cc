//! Everything that can go wrong with a call of a job, at every call of four [`shape`]s of jobs: [`Point`]s, and [`round`]s of jobs that meet them at the
//! same time, on real schedulers over a real etcd, with a [`crate::ledger`] in a process of its own. What came of each job is [`judge`]d.

mod judge;
mod round;
mod shape;

use weft_participant::Direction;
use weft_proto::weft::jobs::v1::{Phase, Verb};

pub use self::round::{Blow, Round, Rounds};
pub use self::shape::{SHAPES, Shape, Spot};
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
    /// Which of its calls.
    pub spot: Spot,
    /// The action or the undo.
    pub direction: Direction,
    /// How.
    pub kind: FaultKind,
    /// How many times.
    pub times: u32,
}

/// How an action goes wrong while everybody lives.
const WRONG: [FaultKind; 4] = [FaultKind::Refuse, FaultKind::Hang, FaultKind::Unknown, FaultKind::Unavailable];

/// Every action goes wrong in every way.
pub fn actions() -> Vec<Point> {
    let kinds = |spot: Spot| {
        let has_to_succeed = matches!(spot.phase, Phase::Post | Phase::Finally);
        WRONG.map(|kind| {
            let times = if has_to_succeed && kind == FaultKind::Refuse { REFUSALS } else { 1 };
            (spot.clone(), Direction::Action, kind, times)
        })
    };
    points(|spot| kinds(spot).into())
}

/// Every undo goes wrong in every way, once, twice and for ever.
pub fn undos() -> Vec<Point> {
    points(|spot| {
        if !spot.is_undone {
            return Vec::new();
        }
        let ways = WRONG.into_iter().flat_map(|kind| [1, 2, FOR_EVER].map(|times| (kind, times)));
        ways.map(|(kind, times)| (spot.clone(), Direction::Undo, kind, times)).collect()
    })
}

/// Every action and every undo stands still before its effect and after it: somebody is about to be killed.
pub fn holds() -> Vec<Point> {
    points(|spot| {
        let undo = spot.is_undone.then_some(Direction::Undo);
        let directions = [Some(Direction::Action), undo].into_iter().flatten();
        let ways = directions
            .flat_map(|direction| [FaultKind::HoldBefore, FaultKind::HoldAfter].map(|kind| (direction, kind)));
        ways.map(|(direction, kind)| (spot.clone(), direction, kind, 1)).collect()
    })
}

fn points(ways: impl Fn(Spot) -> Vec<(Spot, Direction, FaultKind, u32)>) -> Vec<Point> {
    let spots = SHAPES.iter().flat_map(|shape| shape.spots().into_iter().map(move |spot| (shape, spot)));
    let all = spots.flat_map(|(shape, spot)| ways(spot).into_iter().map(move |way| (shape, way)));
    all.map(|(shape, (spot, direction, kind, times))| Point { shape, spot, direction, kind, times }).collect()
}

impl Point {
    /// What the participant is told; the job's steps carry its number.
    fn fault(&self, number: usize) -> Fault {
        let (direction, kind) = (self.direction.as_str().to_owned(), self.kind.into());
        Fault { step: self.place(number), direction, kind, times: self.times }
    }

    /// The call as it stands in its key, behind the job's id.
    fn place(&self, number: usize) -> String {
        let step = shape::numbered(&self.spot.step, number);
        self.spot.item.map_or(step.clone(), |item| format!("{step}/{item}"))
    }

    /// Whether the job does not end without an operator, and what that one does.
    fn verb(&self) -> Option<Verb> {
        let verb = match self.kind {
            FaultKind::Refuse => Verb::Retry,
            FaultKind::Hang => Verb::Abandon,
            _ => Verb::Skip,
        };
        (self.times == FOR_EVER).then_some(verb)
    }

    /// Whether the job has to be undone: by what goes wrong here, or so that there is an undo that can go wrong.
    fn brings_down(&self) -> bool {
        let is_given_up = matches!(self.spot.phase, Phase::Pre | Phase::Pivot);
        self.direction == Direction::Undo || self.kind == FaultKind::Refuse && is_given_up
    }
}
