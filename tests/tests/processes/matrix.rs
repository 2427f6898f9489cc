//! Each way in which a call of a job can go wrong, at each call of each shape.

use std::path::Path;

use anyhow::Result;
use weft_tests::matrix::{Blow, Rounds, SHAPES, Shape, actions, holds, undos};

#[tokio::test(flavor = "multi_thread")]
async fn every_call_goes_wrong_in_every_way_and_every_job_ends_right() -> Result<()> {
    // The numbers of calls, and of those that are undone, stand here once more: a shape that loses a call fails.
    let calls = |shape: &Shape| {
        let spots = shape.spots();
        (shape.name, spots.len(), spots.iter().filter(|spot| spot.is_undone).count())
    };
    assert_eq!(
        SHAPES.iter().map(calls).collect::<Vec<_>>(),
        [("example", 4, 3), ("chain", 4, 3), ("list", 6, 5), ("diamond", 6, 3)]
    );
    let together = [actions(), undos()].concat();
    let rounds =
        [(together, Blow::None, 20 * 4 + 14 * 4 * 3), (holds(), Blow::Scheduler, 68), (holds(), Blow::Participant, 68)];
    let mut mesh = Rounds::start(Path::new(env!("CARGO_BIN_EXE_ledger"))).await?;
    for (points, blow, planned) in rounds {
        let round = mesh.run(&points, blow).await?;
        assert_eq!(round.violations, Vec::<String>::new(), "{blow:?}");
        assert_eq!((round.points, round.met), (planned, planned), "{blow:?}");
    }
    Ok(())
}
