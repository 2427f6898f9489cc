//! Part A: a tensor model through gRPC on one worker against the same runtime in a bare loop, with as many threads.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;

use anyhow::Result;
use weft_tests::goal::Goal;
use weft_tests::load::closed::{self, Case, Slice};
use weft_tests::load::rounds::Rounds;

use super::bare::Bare;
use super::plan::{Plan, Told};
use super::served::{self, MAGIKA, MINILM, Served};
use super::subject::Subject;

const MODELS: [Served; 2] = [MAGIKA, MINILM];
const ROWS: [usize; 3] = [1, 8, 32];
/// Tokens of a text.
pub(crate) const LENGTH: usize = 32;
/// What a call costs beyond the bare loop, at most, per item.
const GOAL: f64 = 1.05;

/// Who computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Way {
    Bare,
    /// One call of all items at a time, as the loop does.
    OneCall,
    /// Two such calls at a time: one is computed while the other is on its way.
    TwoCalls,
    /// As many calls as items, each with one item: the worker batches them.
    Batched,
}

type Cell = (usize, usize, Way);

pub(crate) async fn run(plan: &Plan) -> Result<Told> {
    let repository = plan.folder.join("onnx");
    served::weft(&repository, &MODELS)?;
    let subject = Subject::start(Some(&repository), plan.threads, &MODELS.map(|model| model.name)).await?;
    let mut rounds = Rounds::default();
    for (at, model) in MODELS.into_iter().enumerate() {
        let mut bare = Bare::start(model, plan.threads, &plan.folder)?;
        let cases: BTreeMap<usize, Arc<[Case]>> =
            ROWS.into_iter().map(|rows| Ok((rows, bare.cases(rows, LENGTH)?))).collect::<Result<_>>()?;
        for round in 0..=plan.rounds() {
            // The round before the first is not counted.
            let lasting = if round == 0 { plan.warm_up() } else { plan.slice() };
            for rows in ROWS {
                for way in [Way::Bare, Way::OneCall, Way::TwoCalls, Way::Batched] {
                    let slice = match way {
                        Way::Bare => bare.run(rows, lasting)?,
                        Way::OneCall => closed::run(&subject.worker, &cases[&rows], 1, lasting).await?,
                        Way::TwoCalls => closed::run(&subject.worker, &cases[&rows], 2, lasting).await?,
                        Way::Batched => closed::run(&subject.worker, &cases[&1], rows, lasting).await?,
                    };
                    if round > 0 {
                        rounds.add((at, rows, way), slice);
                    }
                }
            }
        }
    }
    tell(&subject, &rounds).await
}

async fn tell(subject: &Subject, rounds: &Rounds<Cell>) -> Result<Told> {
    let mut told = Told::default();
    let text = &mut told.text;
    writeln!(
        text,
        "time per item in us, and against the bare onnxruntime loop; one call at a time, two, and calls of one item"
    )?;
    writeln!(text, "model      engine       rows    bare  one call  ratio  two calls  ratio  batched  ratio")?;
    for (at, model) in MODELS.into_iter().enumerate() {
        let engine = subject.engine(model.name).await?;
        for rows in ROWS {
            let item = |way| {
                let items = if way == Way::Batched { 1 } else { rows };
                move |slice: &Slice| 1e6 / (slice.calls_per_second() * items as f64)
            };
            let time = |way| rounds.median((at, rows, way), item(way));
            let ratio = |way| {
                rounds.compare((at, rows, way), (at, rows, Way::Bare), |one, other| {
                    item(way)(one) / item(Way::Bare)(other)
                })
            };
            let [one, two, batched] = [Way::OneCall, Way::TwoCalls, Way::Batched];
            writeln!(
                text,
                "{:<10} {engine:<12} {rows:>4} {:>7.0} {:>9.0} {:>6.2} {:>10.0} {:>6.2} {:>8.0} {:>6.2}",
                model.name,
                time(Way::Bare),
                time(one),
                ratio(one),
                time(two),
                ratio(two),
                time(batched),
                ratio(batched),
            )?;
            let name = format!("onnx_{}_{rows}_to_bare_per_item", model.name);
            told.goals.push(Goal::at_most(name, GOAL, ratio(one)));
        }
    }
    Ok(told)
}
