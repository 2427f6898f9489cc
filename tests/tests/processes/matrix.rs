//! Each way in which a step of a job can go wrong, at each call, model and reservation of each shape.

use std::path::Path;

use anyhow::Result;
use weft_tests::ledger::messages::FaultKind;
use weft_tests::matrix::{Blow, Rounds, SHAPES, Shape, Spot, Work, actions, holds, models, probes, slots, undos};

#[tokio::test(flavor = "multi_thread")]
async fn every_step_goes_wrong_in_every_way_and_every_job_ends_right() -> Result<()> {
    // The numbers of steps stand here once more: calls, those that are undone, those that are asked about, models, reservations. A shape that loses one fails.
    let steps = |shape: &Shape| {
        let spots = shape.spots();
        let count = |fits: fn(&&Spot) -> bool| spots.iter().filter(fits).count();
        let calls = count(|spot| spot.work == Work::Call);
        let (undone, asked) = (count(|spot| spot.is_undone), count(|spot| spot.is_asked));
        let (models, slots) = (count(|spot| spot.work == Work::Model), count(|spot| spot.work == Work::Slots));
        (shape.name, [calls, undone, asked, models, slots])
    };
    assert_eq!(
        SHAPES.iter().map(steps).collect::<Vec<_>>(),
        [
            ("example", [4, 3, 4, 0, 1]),
            ("chain", [4, 3, 3, 0, 0]),
            ("list", [6, 5, 6, 0, 0]),
            ("diamond", [6, 3, 4, 0, 0]),
            ("mesh", [2, 1, 2, 6, 2])
        ]
    );
    let (before, after) = (FaultKind::HoldBefore, FaultKind::HoldAfter);
    let together = [holds(), models(before), slots()].concat();
    // What goes on at the same time does not disturb each other, as long as one worker is cut off in one way only.
    let rounds = [
        ([actions(), undos()].concat(), Blow::None, 22 * 4 + 6 * 3 + 3 + 15 * 4 * 3),
        (probes(), Blow::None, 19 * 5 * 2 * 2 - 4 * 2),
        (together, Blow::Scheduler, 2 * (22 + 15 + 19 * 2) + 6 + 3),
        (models(after), Blow::Scheduler, 6),
        (holds(), Blow::Participant, 2 * (22 + 15 + 19 * 2)),
        (models(before), Blow::Worker, 6),
        (models(after), Blow::Worker, 6),
    ];
    let mut mesh = Rounds::start(Path::new(env!("CARGO_BIN_EXE_ledger"))).await?;
    for (points, blow, planned) in rounds {
        let round = mesh.run(&points, blow).await?;
        assert_eq!(round.violations, Vec::<String>::new(), "{blow:?}");
        assert_eq!((round.points, round.met), (planned, planned), "{blow:?}");
    }
    Ok(())
}
